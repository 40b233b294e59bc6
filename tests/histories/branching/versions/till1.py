"""A base of its own, for tills."""

import sqlalchemy as sa
from alembic import op

revision = "till1"
down_revision = None
branch_labels = ("till",)


def upgrade():
    op.create_table("till1", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    pass
