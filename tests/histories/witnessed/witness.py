"""What each revision of this history does, and who did it, told where no rollback reaches.

A file for each branch in the folder `witnesses` beside this one gets a line of JSON when a revision
begins, when it ends, when it breaks, and when whoever begins finds another one at work.

Another one is at work on this branch, as judged between that line and the first statement:

- SQLite: a process that has begun a revision here, has not told of its end, and lives. One that is
  exiting does not: the kernel gives its locks back before it can be seen to be gone.
- PostgreSQL: a session that has begun a revision here and is within a transaction, whether its
  client lives or not: after a kill the server goes on with the statement in hand.
- MariaDB: a session that has begun a revision here and runs a statement; or one that only waits,
  within a revision, for a client that lives: DDL has no transaction to tell.

Of two that begin at the same time the one whose line is second sees the other.
"""

import json
import os
import time
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import op

FOLDER = Path(__file__).parent / "witnesses"

EXITING = 0x4  # PF_EXITING of linux/sched.h
SLOWLY = {
    "postgresql": "amount * CASE WHEN pg_sleep(0.005) IS NULL THEN 0 ELSE 2 END",
    "mysql": "amount * 2 + SLEEP(0.005)",
    "sqlite": "amount * 2",
}
ROWS = 20


def open_ledger(revision):
    with witnessed(revision):
        # Nothing in it is unique: what landed twice shows as two rows.
        op.create_table(
            "ledger",
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("what", sa.String(40), nullable=False),
        )
        op.execute(f"INSERT INTO ledger (what) VALUES ('{revision} ends')")


def book(revision, last):
    """Statements of many kinds, one of them long; the table of the revision before goes."""
    name = op.get_bind().dialect.name
    with witnessed(revision):
        op.execute(f"INSERT INTO ledger (what) VALUES ('{revision} begins')")
        table = op.create_table(
            revision,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("amount", sa.Integer, nullable=False),
        )
        op.bulk_insert(table, [{"id": i, "amount": i} for i in range(1, ROWS + 1)])
        op.add_column(revision, sa.Column("twice", sa.Integer, server_default="0", nullable=False))
        op.execute(f"UPDATE {revision} SET twice = twice + {SLOWLY[name]}")
        if name == "sqlite":
            # It has no statement that takes its time: so there is one to be killed in.
            time.sleep(0.1)
        op.create_index(f"ix_{revision}", revision, ["amount"])
        if last != "w0001":
            op.drop_table(last)
        op.execute(f"INSERT INTO ledger (what) VALUES ('{revision} ends')")


@contextmanager
def witnessed(revision):
    bind = op.get_bind()
    branch, session = _who(bind)
    file = FOLDER / f"{branch}.jsonl"
    me = {"revision": revision, "client": _process(os.getpid()), "session": session}
    _tell(file, me, "begins")
    for other in _at_work(bind, file, me):
        _tell(file, me | {"other": other}, "overlaps")
    try:
        yield
    except BaseException:
        _tell(file, me, "breaks")
        raise
    _tell(file, me, "ends")


def _tell(file, line, event):
    text = json.dumps({"event": event, "at": time.monotonic(), **line})
    with file.open("ab", buffering=0) as stream:
        stream.write(f"{text}\n".encode())


def _who(bind):
    """The branch by its database's name, and what its server knows us by, over restarts too."""
    if bind.dialect.name == "sqlite":
        (path,) = [
            row[2] for row in bind.exec_driver_sql("PRAGMA database_list") if row[1] == "main"
        ]
        return Path(path).stem, _process(os.getpid())
    if bind.dialect.name == "postgresql":
        name, pid = bind.exec_driver_sql("SELECT current_database(), pg_backend_pid()").one()
        return name, _process(pid)
    row = bind.exec_driver_sql("SELECT database(), connection_id(), @@pid_file").one()
    return row[0], [row[1], *_process(int(Path(row[2]).read_text()))]


def _process(pid):
    """A process id, and the moment of its start, which makes it unique."""
    return [pid, int(_stat(pid)[19])]


def _lives(process):
    fields = _stat(process[0])
    alive = fields[0] not in "ZX" and not int(fields[6]) & EXITING
    return alive and int(fields[19]) == process[1]


def _stat(pid):
    """What /proc says after the command's name (proc_pid_stat(5)); of nobody: as of a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["Z", *["0"] * 50]


def _at_work(bind, file, me):
    """The other ones who are at work on this branch, as their last lines."""
    last = {}
    for text in file.read_text().splitlines():
        line = json.loads(text)
        last[tuple(line["session"])] = line
    del last[tuple(me["session"])]
    within = [line for line in last.values() if line["event"] in ("begins", "overlaps")]
    if bind.dialect.name == "sqlite":
        return [line for line in within if _lives(line["client"])]
    if bind.dialect.name == "postgresql":
        rows = bind.exec_driver_sql("SELECT pid FROM pg_stat_activity WHERE xact_start IS NOT NULL")
        busy = {pid for (pid,) in rows}
        return [
            line for line in last.values() if line["session"][0] in busy and _lives(line["session"])
        ]
    server = me["session"][1:]
    rows = bind.exec_driver_sql("SELECT id, info FROM information_schema.processlist").all()
    busy = {session for session, info in rows if info is not None}
    idle = {session for session, info in rows} - busy
    return [
        line
        for session, line in last.items()
        if list(session[1:]) == server
        and (
            session[0] in busy or (line in within and session[0] in idle and _lives(line["client"]))
        )
    ]
