"""To the left."""

import sqlalchemy as sa
from alembic import op

revision = "b2_left"
down_revision = "b1"
branch_labels = ("left",)


def upgrade():
    op.create_table("left", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("left")
