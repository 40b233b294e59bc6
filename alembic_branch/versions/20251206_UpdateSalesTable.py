"""A sale's total split into net and tax.

The tax comes from the sale's lines. Net and tax always add up to the former total, so that the
downgrade gives it back to the cent. Sums are rounded because SQLite computes them in binary. The
old column goes last: where DDL commits at once, a failure before that has lost nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "20251206_UpdateSalesTable"
down_revision: str | None = "20251206_AddProductIndex"

MONEY = sa.Numeric(18, 2)

SALES = sa.table(
    "Sales",
    sa.column("Id", sa.Integer()),
    sa.column("Total", MONEY),
    sa.column("NetTotal", MONEY),
    sa.column("TaxTotal", MONEY),
)
LINES = sa.table("SaleLineItems", sa.column("SaleId", sa.Integer()), sa.column("Tax", MONEY))


def upgrade() -> None:
    add_amount("NetTotal")
    add_amount("TaxTotal")
    tax = (
        sa.select(sa.func.round(sa.func.coalesce(sa.func.sum(LINES.c.Tax), 0), 2))
        .where(LINES.c.SaleId == SALES.c.Id)
        .scalar_subquery()
    )
    op.execute(
        sa.update(SALES).values(NetTotal=sa.func.round(SALES.c.Total - tax, 2), TaxTotal=tax)
    )
    drop_amount("Total")


def downgrade() -> None:
    add_amount("Total")
    op.execute(sa.update(SALES).values(Total=sa.func.round(SALES.c.NetTotal + SALES.c.TaxTotal, 2)))
    drop_amount("TaxTotal")
    drop_amount("NetTotal")


def add_amount(name: str) -> None:
    op.add_column("Sales", sa.Column(name, MONEY, nullable=False, server_default=sa.text("0.00")))


def drop_amount(name: str) -> None:
    op.drop_column("Sales", name, mssql_drop_default=True)
