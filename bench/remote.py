"""A survey of many databases on servers that are 100 ms away.

Two servers of our own, started as for the tests, hold copies of one database at head. The survey
goes through a proxy that adds the distance; while the databases are made known to HeadOffice it
adds none. Client, proxy and servers share this machine, so the rate is the least there is. It
tells something from several times 128 databases on: fewer are one wave, whose latency is all.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from .aims import Result
from .distance import apart, free_ports
from .engines import ENGINES, Engine, Mariadb, Missing, Postgresql, running
from .meter import peak, wall
from .sides import Office

_ROUND_TRIP = 0.1
_FLEET = 10_000
_MINUTE = 60.0
_TEMPLATE = "template"
_SETTINGS = "[run]\nsurvey_per_server = 128\n"
_MB = 1e6

_FILTERS = {
    "both engines": (),
    "PostgreSQL": ("--provider", "postgresql"),
    "MariaDB": ("--provider", "mysql"),
}


def survey(folder: Path, databases: int, rounds: int) -> Iterator[Result | str]:
    """Rate and memory over so many databases on each engine."""
    with ExitStack() as stack:
        engines = {}
        for name in ENGINES:
            try:
                engines[name] = stack.enter_context(running(name, folder / f"{name}-server"))
            except Missing as missing:
                yield str(missing)
                return
            _fill(engines[name], folder / f"{name}-template", databases)
        ports = free_ports(len(engines))
        way = {port: engine.port for port, engine in zip(ports, engines.values(), strict=True)}
        urls = [
            engine.url(_name(number)).replace(f":{engine.port}/", f":{port}/")
            for number in range(databases)
            for engine, port in zip(engines.values(), ports, strict=True)
        ]
        with apart(0, way):
            offices = {
                count: Office.make(folder / f"far-{count}", urls[:count], wall, _SETTINGS)
                for count in (len(engines), len(urls))
            }
            for office in offices.values():
                office.run("apply-all")
        with apart(_ROUND_TRIP, way):
            yield from _rates(offices, rounds)
            yield from _memory(offices)


def _rates(offices: dict[int, Office], rounds: int) -> Iterator[Result]:
    """The whole program over many less the same over one a server; for the aim with its start."""
    (few, start), (many, fleet) = offices.items()
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in _FILTERS}
    for _ in range(rounds):
        for name, filters in _FILTERS.items():
            times = start.run("apply-all", *filters), fleet.run("apply-all", *filters)
            measured[name].append(times)
    for name, filters in _FILTERS.items():
        began, took = (median(times) for times in zip(*measured[name], strict=True))
        branches = (many - few) // (2 if filters else 1)
        rate = branches / (took - began)
        yield Result(f"{name}: rate", rate, "branches/s", _FLEET / _MINUTE, least=True)
        yield Result(f"{name}: 10,000, with start-up", began + _FLEET / rate, "s", _MINUTE)


def _memory(offices: dict[int, Office]) -> Iterator[Result]:
    start, fleet = offices.values()
    most = fleet.measured(peak, "apply-all")
    idle = start.measured(peak, "apply-all", "--tag", "nobody")
    first = start.measured(peak, "apply-all")
    yield Result("memory above a run that finds no branch", (most - idle) / _MB, "MB", 50)
    yield Result("memory above a run over one branch a server", (most - first) / _MB, "MB")


# The databases ------------------------------------------------------------------------------------


def _name(number: int) -> str:
    return f"branch{number:05}"


def _fill(engine: Engine, folder: Path, databases: int) -> None:
    Office.make(folder, [engine.url(_TEMPLATE)], wall).run("apply-all")
    shutil.rmtree(folder)
    _COPIES[type(engine)](engine, databases)


def _copy_postgresql(engine: Engine, databases: int) -> None:
    def copy(number: int) -> None:
        assert isinstance(engine, Postgresql)
        engine.administer(
            f"CREATE DATABASE {_name(number)} TEMPLATE {_TEMPLATE} STRATEGY FILE_COPY"
        )

    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(copy, range(databases)):
            pass


def _copy_mariadb(engine: Engine, databases: int) -> None:
    connection = engine.connect(_TEMPLATE)
    try:
        cursor = connection.cursor()
        cursor.execute("SHOW TABLES")
        tables = []
        for (table,) in cursor.fetchall():
            cursor.execute(f"SHOW CREATE TABLE `{table}`")
            tables.append(cursor.fetchone()[1])
        # So that the order of the tables does not matter.
        cursor.execute("SET foreign_key_checks = 0")
        version = f"INSERT INTO alembic_version SELECT * FROM {_TEMPLATE}.alembic_version"
        for number in range(databases):
            cursor.execute(f"CREATE DATABASE {_name(number)} CHARACTER SET utf8mb4")
            cursor.execute(f"USE {_name(number)}")
            for statement in (*tables, version):
                cursor.execute(statement)
            connection.commit()
    finally:
        connection.close()


_COPIES: dict[type[Engine], Callable[[Engine, int], None]] = {
    Postgresql: _copy_postgresql,
    Mariadb: _copy_mariadb,
}
