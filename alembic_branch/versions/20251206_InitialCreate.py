"""The fourteen tables of a shop."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mssql, mysql

revision: str = "20251206_InitialCreate"
down_revision: str | None = None

MONEY = sa.Numeric(18, 2)
QUANTITY = sa.Numeric(18, 3)
TEXT = (
    sa.UnicodeText()
    .with_variant(mssql.NVARCHAR(), "mssql")
    .with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
)
MOMENT = (
    sa.DateTime(timezone=True)
    .with_variant(mssql.DATETIME2, "mssql")
    .with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
)

# In the order of creation: parents before children.
TABLES = (
    "Users",
    "Customers",
    "Suppliers",
    "Categories",
    "Products",
    "ProductImages",
    "Sales",
    "SaleLineItems",
    "Purchases",
    "PurchaseLineItems",
    "ExpenseCategories",
    "Expenses",
    "Settings",
    "SyncQueue",
)

INDEXES = (
    ("Categories", "ParentId"),
    ("Products", "CategoryId"),
    ("ProductImages", "ProductId"),
    ("Sales", "CustomerId"),
    ("Sales", "UserId"),
    ("Sales", "SoldAt"),
    ("SaleLineItems", "SaleId"),
    ("SaleLineItems", "ProductId"),
    ("Purchases", "SupplierId"),
    ("Purchases", "UserId"),
    ("Purchases", "PurchasedAt"),
    ("PurchaseLineItems", "PurchaseId"),
    ("PurchaseLineItems", "ProductId"),
    ("Expenses", "ExpenseCategoryId"),
    ("Expenses", "UserId"),
    ("Expenses", "SpentAt"),
    ("SyncQueue", "SentAt"),
)


def upgrade() -> None:
    create_people()
    create_catalogue()
    create_sales()
    create_purchases()
    create_expenses()
    create_bookkeeping()
    for table, column in INDEXES:
        op.create_index(f"IX_{table}_{column}", table, [column])


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)


def create_people() -> None:
    op.create_table(
        "Users",
        sa.Column("Id", sa.Integer(), nullable=False),
        sa.Column("Username", sa.Unicode(64), nullable=False),
        sa.Column("PasswordHash", sa.Unicode(255), nullable=False),
        sa.Column("FullName", sa.Unicode(150), nullable=False),
        sa.Column("Role", sa.Unicode(32), nullable=False),
        sa.Column("IsActive", sa.Boolean(), nullable=False),
        sa.Column("CreatedAt", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("Id", name="PK_Users"),
        sa.UniqueConstraint("Username", name="UQ_Users_Username"),
    )
    op.create_table(
        "Customers",
        sa.Column("Id", sa.Integer(), nullable=False),
        sa.Column("Name", sa.Unicode(150), nullable=False),
        sa.Column("Phone", sa.Unicode(32)),
        sa.Column("IsActive", sa.Boolean(), nullable=False),
        sa.Column("CreatedAt", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("Id", name="PK_Customers"),
    )
    op.create_table(
        "Suppliers",
        sa.Column("Id", sa.Integer(), nullable=False),
        sa.Column("Name", sa.Unicode(150), nullable=False),
        sa.Column("Phone", sa.Unicode(32)),
        sa.Column("Email", sa.Unicode(190)),
        sa.Column("IsActive", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("Id", name="PK_Suppliers"),
    )


def create_catalogue() -> None:
    op.create_table(
        "Categories",
        sa.Column("Id", sa.Integer(), nullable=False),
        sa.Column("ParentId", sa.Integer()),
        sa.Column("Name", sa.Unicode(100), nullable=False),
        sa.PrimaryKeyConstraint("Id", name="PK_Categories"),
        sa.ForeignKeyConstraint(
            ["ParentId"], ["Categories.Id"], name="FK_Categories_Categories_ParentId"
        ),
        sa.UniqueConstraint("Name", name="UQ_Categories_Name"),
    )
    op.create_table(
        "Products",
        sa.Column("Id", sa.Integer(), nullable=False),
        sa.Column("CategoryId", sa.Integer(), nullable=False),
        sa.Column("Sku", sa.Unicode(64), nullable=False),
        sa.Column("Barcode", sa.Unicode(64)),
        sa.Column("Name", sa.Unicode(150), nullable=False),
        sa.Column("Description", TEXT),
        sa.Column("Price", MONEY, nullable=False),
        sa.Column("Cost", MONEY, nullable=False),
        sa.Column("TaxRate", sa.Numeric(5, 2), nullable=False),
        sa.Column("Stock", QUANTITY, nullable=False),
        sa.Column("IsActive", sa.Boolean(), nullable=False),
        sa.Column("CreatedAt", MOMENT, nullable=False),
        sa.Column("UpdatedAt", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("Id", name="PK_Products"),
        sa.ForeignKeyConstraint(
            ["CategoryId"], ["Categories.Id"], name="FK_Products_Categories_CategoryId"
        ),
        sa.UniqueConstraint("Sku", name="UQ_Products_Sku"),
    )
    op.create_table(
        "ProductImages",
        sa.Column("Id", sa.Integer(), nullable=False),
        sa.Column("ProductId", sa.Integer(), nullable=False),
        sa.Column("Path", sa.Unicode(255), nullable=False),
        sa.Column("SortOrder", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("Id", name="PK_ProductImages"),
        sa.ForeignKeyConstraint(
            ["ProductId"],
            ["Products.Id"],
            name="FK_ProductImages_Products_ProductId",
            ondelete="CASCADE",
        ),
    )


def create_sales() -> None:
    op.create_table(
        "Sales",
        sa.Column("Id", sa.Integer(), nullable=False),
        sa.Column("Number", sa.Unicode(32), nullable=False),
        sa.Column("CustomerId", sa.Integer()),
        sa.Column("UserId", sa.Integer(), nullable=False),
        sa.Column("SoldAt", MOMENT, nullable=False),
        sa.Column("PaymentMethod", sa.Unicode(32), nullable=False),
        sa.Column("Total", MONEY, nullable=False, server_default=sa.text("0.00")),
        sa.PrimaryKeyConstraint("Id", name="PK_Sales"),
        sa.ForeignKeyConstraint(
            ["CustomerId"], ["Customers.Id"], name="FK_Sales_Customers_CustomerId"
        ),
        sa.ForeignKeyConstraint(["UserId"], ["Users.Id"], name="FK_Sales_Users_UserId"),
        sa.UniqueConstraint("Number", name="UQ_Sales_Number"),
    )
    op.create_table(
        "SaleLineItems",
        sa.Column("Id", sa.Integer(), nullable=False),
        sa.Column("SaleId", sa.Integer(), nullable=False),
        sa.Column("ProductId", sa.Integer(), nullable=False),
        sa.Column("Quantity", QUANTITY, nullable=False),
        sa.Column("UnitPrice", MONEY, nullable=False),
        sa.Column("Tax", MONEY, nullable=False),
        sa.Column("Total", MONEY, nullable=False),
        sa.PrimaryKeyConstraint("Id", name="PK_SaleLineItems"),
        sa.ForeignKeyConstraint(
            ["SaleId"], ["Sales.Id"], name="FK_SaleLineItems_Sales_SaleId", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["ProductId"], ["Products.Id"], name="FK_SaleLineItems_Products_ProductId"
        ),
    )


def create_purchases() -> None:
    op.create_table(
        "Purchases",
        sa.Column("Id", sa.Integer(), nullable=False),
        sa.Column("Number", sa.Unicode(32), nullable=False),
        sa.Column("SupplierId", sa.Integer(), nullable=False),
        sa.Column("UserId", sa.Integer(), nullable=False),
        sa.Column("PurchasedAt", MOMENT, nullable=False),
        sa.Column("Total", MONEY, nullable=False),
        sa.PrimaryKeyConstraint("Id", name="PK_Purchases"),
        sa.ForeignKeyConstraint(
            ["SupplierId"], ["Suppliers.Id"], name="FK_Purchases_Suppliers_SupplierId"
        ),
        sa.ForeignKeyConstraint(["UserId"], ["Users.Id"], name="FK_Purchases_Users_UserId"),
        sa.UniqueConstraint("Number", name="UQ_Purchases_Number"),
    )
    op.create_table(
        "PurchaseLineItems",
        sa.Column("Id", sa.Integer(), nullable=False),
        sa.Column("PurchaseId", sa.Integer(), nullable=False),
        sa.Column("ProductId", sa.Integer(), nullable=False),
        sa.Column("Quantity", QUANTITY, nullable=False),
        sa.Column("UnitCost", MONEY, nullable=False),
        sa.Column("Total", MONEY, nullable=False),
        sa.PrimaryKeyConstraint("Id", name="PK_PurchaseLineItems"),
        sa.ForeignKeyConstraint(
            ["PurchaseId"],
            ["Purchases.Id"],
            name="FK_PurchaseLineItems_Purchases_PurchaseId",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["ProductId"], ["Products.Id"], name="FK_PurchaseLineItems_Products_ProductId"
        ),
    )


def create_expenses() -> None:
    op.create_table(
        "ExpenseCategories",
        sa.Column("Id", sa.Integer(), nullable=False),
        sa.Column("Name", sa.Unicode(100), nullable=False),
        sa.PrimaryKeyConstraint("Id", name="PK_ExpenseCategories"),
        sa.UniqueConstraint("Name", name="UQ_ExpenseCategories_Name"),
    )
    op.create_table(
        "Expenses",
        sa.Column("Id", sa.Integer(), nullable=False),
        sa.Column("ExpenseCategoryId", sa.Integer(), nullable=False),
        sa.Column("UserId", sa.Integer(), nullable=False),
        sa.Column("SpentAt", MOMENT, nullable=False),
        sa.Column("Amount", MONEY, nullable=False),
        sa.Column("Note", sa.Unicode(255)),
        sa.PrimaryKeyConstraint("Id", name="PK_Expenses"),
        sa.ForeignKeyConstraint(
            ["ExpenseCategoryId"],
            ["ExpenseCategories.Id"],
            name="FK_Expenses_ExpenseCategories_ExpenseCategoryId",
        ),
        sa.ForeignKeyConstraint(["UserId"], ["Users.Id"], name="FK_Expenses_Users_UserId"),
    )


def create_bookkeeping() -> None:
    op.create_table(
        "Settings",
        sa.Column("Key", sa.Unicode(100), nullable=False),
        sa.Column("Value", TEXT),
        sa.Column("UpdatedAt", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("Key", name="PK_Settings"),
    )
    op.create_table(
        "SyncQueue",
        sa.Column("Id", sa.Integer(), nullable=False),
        sa.Column("TableName", sa.Unicode(64), nullable=False),
        sa.Column("RowKey", sa.Unicode(100), nullable=False),
        sa.Column("Operation", sa.Unicode(16), nullable=False),
        sa.Column("Payload", TEXT, nullable=False),
        sa.Column("Attempts", sa.Integer(), nullable=False),
        sa.Column("CreatedAt", MOMENT, nullable=False),
        sa.Column("SentAt", MOMENT),
        sa.PrimaryKeyConstraint("Id", name="PK_SyncQueue"),
    )
