"""To the right."""

import sqlalchemy as sa
from alembic import op

revision = "right"
down_revision = "trunk"


def upgrade():
    op.create_table("right", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("right")
