"""Branch databases of each engine as the contract of strategies meets them.

A database knows what of its engine the contract cannot say in SQL that all of them take.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
import sqlserver
from servers import Mariadb, Postgresql, Server

from branchmig.model import Provider
from branchmig.providers import Limits
from branchmig.providers.mysql import MysqlStrategy
from branchmig.providers.postgresql import PostgresqlStrategy


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


class _ServerDatabase:
    """A database of a server that the whole session of tests shares."""

    def __init__(self, server: Server, strategy: type[MysqlStrategy | PostgresqlStrategy]) -> None:
        self.name = f"s_{uuid.uuid4().hex}"
        self.server = server
        self.url = server.url(self.name)
        self._strategy = strategy

    def execute(self, *statements: str) -> list[Any]:
        with closing(self.server.connect(self.name)) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Another migrator is at work."""
        strategy = self._strategy(Limits(), Path())
        with strategy.connect(self.url) as connection, strategy.lock(connection):
            yield

    def drop(self) -> None:
        """It goes with the server."""


class PostgresqlDatabase(_ServerDatabase):
    provider = Provider.POSTGRESQL
    endless = "SELECT pg_sleep(60)"

    def __init__(self, server: Postgresql) -> None:
        super().__init__(server, PostgresqlStrategy)


class MariadbDatabase(_ServerDatabase):
    provider = Provider.MYSQL
    endless = "SELECT SLEEP(60) FROM seq_1_to_2"

    def __init__(self, server: Mariadb) -> None:
        super().__init__(server, MysqlStrategy)


ENGINES = ("sqlite", "postgresql", "mariadb", "sqlserver-microsoft", "sqlserver-freetds")


def database(engine: str, request: pytest.FixtureRequest) -> Database:
    """A database of an engine of ENGINES that is not there yet."""
    folder: Path = request.getfixturevalue("tmp_path")
    match engine:
        case "sqlite":
            return SqliteDatabase(folder)
        case "postgresql":
            return PostgresqlDatabase(request.getfixturevalue(engine))
        case "mariadb":
            return MariadbDatabase(request.getfixturevalue(engine))
        case "sqlserver-microsoft":
            return sqlserver.on_microsoft(folder)
        case _:
            return sqlserver.on_freetds(folder)
