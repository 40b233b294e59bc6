"""A survey of many databases on servers that are 100 ms away.

Two servers of our own, started as for the tests, hold copies of one database at head. The survey
goes through a proxy that adds the distance; while the databases are made known to HeadOffice it
adds none. Client, proxy and servers share this machine, so the rate is the least there is. It
tells something from several times 128 databases on: fewer are one wave, whose latency is all.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from .aims import Result
from .distance import NEAR, apart, free_ports
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
    try:
        with _servers(folder, databases) as (way, urls):
            with apart(0, way):
                offices = {
                    count: _known(folder / f"far-{count}", urls[:count])
                    for count in (len(way), len(urls))
                }
            with apart(_ROUND_TRIP, way):
                yield from _rates(offices, rounds)
                yield from _memory(offices)
    except Missing as missing:
        yield str(missing)


def silence(folder: Path, databases: int, rounds: int) -> Iterator[Result | str]:
    """The tick of a fleet, one in twenty of which lies on a server of its own that takes
    connections and never answers, to that of the same fleet without them.

    Five branches share each database, by addresses that all lead to this host: what they cost is a
    look each, as anywhere.
    """
    try:
        with _servers(folder, databases) as (way, urls):
            everyone = [url.replace(f"@{NEAR[0]}:", f"@{near}:") for url in urls for near in NEAR]
            with _silent(len(everyone) // 20) as silent:
                with apart(0, way):
                    whole = _known(folder / "whole", everyone)
                    partly = _known(
                        folder / "partly", [u for n, u in enumerate(everyone) if n % 20]
                    )
                partly.add(silent, "SILENT")
                used: dict[Office, list[float]] = {whole: [], partly: []}
                with apart(_ROUND_TRIP, way):
                    for number in range(rounds):
                        for office, code in ((whole, 0), (partly, 1)):
                            copy = office.copy(folder / f"{office.folder.name}-{number}")
                            tick = copy.measured(partial(wall, code=code), "apply-all")
                            used[office].append(tick)
        began, took = (median(times) for times in used.values())
        yield Result(f"{len(everyone):,} branches: a tick", began, "s")
        yield Result(f"{len(silent):,} of them silent: a tick", took, "s")
        yield Result("with / without", took / began, "", 2)
    except Missing as missing:
        yield str(missing)


@contextmanager
def _servers(folder: Path, databases: int) -> Iterator[tuple[Mapping[int, int], Sequence[str]]]:
    """One of each engine with so many databases: the ports that lead to them from far away, and the
    URLs through these. Raises Missing."""
    with ExitStack() as stack:
        engines = {}
        for name in ENGINES:
            engines[name] = stack.enter_context(running(name, folder / f"{name}-server"))
            _fill(engines[name], folder / f"{name}-template", databases)
        ports = free_ports(len(engines))
        yield (
            {port: engine.port for port, engine in zip(ports, engines.values(), strict=True)},
            [
                engine.url(_name(number)).replace(f":{engine.port}/", f":{port}/")
                for number in range(databases)
                for engine, port in zip(engines.values(), ports, strict=True)
            ],
        )


def _known(folder: Path, urls: Sequence[str]) -> Office:
    """An office that knows where its branches stand."""
    office = Office.make(folder, urls, wall, _SETTINGS)
    office.run("apply-all")
    return office


@contextmanager
def _silent(count: int) -> Iterator[list[str]]:
    """URLs on so many servers that take connections and never answer."""
    with ExitStack() as stack:
        urls = []
        for number in range(count):
            host = f"127.1.{number // 250}.{number % 250 + 1}"
            port = stack.enter_context(socket.create_server((host, 0))).getsockname()[1]
            scheme = "mysql" if number % 2 else "postgresql"
            urls.append(f"{scheme}://nobody@{host}:{port}/branch")
        yield urls


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
