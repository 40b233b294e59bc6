"""One branch with a history that the test writes, migrated in this process or in one to be killed.

As a program (`python lab.py FOLDER`) it makes one attempt on the branch of that folder.
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

from servers import Mariadb

from branchmig import config
from branchmig.fence import Fence
from branchmig.migrator import Migrator
from branchmig.model import Attempt, Branch, Heads, Provider, Task

ENVIRONMENT = Path(__file__).parent / "histories" / "linear" / "env.py"


@dataclass
class Lab:
    """A folder with settings and a history, and a branch on a MariaDB server."""

    folder: Path
    server: Mariadb
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
        return Branch("1", "BR001", "BR001", Provider.MYSQL, self.url)

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

    def migrator(self) -> Migrator:
        """As a new process would have it."""
        return Migrator(config.load(self.folder / "branchmig.toml")[0])

    def attempt(self, target: str = "head", recorded: Heads = ()) -> Attempt:
        return self.migrator().attempt(Task(self.branch, target, recorded), Fence())

    def start(self) -> subprocess.Popen[bytes]:
        """An attempt in a process of its own, which says so when it begins."""
        process = subprocess.Popen(
            [sys.executable, __file__, str(self.folder), str(self.server.port), self.database],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"begins\n"
        return process

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
            found = self.query(
                "SELECT id FROM information_schema.processlist "
                f"WHERE db = '{self.database}' AND info LIKE '{statement}%'"
            )
            if found:
                return int(found[0][0])
            time.sleep(0.01)
        raise AssertionError(f"the server never ran {statement}")

    def query(self, statement: str) -> list[tuple[object, ...]]:
        return self.server.query(statement, self.database)

    def has_journal(self) -> bool:
        return bool(self.query("SHOW TABLES LIKE 'branchmig_journal'"))


class _Elsewhere(Mariadb):
    """The server of another process."""

    def __init__(self, port: int) -> None:
        self.port = port


if __name__ == "__main__":
    lab = Lab(Path(sys.argv[1]), _Elsewhere(int(sys.argv[2])), sys.argv[3])
    migrator = lab.migrator()
    migrator.history(Provider.MYSQL)
    sys.stdout.write("begins\n")
    sys.stdout.flush()
    sys.exit(migrator.attempt(Task(lab.branch, "head"), Fence()).failure is not None)
