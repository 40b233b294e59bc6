"""What every strategy must hold to, whatever its engine. Nothing here knows one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import databases
import pytest
import sqlalchemy as sa
from databases import ENGINES, Database
from office import HISTORIES

from branchmig.errors import (
    BranchBusy,
    BranchmigError,
    BranchUnreachable,
    DatabaseMissing,
    SecondConnection,
)
from branchmig.model import FailureKind, Snapshot, Step, VersionTable
from branchmig.providers import Limits, MigrationStrategy, strategy_for
from branchmig.providers.journal import Journal
from branchmig.revisions.environment import run, stamp
from branchmig.revisions.history import History
from branchmig.revisions.hooks import NoHooks
from branchmig.revisions.source import Source

TABLE = VersionTable()
LIMITS = Limits(connect_timeout=5, lock_timeout=0.2)

SHOPS = "CREATE TABLE shops (id INTEGER NOT NULL PRIMARY KEY, city VARCHAR(80))"
VERSIONS = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"


@pytest.fixture(params=ENGINES)
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A branch database that is not there yet."""
    database = databases.database(request.param, request)
    yield database
    database.drop()


@pytest.fixture
def strategy(database: Database, tmp_path: Path) -> MigrationStrategy:
    return strategy_for(database.provider, LIMITS, tmp_path)


@pytest.fixture
def made(database: Database, strategy: MigrationStrategy) -> Database:
    """The branch database, empty."""
    strategy.create(database.url)
    return database


@pytest.fixture
def connection(made: Database, strategy: MigrationStrategy) -> Iterator[sa.Connection]:
    with strategy.connect(made.url) as connection:
        yield connection


def history_of(name: str, strategy: MigrationStrategy) -> History:
    online = strategy.capabilities.scratch_in_memory
    return History.load(Source(str(HISTORIES / name)), strategy.scratch_url, online=online)


class Watching(NoHooks):
    """Notes what the strategy saw of each revision's transaction."""

    def __init__(self, strategy: MigrationStrategy, connection: sa.Connection) -> None:
        self.strategy = strategy
        self.connection = connection
        self.seen: list[str | None] = []

    def begun(self, step: Step) -> None:
        self.strategy.begin_watch(self.connection)

    def executed(self, step: Step) -> None:
        self.seen.append(self.strategy.end_watch(self.connection))


# Looking


def test_a_missing_database_is_seen_as_missing_and_stays_so(
    database: Database, strategy: MigrationStrategy
) -> None:
    for _ in range(2):
        assert not strategy.inspect(database.url, TABLE).exists
    with pytest.raises(DatabaseMissing), strategy.connect(database.url):
        pytest.fail("there is nothing to connect to")
    assert not strategy.inspect(database.url, TABLE).exists


def test_an_empty_database_has_no_version_and_no_tables(
    made: Database, strategy: MigrationStrategy
) -> None:
    found = strategy.inspect(made.url, TABLE)
    assert (found.versioned, found.heads, found.tables) == (False, (), frozenset())


def test_a_database_of_another_tool_has_tables_and_no_version(
    made: Database, strategy: MigrationStrategy
) -> None:
    made.execute(SHOPS)
    found = strategy.inspect(made.url, TABLE)
    assert found == Snapshot(exists=True, versioned=False, tables=frozenset({"shops"}))


def test_an_empty_version_table_is_a_version(made: Database, strategy: MigrationStrategy) -> None:
    made.execute(VERSIONS)
    assert strategy.inspect(made.url, TABLE) == Snapshot(exists=True, versioned=True)


def test_heads_are_read_sorted_and_the_version_table_is_no_table_of_the_branch(
    made: Database, strategy: MigrationStrategy
) -> None:
    made.execute(SHOPS, VERSIONS, "INSERT INTO alembic_version VALUES ('b'), ('a')")
    found = strategy.inspect(made.url, TABLE)
    assert (found.heads, found.tables) == (("a", "b"), frozenset({"shops"}))


def test_another_version_table_is_looked_for_by_its_name(
    made: Database, strategy: MigrationStrategy
) -> None:
    made.execute(VERSIONS, "INSERT INTO alembic_version VALUES ('theirs')")
    found = strategy.inspect(made.url, VersionTable("our_version"))
    assert not found.versioned
    assert found.tables == {"alembic_version"}


def test_an_open_connection_reads_what_an_inspection_sees(
    made: Database, strategy: MigrationStrategy
) -> None:
    made.execute(SHOPS, VERSIONS, "INSERT INTO alembic_version VALUES ('a')")
    with strategy.connect(made.url) as connection:
        assert strategy.read(connection, TABLE) == strategy.inspect(made.url, TABLE)
        assert strategy.schema(connection)["shops"] == {"id", "city"}


def test_required_tables_are_missed_by_name(strategy: MigrationStrategy) -> None:
    present = frozenset({"shops", "goods"})
    assert strategy.missing_tables(present, ("shops", "tills", "sales")) == ("tills", "sales")
    assert strategy.missing_tables(present, ()) == ()


# Creating


def test_a_database_is_created_once_however_many_ask_for_it(
    database: Database, strategy: MigrationStrategy
) -> None:
    with ThreadPoolExecutor(8) as clients:
        list(clients.map(lambda _: strategy.create(database.url), range(8)))
    database.execute(SHOPS)
    strategy.create(database.url)
    assert strategy.inspect(database.url, TABLE).tables == {"shops"}


# One connection


def test_a_second_connection_within_an_attempt_is_refused(connection: sa.Connection) -> None:
    with pytest.raises(SecondConnection, match="a second connection"):
        connection.engine.connect()
    assert connection.scalar(sa.text("SELECT 1")) == 1


def test_a_revision_cannot_get_another_connection_from_its_bind(
    connection: sa.Connection,
) -> None:
    with connection.begin(), pytest.raises(SecondConnection) as refused:
        sa.inspect(connection.engine)
    assert "op.get_bind()" in str(refused.value.hint)


def test_a_connection_that_was_lost_is_not_silently_replaced(connection: sa.Connection) -> None:
    connection.invalidate()
    with pytest.raises(sa.exc.StatementError) as refused:
        connection.execute(sa.text("SELECT 1"))
    assert isinstance(refused.value.orig, (SecondConnection, BranchUnreachable))


def test_a_database_can_be_connected_to_again_after_an_attempt(
    made: Database, strategy: MigrationStrategy
) -> None:
    for _ in range(2):
        with strategy.connect(made.url) as connection, strategy.lock(connection):
            assert connection.scalar(sa.text("SELECT 1")) == 1


# The lock


def test_a_branch_that_another_session_holds_is_busy_within_the_limit(
    made: Database, strategy: MigrationStrategy
) -> None:
    with made.hold(), strategy.connect(made.url) as connection:
        began = time.monotonic()
        with pytest.raises(BranchBusy) as busy, strategy.lock(connection):
            pytest.fail("the lock was given twice")
        assert time.monotonic() - began < LIMITS.lock_timeout + 5
    assert strategy.classify(busy.value) is FailureKind.BUSY
    assert busy.value.hint


def test_the_lock_is_given_as_soon_as_the_other_session_is_gone(
    made: Database, strategy: MigrationStrategy
) -> None:
    with strategy.connect(made.url) as connection:
        with made.hold(), pytest.raises(BranchBusy), strategy.lock(connection):
            pytest.fail("the lock was given twice")
        with strategy.lock(connection), connection.begin():
            connection.execute(sa.text(SHOPS))
    assert strategy.inspect(made.url, TABLE).tables == {"shops"}


# Revisions


def test_revisions_leave_their_tables_and_their_version(
    connection: sa.Connection, strategy: MigrationStrategy
) -> None:
    history = history_of("linear", strategy)
    with strategy.lock(connection):
        run(
            history,
            connection,
            history.steps((), "head"),
            NoHooks(),
            transactional_ddl=strategy.capabilities.transactional_ddl,
        )
    found = strategy.read(connection, TABLE)
    assert found.heads == ("a3",)
    assert found.tables == {"shops", "goods"}


def test_a_failing_revision_leaves_nothing_where_ddl_is_transactional(
    made: Database, strategy: MigrationStrategy
) -> None:
    history = history_of("fails_midway", strategy)
    transactional = strategy.capabilities.transactional_ddl
    with (
        pytest.raises(sa.exc.DBAPIError),
        strategy.connect(made.url) as connection,
        strategy.lock(connection),
    ):
        run(
            history,
            connection,
            history.steps((), "head"),
            NoHooks(),
            transactional_ddl=transactional,
        )
    # Not by that connection: after an error an engine may give it up.
    found = strategy.inspect(made.url, TABLE)
    assert found.heads == ("f1",)
    assert ("half" not in found.tables) is transactional


def test_a_stamp_is_rolled_back_with_its_transaction(
    connection: sa.Connection, strategy: MigrationStrategy
) -> None:
    history = history_of("linear", strategy)
    with connection.begin() as transaction:
        stamp(history, connection, "a2")
        assert strategy.read(connection, TABLE).heads == ("a2",)
        transaction.rollback()
    assert strategy.read(connection, TABLE).heads == ()


@pytest.mark.parametrize("ended", ["COMMIT", "ROLLBACK"])
def test_a_transaction_that_is_ended_is_noticed(
    connection: sa.Connection, strategy: MigrationStrategy, ended: str
) -> None:
    with connection.begin():
        strategy.begin_watch(connection)
        connection.exec_driver_sql(ended)
        # Where a journal is kept it watches.
        journaled = isinstance(strategy.journal(connection, "BR001", there=False), Journal)
        expected = None if journaled else ended
        assert strategy.end_watch(connection) == expected


def test_a_transaction_that_goes_on_is_not_reported(
    connection: sa.Connection, strategy: MigrationStrategy
) -> None:
    history = history_of("linear", strategy)
    watching = Watching(strategy, connection)
    run(
        history,
        connection,
        history.steps((), "head"),
        watching,
        transactional_ddl=strategy.capabilities.transactional_ddl,
    )
    assert watching.seen == [None] * 3


def test_what_did_not_change_breaks_nothing(
    connection: sa.Connection, strategy: MigrationStrategy
) -> None:
    with connection.begin():
        before = strategy.integrity(connection)
        connection.execute(sa.text(SHOPS))
        strategy.check_integrity(connection, before)


def test_another_thread_can_interrupt_the_statement_that_runs(
    connection: sa.Connection, strategy: MigrationStrategy, database: Database
) -> None:
    ended = threading.Event()

    def interrupt() -> None:
        while not ended.wait(0.01):
            strategy.interrupt(connection)

    other = threading.Thread(target=interrupt)
    other.start()
    try:
        with connection.begin(), pytest.raises(sa.exc.DBAPIError):
            connection.exec_driver_sql(database.endless)
    finally:
        ended.set()
        other.join()


def test_interrupting_a_connection_that_is_closed_does_no_harm(
    made: Database, strategy: MigrationStrategy
) -> None:
    with strategy.connect(made.url) as connection:
        pass
    strategy.interrupt(connection)


def test_a_scratch_database_is_empty_each_time(made: Database, strategy: MigrationStrategy) -> None:
    for _ in range(2):
        with strategy.scratch(made.url) as connection, connection.begin():
            assert strategy.schema(connection) == {}
            connection.execute(sa.text(SHOPS))
            assert set(strategy.schema(connection)) == {"shops"}


# Errors


def test_an_error_of_the_engine_is_explained_without_the_data_in_it(
    connection: sa.Connection, made: Database, strategy: MigrationStrategy
) -> None:
    with connection.begin():
        connection.execute(sa.text(SHOPS))
    with pytest.raises(sa.exc.IntegrityError) as twice, connection.begin():
        connection.execute(
            sa.text("INSERT INTO shops VALUES (:id, :city)"), [{"id": 1, "city": "Leiden"}] * 2
        )
    found = strategy.explain(twice.value, made.url)
    assert isinstance(found, BranchmigError)
    assert "Leiden" not in found.message
    assert strategy.classify(twice.value) is FailureKind.PERMANENT


def test_an_error_of_the_house_is_left_as_it_is(
    made: Database, strategy: MigrationStrategy
) -> None:
    error = BranchBusy("held by the till", "wait")
    assert strategy.explain(error, made.url) is error


def test_an_exception_of_anybody_else_is_not_the_engines(strategy: MigrationStrategy) -> None:
    assert not strategy.is_own(ValueError("no"))
    assert strategy.classify(ValueError("no")) is FailureKind.PERMANENT


# Engines for HeadOffice


def test_an_engine_writes_from_several_threads(made: Database, tmp_path: Path) -> None:
    made.execute(SHOPS)
    engine = strategy_for(made.provider, Limits(lock_timeout=30), tmp_path).engine(made.url)

    def add(number: int) -> None:
        with engine.begin() as connection:
            connection.execute(sa.text("INSERT INTO shops (id) VALUES (:n)"), {"n": number})

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(add, range(40)))
    engine.dispose()
    assert made.execute("SELECT count(*) FROM shops") == [(40,)]


def test_an_engine_for_reading_reads_and_cannot_write(
    made: Database, strategy: MigrationStrategy
) -> None:
    made.execute(SHOPS, "INSERT INTO shops (id) VALUES (1)")
    engine = strategy.read_engine(made.url)
    with engine.begin() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM shops")) == 1
    with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError):
        connection.execute(sa.text("INSERT INTO shops (id) VALUES (2)"))
    engine.dispose()
    assert made.execute("SELECT count(*) FROM shops") == [(1,)]
