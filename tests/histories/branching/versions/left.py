"""To the left."""

import sqlalchemy as sa
from alembic import op

revision = "left"
down_revision = "trunk"


def upgrade():
    op.create_table("left", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("left")
