"""SQL Server: transactional DDL, an application lock for the session, two families of drivers.

Everything goes through pyodbc and Microsoft's driver or FreeTDS (see `sqlserver_drivers`). A
connection is given up at its first error (see `sqlserver_session`).
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from ..errors import (
    BranchBusy,
    BranchmigError,
    BranchUnreachable,
    BranchUnusable,
    DatabaseMissing,
    DriverMissing,
    ProviderError,
    UsageError,
)
from ..masking import mask
from ..model import FailureKind, Provider, Snapshot, VersionTable
from . import sqlserver_errors as errors
from .connections import cause, connected, own_transaction, refuse_second
from .examination import Examination, of_sqlserver
from .journal import NoJournal
from .options import SQLSERVER
from .protocol import Capabilities, Limits
from .sqlserver_drivers import CHOICES, address, driver_of, for_driver, load_odbc, port_of, within
from .sqlserver_session import OPTION, Session, distrust, give_back, resource, take

log = logging.getLogger("branchmig")

_LOCAL = ("localhost", "127.0.0.1", "::1", ".", "(local)")

_MAINTENANCE = "master"
"""Where to connect to create a database: every server has it."""

_GRACE = 2
"""Seconds that a driver may take beyond its own limit before its login is given up."""

_CREATION = 30
"""Seconds to wait for somebody else who creates a database."""

_READS = ("select", "with", "set", "declare")

_Ask = Callable[..., list[Any]]
"""Runs one statement, with parameters, and gives its rows."""


class SqlserverStrategy:
    """A branch in a database of a SQL Server."""

    provider: ClassVar[Provider] = Provider.SQLSERVER
    dialect: ClassVar[str] = "mssql"
    capabilities: ClassVar[Capabilities] = Capabilities(
        transactional_ddl=True,
        session_lock=True,
        creates_databases=True,
        scratch_in_memory=False,
        url_holds_secrets=True,
    )
    scratch_url: ClassVar[str] = "mssql+pyodbc://"

    def __init__(self, limits: Limits, folder: Path) -> None:
        self._limits = limits

    # Where ------------------------------------------------------------------------------------

    def check_url(self, url: str) -> None:
        given = address(url)
        SQLSERVER.check(given)
        for part, value in (("server", given.host), ("database", given.database)):
            if not value:
                raise UsageError(
                    f"the URL names no {part}", "mssql://USER@HOST/DATABASE is its form"
                )

    def server(self, url: str) -> str:
        return self.identity(url).rpartition(":")[0]

    def identity(self, url: str) -> str:
        given = address(url)
        host = (given.host or "localhost").lower()
        host = "localhost" if host in _LOCAL else host
        return f"sqlserver:{host}:{port_of(given)}:{given.database}".lower()

    # Looking ----------------------------------------------------------------------------------

    def inspect(self, url: str, version_table: VersionTable) -> Snapshot:
        """By the driver alone: what SQLAlchemy asks a server at first costs more than the look."""
        try:
            with self._plain(url) as ask:
                return _look(ask, version_table)
        except DatabaseMissing:
            return Snapshot(exists=False, versioned=False)
        except load_odbc().Error as error:
            found = self.explain(error, url)
            if errors.LOCKED in errors.numbers(error):
                # Even its catalogue cannot be read while a migration has not been committed.
                raise BranchBusy(found.message, found.hint) from error
            raise found from error

    def read(self, connection: sa.Connection, version_table: VersionTable) -> Snapshot:
        def ask(statement: str, *parameters: object) -> list[Any]:
            return list(connection.exec_driver_sql(statement, parameters or None))

        with own_transaction(connection):
            return _look(ask, version_table)

    def schema(self, connection: sa.Connection) -> dict[str, frozenset[str]]:
        with own_transaction(connection):
            found = sa.inspect(connection).get_multi_columns()
            return {
                name: frozenset(column["name"] for column in columns)
                for (_, name), columns in found.items()
            }

    def missing_tables(self, present: frozenset[str], required: tuple[str, ...]) -> tuple[str, ...]:
        # By default a database compares names whatever their case; nobody has both spellings.
        known = {name.lower() for name in present}
        return tuple(name for name in required if name.lower() not in known)

    def statements(self, script: str) -> list[str]:
        # As Microsoft's own tools: a line with GO alone ends a batch, and is no T-SQL itself.
        batches = re.split(r"(?im)^[ \t]*GO[ \t]*;?[ \t]*$", script)
        return [batch for batch in batches if batch.strip()]

    # Opening ----------------------------------------------------------------------------------

    def versions(self, url: str, version_table: VersionTable) -> Snapshot:
        return replace(self.inspect(url, version_table), tables=frozenset())

    def versions_together(
        self, urls: Sequence[str], version_table: VersionTable
    ) -> Mapping[str, Snapshot]:
        return {}

    def examine(self, url: str) -> Examination:
        with self.connect(url) as connection:
            return of_sqlserver(connection)

    def create(self, url: str) -> None:
        statement = f"CREATE DATABASE {_quoted(address(url).database or '')}"
        self._on_server(url, statement, errors.CREATION_WAITS, (errors.ALREADY_THERE,))

    def _on_server(
        self, url: str, statement: str, waits: tuple[int, ...], done: tuple[int, ...]
    ) -> None:
        """Run a statement that no transaction may hold, again and again while it has to wait."""
        deadline = time.monotonic() + _CREATION
        while True:
            try:
                with self._plain(_maintenance(url), autocommit=True) as ask:
                    ask(statement)
                return
            except load_odbc().Error as error:
                found = errors.numbers(error)
                if any(number in done for number in found):
                    return
                if time.monotonic() > deadline or not any(number in waits for number in found):
                    raise self.explain(error, url) from error
            time.sleep(0.1)

    @contextmanager
    def connect(self, url: str) -> Iterator[sa.Connection]:
        session = Session()
        engine = self._engine(url, session, poolclass=NullPool, execution_options={OPTION: session})
        self._limit_all(engine, math.ceil(self._limits.statement_timeout))
        with ExitStack() as stack:
            try:
                connection = stack.enter_context(connected(engine))
            except sa.exc.DBAPIError as error:
                raise self._unopened(error, url) from error
            yield connection

    @contextmanager
    def scratch(self, url: str) -> Iterator[sa.Connection]:
        name = f"branchmig_scratch_{time.time_ns():x}"
        there = address(url).set(database=name).render_as_string(hide_password=False)
        self.create(there)
        try:
            with self.connect(there) as connection:
                yield connection
        finally:
            # For a moment after its last session has ended a database is still in use.
            self._on_server(there, f"DROP DATABASE {_quoted(name)}", (errors.IN_USE,), ())

    def engine(self, url: str) -> sa.Engine:
        engine = self._engine(url)
        distrust(engine)
        self._limit_all(engine, self._short)
        return engine

    def read_engine(self, url: str) -> sa.Engine:
        engine = self.engine(url)
        only_reading(engine)
        return engine

    @property
    def _login(self) -> int:
        """Seconds that the driver may take to log in; 0 would be no limit."""
        return max(1, round(self._limits.connect_timeout))

    @property
    def _short(self) -> int:
        """Seconds that a statement of ours may take, as opposed to one of a revision."""
        return math.ceil(self._limits.connect_timeout + self._limits.lock_timeout)

    def _engine(self, url: str, session: Session | None = None, **options: Any) -> sa.Engine:
        """`session`: the engine is for this one alone, and for no second connection."""
        given = SQLSERVER.usable(address(url))
        module = load_odbc()
        driver = driver_of(given)
        engine = sa.create_engine(
            for_driver(given, driver),
            connect_args={"timeout": self._login},
            # FreeTDS cuts long texts off at the size that would be announced.
            use_setinputsizes=not driver.is_freetds,
            module=module,
            hide_parameters=True,  # tracebacks quote them: the data of a branch, URLs in HeadOffice
            **options,
        )
        if session is not None:
            session.attend(engine)
            refuse_second(engine)
        sa.event.listen(engine, "do_connect", self._open)
        return engine

    def _open(self, dialect: sa.Dialect, _: Any, arguments: Any, options: Any) -> Any:
        module: Any = dialect.loaded_dbapi
        seconds = self._limits.connect_timeout

        def late() -> Exception:
            said = f"[HYT00] [branchmig]no login within {seconds:g} s (0) (SQLDriverConnect)"
            found: Exception = module.OperationalError("HYT00", said)
            return found

        return within(seconds + _GRACE, lambda: dialect.connect(*arguments, **options), late)

    def _limit_all(self, engine: sa.Engine, statement_timeout: int) -> None:
        sa.event.listen(engine, "connect", lambda driver, _: self._limit(driver, statement_timeout))

    def _limit(self, driver: Any, statement_timeout: int) -> None:
        """Session settings of every connection. Seconds; 0: a statement may run for hours."""
        with closing(driver.cursor()) as cursor:
            cursor.execute(
                f"SET XACT_ABORT ON; SET LOCK_TIMEOUT {round(self._limits.lock_timeout * 1000)}"
            )
        driver.commit()
        driver.timeout = statement_timeout

    @contextmanager
    def _plain(self, url: str, *, autocommit: bool = False) -> Iterator[_Ask]:
        """A connection of the driver's own, without SQLAlchemy's questions at its begin."""
        engine = self._engine(url)
        arguments, options = engine.dialect.create_connect_args(engine.url)
        options["timeout"] = self._login
        try:
            driver = self._open(engine.dialect, None, arguments, options)
        except load_odbc().Error as error:
            raise self._unopened(error, url) from error
        with closing(driver):
            driver.autocommit = autocommit
            self._limit(driver, _CREATION if autocommit else self._short)

            def ask(statement: str, *parameters: object) -> list[Any]:
                with closing(driver.cursor()) as cursor:
                    cursor.execute(statement, *parameters)
                    return list(cursor.fetchall()) if cursor.description else []

            yield ask

    def _unopened(self, error: BaseException, url: str) -> BranchmigError:
        """Why there is no connection; a database that is there but not for us is not missing."""
        found = self.explain(error, url)
        if not isinstance(found, DatabaseMissing) or address(url).database == _MAINTENANCE:
            return found
        state = self._state(url)
        if state is None:
            return found
        if state == "ONLINE":
            return BranchUnusable(
                mask(f"{self._where(url)}: the account may not open the database"),
                "make it a user there (CREATE USER ... FOR LOGIN ...)",
            )
        return BranchUnreachable(
            f"{self._where(url)}: the database is {state.lower()}", "bring it online"
        )

    def _state(self, url: str) -> str | None:
        """What the server says of a database; None: there is none, or it does not tell."""
        with suppress(BranchmigError, load_odbc().Error), self._plain(_maintenance(url)) as ask:
            statement = "SELECT state_desc FROM sys.databases WHERE name = ?"
            rows = ask(statement, address(url).database)
            return str(rows[0][0]) if rows else None
        return None

    # The lock ---------------------------------------------------------------------------------

    @contextmanager
    def lock(self, connection: sa.Connection) -> Iterator[None]:
        with own_transaction(connection):
            name = resource(str(connection.exec_driver_sql("SELECT DB_NAME()").scalar()))
        take(connection, name, self._limits.lock_timeout)
        try:
            yield
        finally:
            # A connection that is gone has given its lock back already.
            if not Session.of(connection).is_broken:
                with suppress(sa.exc.StatementError, sa.exc.InvalidRequestError):
                    if not give_back(connection, name):
                        log.warning("the session lock was not ours any more when it was released")

    # Within a revision ------------------------------------------------------------------------

    def journal(self, connection: sa.Connection, name: str, *, there: bool) -> NoJournal:
        return NoJournal()

    def begin_watch(self, connection: sa.Connection) -> None:
        Session.of(connection).begin_watch(connection)

    def end_watch(self, connection: sa.Connection, *, failed: bool = False) -> str | None:
        session = Session.of(connection)
        return session.end_failed_watch(connection) if failed else session.end_watch(connection)

    def integrity(self, connection: sa.Connection) -> None:
        """The server checks its constraints itself."""

    def check_integrity(self, connection: sa.Connection, before: None) -> None:
        """The server checks its constraints itself."""

    def interrupt(self, connection: sa.Connection) -> None:
        with suppress(Exception):
            Session.of(connection).interrupt()

    # Errors -----------------------------------------------------------------------------------

    def is_own(self, error: BaseException) -> bool:
        return errors.is_own(error)

    def classify(self, error: BaseException) -> FailureKind:
        if isinstance(error, BranchBusy):
            return FailureKind.BUSY
        if isinstance(error, BranchUnreachable):
            return FailureKind.UNREACHABLE
        return errors.judge(error).kind

    def explain(self, error: BaseException, url: str) -> BranchmigError:
        if isinstance(error, BranchmigError):
            return error
        kind, sentence, hint = errors.judge(error)
        said = " ".join((errors.text_of(error) or str(cause(error))).split())
        said = f"{sentence} ({said})" if sentence else said
        text = mask(f"{self._where(url)}: {said}")
        if errors.is_own(cause(error)) and errors.is_no_driver(error):
            return DriverMissing(text, CHOICES)
        if any(number in errors.MISSING for number in errors.numbers(error)):
            return DatabaseMissing(text, hint)
        if kind is FailureKind.BUSY:
            return BranchBusy(text, hint)
        if kind is FailureKind.UNREACHABLE:
            return BranchUnreachable(text, hint)
        return (BranchUnusable if sentence else ProviderError)(text, hint)

    def _where(self, url: str) -> str:
        given = address(url)
        return f"{given.host or 'the local server'}/{given.database or ''}"


def _look(ask: _Ask, version_table: VersionTable) -> Snapshot:
    tables = {
        row[0]
        for row in ask(
            "SELECT name FROM sys.tables WHERE schema_id = SCHEMA_ID() AND is_ms_shipped = 0"
        )
    }
    name = _quoted(version_table.name)
    if version_table.schema:
        name = f"{_quoted(version_table.schema)}.{name}"
    [found] = ask("SELECT OBJECT_ID(?, N'U')", name)
    tables.discard(version_table.name)
    if found[0] is None:
        return Snapshot(exists=True, versioned=False, tables=frozenset(tables))
    rows = ask(f"SELECT version_num FROM {name}")
    return Snapshot(True, True, tuple(sorted(row[0] for row in rows)), frozenset(tables))


def only_reading(engine: sa.Engine) -> None:
    """Hold an engine to reading, which no setting of a session does on SQL Server.

    What is no question is refused as a driver would, and whatever a question may do besides is
    rolled back.
    """

    def refuse(_: Any, statement: str, *__: Any) -> None:
        if statement.split(None, 1)[0].lower() not in _READS:
            module: Any = engine.dialect.loaded_dbapi
            raise module.ProgrammingError(
                "25006", "[25006] [branchmig]this session may only read (0) (SQLExecDirectW)"
            )

    for event in ("do_execute", "do_execute_no_params", "do_executemany"):
        sa.event.listen(engine, event, refuse)
    # On the dialect, since no event can stand in for a commit.
    engine.dialect.do_commit = engine.dialect.do_rollback  # type: ignore[method-assign]


def _maintenance(url: str) -> str:
    return address(url).set(database=_MAINTENANCE).render_as_string(hide_password=False)


def _quoted(name: str) -> str:
    return "[" + name.replace("]", "]]") + "]"
