"""One branch on PostgreSQL and one on MariaDB, by wall time, next to the driver alone and dbmate.

Servers of our own are started for this, as for the tests. The databases are there already, empty or
one revision behind; making them is not measured, nor is the start of branchmig, whose worker
processes live through a run. An `apply-all` as a whole tells less here than on SQLite: by the clock
its start varies by more than a few branches cost.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from .meter import wall
from .sides import (
    EMPTY,
    ONE,
    ROOT,
    UNCHANGED,
    Office,
    Revision,
    dbmate_files,
    dbmate_program,
    planned,
)

Costs = dict[str, dict[str, float]]

_A_ROUND = 6
"""How often each side is measured in a round."""


class Engine(Protocol):
    """A running server, and the driver as it is."""

    quote: str
    port: int
    url: Callable[[str], str]
    dbmate_url: Callable[[str], str]

    def connect(self, database: str) -> Any: ...

    def make(self, database: str) -> None: ...

    def drop(self, database: str) -> None: ...


class Postgresql:
    quote = '"'

    def __init__(self, server: Any) -> None:
        self.port = server.port
        self.url = server.url
        self.dbmate_url = lambda database: f"{server.url(database)}?sslmode=disable"

    def connect(self, database: str) -> Any:
        import psycopg

        return psycopg.connect(self.url(database))

    def make(self, database: str) -> None:
        self.administer(f'CREATE DATABASE "{database}"')
        # The first connection to a new database fills the server's caches for it.
        self.connect(database).close()

    def drop(self, database: str) -> None:
        self.administer(f'DROP DATABASE "{database}"')

    def administer(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


class Mariadb:
    quote = "`"

    def __init__(self, server: Any) -> None:
        self._server = server
        self.port = server.port
        self.url = self.dbmate_url = server.url

    def connect(self, database: str) -> Any:
        import pymysql

        # Without TLS, which the driver would prepare for even where the server has none.
        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="root",
            database=database,
            ssl_disabled=True,
        )

    def make(self, database: str) -> None:
        self._server.query(f"CREATE DATABASE {database} CHARACTER SET utf8mb4")

    def drop(self, database: str) -> None:
        self._server.query(f"DROP DATABASE {database}")


ENGINES: dict[str, Callable[[Any], Engine]] = {"postgresql": Postgresql, "mariadb": Mariadb}


def compare(name: str, folder: Path, rounds: int) -> Costs | str:
    """Seconds of each side for each job; a sentence where the server cannot be had."""
    with ExitStack() as stack:
        try:
            engine = stack.enter_context(running(name, folder / f"{name}-server"))
        except Missing as missing:
            return str(missing)
        urls = [engine.url("planned")]
        history = planned(Office.make(folder / f"{name}-planned", urls, wall))
        sides: list[Side] = [Attempt(engine, folder / name), Raw(engine, name, history)]
        if dbmate_program():
            sides.append(Dbmate(engine, folder / f"{name}-dbmate", history))
        measured: dict[str, dict[str, list[float]]] = {}
        for _ in range(rounds * _A_ROUND):
            for side in sides:
                _add(measured, side.name, _measure(engine, side))
    return {
        side: {job: median(times) for job, times in each.items()} for side, each in measured.items()
    }


class Missing(Exception):
    """The server is not installed."""


@contextmanager
def running(name: str, folder: Path) -> Iterator[Engine]:
    sys.path.insert(0, str(ROOT / "tests"))
    servers = importlib.import_module("servers")
    folder.mkdir()
    # The server may run under another account, which must get to its folder.
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    try:
        made = {"postgresql": servers.Postgresql, "mariadb": servers.Mariadb}[name](folder)
    except BaseException as error:
        # What leaves out a test that needs the server is no ordinary exception.
        if servers.MISSING not in str(error):
            raise
        raise Missing(f"{name} is left out: {error}") from None
    with servers.running(made):
        yield ENGINES[name](made)


def _add(measured: dict[str, dict[str, list[float]]], side: str, times: dict[str, float]) -> None:
    for job, seconds in times.items():
        measured.setdefault(side, {}).setdefault(job, []).append(seconds)


# The sides ----------------------------------------------------------------------------------------

_NUMBERS = count()


class Side(Protocol):
    name: str

    def up(self, database: str) -> object:
        """Bring an empty database to head."""

    def up_before_last(self, database: str) -> object:
        """Bring it to the revision before."""

    def up_last(self, database: str) -> object:
        """Bring it from there to head."""

    def look(self, database: str) -> object:
        """Find that a database at head needs nothing."""


def _measure(engine: Engine, side: Side) -> dict[str, float]:
    used = {}
    for job in (EMPTY, ONE):
        database = f"work{next(_NUMBERS)}"
        engine.make(database)
        if job == EMPTY:
            used[EMPTY] = _timed(side.up, database)
        else:
            side.up_before_last(database)
            used[ONE] = _timed(side.up_last, database)
        used[UNCHANGED] = _timed(side.look, database)
        _check(engine, database)
        engine.drop(database)
    return used


def _timed(work: Callable[[str], object], database: str) -> float:
    started = time.perf_counter()
    work(database)
    return time.perf_counter() - started


def _check(engine: Engine, database: str) -> None:
    """All sides did the same: what the last revision makes is there."""
    connection = engine.connect(database)
    try:
        q = engine.quote
        connection.cursor().execute(f"SELECT {q}NetTotal{q}, {q}TaxTotal{q} FROM {q}Sales{q}")
    finally:
        connection.close()


class Attempt:
    """What a worker does with a branch, in this process, without HeadOffice; with nothing to do the
    look by which `apply-all` finds that out."""

    name = "branchmig, in a worker"

    def __init__(self, engine: Engine, folder: Path) -> None:
        from branchmig import config
        from branchmig.migrator import Migrator
        from branchmig.providers import provider_of

        office = Office.make(folder, [engine.url("one")], wall)
        settings, _ = config.load(office.folder / "branchmig.toml")
        self._engine = engine
        self._migrator = Migrator(settings)
        self._provider = provider_of(engine.url("one"))
        history = self._migrator.history(self._provider)
        self._before_last = history.revisions[-2].id

    def up(self, database: str) -> None:
        self._attempt(database, "head")

    def up_before_last(self, database: str) -> None:
        self._attempt(database, self._before_last)

    up_last = up

    def _attempt(self, database: str, target: str) -> None:
        from branchmig.fence import Fence
        from branchmig.model import Task

        attempt = self._migrator.attempt(Task(self._branch(database), target), Fence())
        assert attempt.failure is None, attempt.failure

    def look(self, database: str) -> None:
        assert self._migrator.versions(self._branch(database)).heads

    def _branch(self, database: str) -> Any:
        from branchmig.model import Branch

        return Branch(database, database, "", self._provider, self._engine.url(database))


class Raw:
    """The driver alone: the same statements, each revision in one transaction with its version
    row, as far as the engine has transactions for that. No tool can be faster."""

    def __init__(self, engine: Engine, name: str, history: Sequence[Revision]) -> None:
        self.name = {"postgresql": "psycopg, raw", "mariadb": "pymysql, raw"}[name]
        self._engine = engine
        self._history = history

    def up(self, database: str) -> None:
        self._run(database, self._history)

    def up_before_last(self, database: str) -> None:
        self._run(database, self._history[:-1])

    def up_last(self, database: str) -> None:
        self._run(database, self._history[-1:])

    def _run(self, database: str, revisions: Sequence[Revision]) -> None:
        connection = self._engine.connect(database)
        try:
            cursor = connection.cursor()
            for revision in revisions:
                for statement in (*revision.statements, *revision.version):
                    cursor.execute(statement)
                connection.commit()
        finally:
            connection.close()

    def look(self, database: str) -> None:
        connection = self._engine.connect(database)
        try:
            cursor = connection.cursor()
            cursor.execute("SELECT version_num FROM alembic_version")
            assert cursor.fetchall()
        finally:
            connection.close()


class Dbmate:
    """`dbmate up`, started for each branch as it must be."""

    name = "dbmate up"

    def __init__(self, engine: Engine, folder: Path, history: Sequence[Revision]) -> None:
        dbmate_files(folder, history)
        self._engine = engine
        self._folder = folder

    def up(self, database: str) -> None:
        self._run(database, "all")

    up_last = look = up

    def up_before_last(self, database: str) -> None:
        self._run(database, "before")

    def _run(self, database: str, revisions: str) -> None:
        program = dbmate_program()
        assert program
        url = self._engine.dbmate_url(database)
        options = ("--url", url, "--migrations-dir", revisions, "--no-dump-schema")
        wall([program, *options, "up"], self._folder)
