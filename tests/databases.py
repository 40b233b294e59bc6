"""Branch databases of each engine as the contract of strategies meets them.

A database knows what of its engine the contract cannot say in SQL that all of them take.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import sqlserver

from branchmig.model import Provider


class Database(Protocol):
    """One branch database; there is none at first."""

    provider: Provider
    url: str
    endless: str
    """A statement that does not end by itself."""

    def execute(self, *statements: str) -> list[Any]:
        """Run statements by the driver, as another program would, and commit. Rows of the last."""

    def hold(self) -> Any:
        """A context in which another session holds what a migration needs."""

    def drop(self) -> None:
        """Leave nothing behind on a server."""


class SqliteDatabase:
    """A file in a folder of the test."""

    provider = Provider.SQLITE
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"

    def __init__(self, folder: Path) -> None:
        self.file = folder / "branch.db"
        self.url = "sqlite:///branch.db"

    def execute(self, *statements: str) -> list[Any]:
        with closing(sqlite3.connect(self.file)) as connection, connection:
            return [connection.execute(statement).fetchall() for statement in statements][-1]

    @contextmanager
    def hold(self) -> Iterator[None]:
        with closing(sqlite3.connect(self.file, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield

    def drop(self) -> None:
        """It goes with the test's folder."""


DATABASES: dict[str, Callable[[Path], Database]] = {
    "sqlite": SqliteDatabase,
    "sqlserver-microsoft": sqlserver.on_microsoft,
    "sqlserver-freetds": sqlserver.on_freetds,
}
