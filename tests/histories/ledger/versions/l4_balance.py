"""Balances are filled in, and entries lose what is summed up."""

from alembic import op

revision = "l4_balance"
down_revision = "l3_rebuild"


def upgrade():
    op.execute("PRAGMA cache_size = 10")
    op.execute(
        "UPDATE accounts SET balance = "
        "(SELECT coalesce(sum(amount), 0) FROM entries WHERE account_id = accounts.id)"
    )
    op.execute("DELETE FROM entries WHERE amount % 2 = 0")
    op.execute("INSERT INTO ledger VALUES ('l4_balance')")
