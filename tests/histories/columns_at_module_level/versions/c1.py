"""Column objects that can belong to one table only."""

import sqlalchemy as sa
from alembic import op

revision = "c1"
down_revision = None

SHOP = sa.Column("shop_id", sa.Integer, sa.ForeignKey("shops.id"))


def upgrade():
    op.create_table("shops", sa.Column("id", sa.Integer, primary_key=True))
    op.create_table("goods", sa.Column("id", sa.Integer, primary_key=True), SHOP)


def downgrade():
    op.drop_table("goods")
    op.drop_table("shops")
