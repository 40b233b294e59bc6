"""Tills that need both sides."""

import sqlalchemy as sa
from alembic import op

revision = "till3"
down_revision = "till2"
depends_on = ("merged",)


def upgrade():
    op.create_table("till3", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("till3")
