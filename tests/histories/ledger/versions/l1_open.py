"""A ledger of which revisions ran, and accounts with entries."""

import sqlalchemy as sa
from alembic import op

revision = "l1_open"
down_revision = None


def upgrade():
    # Nothing in it is unique: a revision that ran twice shows as two rows.
    op.create_table("ledger", sa.Column("revision", sa.Unicode(32), nullable=False))
    op.create_table(
        "accounts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Unicode(80), nullable=False),
    )
    op.create_table(
        "entries",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "account_id", sa.Integer, sa.ForeignKey("accounts.id", ondelete="CASCADE"), index=True
        ),
        sa.Column("amount", sa.Integer, nullable=False),
    )
    op.execute("INSERT INTO ledger VALUES ('l1_open')")
