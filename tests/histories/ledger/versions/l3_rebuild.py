"""The accounts' table is rebuilt: on SQLite a copy of it under the same name."""

import sqlalchemy as sa
from alembic import op

revision = "l3_rebuild"
down_revision = "l2_book"


def upgrade():
    op.execute("PRAGMA cache_size = 10")
    op.execute("INSERT INTO ledger VALUES ('l3_rebuild')")
    with op.batch_alter_table("accounts", recreate="always") as batch:
        batch.add_column(sa.Column("balance", sa.Integer, server_default="0", nullable=False))
        batch.alter_column("name", existing_type=sa.Unicode(80), type_=sa.Unicode(120))
