"""Column objects that can belong to one table only."""

import sqlalchemy as sa
from alembic import op

revision = "c1"
down_revision = None

COLUMNS = (sa.Column("id", sa.Integer, primary_key=True), sa.Column("city", sa.Unicode(80)))


def upgrade():
    op.create_table("shops", *COLUMNS)


def downgrade():
    op.drop_table("shops")
