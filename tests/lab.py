"""One branch with a history that the test writes, migrated in this process or in one to be killed.

As a program (`python lab.py FOLDER ENGINE PORT DATABASE`) it makes one attempt on that branch.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas import schema_of
from servers import Mariadb, Postgresql, Server

from branchmig import config
from branchmig.fence import Fence
from branchmig.migrator import Migrator
from branchmig.model import Attempt, Branch, Heads, Resolution, Task

ENVIRONMENT = Path(__file__).parent / "histories" / "linear" / "env.py"

LEDGER = """
op.create_table(
    "ledger",
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("what", sa.String(20)),
)
"""

EVENTFUL = """
op.execute("INSERT INTO ledger (what) VALUES ('{n} begins')")
op.create_table("t{n}", sa.Column("id", sa.Integer, primary_key=True),
                sa.Column("a", sa.String(20)), sa.Column("parent", sa.Integer))
op.bulk_insert(sa.table("t{n}", sa.column("id"), sa.column("a")),
               [dict(id=i, a=str(i)) for i in range(1, 201)])
op.add_column("t{n}", sa.Column("count", sa.Integer, server_default="0", nullable=False))
op.execute("UPDATE t{n} SET count = count + 1")
op.execute("INSERT INTO ledger (what) VALUES ('{n} goes on')")
op.create_index("ix{n}", "t{n}", ["a"])
op.create_foreign_key("fk{n}", "t{n}", "t{n}", ["parent"], ["id"])
op.alter_column("t{n}", "a", new_column_name="b", existing_type=sa.String(20),
                type_=sa.String(40))
op.execute("UPDATE t{n} SET count = count + 1")
op.drop_constraint("fk{n}", "t{n}", type_="foreignkey")
op.rename_table("t{n}", "u{n}")
op.execute("INSERT INTO ledger (what) VALUES ('{n} ends')")
"""
"""Of every kind of statement some, so that one landing twice shows in a row or as an error."""


@dataclass
class Lab:
    """A folder with settings and a history, and a branch on a server."""

    folder: Path
    server: Server
    database: str
    last: str | None = field(default=None)

    def __post_init__(self) -> None:
        versions = self.folder / "history" / "versions"
        if not versions.exists():
            versions.mkdir(parents=True)
            shutil.copy(ENVIRONMENT, versions.parent)
            self.configure(lock_timeout=5)

    def configure(self, *, lock_timeout: int) -> None:
        (self.folder / "branchmig.toml").write_text(
            '[headoffice]\nurl = "sqlite:///headoffice.db"\n'
            '[migrations]\nscript_location = "history"\n'
            f"[run]\nlock_timeout = {lock_timeout}\n[retry]\nbackoff_seconds = 0\n"
        )

    @property
    def url(self) -> str:
        return self.server.url(self.database)

    @property
    def branch(self) -> Branch:
        return Branch("1", "BR001", "BR001", self.server.provider, self.url)

    def revision(self, name: str, upgrade: str, downgrade: str = "pass") -> None:
        """Write a revision after the last one, or write this one anew."""
        file = self.folder / "history" / "versions" / f"{name}.py"
        if not file.exists():
            self.down, self.last = self.last, name
        bodies = [textwrap.indent(textwrap.dedent(b).strip(), "    ") for b in (upgrade, downgrade)]
        file.write_text(
            "import sqlalchemy as sa\nfrom alembic import op\n\n"
            f"revision = {name!r}\ndown_revision = {self.down!r}\n\n\n"
            f"def upgrade():\n{bodies[0]}\n\n\ndef downgrade():\n{bodies[1]}\n"
        )

    def eventful(self) -> None:
        """Write a whole history of which each statement is to land exactly once: `contents`."""
        self.revision("r0", LEDGER)
        for n in range(1, 4):
            self.revision(f"r{n}", EVENTFUL.format(n=n))

    def contents(self) -> object:
        """The schema and every row; numbers that were given out and rolled back are nobody's."""
        schema = schema_of(self.url)
        rows = {
            table: self.query(f"SELECT * FROM {table} ORDER BY 1")
            for table in schema
            if table != "ledger"
        }
        return schema, rows, self.query("SELECT what FROM ledger ORDER BY id")

    def migrator(self) -> Migrator:
        """As a new process would have it."""
        return Migrator(config.load(self.folder / "branchmig.toml")[0])

    def attempt(self, target: str = "head", recorded: Heads = ()) -> Attempt:
        return self.migrator().attempt(Task(self.branch, target, recorded), Fence())

    def resolve(self, resolution: Resolution) -> str:
        return self.migrator().resolve(self.branch, resolution, Fence())

    def start(self) -> subprocess.Popen[bytes]:
        """An attempt in a process of its own, which says so when it begins."""
        process = subprocess.Popen(
            [sys.executable, __file__, str(self.folder), self.server.provider.value,
             str(self.server.port), self.database],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"begins\n"
        return process

    def seconds(self) -> float:
        """How long an attempt takes that goes through, between its first word and its last."""
        process, began = self.start(), time.monotonic()
        assert process.stdout is not None
        assert process.stdout.readline() == b"ends\n"
        took = time.monotonic() - began
        process.communicate()
        assert process.returncode == 0
        return took

    def kill_during(self, statement: str) -> None:
        """Kill -9 an attempt while the server runs a statement that begins with this."""
        process = self.start()
        self.wait_for(statement)
        process.send_signal(signal.SIGKILL)
        process.communicate()

    def wait_for(self, statement: str) -> int:
        """Wait until the server runs a statement that begins with this; its session's id."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = self.sessions(statement)
            if found:
                return found[0]
            time.sleep(0.01)
        raise AssertionError(f"the server never ran {statement}")

    def sessions(self, statement: str) -> list[int]:
        """The ids of the sessions in which the server runs a statement that begins with this."""
        rows = self.server.query(
            f"SELECT id FROM {self.server.sessions} WHERE db = '{self.database}' "
            f"AND info LIKE '{statement}%'"
        )
        return [int(row[0]) for row in rows]

    def query(self, statement: str) -> list[Any]:
        return self.server.query(statement, self.database)

    def has_journal(self) -> bool:
        return bool(
            self.query(
                "SELECT table_name FROM information_schema.tables WHERE table_name = "
                f"'branchmig_journal' AND table_schema IN ('{self.database}', 'public')"
            )
        )


if __name__ == "__main__":
    (kind,) = (kind for kind in (Mariadb, Postgresql) if kind.provider.value == sys.argv[2])
    lab = Lab(Path(sys.argv[1]), kind.elsewhere(int(sys.argv[3])), sys.argv[4])
    migrator = lab.migrator()
    migrator.history(lab.server.provider)
    sys.stdout.write("begins\n")
    sys.stdout.flush()
    attempt = migrator.attempt(Task(lab.branch, "head"), Fence())
    sys.stdout.write("ends\n")
    sys.stdout.flush()
    sys.exit(attempt.failure is not None)
