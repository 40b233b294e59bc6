"""A table whose constraints nobody names here."""

import sqlalchemy as sa
from alembic import op

revision = "n1"
down_revision = None


def upgrade():
    op.create_table(
        "shops",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("city", sa.Unicode(80), unique=True),
    )


def downgrade():
    op.drop_table("shops")
