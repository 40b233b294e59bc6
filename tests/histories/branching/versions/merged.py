"""Both sides meet."""

import sqlalchemy as sa
from alembic import op

revision = "merged"
down_revision = ("left", "right")


def upgrade():
    op.create_table("merged", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("merged")
