"""Many statements: as long as the file DATABASE.hold is there, one after another."""

import time
from pathlib import Path

from alembic import op

revision = "s2_many"
down_revision = "s1"


def upgrade():
    database = op.get_bind().exec_driver_sql("PRAGMA database_list").first()[2]
    hold, begun = Path(f"{database}.hold"), Path(f"{database}.s2_many")
    deadline = time.monotonic() + 60
    op.execute("INSERT INTO rows VALUES ('s2_many')")
    begun.touch()
    while hold.exists() and time.monotonic() < deadline:
        op.execute("INSERT INTO rows VALUES ('s2_more')")
        time.sleep(0.01)
    op.execute("DELETE FROM rows WHERE revision = 's2_more'")
