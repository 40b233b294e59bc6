"""What SQL Server and its two families of drivers do to a migrator, each trap closed.

Errors are made in the driver manager's real exceptions: states and numbers as recorded from servers
or as Microsoft documents them, the words mostly our own. Networks that fail are real, with the real
drivers. What needs a server stands in the other contracts, run once per driver.
"""

from __future__ import annotations

import platform
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
import sqlglot
import sqlserver
from processes import until
from sqlalchemy.dialects import mssql, postgresql

from branchmig.errors import (
    BranchBusy,
    BranchmigError,
    BranchUnreachable,
    BranchUnusable,
    DatabaseMissing,
    DriverMissing,
    ProviderError,
    UsageError,
)
from branchmig.masking import mask, mask_url
from branchmig.model import FailureKind, Provider, VersionTable
from branchmig.providers import Limits, provider_of, sqlserver_drivers, strategy_for
from branchmig.providers.connections import connected, refuse_second
from branchmig.providers.sqlserver import SqlserverStrategy, only_reading
from branchmig.providers.sqlserver_drivers import (
    Driver,
    address,
    choose,
    for_driver,
    from_connection_string,
    within,
)
from branchmig.providers.sqlserver_session import OPTION, Session, give_back, resource, take
from branchmig.store import leases, store
from branchmig.store.tables import clock

# It is linked with the driver manager, which a machine need not have.
pyodbc = pytest.importorskip("pyodbc", exc_type=ImportError)

URL = "mssql://ada:correct-horse@db-1.example/BR001"
MS = "[Microsoft][ODBC Driver 18 for SQL Server]"
MS_SERVER = f"{MS}[SQL Server]"
TDS = "[FreeTDS][SQL Server]"
CONNECT, EXECUTE = "SQLDriverConnect", "SQLExecDirectW"

BUSY, TRANSIENT = FailureKind.BUSY, FailureKind.TRANSIENT
UNREACHABLE, PERMANENT = FailureKind.UNREACHABLE, FailureKind.PERMANENT


@pytest.fixture
def strategy() -> SqlserverStrategy:
    return SqlserverStrategy(Limits(connect_timeout=1, lock_timeout=0.5), Path())


class Recorded(NamedTuple):
    """An error as a driver raised it, and what is to be made of it."""

    kind: type[Exception]
    state: str
    said: str
    number: int
    function: str
    meaning: FailureKind
    becomes: type[BranchmigError]
    words: str


def recorded(kind: type[Exception], state: str, said: str, number: int, function: str) -> Exception:
    """A driver's exception, its arguments as pyodbc writes them."""
    return kind(state, f"[{state}] {said} ({number}) ({function})")


Operational, Programming = pyodbc.OperationalError, pyodbc.ProgrammingError
Interface, Integrity = pyodbc.InterfaceError, pyodbc.IntegrityError

RECORDED: list[tuple[Any, ...]] = [
    # What the network does
    (Operational, "HYT00", f"{MS}Login timeout expired", 0, CONNECT,
     UNREACHABLE, BranchUnreachable, "cannot be reached"),
    (Operational, "HYT00", f"{TDS}Timeout expired", 0, CONNECT,
     UNREACHABLE, BranchUnreachable, "cannot be reached"),
    (Operational, "08S01",
     f"{TDS}Unable to connect: Adaptive Server is unavailable or does not exist", 20009, CONNECT,
     UNREACHABLE, BranchUnreachable, "cannot be reached"),
    (Operational, "08001", f"{TDS}Unable to connect to data source", 0, CONNECT,
     UNREACHABLE, BranchUnreachable, "cannot be reached"),
    (Operational, "08001",
     f"{MS}SSL Provider: [error:0A000086:SSL routines::certificate verify failed:"
     "self-signed certificate]", -1, CONNECT,
     UNREACHABLE, BranchUnreachable, "TLS could not be agreed on"),
    (Operational, "08S01", f"{MS}TCP Provider: Error code 0x68", 104, EXECUTE,
     UNREACHABLE, BranchUnreachable, "the connection broke"),
    (pyodbc.Error, "HY000", f"{TDS}Unexpected EOF from the server", 20017, EXECUTE,
     UNREACHABLE, BranchUnreachable, "the connection broke"),
    (pyodbc.Error, "HY000", f"{TDS}Read from the server failed", 20004, EXECUTE,
     UNREACHABLE, BranchUnreachable, "the connection broke"),
    (pyodbc.Error, "HY000",
     f"{MS_SERVER}Cannot continue the execution because the session is in the kill state.", 596,
     EXECUTE, UNREACHABLE, BranchUnreachable, "was killed"),
    # What the server says to a login
    (Programming, "42000", f"{TDS}Login failed for user 'ada'.", 18456, CONNECT,
     UNREACHABLE, BranchUnreachable, "the login is refused"),
    (Interface, "28000", f"{MS_SERVER}Login failed for user 'ada'.", 18456, CONNECT,
     UNREACHABLE, BranchUnreachable, "the login is refused"),
    (Operational, "08004", f"{TDS}Database 'BR001' does not exist", 911, CONNECT,
     PERMANENT, DatabaseMissing, "does not exist"),
    (Operational, "08004",
     f"{MS_SERVER}Could not connect because the maximum number of '2' user connections has already "
     "been reached.", 17809, CONNECT,
     BUSY, BranchBusy, "too many connections"),
    (Operational, "08004", f"{MS_SERVER}SHUTDOWN is in progress.", 6005, CONNECT,
     UNREACHABLE, BranchUnreachable, "shut down"),
    (Operational, "42000",
     f"{MS_SERVER}Database 'BR001' is being recovered. Waiting until recovery is finished.", 922,
     CONNECT, UNREACHABLE, BranchUnreachable, "starting up"),
    # What the server says to a statement
    (Programming, "42000", f"{TDS}Lock request time out period exceeded.", 1222, EXECUTE,
     TRANSIENT, BranchUnusable, "not to be had in time"),
    (Programming, "42000", f"{MS_SERVER}Lock request time out period exceeded.", 1222, EXECUTE,
     TRANSIENT, BranchUnusable, "not to be had in time"),
    (Programming, "42000",
     f"{TDS}Transaction (Process ID 60) was deadlocked on lock resources with another process and "
     "has been chosen as the deadlock victim. Rerun the transaction.", 1205, EXECUTE,
     TRANSIENT, BranchUnusable, "a deadlock was broken"),
    (pyodbc.Error, "40001",
     f"{MS_SERVER}Transaction (Process ID 60) was deadlocked on lock resources with another "
     "process and has been chosen as the deadlock victim. Rerun the transaction.", 1205, EXECUTE,
     TRANSIENT, BranchUnusable, "a deadlock was broken"),
    (Operational, "HYT00", f"{MS}Query timeout expired", 0, EXECUTE,
     PERMANENT, BranchUnusable, "ran longer than allowed"),
    (Programming, "42000",
     f'{MS_SERVER}Failed to update database "BR001" because the database is read-only.', 3906,
     EXECUTE, PERMANENT, BranchUnusable, "is it a replica?"),
    (Programming, "42000",
     f"{MS_SERVER}Could not allocate space for object 'dbo.Sales' in database 'BR001' because the "
     "'PRIMARY' filegroup is full.", 1105, EXECUTE,
     PERMANENT, BranchUnusable, "disk is full"),
    (Programming, "42000",
     f"{MS_SERVER}The transaction log for database 'BR001' is full due to 'LOG_BACKUP'.", 9002,
     EXECUTE, PERMANENT, BranchUnusable, "log is full"),
    (Programming, "42000",
     f"{MS_SERVER}CREATE TABLE permission denied in database 'BR001'.", 262, EXECUTE,
     PERMANENT, BranchUnusable, "lacks a right"),
    (Programming, "42000",
     f"{TDS}The COMMIT TRANSACTION request has no corresponding BEGIN TRANSACTION.", 3902,
     "SQLEndTran", PERMANENT, BranchUnusable, "had ended already"),
    # The scripts' own faults need no sentence of ours
    (Programming, "42S02", f"{MS_SERVER}Invalid object name 'nowhere'.", 208, EXECUTE,
     PERMANENT, ProviderError, "Invalid object name"),
    (Programming, "42S22", f"{TDS}Invalid column name 'none'.", 207, EXECUTE,
     PERMANENT, ProviderError, "Invalid column name"),
    (Integrity, "23000", f"{TDS}Violation of PRIMARY KEY constraint 'PK_Users'.", 2627, EXECUTE,
     PERMANENT, ProviderError, "Violation of PRIMARY KEY"),
    (Programming, "42S01", f"{MS_SERVER}There is already an object named 'Users'.", 2714, EXECUTE,
     PERMANENT, ProviderError, "already an object"),
]  # fmt: skip


# Errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Recorded(*row) for row in RECORDED])
def test_a_recorded_error_is_told_apart_by_its_number_whatever_the_driver(
    strategy: SqlserverStrategy, fault: Recorded
) -> None:
    error = recorded(*fault[:5])
    assert strategy.is_own(error)
    for given in (error, sa.exc.DBAPIError("SELECT 1", {}, error)):
        found = strategy.explain(given, URL)
        assert strategy.classify(given) is fault.meaning
        assert type(found) is fault.becomes
        assert fault.words in f"{found} {found.hint}"
        assert str(found).startswith("db-1.example/BR001: ")
        assert fault.said in found.message


@pytest.mark.parametrize("kind", [Interface, Programming])
def test_a_missing_database_is_found_beside_the_login_that_failed_for_it(
    strategy: SqlserverStrategy, kind: type[Exception]
) -> None:
    failed = f"{MS_SERVER}Login failed for user 'ada'. (18456)"
    missing = f'{MS_SERVER}Cannot open database "BR001" requested by the login. (4060)'
    for said in (f"{failed} ({CONNECT}); [28000] {missing}",
                 f"{missing} ({CONNECT}); [28000] {failed}"):  # fmt: skip
        error = kind("28000", f"[28000] {said}")
        assert isinstance(strategy.explain(error, URL), DatabaseMissing)
        assert strategy.classify(error) is PERMANENT


@pytest.mark.parametrize(
    "said",
    [
        "[01000] [unixODBC][Driver Manager]Can't open lib 'x' : file not found (0) (CONNECT)",
        "[IM002] [unixODBC][Driver Manager]Data source name not found, and no default driver "
        "specified (0) (CONNECT)",
    ],
)
def test_a_driver_that_cannot_be_loaded_comes_with_the_choices(
    strategy: SqlserverStrategy, said: str
) -> None:
    error = pyodbc.Error(said[1:6], said.replace("CONNECT", CONNECT))
    found = strategy.explain(error, URL)
    assert isinstance(found, DriverMissing)
    for choice in ("branchmig[sqlserver]", "msodbcsql18", "tdsodbc", "libltdl7"):
        assert choice in str(found.hint)


@pytest.mark.parametrize("password", ["p;w}d", "correct-horse", "ünïcode pass"])
def test_a_connection_string_in_an_error_gives_no_password_away(
    strategy: SqlserverStrategy, password: str
) -> None:
    url = sa.URL.create("mssql", "ada", password, "h", database="d").render_as_string(
        hide_password=False
    )
    quoted = "{" + password.replace("}", "}}") + "}" if "}" in password else password
    error = pyodbc.Error("HY000", f"[HY000] DRIVER=x;UID=ada;PWD={quoted};Server=h (0) (CONNECT)")
    found = strategy.explain(error, url)
    for secret in (password, quoted, password.partition("}")[0]):
        assert secret not in f"{found} {found.hint}"
    assert "PWD=***" in found.message


# URLs -------------------------------------------------------------------------------------------


def arguments(url: str, driver: str) -> str:
    """The connection string that a driver is given."""
    made = for_driver(address(url), Driver(driver))
    engine = sa.create_engine(made)
    (text,), _ = engine.dialect.create_connect_args(engine.url)
    return str(text)


def test_freetds_is_told_port_protocol_and_character_set_each_by_its_keyword() -> None:
    text = arguments("mssql://ada:pw@h:1444/d", "FreeTDS")
    assert text.startswith("DRIVER={FreeTDS};Server=h;Database=d;UID=ada;PWD=pw;")
    for keyword in ("port=1444", "TDS_Version=7.4", "ClientCharset=UTF-8", "APP=branchmig"):
        assert keyword in text.split(";")
    assert "port=1433" in arguments("mssql://h/d", "FreeTDS").split(";")
    assert "TDS_Version=8.0" in arguments("mssql://h/d?TDS_Version=8.0", "FreeTDS")
    assert "7.4" not in arguments("mssql://h/d?TDS_Version=8.0", "FreeTDS")


def test_microsofts_driver_is_told_not_to_reconnect_on_its_own() -> None:
    text = arguments("mssql://ada:pw@h:1444/d?Encrypt=strict", "ODBC Driver 18 for SQL Server")
    assert "Server=h,1444" in text.split(";")
    for keyword in ("ConnectRetryCount=0", "Encrypt=strict", "APP=branchmig"):
        assert keyword in text.split(";")


@pytest.mark.parametrize("driver", ["FreeTDS", "ODBC Driver 18 for SQL Server"])
def test_certificate_checks_are_left_to_what_the_url_says(driver: str) -> None:
    text = arguments("mssql://ada:pw@h/d", driver).lower()
    assert "trustservercertificate" not in text
    assert "encrypt" not in text
    said = arguments("mssql://ada:pw@h/d?TrustServerCertificate=yes&Encrypt=yes", driver)
    assert "TrustServerCertificate=yes" in said


@pytest.mark.parametrize(("said", "meant"), [("yes", "require"), ("strict", "strict")])
def test_a_url_that_asks_for_encryption_gets_it_from_freetds_too(said: str, meant: str) -> None:
    text = arguments(f"mssql://h/d?Encrypt={said}", "FreeTDS").split(";")
    assert f"Encryption={meant}" in text
    assert f"Encrypt={said}" not in text


def test_a_connection_string_within_a_url_says_the_same_as_a_url() -> None:
    text = "Driver={ODBC Driver 18 for SQL Server};Server=tcp:h,1444;Database=d;UID=u;PWD={a;}}b}"
    url = sa.URL.create("mssql+pyodbc", query={"odbc_connect": text + ";Encrypt=yes"})
    found = address(url.render_as_string(hide_password=False))
    assert (found.host, found.port, found.database) == ("h", 1444, "d")
    assert (found.username, found.password) == ("u", "a;}b")
    assert dict(found.query) == {"driver": "ODBC Driver 18 for SQL Server", "Encrypt": "yes"}
    assert "a;}b" not in mask("a;}b is no secret")
    assert "a;" not in mask_url(url.render_as_string(hide_password=False))


def test_a_name_that_hides_the_server_is_refused(strategy: SqlserverStrategy) -> None:
    with pytest.raises(UsageError, match="DSN"):
        from_connection_string("DSN=branches;UID=u")
    for url, words in {
        "mssql://ada@h": "names no database",
        "mssql:///d": "names no server",
        "mssql+pymssql://h/d": "unknown driver in the URL",
    }.items():
        with pytest.raises(UsageError, match=words):
            strategy.check_url(url)
    strategy.check_url(URL)


def test_two_urls_of_one_database_have_one_identity(strategy: SqlserverStrategy) -> None:
    same = {
        strategy.identity(url)
        for url in (
            "mssql://ada:x@localhost/BR001",
            "mssql+pyodbc://bob@127.0.0.1:1433/br001?driver=FreeTDS",
            "mssql://h.invalid@localhost/BR001?port=1433&driver=FreeTDS",
            "mssql+pyodbc://?odbc_connect=Server=tcp:127.0.0.1,1433;Database=BR001",
        )
    }
    assert same == {"sqlserver:localhost:1433:br001"}
    assert strategy.identity("mssql://localhost:1434/BR001") not in same


def test_the_provider_is_known_and_has_a_strategy() -> None:
    assert provider_of("mssql+pyodbc://h/d") is Provider.SQLSERVER
    found = strategy_for(Provider.SQLSERVER, Limits(), Path())
    assert isinstance(found, SqlserverStrategy)
    assert found.missing_tables(frozenset({"users"}), ("Users", "Sales")) == ("Sales",)


# Drivers ----------------------------------------------------------------------------------------


EIGHTEEN, SEVENTEEN = "ODBC Driver 18 for SQL Server", "ODBC Driver 17 for SQL Server"


def library() -> Path:
    """A library that can be loaded, in the place of the one that the package carries."""
    import _ctypes

    return Path(_ctypes.__file__)


@pytest.mark.parametrize(
    ("registered", "carried", "chosen"),
    [
        (["FreeTDS", SEVENTEEN, EIGHTEEN], True, EIGHTEEN),
        (["FreeTDS", SEVENTEEN], True, SEVENTEEN),
        (["FreeTDS"], True, None),
        (["FreeTDS"], False, "FreeTDS"),
    ],
)
def test_the_first_driver_found_is_taken(
    registered: list[str], carried: bool, chosen: str | None
) -> None:
    found = choose(registered, library() if carried else None)
    assert found.name == (chosen or str(library()))
    assert found.is_freetds is (chosen == "FreeTDS")


def test_a_carried_driver_that_lacks_its_libraries_is_passed_over_and_said(tmp_path: Path) -> None:
    broken = tmp_path / "libmsodbcsql-18.6.so.2.1"
    broken.write_bytes(b"no library")
    assert choose(["FreeTDS"], broken).is_freetds
    with pytest.raises(DriverMissing, match=f"{broken.name} cannot be loaded") as missing:
        choose([], broken)
    assert missing.value.hint == sqlserver_drivers.CHOICES


def test_without_any_driver_the_choices_are_named() -> None:
    with pytest.raises(DriverMissing, match="no ODBC driver for SQL Server was found") as missing:
        choose(["PostgreSQL Unicode", "SQLite3"], None)
    assert "tdsodbc" in str(missing.value.hint)


def test_drivers_are_found_in_the_configuration_of_unixodbc(tmp_path: Path) -> None:
    """By a process of its own: the driver manager reads its files once."""
    (tmp_path / "odbcinst.ini").write_text(
        f"[FreeTDS]\nDriver=/nowhere/libtdsodbc.so\n[{SEVENTEEN}]\nDriver=/nowhere/ms.so\n"
    )
    code = "from branchmig.providers import sqlserver_drivers as d; print(d.discovered().name)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"ODBCSYSINI": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == SEVENTEEN, done.stderr


def test_the_package_carries_a_driver_that_can_be_loaded() -> None:
    found = sqlserver_drivers.packaged()
    if platform.machine() not in ("x86_64", "aarch64") or found is None:
        pytest.skip(f"the package has no driver for {platform.machine()}")
    assert choose([], found) == Driver(str(found))


def test_closed_connections_are_not_kept_by_the_driver_manager() -> None:
    assert sqlserver_drivers.load_odbc().pooling is False


# Networks that fail -----------------------------------------------------------------------------


@pytest.fixture(params=sqlserver.DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    return sqlserver.driver(request.param)


def address_of(place: str, silent_port: int) -> str:
    return {
        "closed port": "127.0.0.1:1",
        "silent server": f"127.0.0.1:{silent_port}",
        "unknown host": "no-such-host.invalid:1433",
    }[place]


@pytest.mark.parametrize("place", ["closed port", "silent server", "unknown host"])
def test_a_server_that_is_not_there_is_unreachable_within_the_limit(
    strategy: SqlserverStrategy, driver: str, silent_port: int, place: str
) -> None:
    url = sa.make_url(f"mssql://ada:correct-horse@{address_of(place, silent_port)}/d")
    text = url.update_query_dict({"driver": driver}).render_as_string(hide_password=False)

    def connect() -> None:
        with strategy.connect(text):
            pytest.fail("there is no server")

    for look in (lambda: strategy.inspect(text, VersionTable()), connect):
        began = time.monotonic()
        with pytest.raises(BranchUnreachable) as failed:
            look()
        assert time.monotonic() - began < 10
        assert "correct-horse" not in f"{failed.value} {failed.value.hint}"
        assert strategy.classify(failed.value) is UNREACHABLE


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("sqlserver-microsoft", "Encrypt=strict"), ("sqlserver-freetds", "TDS_Version=auto")],
)
def test_a_driver_that_ignores_its_time_limit_is_given_up_by_ours(
    strategy: SqlserverStrategy, silent_port: int, kind: str, settings: str
) -> None:
    url = sa.make_url(f"mssql://ada@127.0.0.1:{silent_port}/d?{settings}")
    text = url.update_query_dict({"driver": sqlserver.driver(kind)}).render_as_string()
    began = time.monotonic()
    with pytest.raises(BranchUnreachable, match="no login within 1 s"):
        strategy.inspect(text, VersionTable())
    assert time.monotonic() - began < 10


def test_a_connection_that_comes_too_late_is_closed() -> None:
    go, closed = threading.Event(), threading.Event()

    class FakeConnection:
        def close(self) -> None:
            closed.set()

    def connect() -> FakeConnection:
        go.wait(30)
        return FakeConnection()

    with pytest.raises(TimeoutError, match="late"):
        within(0.05, connect, lambda: TimeoutError("late"))
    go.set()
    until(closed.is_set, "the end of the late connection")


def test_what_a_connect_raises_in_time_comes_through() -> None:
    def refuse() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        within(30, refuse, lambda: TimeoutError("late"))
    assert within(30, lambda: 7, lambda: TimeoutError("late")) == 7


# The lock ---------------------------------------------------------------------------------------


class FakeAnswers:
    """A connection to a server that answers with what was recorded, in its order."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Any]] = []

    def in_transaction(self) -> bool:
        return False

    def exec_driver_sql(self, statement: str, parameters: Any = None) -> FakeAnswers:
        self.asked.append((statement, parameters))
        return self

    def scalar(self) -> Any:
        return self.answers.pop(0)

    def first(self) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise sa.exc.DBAPIError("SELECT 1", {}, answer)
        return answer


@pytest.mark.parametrize("code", [0, 1])
def test_the_lock_is_ours_by_its_return_code_at_once_or_after_waiting(code: int) -> None:
    server: Any = FakeAnswers(code)
    take(server, resource("BR001"), 2.5)
    [(statement, parameters)] = server.asked
    assert parameters == ("branchmig:br001", 2500)
    assert "@LockOwner = 'Session'" in statement


@pytest.mark.parametrize(
    ("holder", "named"),
    [
        ((57, "till", "shop-1", "pos"), "session 57 of till from shop-1 (pos)"),
        ((57, "till", None, None), "session 57 of till"),
        (None, "another session"),
        (recorded(Programming, "42000", "VIEW SERVER STATE permission was denied", 300, EXECUTE),
         "another session"),
    ],
)  # fmt: skip
def test_a_lock_that_another_holds_is_busy_and_names_its_holder_where_it_may(
    holder: Any, named: str
) -> None:
    server: Any = FakeAnswers(-1, holder)
    with pytest.raises(BranchBusy) as busy:
        take(server, "branchmig:100%_sure", 0)
    assert f"held by {named}" in busy.value.message
    assert server.asked[-1][1] == ("%[[]branchmig:100[%][_]sure%",)


@pytest.mark.parametrize("code", [-2, -3])
def test_a_lock_refused_by_a_cancel_or_a_deadlock_is_busy(code: int) -> None:
    server: Any = FakeAnswers(code)
    with pytest.raises(BranchBusy):
        take(server, "branchmig:br001", 0)


@pytest.mark.parametrize("code", [-999, None, 7])
def test_any_other_return_code_of_the_lock_is_a_failure(code: int | None) -> None:
    server: Any = FakeAnswers(code)
    with pytest.raises(BranchUnusable, match=str(code)):
        take(server, "branchmig:br001", 0)


def test_giving_back_a_lock_tells_whether_it_was_ours() -> None:
    ours: Any = FakeAnswers(0)
    gone: Any = FakeAnswers(-999)
    assert give_back(ours, "branchmig:br001")
    assert not give_back(gone, "branchmig:br001")


# After an error ---------------------------------------------------------------------------------


class FakeRollback(sqlite3.Connection):
    """A real connection whose ROLLBACK, as with FreeTDS after most errors, only complains."""

    complains = False

    def rollback(self) -> None:
        if self.complains:
            raise sqlite3.OperationalError(
                "The ROLLBACK TRANSACTION request has no corresponding BEGIN TRANSACTION."
            )


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[sa.Connection]:
    """A connection that is watched over as those of the strategy are."""
    session = Session()
    engine = sa.create_engine(
        f"sqlite:///{tmp_path / 'any.db'}",
        poolclass=sa.NullPool,
        connect_args={"factory": FakeRollback},
        execution_options={OPTION: session},
    )
    session.attend(engine)
    refuse_second(engine)
    with connected(engine) as connection:
        driver: Any = connection.connection.dbapi_connection
        driver.complains = True
        yield connection


def test_the_first_error_is_kept_and_its_connection_never_used_again(broken: sa.Connection) -> None:
    with pytest.raises(sa.exc.OperationalError, match="first_error"), broken.begin():
        broken.execute(sa.text("SELECT * FROM first_error"))
    assert broken.invalidated
    assert Session.of(broken).is_broken
    for _ in range(2):
        with pytest.raises(sa.exc.OperationalError, match="first_error"):
            broken.exec_driver_sql("SELECT 1")


@pytest.mark.parametrize("after", ["CREATE TABLE second (id INTEGER)", None])
def test_a_revision_that_swallows_an_error_is_stopped_by_that_error_at_its_next_step(
    broken: sa.Connection, after: str | None
) -> None:
    def revision() -> None:
        try:
            broken.exec_driver_sql("SELECT * FROM first_error")
        except sa.exc.OperationalError:
            if after:
                broken.exec_driver_sql(after)

    errors = (sa.exc.OperationalError, sqlite3.OperationalError)
    with pytest.raises(errors, match="first_error"), broken.begin():
        revision()
    assert broken.invalidated


def test_an_error_of_the_script_itself_does_not_cost_the_connection(broken: sa.Connection) -> None:
    with pytest.raises(ZeroDivisionError):
        broken.execute(sa.text("SELECT :n"), {"n": 1 // 0})
    assert not broken.invalidated
    assert broken.execute(sa.text("SELECT 1")).scalar() == 1
    driver: Any = broken.connection.dbapi_connection
    driver.complains = False


# HeadOffice -------------------------------------------------------------------------------------


def test_an_engine_for_reading_refuses_to_write_and_commits_nothing(tmp_path: Path) -> None:
    """By the engine's own events, on a database that is real."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'any.db'}")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE shops (id INTEGER)"))
    only_reading(engine)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM shops")).scalar() == 0
        for statement in ("INSERT INTO shops VALUES (1)", "  delete from shops", "EXEC sp_who"):
            with pytest.raises(sa.exc.ProgrammingError, match="may only read"):
                connection.exec_driver_sql(statement)
        driver: Any = connection.connection.dbapi_connection
        driver.execute("INSERT INTO shops VALUES (1)")
        connection.commit()
        assert connection.execute(sa.text("SELECT count(*) FROM shops")).scalar() == 0


@pytest.mark.parametrize("statement", [store._LOCKED, leases._FOUND, leases._HELD])
def test_what_headoffice_reads_before_it_writes_is_held_by_a_hint(
    statement: sa.Select[Any],
) -> None:
    """T-SQL has no FOR UPDATE, and SQLAlchemy passes over it without a word."""
    if "of_branches" in statement.compile().params:
        statement = statement.params(of_branches=["a", "b"])
    whole = {"render_postcompile": True}
    text = str(statement.compile(dialect=mssql.dialect(), compile_kwargs=whole))
    assert "branchmig_migration_states WITH (UPDLOCK, ROWLOCK)" in text
    assert "WITH (" not in str(statement.compile(dialect=postgresql.dialect()))
    assert sqlglot.parse(text, dialect="tsql", error_level=sqlglot.ErrorLevel.RAISE)


def test_headoffices_clock_is_the_servers_in_utc_and_to_the_moment() -> None:
    text = str(sa.select(clock(600)).compile(dialect=mssql.dialect()))
    assert "SYSUTCDATETIME()" in text
    assert "DATEADD(millisecond" in text
