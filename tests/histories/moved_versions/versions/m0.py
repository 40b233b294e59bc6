"""Where Alembic looks first; long given up."""

import sqlalchemy as sa
from alembic import op

revision = "m0"
down_revision = None


def upgrade():
    op.create_table("old", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("old")
