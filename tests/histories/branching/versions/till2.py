"""More tills."""

import sqlalchemy as sa
from alembic import op

revision = "till2"
down_revision = "till1"


def upgrade():
    op.create_table("till2", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("till2")
