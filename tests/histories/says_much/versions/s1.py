"""Wants what env.py hands to each upgrade."""

import sqlalchemy as sa
from alembic import op

revision = "s1"
down_revision = None


def upgrade(season):
    op.create_table(season, sa.Column("id", sa.Integer, primary_key=True))
    op.create_table(op.get_context().opts["colour"], sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    pass
