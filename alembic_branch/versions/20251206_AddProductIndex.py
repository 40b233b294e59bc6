"""Products found by their barcode."""

from __future__ import annotations

from alembic import op

revision: str = "20251206_AddProductIndex"
down_revision: str | None = "20251206_AddCustomerFields"


def upgrade() -> None:
    # Not unique: SQL Server would allow only one product without a barcode.
    op.create_index("IX_Products_Barcode", "Products", ["Barcode"])


def downgrade() -> None:
    op.drop_index("IX_Products_Barcode", table_name="Products")
