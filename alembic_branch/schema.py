"""A branch's tables as they stand at head: what ``alembic revision --autogenerate`` compares with.

Revisions never import this module. They are frozen, it moves on.

- Money and quantities are exact decimals. SQLite keeps NUMERIC as a 64-bit float, which returns
  15 digits unharmed: cents up to 9,999,999,999,999.99.
- Moments are UTC, and the application supplies them: each engine has another idea of "now".
- Text is Unicode; whatever is indexed stays under 191 characters, the 767 bytes that the
  narrowest utf8mb4 index of MySQL takes.
- No unique constraint covers a nullable column: SQL Server would allow one NULL in it, the others
  any number.
- Every foreign key has an index of its own. Only MySQL would make one unasked.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Integer,
    MetaData,
    Numeric,
    Table,
    Unicode,
    UnicodeText,
    text,
)
from sqlalchemy.dialects import mssql, mysql

MONEY = Numeric(18, 2)
QUANTITY = Numeric(18, 3)
RATE = Numeric(5, 2)
# SQL Server offline would say NTEXT, which is deprecated; MySQL's TEXT ends at 64 KB.
TEXT = (
    UnicodeText()
    .with_variant(mssql.NVARCHAR(), "mssql")
    .with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
)
# SQL Server's DATETIME rounds to 3 ms, MySQL's to a second.
MOMENT = (
    DateTime(timezone=True)
    .with_variant(mssql.DATETIME2, "mssql")
    .with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
)

metadata = MetaData(
    naming_convention={
        "pk": "PK_%(table_name)s",
        "fk": "FK_%(table_name)s_%(referred_table_name)s_%(column_0_N_name)s",
        "uq": "UQ_%(table_name)s_%(column_0_N_name)s",
        "ix": "IX_%(table_name)s_%(column_0_N_name)s",
        "ck": "CK_%(table_name)s_%(constraint_name)s",
    }
)

users = Table(
    "Users",
    metadata,
    Column("Id", Integer, primary_key=True),
    Column("Username", Unicode(64), nullable=False, unique=True),
    Column("PasswordHash", Unicode(255), nullable=False),
    Column("FullName", Unicode(150), nullable=False),
    Column("Role", Unicode(32), nullable=False),
    Column("IsActive", Boolean, nullable=False),
    Column("CreatedAt", MOMENT, nullable=False),
)

categories = Table(
    "Categories",
    metadata,
    Column("Id", Integer, primary_key=True),
    Column("ParentId", ForeignKey("Categories.Id"), index=True),
    Column("Name", Unicode(100), nullable=False, unique=True),
)

products = Table(
    "Products",
    metadata,
    Column("Id", Integer, primary_key=True),
    Column("CategoryId", ForeignKey("Categories.Id"), nullable=False, index=True),
    Column("Sku", Unicode(64), nullable=False, unique=True),
    Column("Barcode", Unicode(64), index=True),
    Column("Name", Unicode(150), nullable=False),
    Column("Description", TEXT),
    Column("Price", MONEY, nullable=False),
    Column("Cost", MONEY, nullable=False),
    Column("TaxRate", RATE, nullable=False),
    Column("Stock", QUANTITY, nullable=False),
    Column("IsActive", Boolean, nullable=False),
    Column("CreatedAt", MOMENT, nullable=False),
    Column("UpdatedAt", MOMENT, nullable=False),
)

product_images = Table(
    "ProductImages",
    metadata,
    Column("Id", Integer, primary_key=True),
    Column("ProductId", ForeignKey("Products.Id", ondelete="CASCADE"), nullable=False, index=True),
    Column("Path", Unicode(255), nullable=False),
    Column("SortOrder", Integer, nullable=False),
)

customers = Table(
    "Customers",
    metadata,
    Column("Id", Integer, primary_key=True),
    Column("Name", Unicode(150), nullable=False),
    Column("Phone", Unicode(32)),
    Column("IsActive", Boolean, nullable=False),
    Column("CreatedAt", MOMENT, nullable=False),
    Column("Email", Unicode(190)),
    Column("TaxNumber", Unicode(32)),
    Column("CreditLimit", MONEY, nullable=False, server_default=text("0.00")),
)

suppliers = Table(
    "Suppliers",
    metadata,
    Column("Id", Integer, primary_key=True),
    Column("Name", Unicode(150), nullable=False),
    Column("Phone", Unicode(32)),
    Column("Email", Unicode(190)),
    Column("IsActive", Boolean, nullable=False),
)

sales = Table(
    "Sales",
    metadata,
    Column("Id", Integer, primary_key=True),
    Column("Number", Unicode(32), nullable=False, unique=True),
    Column("CustomerId", ForeignKey("Customers.Id"), index=True),
    Column("UserId", ForeignKey("Users.Id"), nullable=False, index=True),
    Column("SoldAt", MOMENT, nullable=False, index=True),
    Column("PaymentMethod", Unicode(32), nullable=False),
    Column("NetTotal", MONEY, nullable=False, server_default=text("0.00")),
    Column("TaxTotal", MONEY, nullable=False, server_default=text("0.00")),
)

sale_line_items = Table(
    "SaleLineItems",
    metadata,
    Column("Id", Integer, primary_key=True),
    Column("SaleId", ForeignKey("Sales.Id", ondelete="CASCADE"), nullable=False, index=True),
    Column("ProductId", ForeignKey("Products.Id"), nullable=False, index=True),
    Column("Quantity", QUANTITY, nullable=False),
    Column("UnitPrice", MONEY, nullable=False),
    Column("Tax", MONEY, nullable=False),
    Column("Total", MONEY, nullable=False),
)

purchases = Table(
    "Purchases",
    metadata,
    Column("Id", Integer, primary_key=True),
    Column("Number", Unicode(32), nullable=False, unique=True),
    Column("SupplierId", ForeignKey("Suppliers.Id"), nullable=False, index=True),
    Column("UserId", ForeignKey("Users.Id"), nullable=False, index=True),
    Column("PurchasedAt", MOMENT, nullable=False, index=True),
    Column("Total", MONEY, nullable=False),
)

purchase_line_items = Table(
    "PurchaseLineItems",
    metadata,
    Column("Id", Integer, primary_key=True),
    Column(
        "PurchaseId", ForeignKey("Purchases.Id", ondelete="CASCADE"), nullable=False, index=True
    ),
    Column("ProductId", ForeignKey("Products.Id"), nullable=False, index=True),
    Column("Quantity", QUANTITY, nullable=False),
    Column("UnitCost", MONEY, nullable=False),
    Column("Total", MONEY, nullable=False),
)

expense_categories = Table(
    "ExpenseCategories",
    metadata,
    Column("Id", Integer, primary_key=True),
    Column("Name", Unicode(100), nullable=False, unique=True),
)

expenses = Table(
    "Expenses",
    metadata,
    Column("Id", Integer, primary_key=True),
    Column("ExpenseCategoryId", ForeignKey("ExpenseCategories.Id"), nullable=False, index=True),
    Column("UserId", ForeignKey("Users.Id"), nullable=False, index=True),
    Column("SpentAt", MOMENT, nullable=False, index=True),
    Column("Amount", MONEY, nullable=False),
    Column("Note", Unicode(255)),
)

settings = Table(
    "Settings",
    metadata,
    Column("Key", Unicode(100), primary_key=True),
    Column("Value", TEXT),
    Column("UpdatedAt", MOMENT, nullable=False),
)

sync_queue = Table(
    "SyncQueue",
    metadata,
    Column("Id", Integer, primary_key=True),
    Column("TableName", Unicode(64), nullable=False),
    Column("RowKey", Unicode(100), nullable=False),
    Column("Operation", Unicode(16), nullable=False),
    Column("Payload", TEXT, nullable=False),
    Column("Attempts", Integer, nullable=False),
    Column("CreatedAt", MOMENT, nullable=False),
    Column("SentAt", MOMENT, index=True),
)
