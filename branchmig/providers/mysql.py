"""MySQL and MariaDB: DDL that commits at once, and a lock that belongs to the whole server.

What a revision did is journaled (see `journal`). The session lock is GET_LOCK under a name made of
the database's; it is bound to the connection, outlives COMMIT and ROLLBACK, and the server frees it
when the connection has truly ended, which may be later than the client's death.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
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
from .journal import Journal
from .marks import TABLE as JOURNAL
from .mysql_language import MysqlLanguage
from .mysql_statements import quoted
from .protocol import Capabilities, Limits

log = logging.getLogger("branchmig")

_LOCAL = ("localhost", "127.0.0.1", "::1")

_IDLE = 3600
"""Seconds after which the server ends a session that asks nothing, and with it its lock: a client
whose host lost power says no good-bye."""

_KEEPALIVE = {
    "TCP_KEEPIDLE": 30,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 60_000,
}
"""A half-open connection is found out within a minute (tcp(7))."""

_FLAGS = ("ssl_disabled", "ssl_verify_cert", "ssl_verify_identity")

_NO_ANSWER = 2013

_BUSY, _TRANSIENT = FailureKind.BUSY, FailureKind.TRANSIENT
_UNREACHABLE, _PERMANENT = FailureKind.UNREACHABLE, FailureKind.PERMANENT

_FULL = ("the server's disk is full", "free some space; what landed before is journaled")
_LOST = ("the connection broke", "look at network, proxies and the server's log")
_NO_RIGHT = ("the account lacks a right", "grant what the message names")
_NOT_THERE = ("the server cannot be reached", "look at host, port, network and the server")
_READ_ONLY = ("the server is read-only", "is it a replica? Name the primary in the branch's URL")
_REFUSED = ("the login is refused", "look at user, password and the accounts of the server")
_SHUT_DOWN = ("the server was shut down", "start it; what landed before is journaled")
_TOO_LONG = ("the statement ran longer than allowed", "look at [run] statement_timeout")
_TOO_MANY = ("the server has too many connections", "the run goes slower and comes back")

_ERRORS: dict[int, tuple[FailureKind, str, str]] = {
    1040: (_BUSY, *_TOO_MANY),
    1203: (_BUSY, *_TOO_MANY),
    1226: (_BUSY, *_TOO_MANY),
    1205: (_TRANSIENT, "a lock was not to be had in time",
           "somebody uses the table; the run comes back"),
    1213: (_TRANSIENT, "a deadlock was broken", "the run comes back"),
    1020: (_TRANSIENT, "a row changed under the transaction", "the run comes back"),
    1412: (_TRANSIENT, "a table changed under the transaction", "the run comes back"),
    3572: (_TRANSIENT, "a lock was not to be had at once", "the run comes back"),
    0: (_UNREACHABLE, *_LOST),
    2002: (_UNREACHABLE, *_NOT_THERE),
    2003: (_UNREACHABLE, *_NOT_THERE),
    2005: (_UNREACHABLE, *_NOT_THERE),
    2006: (_UNREACHABLE, *_LOST),
    2012: (_UNREACHABLE, *_LOST),
    2013: (_UNREACHABLE, *_LOST),
    2014: (_UNREACHABLE, *_LOST),
    2026: (_UNREACHABLE, "TLS could not be agreed on", "look at ssl_ca and the server's TLS"),
    2055: (_UNREACHABLE, *_LOST),
    1152: (_UNREACHABLE, *_LOST),
    1158: (_UNREACHABLE, *_LOST),
    1159: (_UNREACHABLE, *_LOST),
    1160: (_UNREACHABLE, *_LOST),
    1161: (_UNREACHABLE, *_LOST),
    1927: (_UNREACHABLE, "the connection was killed", "somebody ended it at the server"),
    1053: (_UNREACHABLE, *_SHUT_DOWN),
    1077: (_UNREACHABLE, *_SHUT_DOWN),
    1079: (_UNREACHABLE, *_SHUT_DOWN),
    1129: (_UNREACHABLE, "the server blocks this host", "FLUSH HOSTS, then look for the cause"),
    1130: (_UNREACHABLE, "the server lets nobody in from this host", "look at its accounts"),
    1045: (_UNREACHABLE, *_REFUSED),
    1698: (_UNREACHABLE, *_REFUSED),
    1862: (_UNREACHABLE, "the password has expired", "set a new one"),
    3118: (_UNREACHABLE, "the account is locked", "unlock it"),
    4151: (_UNREACHABLE, "the account is locked", "unlock it"),
    1044: (_PERMANENT, "the account has no right on this database",
           "grant it, with CREATE where it is to be made"),
    1142: (_PERMANENT, *_NO_RIGHT),
    1143: (_PERMANENT, *_NO_RIGHT),
    1227: (_PERMANENT, *_NO_RIGHT),
    1370: (_PERMANENT, *_NO_RIGHT),
    1419: (_PERMANENT, *_NO_RIGHT),
    1049: (_PERMANENT, "the database does not exist",
           "create it, or let branchmig: create_databases"),
    1290: (_PERMANENT, *_READ_ONLY),
    1792: (_PERMANENT, "the session may only read", "nothing was written"),
    1836: (_PERMANENT, *_READ_ONLY),
    1021: (_PERMANENT, *_FULL),
    1114: (_PERMANENT, *_FULL),
    1026: (_PERMANENT, *_FULL),
    1317: (_PERMANENT, "the statement was interrupted", "look who sent KILL QUERY"),
    1969: (_PERMANENT, *_TOO_LONG),
    3024: (_PERMANENT, *_TOO_LONG),
}  # fmt: skip
"""By error number (https://mariadb.com/kb/en/mariadb-error-codes/, MySQL's from 3000 on)."""


def _plain(column: str) -> str:
    """A text in one collation, so that names and versions can be rows of one answer."""
    return f"CONVERT({column} USING utf8mb4) COLLATE utf8mb4_bin"


_TABLES = (
    f"SELECT false, {_plain('table_name')} FROM information_schema.tables "
    "WHERE table_schema = DATABASE() AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')"
)

_MULTI_STATEMENTS = 1 << 16
"""The protocol's flag for several statements at once; only a look sets it."""


class MysqlStrategy:
    """A branch in a database of a MySQL or MariaDB server."""

    provider: ClassVar[Provider] = Provider.MYSQL
    dialect: ClassVar[str] = "mysql"
    capabilities: ClassVar[Capabilities] = Capabilities(
        transactional_ddl=False,
        session_lock=True,
        creates_databases=True,
        scratch_in_memory=False,
    )
    scratch_url: ClassVar[str] = "mysql+pymysql://"

    def __init__(self, limits: Limits, folder: Path) -> None:
        self._limits = limits
        self._contexts: dict[str, Any] = {}
        self._dialects: dict[str, sa.Dialect] = {}
        self._galera: dict[tuple[Any, ...], bool] = {}

    # Where ------------------------------------------------------------------------------------

    def check_url(self, url: str) -> None:
        given = self._url(url)
        if not given.database:
            raise UsageError("the URL names no database", "mysql://USER@HOST/DATABASE is its form")

    def server(self, url: str) -> str:
        return self.identity(url).rpartition(":")[0]

    def identity(self, url: str) -> str:
        given = self._url(url)
        host = str(given.query.get("unix_socket", "")) or (given.host or "localhost").lower()
        host = "localhost" if host in _LOCAL else host
        # Not in lower case: on most servers names of databases differ by it.
        return f"mysql:{host}:{given.port or 3306}:{given.database}"

    def _url(self, url: str) -> URL:
        # SQLAlchemy's own default is mysqlclient, which has to be compiled.
        return parsed(url, "pymysql")

    # Looking ----------------------------------------------------------------------------------

    def inspect(self, url: str, version_table: VersionTable) -> Snapshot:
        try:
            if self._url(url).drivername.endswith("+pymysql"):
                with closing(self._reader(url)) as driver, closing(driver.cursor()) as cursor:
                    return self._looked(cursor, version_table)
            with self._one(url, read_only=True) as connection:
                return self.read(connection, version_table)
        except DatabaseMissing:
            return Snapshot(exists=False, versioned=False)
        except sa.exc.DBAPIError as error:
            raise self.explain(error, url) from error
        except Exception as error:
            if not self.is_own(error):
                raise
            found = self.explain(error, url)
            if isinstance(found, DatabaseMissing):
                return Snapshot(exists=False, versioned=False)
            raise found from error

    def _reader(self, url: str) -> Any:
        """A connection of the driver's, set up as an engine would, in autocommit: an engine asks
        the server half a dozen questions of its own first."""
        address = self._url(url)
        if address.drivername not in self._dialects:
            try:
                self._dialects[address.drivername] = dialect_with_driver(address)
            except ImportError as error:
                raise _driver_missing(error) from None
        dialect = self._dialects[address.drivername]
        with options_taken():
            arguments, options = dialect.create_connect_args(address)
            options.update(
                connect_timeout=self._connect_timeout(),
                autocommit=True,
                client_flag=options.get("client_flag", 0) | _MULTI_STATEMENTS,
            )
            driver = self._open(dialect, None, arguments, options) or dialect.connect(
                *arguments, **options
            )
        self._be_patient(driver, False)
        return driver

    def _looked(self, cursor: Any, version_table: VersionTable) -> Snapshot:
        """In one round trip, if there is a version table and no journal."""
        begin = f"{self._settings(cursor.connection)}; START TRANSACTION READ ONLY"
        versions = f"SELECT true, {_plain('version_num')} FROM {_qualified(version_table)}"
        try:
            rows = _last_rows(cursor, f"{begin}; {_TABLES} UNION ALL {versions}")
            versioned = True
        except Exception as error:
            if _number(error) not in (1146, 1049):
                raise
            rows = _last_rows(cursor, f"{begin}; {_TABLES}")
            versioned = False
        heads = sorted(name for is_version, name in rows if is_version)
        tables = {name for is_version, name in rows if not is_version}
        journaled = JOURNAL in tables
        unfinished = journaled and bool(_last_rows(cursor, f"SELECT 1 FROM {JOURNAL} LIMIT 1"))
        others = frozenset(tables - {version_table.name, JOURNAL})
        return Snapshot(True, versioned, tuple(heads), others, journaled, unfinished)

    def read(self, connection: sa.Connection, version_table: VersionTable) -> Snapshot:
        with own_transaction(connection):
            names = connection.exec_driver_sql(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() "
                "AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')"
            )
            present = set(names.scalars())
            journaled = JOURNAL in present
            unfinished = journaled and bool(
                connection.exec_driver_sql(f"SELECT 1 FROM {JOURNAL} LIMIT 1").first()
            )
            tables = frozenset(present - {version_table.name, JOURNAL})
            name = _qualified(version_table)
            try:
                rows = connection.exec_driver_sql(f"SELECT version_num FROM {name}").scalars()
            except sa.exc.DBAPIError as error:
                if _number(error) not in (1146, 1049):
                    raise
                return Snapshot(True, False, (), tables, journaled, unfinished)
            return Snapshot(True, True, tuple(sorted(rows)), tables, journaled, unfinished)

    def schema(self, connection: sa.Connection) -> dict[str, frozenset[str]]:
        with own_transaction(connection):
            found = sa.inspect(connection).get_multi_columns()
            return {
                name: frozenset(column["name"] for column in columns)
                for (_, name), columns in found.items()
                if name != JOURNAL
            }

    def missing_tables(self, present: frozenset[str], required: tuple[str, ...]) -> tuple[str, ...]:
        # lower_case_table_names 1 and 2 fold names; on a server with 0 nobody has both spellings.
        known = {name.lower() for name in present}
        return tuple(name for name in required if name.lower() not in known)

    # Opening ----------------------------------------------------------------------------------

    def versions(self, url: str, version_table: VersionTable) -> Snapshot:
        return self.inspect(url, version_table)

    def versions_together(
        self, urls: Sequence[str], version_table: VersionTable
    ) -> Mapping[str, Snapshot]:
        return {}

    def create(self, url: str) -> None:
        name = self._url(url).database or ""
        with self._server(url) as connection:
            try:
                # utf8mb4 is all of Unicode; what the server calls utf8 is not.
                connection.exec_driver_sql(
                    f"CREATE DATABASE IF NOT EXISTS {quoted(name)} CHARACTER SET utf8mb4"
                )
            except sa.exc.DBAPIError as error:
                raise self.explain(error, url) from error

    @contextmanager
    def _server(self, url: str) -> Iterator[sa.Connection]:
        """A connection to the server and none of its databases."""
        address = self._url(url).set(database="").render_as_string(hide_password=False)
        with self._one(address) as connection:
            yield connection

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
            with self._server(url) as connection:
                connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {quoted(name)}")

    def engine(self, url: str) -> sa.Engine:
        # HeadOffice's writes are conditional and read what is committed; the gap locks of the
        # default level would only make them wait for each other.
        engine = self._engine(url, isolation_level="READ COMMITTED")
        sa.event.listen(engine, "connect", lambda driver, _: self._limit(driver, False))
        return engine

    def read_engine(self, url: str) -> sa.Engine:
        engine = self._engine(url)
        sa.event.listen(engine, "connect", lambda driver, _: self._limit(driver, True))
        return engine

    def _engine(self, url: str, *, alone: bool = False, **options: Any) -> sa.Engine:
        """An engine of its own for each database: the dialect remembers the server that it met."""
        try:
            engine = sa.create_engine(
                self._url(url),
                connect_args={"connect_timeout": self._connect_timeout()},
                **options,
            )
        except ImportError as error:
            raise _driver_missing(error) from None
        if alone:
            refuse_second(engine)
        sa.event.listen(engine, "do_connect", self._open)
        return engine

    def _connect_timeout(self) -> int:
        return max(1, round(self._limits.connect_timeout))

    def _open(self, dialect: sa.Dialect, _: Any, arguments: Any, options: Any) -> Any:
        """Complete what the driver is given. PyMySQL's connection is made here, to share TLS."""
        options.setdefault("charset", "utf8mb4")
        if dialect.driver != "pymysql":
            return None
        seconds = self._limits.connect_timeout
        options.setdefault("read_timeout", seconds)
        options.setdefault("write_timeout", max(60, seconds + self._limits.lock_timeout))
        for flag in _FLAGS:
            if flag in options:
                options[flag] = str(options[flag]).lower() in ("1", "true", "yes", "on")
        if options.get("password"):
            # It would be encoded as latin-1, which is not what the account was made with.
            options["password"] = options["password"].encode()
        module: Any = dialect.loaded_dbapi
        try:
            return _sharing_tls(module.connections.Connection, self._contexts)(
                *arguments, **options
            )
        except module.err.OperationalError as error:
            if error.args[0] != _NO_ANSWER:
                raise
            raise module.err.OperationalError(
                2003, f"no answer to the login: {error.args[1]}"
            ) from None
        except RuntimeError as error:
            # The driver leaves RSA, which some ways of logging in need without TLS, to a package.
            raise DriverMissing(
                f"the server asks for a login that the driver cannot do: {error}",
                "pip install 'pymysql[rsa]', or use TLS: ?ssl_ca=FILE",
            ) from None

    @contextmanager
    def _one(self, url: str, *, read_only: bool = False) -> Iterator[sa.Connection]:
        """One connection with its limits, and no second."""
        engine = self._engine(url, alone=True, poolclass=NullPool)

        def limit(driver: Any, _: Any) -> None:
            self._limit(driver, read_only)

        sa.event.listen(engine, "connect", limit)
        with ExitStack() as stack:
            try:
                connection = stack.enter_context(connected(engine))
            except sa.exc.DBAPIError as error:
                raise self.explain(error, url) from error
            except sa.exc.InvalidRequestError as error:
                raise BranchUnusable(  # a mariadb:// URL that leads to MySQL
                    f"{self._where(url)}: {error}", "write mysql:// in the branch's URL"
                ) from None
            yield connection

    def _limit(self, driver: Any, read_only: bool) -> None:
        """Session settings of every connection."""
        with closing(driver.cursor()) as cursor:
            cursor.execute(self._settings(driver))
            if read_only:
                cursor.execute("SET SESSION TRANSACTION READ ONLY")
        _keep_alive(driver)
        self._be_patient(driver, False)

    def _be_patient(self, driver: Any, patient: bool) -> None:
        """The driver's limit on reading was for the login; a statement may wait for a lock, and a
        long ALTER of a revision must not be cut off at all."""
        limits = self._limits
        if not hasattr(driver, "_read_timeout"):
            return
        margin = limits.connect_timeout + limits.lock_timeout
        unlimited = patient and not limits.statement_timeout
        given = limits.statement_timeout if patient else 0
        driver._read_timeout = None if unlimited else margin + given

    def _settings(self, driver: Any) -> str:
        """The statement that gives the session its settings."""
        limits = self._limits
        seconds = max(1, round(limits.lock_timeout))
        settings: dict[str, float] = {
            "lock_wait_timeout": seconds,
            "innodb_lock_wait_timeout": seconds,
            "wait_timeout": _IDLE,
        }
        if limits.statement_timeout and "MariaDB" in driver.get_server_info():
            settings["max_statement_time"] = limits.statement_timeout
        elif limits.statement_timeout:
            settings["max_execution_time"] = round(limits.statement_timeout * 1000)
        return "SET " + ", ".join(f"SESSION {name} = {value}" for name, value in settings.items())

    # The lock ---------------------------------------------------------------------------------

    @contextmanager
    def lock(self, connection: sa.Connection) -> Iterator[None]:
        name = self._lock_name(connection)
        self._warn_of_galera(connection)
        wait_for_lock(
            lambda: self._taken(connection, name),
            lambda: self._holder(connection, name),
            self._limits.lock_timeout,
        )
        try:
            yield
        finally:
            # A connection that is gone has given its lock back already.
            with suppress(sa.exc.DBAPIError, sa.exc.InvalidRequestError):
                if connection.in_transaction():
                    connection.rollback()
                if self._ask(connection, "SELECT RELEASE_LOCK(%s)", name) != 1:
                    log.warning("the session lock was not ours any more when it was released")

    def _lock_name(self, connection: sa.Connection) -> str:
        """Locks are the whole server's, and their names end at 64 characters."""
        database = _database(connection)
        return f"branchmig:{hashlib.sha256(database.lower().encode()).hexdigest()[:48]}"

    def _taken(self, connection: sa.Connection, name: str) -> bool:
        """GET_LOCK answers 1, 0 where another session has it, and NULL where it failed."""
        answer = self._ask(connection, "SELECT GET_LOCK(%s, 0)", name)
        if answer is None:
            raise BranchUnreachable(
                "the server could not say whether the session lock is to be had",
                "is it short of memory, or was the session killed? Try again",
            )
        return bool(answer)

    def _holder(self, connection: sa.Connection, name: str) -> str:
        """Who has the lock, and what its session is doing: perhaps a dead client's statement."""
        holder = self._ask(connection, "SELECT IS_USED_LOCK(%s)", name)
        with own_transaction(connection):
            row = connection.exec_driver_sql(
                "SELECT id, user, host, time, info FROM information_schema.processlist "
                "WHERE id = %s",
                (holder,),
            ).first()
        if row is None:
            return f"session {holder}" if holder else "another session"
        doing = f", for {row[3]} s at: {mask(' '.join(row[4].split()))[:100]}" if row[4] else ""
        return f"session {row[0]} of {row[1]} from {row[2]}{doing}"

    def _warn_of_galera(self, connection: sa.Connection) -> None:
        url = connection.engine.url
        # Asked once of each server: it is the dearest of the questions before the first statement.
        server = (url.host, url.port, url.query.get("unix_socket"))
        if server not in self._galera:
            with own_transaction(connection):
                row = connection.exec_driver_sql("SHOW VARIABLES LIKE 'wsrep_on'").first()
            self._galera[server] = row is not None and str(row[1]).upper() in ("ON", "1")
        if self._galera[server]:
            log.warning(
                "%s is a node of a Galera cluster: the session lock holds on this node alone, so "
                "let every run reach the branch through the same node",
                self._where(url.render_as_string()),
            )

    def _ask(self, connection: sa.Connection, question: str, *parameters: object) -> Any:
        with own_transaction(connection):
            return connection.exec_driver_sql(question, parameters).scalar()

    # Within a revision ------------------------------------------------------------------------

    def journal(self, connection: sa.Connection, name: str, *, there: bool) -> Journal:
        return Journal(connection, MysqlLanguage(_database(connection)), name, there=there)

    def begin_watch(self, connection: sa.Connection) -> None:
        """The journal watches; here only a revision's own statements may take long."""
        self._be_patient(connection.connection.dbapi_connection, True)

    def end_watch(self, connection: sa.Connection, *, failed: bool = False) -> str | None:
        """That something was committed is no news on this engine."""
        if not failed:  # a long rollback follows where much has been done
            self._be_patient(connection.connection.dbapi_connection, False)
        return None

    def integrity(self, connection: sa.Connection) -> None:
        """The server checks its constraints itself."""

    def check_integrity(self, connection: sa.Connection, before: None) -> None:
        """The server checks its constraints itself."""

    def interrupt(self, connection: sa.Connection) -> None:
        # Only another connection can do it; this one waits for the answer to its statement.
        with suppress(Exception):
            driver: Any = connection.connection.dbapi_connection
            engine = self._engine(
                connection.engine.url.render_as_string(hide_password=False), poolclass=NullPool
            )
            with engine.connect() as other:
                other.exec_driver_sql(f"KILL QUERY {int(driver.thread_id())}")

    # Errors -----------------------------------------------------------------------------------

    def is_own(self, error: BaseException) -> bool:
        return type(error).__module__.partition(".")[0] in ("pymysql", "MySQLdb")

    def classify(self, error: BaseException) -> FailureKind:
        if isinstance(error, BranchBusy):
            return FailureKind.BUSY
        if isinstance(error, BranchUnreachable):
            return FailureKind.UNREACHABLE
        number = _number(error)
        return FailureKind.PERMANENT if number is None else _ERRORS.get(number, (_PERMANENT,))[0]

    def explain(self, error: BaseException, url: str) -> BranchmigError:
        if isinstance(error, BranchmigError):
            return error
        number = _number(error)
        arguments = cause(error).args
        # The driver's own text is a tuple's: number and words.
        said = f"{number}: {arguments[1]}" if number and len(arguments) > 1 else str(cause(error))
        said = " ".join(said.split())
        kind, sentence, hint = _ERRORS.get(-1 if number is None else number, (_PERMANENT, "", None))
        said = f"{sentence} ({said})" if sentence else said
        text = mask(f"{self._where(url)}: {said}")
        if number == 1049:
            return DatabaseMissing(text, hint)
        if kind is FailureKind.BUSY:
            return BranchBusy(text, hint)
        if kind is FailureKind.UNREACHABLE:
            return BranchUnreachable(text, hint)
        return (BranchUnusable if sentence else ProviderError)(text, hint)

    def _where(self, url: str) -> str:
        given = self._url(url)
        return f"{given.host or 'the local server'}/{given.database or ''}"


def _last_rows(cursor: Any, statements: str) -> list[Any]:
    """The rows of the last of several statements."""
    cursor.execute(statements)
    while cursor.nextset():
        pass
    return list(cursor.fetchall())


def _database(connection: sa.Connection) -> str:
    """The server's name for the database of a connection, asked when that was made."""
    return str(connection.dialect.default_schema_name)


def _qualified(table: VersionTable) -> str:
    name = quoted(table.name)
    return f"{quoted(table.schema)}.{name}" if table.schema else name


def _driver_missing(error: ImportError) -> DriverMissing:
    return DriverMissing(
        f"the driver for MySQL and MariaDB is not installed: {error.name}",
        "pip install 'branchmig[mysql]'",
    )


def _sharing_tls(kind: Any, contexts: dict[str, Any]) -> Any:
    """PyMySQL's connection, with one TLS context for all that are set up alike.

    It makes a new one for each connection, even to a server without TLS, and loads the system's
    certificates into it: 35 ms.
    """

    class Connection(kind):  # type: ignore[misc]
        def _create_ssl_ctx(self, options: Any) -> Any:
            if not isinstance(options, dict):
                return options
            key = repr(sorted(options.items()))
            if key not in contexts:
                contexts[key] = super()._create_ssl_ctx(options)
            return contexts[key]

    return Connection


def _keep_alive(driver: Any) -> None:
    fileno = getattr(driver, "fileno", None) or getattr(
        getattr(driver, "_sock", None), "fileno", None
    )
    if fileno is None:
        return
    with closing(socket.socket(fileno=os.dup(fileno()))) as own:
        if own.family == socket.AF_UNIX:
            return
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _number(error: BaseException) -> int | None:
    """The engine's own number of an error, None where it comes from elsewhere."""
    own = cause(error)
    first = own.args[0] if own.args else None
    driver = type(own).__module__.partition(".")[0] in ("pymysql", "MySQLdb")
    return first if driver and isinstance(first, int) else None
