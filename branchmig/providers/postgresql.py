"""PostgreSQL: transactional DDL, an advisory lock for the session, limits set on every connection.

The lock is `pg_try_advisory_lock`, held by the migrating connection; the server frees it when that
connection has truly ended, which may be later than the client's death: a statement goes on.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.engine import URL
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
from .connections import (
    cause,
    connected,
    dialect_with_driver,
    options_taken,
    own_transaction,
    parsed,
    refuse_second,
    wait_for_lock,
)
from .examination import Examination, of_postgresql
from .journal import Journal, NoJournal
from .marks import TABLE as JOURNAL
from .options import POSTGRESQL
from .postgresql_language import PostgresqlLanguage, statements
from .protocol import Capabilities, Limits
from .watchdog import answer_within

_LOCK_KEY = int.from_bytes(hashlib.sha256(b"branchmig").digest()[:8], "big", signed=True)
"""Advisory locks belong to one database of a server, so the key needs no name in it."""

_MAINTENANCE = ("postgres", "template1")
"""Where to connect to create a database, in the order tried (createdb(1))."""

_KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""A half-open connection must give its lock back (libpq's connection parameters)."""

_TABLES = (
    "SELECT false, relname::text FROM pg_catalog.pg_class c "
    "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
    "WHERE nspname = ANY (current_schemas(false)) AND relkind IN ('r', 'p')"
)
"""The catalogs themselves: the view pg_tables joins more of them than is asked for."""

_JOURNAL_ALONE = f"{_TABLES} AND relname = '{JOURNAL}'"

_IN_JOURNAL = f"SELECT 1 FROM {JOURNAL} LIMIT 1"

_KINDS = {
    "55P03": FailureKind.TRANSIENT,  # lock_not_available: lock_timeout
    "40P01": FailureKind.TRANSIENT,  # deadlock_detected
    "40001": FailureKind.TRANSIENT,  # serialization_failure
    "53300": FailureKind.BUSY,  # too_many_connections
    "57P01": FailureKind.UNREACHABLE,  # admin_shutdown
    "57P02": FailureKind.UNREACHABLE,  # crash_shutdown
    "57P03": FailureKind.UNREACHABLE,  # cannot_connect_now
    "28P01": FailureKind.UNREACHABLE,  # invalid_password
    "28000": FailureKind.UNREACHABLE,  # invalid_authorization_specification
}
"""By SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""

_SPOKEN = (
    (r'database ".*" does not exist', "3D000"),
    (r"too many clients|too many connections|connection slots are reserved", "53300"),
    (r"the database system is", "57P03"),
    (r"password authentication failed|no password supplied", "28P01"),
    (r'role ".*" does not exist|not permitted to log in|pg_hba\.conf', "28000"),
    (r"permission denied", "42501"),
    (r"certificate|SSL|TLS", "TLS"),
    (r"connection failed|connection timeout expired|failed to resolve host", "08001"),
)
"""A connection that failed carries no SQLSTATE, only the server's words; the first that fit."""

_SENTENCES = {
    "08001": ("the server cannot be reached", "look at host, port, network and the server"),
    "TLS": ("TLS could not be agreed on", "look at sslmode, sslrootcert and the server's TLS"),
    "3D000": ("the database does not exist", "create it, or let branchmig: create_databases"),
    "28P01": ("the login is refused", "look at user, password and pg_hba.conf"),
    "28000": ("the login is refused", "look at user, password and pg_hba.conf"),
    "3F000": ("the account lacks a right on its schema", "grant USAGE, and CREATE to migrate"),
    "42501": ("the account lacks a right", "grant what the message names"),
    "25006": ("the server is read-only", "is it a replica? Name the primary in the branch's URL"),
    "53100": ("the server's disk is full", "free some space; the revision was rolled back"),
    "53300": ("the server has too many connections", "the run goes slower and comes back"),
    "55P03": ("a lock was not to be had in time", "somebody uses the table; the run comes back"),
    "57014": ("the statement was cancelled", "look at [run] statement_timeout"),
    "57P01": ("the server was shut down", "start it; the revision was rolled back"),
    "57P03": ("the server is starting up or shutting down", "try again"),
}


class PostgresqlStrategy:
    """A branch in a database of a PostgreSQL server."""

    provider: ClassVar[Provider] = Provider.POSTGRESQL
    dialect: ClassVar[str] = "postgresql"
    capabilities: ClassVar[Capabilities] = Capabilities(
        transactional_ddl=True,
        session_lock=True,
        creates_databases=True,
        scratch_in_memory=False,
        url_holds_secrets=True,
    )
    scratch_url: ClassVar[str] = "postgresql+psycopg://"

    def __init__(self, limits: Limits, folder: Path) -> None:
        self._limits = limits
        self._dialects: dict[str, sa.Dialect] = {}

    # Where ------------------------------------------------------------------------------------

    def check_url(self, url: str) -> None:
        given = self._url(url)
        POSTGRESQL.check(given)
        if not given.database:
            raise UsageError(
                "the URL names no database", "postgresql://USER@HOST/DATABASE is its form"
            )

    def server(self, url: str) -> str:
        return self.identity(url).rpartition(":")[0]

    def identity(self, url: str) -> str:
        given = self._url(url)
        # What stands behind the question mark is what the driver takes.
        host = given.query.get("host", given.host or "")
        port = given.query.get("port", given.port or 5432)
        return f"postgresql:{str(host).lower()}:{port}:{given.database}"

    def _url(self, url: str) -> URL:
        # SQLAlchemy's own default is the older psycopg2.
        return parsed(url, "psycopg")

    # Looking ----------------------------------------------------------------------------------

    def inspect(self, url: str, version_table: VersionTable) -> Snapshot:
        return self._look(url, version_table, _TABLES)

    def versions(self, url: str, version_table: VersionTable) -> Snapshot:
        return replace(self._look(url, version_table, _JOURNAL_ALONE), tables=frozenset())

    def versions_together(
        self, urls: Sequence[str], version_table: VersionTable
    ) -> Mapping[str, Snapshot]:
        return {}  # a connection is one database's

    def _look(self, url: str, version_table: VersionTable, tables: str) -> Snapshot:
        # By the driver alone: an engine asks the server half a dozen questions of its own first.
        try:
            with (
                closing(self._reader(url)) as driver,
                closing(driver.cursor()) as cursor,
                self._answered(driver),
            ):
                return self._looked(cursor, version_table, tables)
        except Exception as error:
            if not self.is_own(error):
                raise
            found = self.explain(error, url)
            if isinstance(found, DatabaseMissing):
                return Snapshot(exists=False, versioned=False)
            raise found from error

    def _looked(self, cursor: Any, version_table: VersionTable, question: str) -> Snapshot:
        """In one round trip, if there is a version table and no journal.

        `question`: _TABLES, or _JOURNAL_ALONE of them.
        """
        limits = self._settings(read_only=True)
        versions = f"SELECT true, version_num::text FROM {_qualified(version_table)}"
        try:
            cursor.execute(f"{limits}; {question} UNION ALL {versions}")
            versioned = True
        except Exception as error:
            if _state(error) != "42P01":  # undefined_table
                raise
            cursor.execute("SELECT current_schema(), current_database()")
            _require_schema(*cursor.fetchone())
            cursor.execute(f"{limits}; {question}")
            versioned = False
        # The last answer counts; a driver that gives no other has none to step over.
        with suppress(Exception):
            while cursor.nextset():
                pass
        rows = cursor.fetchall()
        heads = sorted(name for is_version, name in rows if is_version)
        tables = {name for is_version, name in rows if not is_version}
        journaled, unfinished = JOURNAL in tables, False
        if journaled:
            cursor.execute(_IN_JOURNAL)
            unfinished = bool(cursor.fetchall())
        others = frozenset(tables - {version_table.name, JOURNAL})
        return Snapshot(True, versioned, tuple(heads), others, journaled, unfinished)

    def _reader(self, url: str) -> Any:
        """A connection of the driver's, set up as an engine would, in autocommit."""
        address = POSTGRESQL.usable(self._url(url))
        if address.drivername not in self._dialects:
            try:
                self._dialects[address.drivername] = dialect_with_driver(address)
            except ImportError as error:
                raise _driver_missing(error) from None
        dialect = self._dialects[address.drivername]
        with options_taken():
            arguments, options = dialect.create_connect_args(address)
            driver: Any = dialect.connect(*arguments, **{**options, **self._options()})
        driver.autocommit = True
        return driver

    def read(self, connection: sa.Connection, version_table: VersionTable) -> Snapshot:
        name = _qualified(version_table)
        with own_transaction(connection):
            rows = _ask(
                connection, f"{_TABLES} UNION ALL SELECT true, to_regclass({_text(name)})::text"
            )
            tables = {row[1] for row in rows if not row[0]}
            journaled = JOURNAL in tables
            unfinished = journaled and bool(_ask(connection, _IN_JOURNAL))
            others = frozenset(tables - {version_table.name, JOURNAL})
            if not any(is_version and found for is_version, found in rows):
                ((schema,),) = _ask(connection, "SELECT current_schema()")
                _require_schema(schema, str(connection.engine.url.database))
                return Snapshot(True, False, (), others, journaled, unfinished)
            heads = (row[0] for row in _ask(connection, f"SELECT version_num FROM {name}"))
            return Snapshot(True, True, tuple(sorted(heads)), others, journaled, unfinished)

    def schema(self, connection: sa.Connection) -> dict[str, frozenset[str]]:
        with own_transaction(connection):
            found = sa.inspect(connection).get_multi_columns()
            return {
                name: frozenset(column["name"] for column in columns)
                for (_, name), columns in found.items()
                if name != JOURNAL
            }

    def missing_tables(self, present: frozenset[str], required: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in required if name not in present)

    def statements(self, script: str) -> list[str]:
        return statements(script)

    # Opening ----------------------------------------------------------------------------------

    def examine(self, url: str) -> Examination:
        with self.connect(url) as connection:
            return of_postgresql(connection)

    def create(self, url: str) -> None:
        wanted = self._url(url).database or ""
        with self._maintenance(url) as connection:
            try:
                connection.exec_driver_sql(f"CREATE DATABASE {_quoted(wanted)}")
            except sa.exc.DBAPIError as error:
                # Another creator was quicker: 42P04, or 23505 where both were at it.
                if _state(error) not in ("42P04", "23505"):
                    raise self.explain(error, url) from error

    @contextmanager
    def _maintenance(self, url: str) -> Iterator[sa.Connection]:
        """A connection in autocommit to a database that every server has."""
        failures: list[BranchmigError] = []
        for name in _MAINTENANCE:
            try:
                address = self._url(url).set(database=name)
                with self._one(address.render_as_string(hide_password=False)) as connection:
                    yield connection.execution_options(isolation_level="AUTOCOMMIT")
                    return
            except DatabaseMissing as error:
                failures.append(error)
        raise failures[0]

    @contextmanager
    def connect(self, url: str) -> Iterator[sa.Connection]:
        with self._one(url) as connection:
            yield connection

    @contextmanager
    def scratch(self, url: str) -> Iterator[sa.Connection]:
        name = f"branchmig_scratch_{time.time_ns():x}"
        address = self._url(url).set(database=name).render_as_string(hide_password=False)
        self.create(address)
        try:
            with self._one(address) as connection:
                yield connection
        finally:
            with self._maintenance(url) as connection:
                connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {_quoted(name)}")

    def engine(self, url: str) -> sa.Engine:
        return self._shared(url, read_only=False)

    def read_engine(self, url: str) -> sa.Engine:
        return self._shared(url, read_only=True)

    def _shared(self, url: str, *, read_only: bool) -> sa.Engine:
        """An engine for short transactions: whatever it asks is to be answered soon."""
        engine = self._engine(url)

        def execute(cursor: Any, statement: str, parameters: Any, _: Any) -> bool:
            with self._answered(cursor.connection):
                cursor.execute(statement, parameters)
            return True

        def limit(driver: Any, record: Any) -> None:
            self._limit(driver, read_only)
            record.info["branchmig_patience"] = self._patience

        sa.event.listen(engine, "connect", limit)
        sa.event.listen(engine, "do_execute", execute)
        return engine

    def _engine(self, url: str, **options: Any) -> sa.Engine:
        try:
            return sa.create_engine(
                POSTGRESQL.usable(self._url(url)),
                connect_args=self._options(),
                hide_parameters=True,
                **options,
            )
        except ImportError as error:
            raise _driver_missing(error) from None

    def _options(self) -> dict[str, Any]:
        return {
            **_KEEPALIVE,
            "connect_timeout": max(2, round(self._limits.connect_timeout)),
            "application_name": "branchmig",
        }

    @contextmanager
    def _one(self, url: str, *, read_only: bool = False) -> Iterator[sa.Connection]:
        """One connection with its limits, and no second."""
        engine = self._engine(url, poolclass=NullPool)
        refuse_second(engine)
        with ExitStack() as stack, ExitStack() as questions:

            def opened(dialect: sa.Dialect, _: Any, arguments: Any, options: Any) -> Any:
                driver: Any = dialect.connect(*arguments, **options)
                # SQLAlchemy has questions of its own first.
                questions.enter_context(self._answered(driver))
                return driver

            sa.event.listen(engine, "do_connect", opened)
            sa.event.listen(engine, "connect", lambda driver, _: self._limit(driver, read_only))
            try:
                with questions:
                    connection = stack.enter_context(connected(engine))
            except sa.exc.DBAPIError as error:
                raise self.explain(error, url) from error
            connection.info["branchmig_patience"] = self._patience
            yield connection

    @property
    def _patience(self) -> float:
        """Seconds within which a question must be answered that waits for nobody's lock but one."""
        return self._limits.connect_timeout + self._limits.lock_timeout

    def _answered(self, driver: Any) -> AbstractContextManager[None]:
        return answer_within(self._patience, driver.fileno())

    def _limit(self, driver: Any, read_only: bool) -> None:
        """Session settings of every connection; in autocommit, or a rollback would undo them."""
        before, driver.autocommit = driver.autocommit, True
        with driver.cursor() as cursor:
            cursor.execute(self._settings(read_only))
        driver.autocommit = before

    def _settings(self, read_only: bool) -> str:
        """Statements that give the session its settings."""
        settings = {
            "lock_timeout": f"{round(self._limits.lock_timeout * 1000)}ms",
            "statement_timeout": f"{round(self._limits.statement_timeout * 1000)}ms",
            "idle_in_transaction_session_timeout": "0",
        }
        if read_only:
            # Otherwise as the server has it: whoever froze a database or an account meant it.
            settings["default_transaction_read_only"] = "on"
        return "; ".join(f"SET {name} = '{value}'" for name, value in settings.items())

    # The lock ---------------------------------------------------------------------------------

    @contextmanager
    def lock(self, connection: sa.Connection) -> Iterator[None]:
        wait_for_lock(
            lambda: self._ask(connection, "pg_try_advisory_lock"),
            lambda: self._holder(connection),
            self._limits.lock_timeout,
        )
        try:
            yield
        finally:
            # A connection that is gone has given its lock back already; this one is closed next.
            with suppress(Exception):
                if connection.in_transaction():
                    connection.rollback()
                self._ask(connection, "pg_advisory_unlock")

    def _ask(self, connection: sa.Connection, function: str) -> bool:
        """In autocommit: a transaction around it would be two round trips more."""
        driver: Any = connection.connection.dbapi_connection
        before, driver.autocommit = driver.autocommit, True
        try:
            with self._answered(driver), driver.cursor() as cursor:
                cursor.execute(f"SELECT {function}({_LOCK_KEY})")
                return bool(cursor.fetchone()[0])
        finally:
            driver.autocommit = before

    def _holder(self, connection: sa.Connection) -> str:
        high, low = (_LOCK_KEY >> 32) & 0xFFFFFFFF, _LOCK_KEY & 0xFFFFFFFF
        with own_transaction(connection):
            rows = _ask(
                connection,
                "SELECT a.pid, a.usename, coalesce(host(a.client_addr), 'its own host') "
                "FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
                f"WHERE l.locktype = 'advisory' AND l.granted AND l.classid::bigint = {high} "
                f"AND l.objid::bigint = {low} "
                "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            )
        if not rows:
            return "another session"
        return f"session {rows[0][0]} of {rows[0][1]} from {rows[0][2]}"

    # Within a revision ------------------------------------------------------------------------

    def journal(self, connection: sa.Connection, name: str, *, there: bool) -> NoJournal:
        if not _keeps_journal(connection):
            return NoJournal()
        with own_transaction(connection):
            ((schema,),) = _ask(connection, "SELECT current_schema()")
        return Journal(connection, PostgresqlLanguage(schema or "public"), name, there=there)

    def begin_watch(self, connection: sa.Connection) -> None:
        # A revision may set the path for the session; the next one, and the version table, need
        # the one that the connection began with.
        ((path,),) = _ask(connection, "SELECT current_setting('search_path')")
        if path != connection.info.setdefault("branchmig_search_path", path):
            self._set_path(connection)
        if not _keeps_journal(connection):
            # The id of a transaction changes when somebody ends it and another begins.
            ((now,),) = _ask(connection, "SELECT pg_current_xact_id()::text")
            connection.info["branchmig_transaction"] = now

    def end_watch(self, connection: sa.Connection, *, failed: bool = False) -> str | None:
        if connection.invalidated:
            return None  # it answers nothing more, not even this
        before = connection.info.pop("branchmig_transaction", None)
        if failed:
            return _committed(connection, before) if before else None
        self._set_path(connection)
        if before is None:
            return None
        ((now,),) = _ask(connection, "SELECT pg_current_xact_id()::text")
        if before == now:
            return None
        ended = connection.exec_driver_sql("SELECT pg_xact_status(%s::xid8)", (before,)).scalar()
        return "COMMIT" if ended == "committed" else "ROLLBACK"

    def _set_path(self, connection: sa.Connection) -> None:
        path = _text(connection.info["branchmig_search_path"])
        _ask(connection, f"SELECT set_config('search_path', {path}, false)")

    def integrity(self, connection: sa.Connection) -> None:
        """PostgreSQL checks its constraints itself."""

    def check_integrity(self, connection: sa.Connection, before: None) -> None:
        """PostgreSQL checks its constraints itself."""

    def interrupt(self, connection: sa.Connection) -> None:
        with suppress(Exception):
            driver: Any = connection.connection.dbapi_connection
            driver.cancel()

    # Errors -----------------------------------------------------------------------------------

    def is_own(self, error: BaseException) -> bool:
        return type(error).__module__.partition(".")[0] in ("psycopg", "psycopg2")

    def classify(self, error: BaseException) -> FailureKind:
        if isinstance(error, BranchBusy):
            return FailureKind.BUSY
        if isinstance(error, BranchUnreachable):
            return FailureKind.UNREACHABLE
        state = _state(error)
        if state in (None, "TLS") and self.is_own(cause(error)) and _lost(error):
            return FailureKind.UNREACHABLE
        if state and state.startswith("08"):
            return FailureKind.UNREACHABLE
        return _KINDS.get(state or "", FailureKind.PERMANENT)

    def explain(self, error: BaseException, url: str) -> BranchmigError:
        if isinstance(error, BranchmigError):
            return error
        state = _state(error)
        said = " ".join(str(cause(error)).split())
        where = f"{self._url(url).host or 'the local server'}/{self._url(url).database}"
        sentence, hint = _SENTENCES.get(state or "", (None, None))
        text = mask(f"{where}: {sentence} ({said})" if sentence else f"{where}: {said}")
        if state == "3D000":
            return DatabaseMissing(text, hint)
        kind = self.classify(error)
        if kind is FailureKind.BUSY:
            return BranchBusy(text, hint)
        if kind is FailureKind.UNREACHABLE:
            return BranchUnreachable(text, hint or "look at network, proxies and the server's log")
        return (BranchUnusable if sentence else ProviderError)(text, hint)


def _require_schema(schema: str | None, database: str) -> None:
    """Who may not use the schema sees nothing in it; that must not pass for an empty one."""
    if schema is None:
        sentence, hint = _SENTENCES["3F000"]
        raise BranchUnusable(f"{database}: {sentence}", hint)


def _keeps_journal(connection: sa.Connection) -> bool:
    """psycopg2's connections cannot be listened to; under it a COMMIT within a revision is watched
    for, and a failure after it needs a person."""
    return connection.dialect.driver == "psycopg"


def _ask(connection: sa.Connection, question: str) -> list[Any]:
    """Rows; by the simple protocol, and with no meaning for percent signs."""
    driver: Any = connection.connection.dbapi_connection
    with answer_within(connection.info["branchmig_patience"], driver.fileno()):
        return list(connection.exec_driver_sql(question, execution_options={"no_parameters": True}))


def _qualified(table: VersionTable) -> str:
    name = _quoted(table.name)
    return f"{_quoted(table.schema)}.{name}" if table.schema else name


def _text(text: str) -> str:
    """A literal, whatever the server makes of backslashes in plain ones."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _driver_missing(error: ImportError) -> DriverMissing:
    return DriverMissing(
        f"the driver for PostgreSQL is not installed: {error.name}",
        "pip install 'branchmig[postgresql]'",
    )


def _committed(connection: sa.Connection, transaction: str | None) -> str | None:
    """ "COMMIT" where a transaction was; one that an error has aborted answers nothing more."""
    with suppress(Exception):
        driver: Any = connection.connection.dbapi_connection
        driver.rollback()
        with driver.cursor() as cursor:
            cursor.execute("SELECT pg_xact_status(%s::xid8)", (transaction,))
            (ended,) = cursor.fetchone()
        driver.rollback()
        return "COMMIT" if ended == "committed" else None
    return None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _state(error: BaseException) -> str | None:
    own = cause(error)
    state = getattr(own, "sqlstate", None) or getattr(own, "pgcode", None)
    if state is None and type(own).__name__ in ("OperationalError", "ConnectionTimeout"):
        state = next((state for words, state in _SPOKEN if re.search(words, str(own))), None)
    return state


def _lost(error: BaseException) -> bool:
    """A driver that could not connect, or whose connection broke, has only words to say so."""
    name = type(cause(error)).__name__
    return name in ("OperationalError", "ConnectionTimeout", "InterfaceError")
