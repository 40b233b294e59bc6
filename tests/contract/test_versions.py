"""The cheap look at a database, and at many of a server together: what it finds, at what cost."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import databases
import pytest
import sqlalchemy as sa
from databases import ENGINES, Database
from proxy import proxied
from servers import Mariadb, Postgresql, Server

from branchmig.errors import BranchmigError, BranchUnreachable
from branchmig.model import Provider, Snapshot, VersionTable
from branchmig.providers import Limits, MigrationStrategy, strategy_for
from branchmig.providers.marks import TABLE as JOURNAL
from branchmig.providers.mysql import MysqlStrategy
from branchmig.providers.mysql_statements import quoted

TABLE = VersionTable()

VERSIONS = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
A1 = "INSERT INTO alembic_version VALUES ('a1')"
SHOPS = "CREATE TABLE shops (id INTEGER NOT NULL PRIMARY KEY)"
EMPTY_JOURNAL = f"CREATE TABLE {JOURNAL} (number INTEGER NOT NULL PRIMARY KEY)"
BROKEN = f"INSERT INTO {JOURNAL} VALUES (1)"

SITUATIONS = {
    "an empty database": (),
    "tables of another tool": (SHOPS,),
    "an empty version table": (VERSIONS,),
    "several heads": (SHOPS, VERSIONS, A1, "INSERT INTO alembic_version VALUES ('a0'), ('b')"),
    "a journal without rows": (VERSIONS, A1, EMPTY_JOURNAL),
    "a revision that broke half way": (SHOPS, VERSIONS, A1, EMPTY_JOURNAL, BROKEN),
    "a journal and no version table": (EMPTY_JOURNAL, BROKEN),
}


@pytest.fixture(params=ENGINES)
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A branch database that is not there yet."""
    database = databases.database(request.param, request)
    yield database
    database.drop()


@pytest.fixture
def strategy(database: Database, tmp_path: Path) -> MigrationStrategy:
    return strategy_for(database.provider, Limits(connect_timeout=5, lock_timeout=0.2), tmp_path)


# One database


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_cheap_look_sees_what_an_inspection_sees_but_tables(
    database: Database, strategy: MigrationStrategy, situation: str
) -> None:
    strategy.create(database.url)
    for statement in SITUATIONS[situation]:
        database.execute(statement)
    for table in (TABLE, VersionTable("another_version")):
        inspected = strategy.inspect(database.url, table)
        found = strategy.versions(database.url, table)
        assert replace(found, tables=frozenset()) == replace(inspected, tables=frozenset())


def test_a_missing_database_is_missing_to_the_cheap_look(
    database: Database, strategy: MigrationStrategy
) -> None:
    for _ in range(2):
        assert strategy.versions(database.url, TABLE) == Snapshot(exists=False, versioned=False)


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


# B008: Limits are frozen, so that sharing the default does no harm.
def of(server: Server, limits: Limits = Limits(connect_timeout=5)) -> MigrationStrategy:  # noqa: B008
    return strategy_for(server.provider, limits, Path())


def test_a_look_takes_few_round_trips(server: Server) -> None:
    strategy = of(server)
    strategy.create(server.url("near"))
    with server.connect("near") as connection, connection.cursor() as cursor:
        for statement in (VERSIONS, A1, SHOPS):
            cursor.execute(statement)
    with proxied(server.port) as proxy:
        far = server.url("near").replace(f":{server.port}/", f":{proxy.port}/")
        assert strategy.versions(far, TABLE).heads == ("a1",)
    # PostgreSQL: is TLS to be had, login, question. MariaDB: greeting, login, question.
    assert proxy.answers == 3


def test_odd_names_and_schemas_are_read_as_they_are_written(server: Server) -> None:
    strategy = of(server)
    name = "odd-`\"' ünd Größer"
    url = sa.engine.make_url(server.url("x")).set(database=name)
    address = url.render_as_string(hide_password=False)
    strategy.create(address)
    quotes = quoted if isinstance(server, Mariadb) else _double
    table = VersionTable("odd `\"' %s version", name if isinstance(server, Mariadb) else 'a"b')
    with server.connect(name) as connection, connection.cursor() as cursor:
        if isinstance(server, Postgresql):
            cursor.execute(f"CREATE SCHEMA {_double(str(table.schema))}")
        there = f"{quotes(str(table.schema))}.{quotes(table.name)}"
        cursor.execute(f"CREATE TABLE {there} (version_num VARCHAR(32))")
        cursor.execute(f"INSERT INTO {there} VALUES ('é1')")
    assert strategy.versions(address, table) == Snapshot(True, True, ("é1",))
    assert not strategy.versions(address, TABLE).versioned


def _double(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def test_a_look_fails_as_an_inspection_fails(server: Server, silent_port: int) -> None:
    strategy = of(server, Limits(connect_timeout=1))
    server.query("CREATE DATABASE closed")
    with server.connect("closed") as connection, connection.cursor() as cursor:
        cursor.execute(VERSIONS)
    server.add_user("outsider", "s3cret-word")
    known = sa.engine.make_url(server.url("closed"))
    urls = {
        "no right": known.set(username="outsider", password="s3cret-word"),
        "refused": known.set(username="outsider", password="another-word"),
        "silent": known.set(port=silent_port),
    }
    for url in urls.values():
        address = url.render_as_string(hide_password=False)
        errors = []
        for look in (strategy.inspect, strategy.versions):
            with pytest.raises(BranchmigError) as failed:
                look(address, TABLE)
            errors.append(failed.value)
        inspected, looked = errors
        assert (type(looked), looked.message, looked.hint) == (
            (type(inspected), inspected.message, inspected.hint)
        )


# Many databases of one server


@pytest.fixture
def mysql() -> MysqlStrategy:
    return MysqlStrategy(Limits(connect_timeout=5, lock_timeout=0.2), Path())


def make(mariadb: Mariadb, name: str, *statements: str) -> str:
    """A database, and its URL."""
    mariadb.query(f"CREATE DATABASE {quoted(name)} CHARACTER SET utf8mb4")
    with mariadb.connect(name) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    return address(mariadb, name)


def address(mariadb: Mariadb, name: str, **parts: str) -> str:
    url = sa.engine.make_url(mariadb.url("x")).set(database=name, **parts)
    return url.render_as_string(hide_password=False)


def test_hundreds_of_databases_are_told_of_by_one_connection(
    mariadb: Mariadb, mysql: MysqlStrategy
) -> None:
    heads = {
        make(mariadb, f"many{n}", VERSIONS, f"INSERT INTO alembic_version VALUES ('a{n}')"): f"a{n}"
        for n in range(450)
    }
    with proxied(mariadb.port) as proxy:
        far = {url.replace(f":{mariadb.port}/", f":{proxy.port}/"): heads[url] for url in heads}
        found = mysql.versions_together([*far, next(iter(far))], TABLE)
    assert found == {url: Snapshot(True, True, (head,)) for url, head in far.items()}
    # Greeting, login, which have the tables, and three times 200 or fewer.
    assert proxy.answers == 2 + 1 + 3


def test_what_is_whole_is_told_and_what_is_not_is_left_to_be_asked_alone(
    mariadb: Mariadb, mysql: MysqlStrategy
) -> None:
    told = {
        make(mariadb, "w_two", VERSIONS, A1, "INSERT INTO alembic_version VALUES ('a0')"): (
            ("a0", "a1")
        ),
        make(mariadb, "w_empty_table", VERSIONS): (),
    }
    left = [
        address(mariadb, "w_missing"),
        make(mariadb, "w_without", SHOPS),
        make(mariadb, "w_journaled", VERSIONS, A1, EMPTY_JOURNAL),
        make(mariadb, "w_broken", VERSIONS, A1, EMPTY_JOURNAL, BROKEN),
        make(mariadb, "w_view", "CREATE VIEW alembic_version AS SELECT 'a1' AS version_num"),
        "mysql://root@127.0.0.1:1/malformed?port=x",
    ]
    found = mysql.versions_together([*left, *told], TABLE)
    assert found == {url: Snapshot(True, True, heads) for url, heads in told.items()}
    assert mariadb.query("SHOW DATABASES LIKE 'w_missing'") == []


def test_odd_names_are_told_of_and_names_that_differ_by_case_are_two(
    mariadb: Mariadb, mysql: MysqlStrategy
) -> None:
    names = ("odd`tick", "odd-dash", "odd'quote\\", "ödd %s", "oddCase", "ODDcase", "odd 100%")
    told = {
        make(mariadb, name, VERSIONS, f"INSERT INTO alembic_version VALUES ('v{n}')"): f"v{n}"
        for n, name in enumerate(names)
    }
    strange = [address(mariadb, name) for name in ("oddcase", "odd🙂", "odd-dash ", "odd")]
    found = mysql.versions_together([*told, *strange], TABLE)
    assert found == {url: Snapshot(True, True, (head,)) for url, head in told.items()}


def test_an_account_is_told_of_what_it_may_read_and_of_nothing_else(
    mariadb: Mariadb, mysql: MysqlStrategy
) -> None:
    names = ("r_one", "r_two", "r_hidden")
    urls = [make(mariadb, name, VERSIONS, A1) for name in names]
    mariadb.add_user("reader", "s3cret-word")
    for name in names[:2]:
        mariadb.query(f"GRANT SELECT ON {name}.* TO reader@'%'")
    theirs = [address(mariadb, n, username="reader", password="s3cret-word") for n in names]
    whole = Snapshot(True, True, ("a1",))
    # Another account's databases are asked for by another connection.
    found = mysql.versions_together([*theirs, *urls], TABLE)
    assert found == dict.fromkeys([*theirs[:2], *urls], whole)


def test_a_table_that_is_seen_and_cannot_be_read_leaves_its_neighbours_to_be_asked_alone(
    mariadb: Mariadb, mysql: MysqlStrategy
) -> None:
    names = [f"u{n:03d}" for n in range(202)]
    mariadb.add_user("writer", "s3cret-word")
    for name in names:
        make(mariadb, name, VERSIONS, A1)
        right = "INSERT" if name == "u000" else "SELECT"
        mariadb.query(f"GRANT {right} ON {name}.* TO writer@'%'")
    urls = [address(mariadb, n, username="writer", password="s3cret-word") for n in names]
    found = mysql.versions_together(urls, TABLE)
    assert found == dict.fromkeys(urls[200:], Snapshot(True, True, ("a1",)))
    with pytest.raises(BranchmigError, match="lacks a right"):
        mysql.versions(urls[0], TABLE)
    assert mysql.versions(urls[1], TABLE).heads == ("a1",)


def test_a_table_that_somebody_has_locked_is_waited_for_no_longer_than_the_lock_time_out(
    mariadb: Mariadb, mysql: MysqlStrategy
) -> None:
    urls = [make(mariadb, name, VERSIONS, A1) for name in ("l_free", "l_locked")]
    with mariadb.connect("l_locked") as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLES alembic_version WRITE")
        assert mysql.versions_together(urls, TABLE) == {}
    assert len(mysql.versions_together(urls, TABLE)) == 2


def test_nothing_is_told_of_one_database_alone_or_of_a_version_table_elsewhere(
    mariadb: Mariadb, mysql: MysqlStrategy
) -> None:
    urls = [make(mariadb, name, VERSIONS, A1) for name in ("one_a", "one_b")]
    assert mysql.versions_together(urls[:1], TABLE) == {}
    assert mysql.versions_together([urls[0]] * 2, TABLE) == {}
    assert mysql.versions_together(urls, VersionTable(schema="one_a")) == {}
    assert mysql.versions_together([], TABLE) == {}
    assert len(mysql.versions_together(urls, TABLE)) == 2


def test_a_server_that_is_not_there_tells_of_nothing_and_another_still_does(
    mariadb: Mariadb, mysql: MysqlStrategy, silent_port: int
) -> None:
    urls = [make(mariadb, name, VERSIONS, A1) for name in ("up_a", "up_b")]
    silent = [url.replace(f":{mariadb.port}/", f":{silent_port}/") for url in urls]
    closed = [url.replace(f":{mariadb.port}/", ":1/") for url in urls]
    mysql = MysqlStrategy(Limits(connect_timeout=1), Path())
    assert mysql.versions_together([*silent, *closed, *urls], TABLE).keys() == set(urls)
    with pytest.raises(BranchUnreachable):
        mysql.versions(closed[0], TABLE)


@pytest.mark.parametrize("limit", [95, 400, 1500])
def test_a_connection_that_breaks_tells_of_nothing_that_it_has_not_told(
    mariadb: Mariadb, mysql: MysqlStrategy, limit: int
) -> None:
    names = [f"cut{limit}_{n:03d}" for n in range(30)]
    urls = [make(mariadb, name, VERSIONS, A1) for name in names]
    with proxied(mariadb.port, limit) as proxy:
        far = [url.replace(f":{mariadb.port}/", f":{proxy.port}/") for url in urls]
        assert mysql.versions_together(far, TABLE) == {}
    assert proxy.most == limit


def test_a_server_other_than_mysql_tells_of_each_database_alone(
    postgresql: Postgresql,
) -> None:
    urls = [postgresql.url(name) for name in ("postgres", "template1")]
    assert of(postgresql).versions_together(urls, TABLE) == {}


# Many files


def file(folder: Path, name: str, *statements: str) -> str:
    """A database, and its URL."""
    with closing(sqlite3.connect(folder / name, isolation_level=None)) as driver:
        for statement in statements:
            driver.execute(statement)
    return f"sqlite:///{name}"


def test_plain_files_are_told_of_together_and_what_is_odd_is_left_to_be_asked_alone(
    tmp_path: Path,
) -> None:
    sqlite = strategy_for(Provider.SQLITE, Limits(lock_timeout=0.2), tmp_path)
    two = "INSERT INTO alembic_version VALUES ('b0')"
    other = "PRAGMA encoding = 'UTF-16'"
    log = "PRAGMA journal_mode = WAL"
    good = [file(tmp_path, f"good {n} %41 ü'\".db", VERSIONS, A1) for n in range(5)]
    many = [file(tmp_path, "two.db", VERSIONS, A1, two), file(tmp_path, "none.db", VERSIONS)]
    odd = [
        file(tmp_path, "utf16.db", other, VERSIONS, A1),
        file(tmp_path, "log.db", log, VERSIONS, A1),
        file(tmp_path, "unversioned.db", SHOPS),
        file(tmp_path, "undecodable.db", VERSIONS, "INSERT INTO alembic_version VALUES (x'ff')",
             "UPDATE alembic_version SET version_num = CAST(version_num AS TEXT)"),
        file(tmp_path, "damaged.db", VERSIONS, A1, SHOPS),
        file(tmp_path, "locked.db", VERSIONS, A1),
        file(tmp_path, "empty.db"),
        "sqlite:///missing.db",
        "sqlite:///text.db",
        "sqlite:///pipe.db",
        "sqlite:///folder.db",
        "sqlite:///:memory:",
        "sqlite://host/malformed.db",
    ]  # fmt: skip
    damaged = (tmp_path / "damaged.db").read_bytes()
    (tmp_path / "damaged.db").write_bytes(damaged[:4096] + bytes(len(damaged) - 4096))
    (tmp_path / "text.db").write_text("no database, but long enough to be one " * 500)
    (tmp_path / "folder.db").mkdir()
    os.mkfifo(tmp_path / "pipe.db")
    mixed = [url for pair in zip_longest(odd, good + many) for url in pair if url]
    with closing(sqlite3.connect(tmp_path / "locked.db", isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        before = sorted(tmp_path.iterdir())
        found = sqlite.versions_together(mixed, TABLE)
        assert sorted(tmp_path.iterdir()) == before
    assert found == {
        **dict.fromkeys(good, Snapshot(True, True, ("a1",))),
        many[0]: Snapshot(True, True, ("a1", "b0")),
        many[1]: Snapshot(True, True, ()),
    }
    assert sqlite.versions_together([], TABLE) == {}
    assert sqlite.versions(odd[0], TABLE).heads == ("a1",)
    assert sqlite.versions(odd[1], TABLE).heads == ("a1",)
