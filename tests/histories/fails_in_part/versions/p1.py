"""Shops."""

import sqlalchemy as sa
from alembic import op

revision = "p1"
down_revision = None


def upgrade():
    op.create_table("shops", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("shops")
