"""In the middle; needs a till."""

import sqlalchemy as sa
from alembic import op

revision = "middle"
down_revision = "trunk"
depends_on = ("till2",)


def upgrade():
    op.create_table("middle", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("middle")
