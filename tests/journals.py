"""What a writer that was killed leaves beside a SQLite file."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

_WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 5")
connection.execute("BEGIN IMMEDIATE")
connection.execute("CREATE TABLE unfinished (x)")
connection.execute(
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) "
    "INSERT INTO unfinished SELECT randomblob(100) FROM n"
)
print("written", flush=True)
sys.stdin.read()
"""


def leave_hot_journal(database: Path) -> Path:
    """Kill a writer in the middle of a transaction of which a part has reached the file.

    Gives the journal, without which the file is damaged.
    """
    before = database.read_bytes()
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        writer.send_signal(signal.SIGKILL)
    journal = Path(f"{database}-journal")
    assert journal.read_bytes()[:1] == b"\xd9", "the journal is not hot"
    assert database.read_bytes() != before, "nothing has reached the file"
    return journal
