"""A last one."""

import sqlalchemy as sa
from alembic import op

revision = "h3"
down_revision = "h2_many"


def upgrade():
    op.add_column("early", sa.Column("more", sa.Integer))
    op.execute("INSERT INTO ledger (what) VALUES ('last')")
