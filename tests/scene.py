"""One SQLite branch in a folder of the test, migrated in this process by a history of the test."""

from __future__ import annotations

import pickle
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from office import HISTORIES, query

from branchmig.config import Settings
from branchmig.fence import Fence
from branchmig.migrator import Migrator
from branchmig.model import Attempt, Branch, Provider, Task
from branchmig.providers import Limits
from branchmig.providers.sqlite import SqliteStrategy
from branchmig.revisions.history import History
from branchmig.revisions.source import Source

A_REVISION = """
import sqlalchemy as sa
from alembic import op

revision = {name!r}
down_revision = {parent!r}


def upgrade():
    {body}


def downgrade():
    pass
"""


class Scene:
    """One branch in a folder and a history that the test writes."""

    def __init__(self, folder: Path, **run: Any) -> None:
        self.folder = folder
        self.file = folder / "branch.db"
        self.history_folder = folder / "history"
        self.versions = self.history_folder / "versions"
        self.versions.mkdir(parents=True)
        self.parent: str | None = None
        self.run = {"lock_timeout": 0.2, **run}
        self.required: tuple[str, ...] = ()
        self.migrations: dict[str, Any] = {"script_location": "history", "probe": False}
        self.branch = Branch("1", "BR001", "Leiden", Provider.SQLITE, "sqlite:///branch.db")

    @property
    def settings(self) -> Settings:
        return Settings(
            file=self.folder / "branchmig.toml",
            migrations=self.migrations,
            validation={"required_tables": self.required},
            run=self.run,
        )

    @property
    def migrator(self) -> Migrator:
        """A new one, as each process has."""
        return Migrator(self.settings)

    @property
    def history(self) -> History:
        """The history as a new process loads it."""
        return History.load(Source.of(self.settings), "sqlite://")

    def use(self, name: str, **migrations: Any) -> None:
        """Use a copy of one of tests/histories, its env.py included."""
        shutil.rmtree(self.history_folder)
        shutil.copytree(HISTORIES / name, self.history_folder)
        self.migrations = {"script_location": "history", **migrations}

    def env(self, text: str) -> None:
        """Give the history an env.py, and have it probed."""
        (self.history_folder / "env.py").write_text(text)
        self.migrations.pop("probe", None)

    def module(self, name: str, text: str) -> None:
        """Put a module where `prepend_sys_path = ["lib"]` finds it."""
        file = self.folder / "lib" / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)

    @property
    def strategy(self) -> SqliteStrategy:
        return SqliteStrategy(Limits(lock_timeout=0.2), self.folder)

    def revision(self, name: str, body: str) -> None:
        """Add a revision on top of those there are."""
        text = A_REVISION.format(name=name, parent=self.parent, body=body)
        (self.versions / f"{name}.py").write_text(text)
        self.parent = name

    def attempt(self, fence: Fence | None = None, target: str = "head", **task: Any) -> Attempt:
        return self.migrator.attempt(Task(self.branch, target, **task), fence or Fence())

    def packed(self, url: str | None = None) -> str:
        """Settings and task for another process, on one line."""
        branch = replace(self.branch, url=url or self.branch.url)
        return pickle.dumps((self.settings, Task(branch, "head"))).hex()

    def script(self, text: str) -> None:
        with closing(sqlite3.connect(self.file)) as connection:
            connection.executescript(text)

    def rows(self, statement: str) -> list[Any]:
        return query(self.file, statement)

    def versions_now(self, table: str = "alembic_version") -> set[str]:
        return {row[0] for row in self.rows(f"SELECT version_num FROM {table}")}

    def tables(self) -> set[str]:
        return {row[0] for row in self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}

    def schema(self) -> list[Any]:
        return self.rows("SELECT name, sql FROM sqlite_master ORDER BY name")

    def beside(self) -> set[str]:
        """The files whose name begins with the database's."""
        return {path.name for path in self.folder.glob("branch.db*")}
