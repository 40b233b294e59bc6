"""The ledger of what landed."""

from witness import open_ledger

revision = "w0001"
down_revision = None


def upgrade():
    open_ledger(revision)
