"""What MySQL and MariaDB do to a migrator, each trap closed; on a MariaDB of our own."""

from __future__ import annotations

import json
import logging
import subprocess
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
from office import Office
from servers import Mariadb, running

from branchmig import config
from branchmig.config import packaged
from branchmig.errors import (
    BranchBusy,
    BranchUnreachable,
    BranchUnusable,
    DatabaseMissing,
    LeaseHeld,
    LeaseLost,
    SecondConnection,
    StateConflict,
    UsageError,
)
from branchmig.headoffice import open_store
from branchmig.model import (
    BranchState,
    Direction,
    FailureKind,
    Run,
    Step,
    VersionTable,
)
from branchmig.providers import Limits
from branchmig.providers.mysql import MysqlStrategy
from branchmig.revisions.environment import run
from branchmig.revisions.history import History
from branchmig.revisions.hooks import NoHooks
from branchmig.revisions.source import Source

VERSION = VersionTable()


@pytest.fixture
def strategy() -> MysqlStrategy:
    return MysqlStrategy(Limits(connect_timeout=5, lock_timeout=1), Path())


@pytest.fixture
def url(strategy: MysqlStrategy, mariadb: Mariadb) -> str:
    """An empty database of the test's own."""
    url = mariadb.url(f"t_{uuid.uuid4().hex}")
    strategy.create(url)
    return url


def variable(connection: sa.Connection, name: str) -> object:
    return connection.exec_driver_sql(f"SELECT @@{name}").scalar()


# Where and whether ------------------------------------------------------------------------------


def test_a_missing_database_is_no_error_and_is_not_made_by_looking(
    strategy: MysqlStrategy, mariadb: Mariadb
) -> None:
    url = mariadb.url(f"t_{uuid.uuid4().hex}")
    assert not strategy.inspect(url, VERSION).exists
    assert not strategy.inspect(url, VERSION).exists
    with pytest.raises(DatabaseMissing), strategy.connect(url):
        pass


def test_any_number_may_create_one_database_at_once(
    strategy: MysqlStrategy, mariadb: Mariadb
) -> None:
    url = mariadb.url(f"t_{uuid.uuid4().hex}")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: strategy.create(url), range(8)))
    assert strategy.inspect(url, VERSION).exists


def test_databases_are_created_for_all_of_unicode(strategy: MysqlStrategy, url: str) -> None:
    with strategy.connect(url) as connection:
        assert variable(connection, "character_set_database") == "utf8mb4"
        assert connection.exec_driver_sql("SELECT 'ü€😀'").scalar() == "ü€😀"


def test_names_with_quotes_dashes_and_sixty_letters_are_names(
    strategy: MysqlStrategy, mariadb: Mariadb
) -> None:
    name = "a-`quoted` 'x' " + "x" * 45
    url = sa.URL.create(
        "mysql", "root", host="127.0.0.1", port=mariadb.port, database=name
    ).render_as_string()
    strategy.create(url)
    assert strategy.inspect(url, VERSION).exists
    with strategy.connect(url) as connection, strategy.lock(connection):
        assert connection.exec_driver_sql("SELECT DATABASE()").scalar() == name


def test_two_urls_of_one_database_are_one_identity(strategy: MysqlStrategy) -> None:
    assert strategy.identity("mysql://a@localhost/d") == strategy.identity(
        "mariadb+pymysql://b:secret@127.0.0.1:3306/d?charset=utf8mb4"
    )
    assert strategy.identity("mysql://h/d") != strategy.identity("mysql://h/e")
    with pytest.raises(UsageError, match="names no database"):
        strategy.check_url("mysql://h/")


def test_the_version_table_is_found_in_another_database(
    strategy: MysqlStrategy, url: str, mariadb: Mariadb
) -> None:
    other = f"v_{uuid.uuid4().hex}"
    mariadb.query(f"CREATE DATABASE {other}")
    mariadb.query("CREATE TABLE v (version_num varchar(32))", other)
    mariadb.query("INSERT INTO v VALUES ('a')", other)
    assert strategy.inspect(url, VersionTable("v", other)).heads == ("a",)
    assert not strategy.inspect(url, VersionTable("v")).versioned


# The connection ---------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["mysql", "mariadb"])
def test_the_dialect_is_the_connected_servers(
    strategy: MysqlStrategy, url: str, backend: str
) -> None:
    address = url.replace("mysql://", f"{backend}://")
    with strategy.connect(address) as connection:
        assert getattr(connection.dialect, "is_mariadb", False)
        assert connection.dialect.name == backend


def test_a_second_connection_within_an_attempt_is_refused(
    strategy: MysqlStrategy, url: str
) -> None:
    with strategy.connect(url) as connection, pytest.raises(SecondConnection):
        connection.engine.connect()


def test_a_metadata_lock_is_waited_for_no_longer_than_the_lock_time_out(
    strategy: MysqlStrategy, url: str, mariadb: Mariadb
) -> None:
    database = sa.make_url(url).database
    mariadb.query("CREATE TABLE t (id int)", database)
    with mariadb.connect(database) as reader, reader.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT * FROM t")
        with strategy.connect(url) as connection, pytest.raises(sa.exc.DBAPIError) as failed:
            connection.exec_driver_sql("ALTER TABLE t ADD COLUMN more int")
    assert strategy.classify(failed.value) is FailureKind.TRANSIENT


def test_the_limits_are_set_for_our_session_only(url: str, mariadb: Mariadb) -> None:
    strategy = MysqlStrategy(Limits(lock_timeout=3, statement_timeout=7.5), Path())
    with strategy.connect(url) as connection:
        assert variable(connection, "lock_wait_timeout") == 3
        assert variable(connection, "innodb_lock_wait_timeout") == 3
        assert variable(connection, "max_statement_time") == 7.5
    assert mariadb.query("SELECT @@lock_wait_timeout")[0][0] > 3


def test_a_statement_that_runs_too_long_is_ended(url: str) -> None:
    strategy = MysqlStrategy(Limits(statement_timeout=0.5), Path())
    with strategy.connect(url) as connection, pytest.raises(sa.exc.DBAPIError) as failed:
        connection.exec_driver_sql("SELECT SLEEP(30) FROM seq_1_to_2")
    found = strategy.explain(failed.value, url)
    assert "ran longer than allowed" in found.message


def test_a_long_statement_is_not_cut_off_within_a_revision_but_outside_of_one(url: str) -> None:
    strategy = MysqlStrategy(Limits(connect_timeout=1, lock_timeout=1), Path())
    with strategy.connect(url) as connection:
        strategy.begin_watch(connection)
        assert connection.exec_driver_sql("SELECT SLEEP(3)").scalar() == 0
        strategy.end_watch(connection)
        with pytest.raises(sa.exc.OperationalError, match="2013"):
            connection.exec_driver_sql("SELECT SLEEP(3)")


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mariadb]:
    """A server that speaks TLS with a certificate of our own making."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    options = (f"--ssl-cert={folder / 'cert.pem'}", f"--ssl-key={folder / 'key.pem'}")
    with running(Mariadb(folder, *options)) as server:
        assert isinstance(server, Mariadb)
        yield server


def test_tls_is_taken_from_the_url_and_checked(
    strategy: MysqlStrategy, tls_server: Mariadb
) -> None:
    trusted = f"?ssl_ca={tls_server.folder / 'cert.pem'}"
    strategy.create(tls_server.url("d") + trusted)
    with strategy.connect(tls_server.url("d") + trusted) as connection:
        row = connection.exec_driver_sql("SHOW STATUS LIKE 'Ssl_cipher'").one()
        assert row[1]
    strange = "?ssl_verify_cert=true&ssl_verify_identity=true"
    with pytest.raises(BranchUnreachable), strategy.connect(tls_server.url("d") + strange):
        pass


def test_connections_with_the_same_tls_options_share_a_context_and_others_do_not(
    tls_server: Mariadb, mariadb: Mariadb
) -> None:
    authorities = tls_server.folder / "authorities.pem"
    authorities.write_bytes((tls_server.folder / "cert.pem").read_bytes())

    def context(url: str) -> Any:
        with MysqlStrategy(Limits(), Path()).connect(url) as connection:
            driver: Any = connection.connection.dbapi_connection
            return driver.ctx

    def contexts(url: str) -> set[Any]:
        with ThreadPoolExecutor(8) as clients:
            return set(clients.map(context, [url] * 16))

    plain = contexts(mariadb.url("mysql"))
    trusting = contexts(f"{tls_server.url('mysql')}?ssl_ca={authorities}")
    trusting_another = contexts(f"{tls_server.url('mysql')}?ssl_ca={tls_server.folder}/cert.pem")
    assert [len(plain), len(trusting), len(trusting_another)] == [1, 1, 1]
    assert len(plain | trusting | trusting_another) == 3
    assert contexts(tls_server.url("mysql")) == plain


def test_another_driver_of_the_engine_may_be_named(strategy: MysqlStrategy, url: str) -> None:
    with pytest.raises(UsageError, match="unknown driver"):
        strategy.inspect(url.replace("mysql://", "mysql+nosuch://"), VERSION)


def test_a_missing_driver_says_which_extra_to_install(tmp_path: Path, mariadb: Mariadb) -> None:
    office = Office(tmp_path)
    office.configure()
    office.init()
    office.add("LITE")
    office.run("branch", "add", "MY", "--url", mariadb.url("d"))
    (tmp_path / "absent" / "pymysql").mkdir(parents=True)
    (tmp_path / "absent" / "pymysql" / "__init__.py").write_text(
        "raise ModuleNotFoundError('no', name='pymysql')"
    )
    path = f"{tmp_path / 'absent'}:{Path(__file__).parents[2]}"
    document = office.json("apply-all", code=1, PYTHONPATH=path)
    verdicts = {row["branchCode"]: row for row in document["branches"]}
    assert verdicts["LITE"]["verdict"] == "migrated"
    assert verdicts["MY"]["hint"] == "pip install 'branchmig[mysql]'"


# The lock ---------------------------------------------------------------------------------------


def test_the_lock_is_held_by_one_connection_and_names_its_holder(
    strategy: MysqlStrategy, url: str
) -> None:
    with strategy.connect(url) as first, strategy.lock(first):
        with (
            strategy.connect(url) as second,
            pytest.raises(BranchBusy, match=r"session \d+ of root"),
            strategy.lock(second),
        ):
            pass
        assert not first.in_transaction()
    with strategy.connect(url) as third, strategy.lock(third):
        pass


def test_the_lock_is_released_neither_by_commit_nor_by_rollback(
    strategy: MysqlStrategy, url: str
) -> None:
    with strategy.connect(url) as first, strategy.lock(first):
        first.exec_driver_sql("CREATE TABLE t (id int)")
        first.commit()
        first.exec_driver_sql("SELECT 1")
        first.rollback()
        with strategy.connect(url) as second, pytest.raises(BranchBusy), strategy.lock(second):
            pass


def test_the_locks_of_two_databases_of_one_server_are_two_however_long_their_names(
    strategy: MysqlStrategy, url: str, mariadb: Mariadb
) -> None:
    long = mariadb.url("x" * 64)
    strategy.create(long)
    with (
        strategy.connect(url) as first,
        strategy.lock(first),
        strategy.connect(long) as second,
        strategy.lock(second),
        strategy.connect(long) as third,
        pytest.raises(BranchBusy),
        strategy.lock(third),
    ):
        pass


def test_get_lock_that_answers_null_is_a_failure_and_not_a_lock(
    strategy: MysqlStrategy, url: str
) -> None:
    class Null(MysqlStrategy):
        """GET_LOCK answers NULL for a name that is NULL, as it does out of memory."""

        def _lock_name(self, connection: sa.Connection) -> Any:
            return None

    null = Null(Limits(), Path())
    with null.connect(url) as connection, pytest.raises(BranchUnreachable), null.lock(connection):
        pass


def test_on_galera_the_operator_is_warned_that_the_lock_holds_on_one_node(
    strategy: MysqlStrategy, url: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with (
        running(Mariadb(tmp_path, "--wsrep-on=ON", "--binlog-format=ROW")) as server,
        caplog.at_level(logging.WARNING),
    ):
        address = server.url("d")
        strategy.create(address)
        with strategy.connect(address) as connection, strategy.lock(connection):
            pass
    assert "the session lock holds on this node alone" in caplog.text


def test_a_statement_is_cancelled_from_another_thread(strategy: MysqlStrategy, url: str) -> None:
    with strategy.connect(url) as connection:
        timer = threading.Timer(0.3, strategy.interrupt, [connection])
        timer.start()
        with pytest.raises(sa.exc.DBAPIError, match="interrupted"):
            connection.exec_driver_sql("SELECT SLEEP(30) FROM seq_1_to_2")
        timer.join()
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1


# Errors -----------------------------------------------------------------------------------------


def test_looking_cannot_write(strategy: MysqlStrategy, url: str) -> None:
    engine = strategy.read_engine(url)
    with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError) as failed:
        connection.exec_driver_sql("CREATE TABLE t (id int)")
    engine.dispose()
    assert isinstance(strategy.explain(failed.value, url), BranchUnusable)


def test_a_closed_port_an_unknown_host_and_a_silent_server_are_unreachable(
    silent_port: int,
) -> None:
    strategy = MysqlStrategy(Limits(connect_timeout=1, lock_timeout=1), Path())
    for address in (f"127.0.0.1:{silent_port}", "127.0.0.1:1", "no-such-host.invalid"):
        url = f"mysql://u:secret1@{address}/d"
        with pytest.raises(BranchUnreachable), strategy.connect(url):
            pass


SECRET = "p@ss:w/o%rd'\"ü€"


def account(mariadb: Mariadb, name: str, *grants: str) -> sa.URL:
    """A user with the strange password, and its URL without a database."""
    password = pymysql.converters.escape_string(SECRET)
    mariadb.query(f"CREATE OR REPLACE USER {name}@'%' IDENTIFIED BY '{password}'")
    for grant in grants:
        mariadb.query(f"GRANT {grant} TO {name}@'%'")
    return sa.URL.create("mysql", name, SECRET, "127.0.0.1", mariadb.port)


def test_a_password_of_any_letters_works_and_is_in_no_error(
    strategy: MysqlStrategy, mariadb: Mariadb
) -> None:
    url = account(mariadb, "strange", "ALL ON strange.*").set(database="strange")
    strategy.create(url.render_as_string(hide_password=False))
    wrong = url.set(password=SECRET + "!").render_as_string(hide_password=False)
    with pytest.raises(BranchUnreachable) as failed, strategy.connect(wrong):
        pass
    assert "the login is refused" in failed.value.message
    assert SECRET not in f"{failed.value} {failed.value.hint}"


def test_no_right_to_create_and_no_right_on_a_table_are_told_apart(
    strategy: MysqlStrategy, mariadb: Mariadb
) -> None:
    mariadb.query("CREATE DATABASE theirs")
    mariadb.query("CREATE TABLE t (id int)", "theirs")
    url = account(mariadb, "narrow", "SELECT ON theirs.*")
    with pytest.raises(BranchUnusable, match="no right on this database"):
        strategy.create(url.set(database="new").render_as_string(hide_password=False))
    theirs = url.set(database="theirs").render_as_string(hide_password=False)
    with strategy.connect(theirs) as connection, pytest.raises(sa.exc.DBAPIError) as failed:
        connection.exec_driver_sql("ALTER TABLE t ADD COLUMN more int")
    assert "the account lacks a right" in strategy.explain(failed.value, theirs).message


def test_too_many_connections_are_back_pressure(strategy: MysqlStrategy, mariadb: Mariadb) -> None:
    url = account(mariadb, "crowd", "ALL ON crowd.* ")
    mariadb.query("ALTER USER crowd@'%' WITH MAX_USER_CONNECTIONS 1")
    address = url.set(database="crowd").render_as_string(hide_password=False)
    strategy.create(address)
    with strategy.connect(address), pytest.raises(BranchBusy), strategy.connect(address):
        pass


def test_a_read_only_server_is_named_as_one(strategy: MysqlStrategy, tmp_path: Path) -> None:
    with running(Mariadb(tmp_path)) as server:
        assert isinstance(server, Mariadb)
        url = account(server, "app", "ALL ON d.*").set(database="d")
        address = url.render_as_string(hide_password=False)
        strategy.create(address)
        server.query("SET GLOBAL read_only = 1")
        with strategy.connect(address) as connection, pytest.raises(sa.exc.DBAPIError) as failed:
            connection.exec_driver_sql("CREATE TABLE t (id int)")
        assert "the server is read-only" in strategy.explain(failed.value, address).message
        with strategy.connect(address) as connection:
            server.kill()
            with pytest.raises(sa.exc.DBAPIError) as lost:
                connection.exec_driver_sql("SELECT 1")
    assert strategy.classify(lost.value) is FailureKind.UNREACHABLE


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (1040, FailureKind.BUSY, "too many connections"),
        (1213, FailureKind.TRANSIENT, "deadlock"),
        (1205, FailureKind.TRANSIENT, "lock"),
        (1053, FailureKind.UNREACHABLE, "shut down"),
        (2013, FailureKind.UNREACHABLE, "broke"),
        (1836, FailureKind.PERMANENT, "read-only"),
        (1114, FailureKind.PERMANENT, "disk is full"),
        (1021, FailureKind.PERMANENT, "disk is full"),
        (3024, FailureKind.PERMANENT, "longer than allowed"),
        (1142, FailureKind.PERMANENT, "lacks a right"),
        (1050, FailureKind.PERMANENT, "already exists"),
    ],
)
def test_errors_are_told_apart_by_their_numbers(
    strategy: MysqlStrategy, number: int, kind: FailureKind, says: str
) -> None:
    error = pymysql.err.OperationalError(number, "Table 't' already exists")
    assert strategy.classify(error) is kind
    assert says in strategy.explain(error, "mysql://h/d").message


# Histories --------------------------------------------------------------------------------------


def schema(strategy: MysqlStrategy, url: str) -> dict[str, set[str]]:
    """Every table's lines; the order of keys is the server's whim."""
    found = {}
    with strategy.connect(url) as connection:
        for (name,) in connection.exec_driver_sql("SHOW TABLES").all():
            row = connection.exec_driver_sql(f"SHOW CREATE TABLE `{name}`").one()
            found[name] = {line.strip().rstrip(",") for line in row[1].splitlines()}
    return found


class Journaled(NoHooks):
    """Runs steps as the migrator does, without a lease."""

    def __init__(self, strategy: MysqlStrategy, url: str, history: History) -> None:
        self.strategy, self.url, self.history = strategy, url, history

    def run(self, steps: tuple[Step, ...]) -> None:
        with self.strategy.connect(self.url) as connection:
            self.journal = self.strategy.journal(connection, "BR001", there=False)
            with self.journal.kept():
                run(self.history, connection, steps, self, transactional_ddl=False)

    def begun(self, step: Step) -> None:
        self.journal.begun(step)

    def executed(self, step: Step) -> None:
        self.journal.executed(step)

    def stamped(self, step: Step) -> None:
        self.journal.stamped(step)

    def landed(self, step: Step) -> None:
        self.journal.landed(step)


def test_the_reference_history_goes_up_to_base_and_up_again(
    strategy: MysqlStrategy, url: str
) -> None:
    history = History.load(Source(str(packaged("alembic_branch"))), strategy.scratch_url,
                           online=False)  # fmt: skip
    up = history.steps((), "head")
    down = tuple(
        Step(s.revision, Direction.DOWNGRADE, s.to_heads, s.from_heads) for s in reversed(up)
    )
    migrating = Journaled(strategy, url, history)
    migrating.run(up)
    first = schema(strategy, url)
    assert len(first) == 15
    migrating.run(down)
    assert set(schema(strategy, url)) == {"alembic_version"}
    assert strategy.inspect(url, VERSION).heads == ()
    migrating.run(up)
    assert schema(strategy, url) == first


def test_a_scratch_database_is_gone_afterwards(
    strategy: MysqlStrategy, url: str, mariadb: Mariadb
) -> None:
    with strategy.scratch(url) as connection:
        connection.exec_driver_sql("CREATE TABLE t (id int)")
        assert strategy.schema(connection) == {"t": frozenset({"id"})}
        name = connection.exec_driver_sql("SELECT DATABASE()").scalar()
    assert (name,) not in mariadb.query("SHOW DATABASES")


# HeadOffice -------------------------------------------------------------------------------------


@pytest.fixture
def headoffice(tmp_path: Path, mariadb: Mariadb) -> Office:
    """A HeadOffice on MariaDB with three branches there."""
    office = Office(tmp_path)
    name = f"h_{uuid.uuid4().hex[:20]}"
    office.configure(f"[headoffice]\nurl = {json.dumps(mariadb.url(name))}\n")
    office.init()
    for number in range(3):
        office.run("branch", "add", f"BR{number}", "--url", mariadb.url(f"{name}_{number}"))
    return office


def test_a_fleet_is_migrated_from_a_headoffice_on_mariadb(headoffice: Office) -> None:
    report = headoffice.json("apply-all")
    assert report["branchesSucceeded"] == 3
    assert headoffice.json("apply-all")["appliedMigrations"] == []
    assert {row["status"] for row in headoffice.json("status")} == {"Completed"}
    assert headoffice.json("validate")["isValid"]
    assert headoffice.json("history", "BR1")["lastMigrationDate"]


def test_any_number_of_inits_at_once_make_one_headoffice(tmp_path: Path, mariadb: Mariadb) -> None:
    office = Office(tmp_path)
    office.configure(f"[headoffice]\nurl = {json.dumps(mariadb.url(f'i_{uuid.uuid4().hex}'))}\n")
    processes = [office.start("init") for _ in range(4)]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0] * 4
    assert office.json("branch", "list") == []


RUN = Run("r" * 36, "apply", "operator", "me", "here", 1)


def kept(state: BranchState, now: datetime) -> BranchState:
    return state


def counted(state: BranchState, now: datetime) -> BranchState:
    return state._replace(retry_count=state.retry_count + 1)


def test_who_lost_the_lease_concludes_nothing_on_mariadb(headoffice: Office) -> None:
    store = open_store(config.load(headoffice.settings)[0])
    branch = store.record("BR0").branch
    old = store.acquire(branch, "old", -1, kept)
    new = store.acquire(branch, "new", 60, kept)
    assert new.token > old.token
    assert not store.renew(old, 60)
    with pytest.raises(LeaseLost):
        store.conclude(old, counted, RUN, None)
    with pytest.raises(LeaseHeld):
        store.acquire(branch, "third", 60, kept)
    assert store.renew(new, 60)
    assert store.record("BR0").state.retry_count == 0
    store.close()


def test_sixteen_clients_lose_no_update_of_headoffice_on_mariadb(headoffice: Office) -> None:
    settings = config.load(headoffice.settings)[0]
    store = open_store(settings)
    branch = store.record("BR0").branch
    barrier = threading.Barrier(16)

    def count(number: int) -> None:
        mine = open_store(settings)
        barrier.wait()
        done = 0
        while done < 3:
            try:
                lease = mine.acquire(branch, f"client {number}", 60, kept)
            except (LeaseHeld, StateConflict):
                continue
            mine.conclude(lease, counted, RUN, None)
            done += 1
        mine.close()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(count, range(16)))
    assert store.record("BR0").state.retry_count == 48
    store.close()


def test_a_password_with_an_at_sign_that_is_not_quoted_is_refused_and_no_part_of_it_told(
    strategy: MysqlStrategy,
) -> None:
    for url in ("mysql://u:corr@ect/horse@h/d", "mysql://u:corr@ect:horse@h/d"):
        with pytest.raises(UsageError) as caught:
            strategy.check_url(url)
        assert "malformed URL" in caught.value.message
        assert "horse" not in caught.value.message
