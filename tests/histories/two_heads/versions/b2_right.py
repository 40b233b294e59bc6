"""To the right."""

import sqlalchemy as sa
from alembic import op

revision = "b2_right"
down_revision = "b1"
branch_labels = ("right",)


def upgrade():
    op.create_table("right", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("right")
