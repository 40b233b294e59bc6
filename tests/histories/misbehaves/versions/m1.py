"""A table, so that something has landed before the trouble begins."""

import sqlalchemy as sa
from alembic import op

revision = "m1"
down_revision = None


def upgrade():
    op.create_table("rows", sa.Column("id", sa.Integer))
