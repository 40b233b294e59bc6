"""Makes a table, fills it, and then meets a table that nobody made."""

import sqlalchemy as sa
from alembic import op

revision = "f2"
down_revision = "f1"


def upgrade():
    op.create_table("half", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("INSERT INTO half (id) VALUES (1)")
    op.execute("INSERT INTO nowhere (id) VALUES (1)")


def downgrade():
    op.drop_table("half")
