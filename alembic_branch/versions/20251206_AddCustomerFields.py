"""Customers who can be written to, billed and given credit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "20251206_AddCustomerFields"
down_revision: str | None = "20251206_InitialCreate"


def upgrade() -> None:
    op.add_column("Customers", sa.Column("Email", sa.Unicode(190)))
    op.add_column("Customers", sa.Column("TaxNumber", sa.Unicode(32)))
    op.add_column(
        "Customers",
        sa.Column("CreditLimit", sa.Numeric(18, 2), nullable=False, server_default=sa.text("0.00")),
    )


def downgrade() -> None:
    op.drop_column("Customers", "CreditLimit", mssql_drop_default=True)
    op.drop_column("Customers", "TaxNumber")
    op.drop_column("Customers", "Email")
