"""What PostgreSQL does to a migrator, each trap closed; on a server of our own."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from schemas import schema_of
from servers import Postgresql

from branchmig.config import packaged
from branchmig.errors import BranchBusy, BranchUnreachable, BranchUnusable, DatabaseMissing
from branchmig.model import Direction, FailureKind, Step, VersionTable
from branchmig.providers import Limits
from branchmig.providers.postgresql import PostgresqlStrategy
from branchmig.revisions.environment import run
from branchmig.revisions.history import History
from branchmig.revisions.hooks import NoHooks
from branchmig.revisions.source import Source

VERSION = VersionTable()


@pytest.fixture
def strategy() -> PostgresqlStrategy:
    return PostgresqlStrategy(Limits(connect_timeout=5, lock_timeout=0.5), Path())


@pytest.fixture
def url(strategy: PostgresqlStrategy, postgresql: Postgresql) -> str:
    """An empty database of the test's own."""
    url = postgresql.url(f"t_{uuid.uuid4().hex}")
    strategy.create(url)
    return url


def direct(url: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(url, autocommit=True)


def test_a_missing_database_is_no_error_and_is_not_made_by_looking(
    strategy: PostgresqlStrategy, postgresql: Postgresql
) -> None:
    url = postgresql.url(f"t_{uuid.uuid4().hex}")
    assert not strategy.inspect(url, VERSION).exists
    assert not strategy.inspect(url, VERSION).exists
    with pytest.raises(DatabaseMissing), strategy.connect(url):
        pass


def test_any_number_may_create_one_database_at_once(
    strategy: PostgresqlStrategy, postgresql: Postgresql
) -> None:
    url = postgresql.url(f"t_{uuid.uuid4().hex}")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: strategy.create(url), range(8)))
    assert strategy.inspect(url, VERSION).exists


def test_names_with_quotes_dashes_and_sixty_letters_are_names(
    strategy: PostgresqlStrategy, postgresql: Postgresql
) -> None:
    name = 'a-"quoted" ' + "x" * 49
    url = sa.URL.create(
        "postgresql", "postgres", host="127.0.0.1", port=postgresql.port, database=name
    ).render_as_string()
    strategy.create(url)
    assert strategy.inspect(url, VERSION).exists
    with strategy.connect(url) as connection:
        assert connection.exec_driver_sql("SELECT current_database()").scalar() == name


def test_the_lock_is_held_by_one_connection_and_names_its_holder(
    strategy: PostgresqlStrategy, url: str
) -> None:
    with strategy.connect(url) as first, strategy.lock(first):
        with (
            strategy.connect(url) as second,
            pytest.raises(BranchBusy, match=r"session \d+ of postgres"),
            strategy.lock(second),
        ):
            pass
        assert not first.in_transaction()
    with strategy.connect(url) as third, strategy.lock(third):
        pass


def test_the_lock_survives_commit_and_rollback(strategy: PostgresqlStrategy, url: str) -> None:
    with strategy.connect(url) as first, strategy.lock(first):
        first.exec_driver_sql("CREATE TABLE t (id int)")
        first.commit()
        first.exec_driver_sql("SELECT 1")
        first.rollback()
        with (
            strategy.connect(url) as second,
            pytest.raises(BranchBusy),
            strategy.lock(second),
        ):
            pass


def test_an_alter_waits_no_longer_than_the_lock_time_out_and_may_be_tried_again(
    strategy: PostgresqlStrategy, url: str
) -> None:
    with direct(url) as reader:
        reader.execute("CREATE TABLE t (id int)")
        with reader.transaction():
            reader.execute("SELECT * FROM t")
            with strategy.connect(url) as connection, pytest.raises(sa.exc.DBAPIError) as failed:
                connection.exec_driver_sql("ALTER TABLE t ADD COLUMN more int")
    assert strategy.classify(failed.value) is FailureKind.TRANSIENT


def test_the_limits_are_on_our_connection_only(strategy: PostgresqlStrategy, url: str) -> None:
    with strategy.connect(url) as connection:
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "500ms"
        connection.rollback()
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "500ms"
    with direct(url) as other:
        assert other.execute("SHOW lock_timeout").fetchone() == ("0",)


def test_a_search_path_set_by_one_revision_does_not_reach_the_next(
    strategy: PostgresqlStrategy, url: str
) -> None:
    with strategy.connect(url) as connection:
        connection.exec_driver_sql("CREATE SCHEMA elsewhere")
        connection.commit()
        strategy.begin_watch(connection)
        connection.exec_driver_sql("SET search_path TO elsewhere")
        assert strategy.end_watch(connection) is None
        path = connection.exec_driver_sql("SHOW search_path").scalar()
    assert path == '"$user", public'


def test_the_version_table_is_found_in_its_schema(strategy: PostgresqlStrategy, url: str) -> None:
    with direct(url) as other:
        other.execute("CREATE SCHEMA s")
        other.execute("CREATE TABLE s.v (version_num varchar(32))")
        other.execute("INSERT INTO s.v VALUES ('a')")
    assert strategy.inspect(url, VersionTable("v", "s")).heads == ("a",)
    assert not strategy.inspect(url, VersionTable("v")).versioned


def by_psycopg2(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg2://")


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_transaction_that_a_revision_ended_is_noticed_where_no_journal_is_kept(
    strategy: PostgresqlStrategy, url: str, end: str
) -> None:
    with strategy.connect(by_psycopg2(url)) as connection:
        strategy.begin_watch(connection)
        connection.exec_driver_sql("CREATE TABLE t (id int)")
        connection.exec_driver_sql(end)
        assert strategy.end_watch(connection) == end


def test_looking_cannot_write(strategy: PostgresqlStrategy, url: str) -> None:
    engine = strategy.read_engine(url)
    with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError) as failed:
        connection.exec_driver_sql("CREATE TABLE t (id int)")
    engine.dispose()
    assert isinstance(strategy.explain(failed.value, url), BranchUnusable)


def test_a_statement_is_cancelled_from_another_thread(
    strategy: PostgresqlStrategy, url: str
) -> None:
    with strategy.connect(url) as connection:
        timer = threading.Timer(0.3, strategy.interrupt, [connection])
        timer.start()
        with pytest.raises(sa.exc.DBAPIError, match="canceling statement"):
            connection.exec_driver_sql("SELECT pg_sleep(30)")
        timer.join()


def test_a_closed_port_an_unknown_host_and_a_silent_server_are_unreachable(
    strategy: PostgresqlStrategy, silent_port: int
) -> None:
    for address in (f"127.0.0.1:{silent_port}", "127.0.0.1:1", "no-such-host.invalid"):
        url = f"postgresql://u:secret1@{address}/d"
        with pytest.raises(BranchUnreachable), strategy.connect(url):
            pass


def test_no_error_holds_the_password(strategy: PostgresqlStrategy, postgresql: Postgresql) -> None:
    secret = "p@ss:w/o%rd'\"ü"
    url = sa.URL.create(
        "postgresql", "postgres", secret, "127.0.0.1", postgresql.port, "no_such_database"
    ).render_as_string(hide_password=False)
    with pytest.raises(DatabaseMissing) as failed, strategy.connect(url):
        pass
    assert secret not in f"{failed.value} {failed.value.hint}"


def test_a_revision_that_fails_after_a_commit_of_its_own_is_known_to_have_kept_something(
    strategy: PostgresqlStrategy, url: str
) -> None:
    for statements, kept in ((["COMMIT"], "COMMIT"), ([], None)):
        with strategy.connect(by_psycopg2(url)) as connection, connection.begin():
            strategy.begin_watch(connection)
            for statement in statements:
                connection.exec_driver_sql(statement)
            with pytest.raises(sa.exc.DBAPIError):
                connection.exec_driver_sql("SELECT no_such_column")
            assert strategy.end_watch(connection, failed=True) == kept


def test_the_reference_history_goes_up_to_base_and_up_again(
    strategy: PostgresqlStrategy, url: str
) -> None:
    history = History.load(Source(str(packaged("alembic_branch"))), strategy.scratch_url,
                           online=False)  # fmt: skip
    up = history.steps((), "head")
    down = tuple(
        Step(s.revision, Direction.DOWNGRADE, s.to_heads, s.from_heads) for s in reversed(up)
    )

    def migrate(steps: tuple[Step, ...]) -> None:
        with strategy.connect(url) as connection:
            run(history, connection, steps, NoHooks(), transactional_ddl=True)

    migrate(up)
    first = schema_of(url)
    assert len(strategy.inspect(url, VERSION).tables) == 14
    migrate(down)
    snapshot = strategy.inspect(url, VERSION)
    assert (snapshot.heads, snapshot.tables) == ((), frozenset())
    migrate(up)
    assert schema_of(url) == first


def test_too_many_connections_are_back_pressure(
    strategy: PostgresqlStrategy, postgresql: Postgresql, url: str
) -> None:
    postgresql.query("CREATE ROLE crowd LOGIN CONNECTION LIMIT 0")
    with pytest.raises(BranchBusy), strategy.connect(url.replace("postgres@", "crowd@")):
        pass


@pytest.mark.parametrize(
    ("said", "kind", "sentence"),
    [
        ("FATAL: sorry, too many clients already", FailureKind.BUSY, "too many connections"),
        ("FATAL: the database system is starting up", FailureKind.UNREACHABLE, "is starting up"),
        ('FATAL: no pg_hba.conf entry for host "h"', FailureKind.UNREACHABLE, "login is refused"),
        ('FATAL: permission denied for database "d"', FailureKind.PERMANENT, "lacks a right"),
        ("SSL error: certificate verify failed", FailureKind.UNREACHABLE, "TLS"),
    ],
)
def test_a_connection_that_failed_is_told_by_its_words(
    strategy: PostgresqlStrategy, said: str, kind: FailureKind, sentence: str
) -> None:
    error = psycopg.OperationalError(f"connection failed: {said}")
    assert strategy.classify(error) is kind
    assert sentence in strategy.explain(error, "postgresql://h/d").message


def test_a_database_has_one_identity_wherever_its_url_names_host_and_port() -> None:
    identity = PostgresqlStrategy(Limits(), Path()).identity
    same = ["postgresql://u@H:5433/d", "postgresql://u@/d?host=h&port=5433"]
    assert len({identity(url) for url in same}) == 1
    others = [
        "postgresql://u@/d?host=h&port=5434",
        "postgresql://u@/d?host=h",
        "postgresql://u@h/e",
    ]
    assert len({identity(url) for url in (*others, same[0])}) == 4
