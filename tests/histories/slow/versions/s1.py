"""Rows."""

import sqlalchemy as sa
from alembic import op

revision = "s1"
down_revision = None


def upgrade():
    op.create_table("rows", sa.Column("revision", sa.Unicode(8), nullable=False))
