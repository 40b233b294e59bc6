"""The base of the shops."""

import sqlalchemy as sa
from alembic import op

revision = "trunk"
down_revision = None
branch_labels = ("shop",)


def upgrade():
    op.create_table("trunk", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    pass
