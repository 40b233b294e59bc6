"""A HeadOffice with branches in a scratch folder, driven by the real program."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import stopped, until

HISTORIES = Path(__file__).parent / "histories"
PROGRAM = (sys.executable, "-m", "branchmig")


@dataclass
class Office:
    """A folder with settings, HeadOffice and branches."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    wrapper: tuple[str, ...] = ()
    """A command that runs the program, such as those of `rights`."""

    @property
    def settings(self) -> Path:
        return self.folder / "branchmig.toml"

    def configure(self, text: str = "") -> None:
        """Write the settings; sections that are not named keep their defaults. They may hold
        secrets, so not everybody may read them."""
        self.settings.touch(0o640)
        self.settings.chmod(0o640)
        self.settings.write_text(text)

    def use_history(self, name: str, **settings: Any) -> Path:
        """Copy a history of tests/histories beside the settings and use it. Gives its folder."""
        target = self.folder / name
        shutil.copytree(HISTORIES / name, target)
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        self.configure("\n".join(["[migrations]", f'script_location = "{name}"', *lines, ""]))
        return target

    def command(self, *arguments: str) -> list[str]:
        return [*self.wrapper, *PROGRAM, *arguments]

    def environment(self, **environ: str) -> dict[str, str]:
        """One branch is migrated after another, unless a test says otherwise."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("BRANCHMIG_")}
        own = {"BRANCHMIG_CONFIG": str(self.settings), "BRANCHMIG_RUN_WORKERS": "1"}
        return {**kept, **own, **self.environ, **environ}

    def run(
        self, *arguments: str, stdin: str = "", code: int | None = 0, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the program to its end. `code` is the exit code expected, None: any."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(**environ),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if code is not None:
            assert done.returncode == code, (
                f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def json(self, *arguments: str, code: int | None = 0, **options: Any) -> Any:
        """Run the program with --json and give its document."""
        return json.loads(self.run(*arguments, "--json", code=code, **options).stdout)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start the program, to be signalled or killed."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            text=True,
            **{**pipes, **options},
        )

    def init(self) -> None:
        self.run("init")

    def add(self, *codes: str, **options: str) -> None:
        """Add branches on SQLite files of their own, in one import."""
        rows = [f"{code},sqlite:///branches/{code.lower()}.db" for code in codes]
        self.run("branch", "import", "-", stdin="\n".join(["code,url", *rows, ""]), **options)

    def database(self, code: str) -> Path:
        return self.folder / "branches" / f"{code.lower()}.db"

    def query(self, code: str, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        return query(self.database(code), statement, parameters)

    def headoffice(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        return query(self.folder / "headoffice.db", statement, parameters)

    def status(self, code: str) -> dict[str, Any]:
        (row,) = self.json("status", code)
        return dict(row)

    def files(self) -> dict[str, bytes]:
        """Every file below the folder with its content, to see that nothing changed."""
        found: Iterable[Path] = self.folder.rglob("*")
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(found)
            if path.is_file()
        }


def query(path: Path, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
    """Run one statement on a SQLite file and commit it; rows as tuples."""
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement, parameters).fetchall()


def freeze(office: Office, *pids: int) -> None:
    """Stop processes at a moment when none of them has HeadOffice's file locked, by a renewal say:
    nobody else could write there until they go on."""

    def frozen() -> bool:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        until(lambda: all(stopped(pid) for pid in pids), "that all have stopped")
        with closing(sqlite3.connect(office.folder / "headoffice.db", timeout=0)) as driver:
            try:
                driver.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
                return False
        return True

    until(frozen, "a moment without a lock on HeadOffice")
