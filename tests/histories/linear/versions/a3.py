"""Goods, and where they lie."""

import sqlalchemy as sa
from alembic import op

revision = "a3"
down_revision = "a2"


def upgrade():
    op.create_table(
        "goods",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("shop_id", sa.Integer, sa.ForeignKey("shops.id")),
    )
    op.create_index("goods_shop_ix", "goods", ["shop_id"])


def downgrade():
    op.drop_index("goods_shop_ix", "goods")
    op.drop_table("goods")
