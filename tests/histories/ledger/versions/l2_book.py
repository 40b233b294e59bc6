"""Accounts and entries are booked, so many that the journal has to reach the disk."""

from alembic import op

revision = "l2_book"
down_revision = "l1_open"

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "


def upgrade():
    # A small cache spills changed pages in the middle of the transaction: whoever is killed then
    # leaves a hot journal.
    op.execute("PRAGMA cache_size = 10")
    op.execute(
        "INSERT INTO accounts (id, name) "
        + NUMBERS.format(count=50)
        + "SELECT i, 'account ' || i FROM n"
    )
    op.execute(
        "INSERT INTO entries (account_id, amount) "
        + NUMBERS.format(count=20000)
        + "SELECT 1 + i % 50, i % 100 FROM n"
    )
    op.execute("INSERT INTO ledger VALUES ('l2_book')")
