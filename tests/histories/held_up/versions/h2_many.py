"""Many statements: as long as the file `hold` is beside env.py, one after another."""

import time
from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "h2_many"
down_revision = "h1"


def upgrade():
    folder = Path(__file__).parents[1]
    deadline = time.monotonic() + 60
    op.create_table("early", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("INSERT INTO ledger (what) VALUES ('many begins')")
    (folder / "begun").touch()
    while (folder / "hold").exists() and time.monotonic() < deadline:
        op.execute("INSERT INTO ledger (what) VALUES ('more')")
        time.sleep(0.01)
    op.execute("DELETE FROM ledger WHERE what = 'more'")
    op.create_table("late", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("INSERT INTO ledger (what) VALUES ('many ends')")
