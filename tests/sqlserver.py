"""The T-SQL server that an environment variable names, reached by each of the two drivers.

There is none to be had on the machines where these tests usually run: without the variable
whatever needs one is left out, with one line of the summary.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from branchmig.model import Provider
from branchmig.providers import sqlserver_drivers as drivers
from branchmig.providers.sqlserver_session import resource

VARIABLE = "BRANCHMIG_TEST_SQLSERVER_URL"
LEFT_OUT = f"{VARIABLE} names no T-SQL server"
DRIVERS = ("sqlserver-microsoft", "sqlserver-freetds")

_LOCK = """
SET NOCOUNT ON;
DECLARE @answer int;
EXEC @answer = sp_getapplock @Resource = ?, @LockMode = 'Exclusive', @LockOwner = 'Session',
    @LockTimeout = 0;
SELECT @answer
"""


def microsoft() -> str | None:
    """Microsoft's driver on this machine, by the name that it has in a URL."""
    with suppress(drivers.DriverMissing):
        registered = [name for name in drivers.load_odbc().drivers() if name != "FreeTDS"]
        found = drivers.choose(registered, drivers.packaged()).name
        return drivers.PACKAGED if found == str(drivers.packaged()) else found
    return None


def freetds() -> str | None:
    with suppress(drivers.DriverMissing):
        return "FreeTDS" if "FreeTDS" in drivers.load_odbc().drivers() else None
    return None


def driver(kind: str) -> str:
    """The driver of this kind. Leaves the test out where it is not installed."""
    import pytest

    found = microsoft() if kind.endswith("microsoft") else freetds()
    if found is None:
        pytest.skip(f"the driver of {kind} is not installed: {drivers.CHOICES}")
    return found


def server_url(kind: str, database: str) -> str:
    """A database of the server, by one driver. Leaves the test out where there is no server."""
    import pytest

    given = os.environ.get(VARIABLE)
    if not given:
        pytest.skip(LEFT_OUT)
    url = sa.make_url(given).set(database=database).update_query_dict({"driver": driver(kind)})
    return url.render_as_string(hide_password=False)


def drop(url: str) -> None:
    """Drop a database of the server, if it is there."""
    given = drivers.address(url)
    with suppress(Exception), closing(connect(url, "master")) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS [{given.database}]")


def connect(url: str, database: str | None = None) -> Any:
    """A raw connection of the driver's, in autocommit."""
    given = drivers.address(url)
    given = given.set(database=database or given.database)
    engine = sa.create_engine(drivers.for_driver(given, drivers.driver_of(given)))
    (text,), _ = engine.dialect.create_connect_args(engine.url)
    return drivers.load_odbc().connect(text, timeout=10, autocommit=True)


class SqlserverDatabase:
    """A database of the server."""

    provider = Provider.SQLSERVER
    endless = "DECLARE @i int; SET @i = 0; WHILE 1 = 1 SET @i = 1 - @i"

    def __init__(self, kind: str) -> None:
        self.url = server_url(kind, f"t_{uuid.uuid4().hex}")

    def execute(self, *statements: str) -> list[Any]:
        with closing(connect(self.url)) as connection:
            found: list[Any] = []
            for statement in statements:
                cursor = connection.execute(statement)
                found = [tuple(row) for row in cursor.fetchall()] if cursor.description else []
            return found

    @contextmanager
    def hold(self) -> Iterator[None]:
        name = resource(str(drivers.address(self.url).database))
        with closing(connect(self.url)) as connection:
            assert connection.execute(_LOCK, name).fetchone()[0] == 0
            yield

    def drop(self) -> None:
        drop(self.url)


def on_microsoft(_: Path) -> SqlserverDatabase:
    return SqlserverDatabase("sqlserver-microsoft")


def on_freetds(_: Path) -> SqlserverDatabase:
    return SqlserverDatabase("sqlserver-freetds")
