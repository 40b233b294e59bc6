"""MySQL and MariaDB: DDL that commits at once, and a lock that belongs to the whole server.

What a revision did is journaled (see `journal`). The session lock is GET_LOCK under a name made of
the database's; it is bound to the connection, outlives COMMIT and ROLLBACK, and the server frees it
when the connection has truly ended, which may be later than the client's death.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
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
from .examination import Examination, of_mysql
from .journal import Journal
from .marks import TABLE as JOURNAL
from .mysql_driver import connection_class, keep_alive
from .mysql_errors import meaning, number_of
from .mysql_language import MysqlLanguage
from .mysql_look import JOURNAL_ALONE, TABLES, look, look_together, qualified
from .mysql_statements import quoted, statements
from .options import MYSQL
from .protocol import Capabilities, Limits

log = logging.getLogger("branchmig")

_LOCAL = ("localhost", "127.0.0.1", "::1")

_IDLE = 3600
"""Seconds after which the server ends a session that asks nothing, and with it its lock: a client
whose host lost power says no good-bye."""

_FLAGS = ("ssl_disabled", "ssl_verify_cert", "ssl_verify_identity")

_NO_ANSWER = 2013

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
        url_holds_secrets=True,
    )
    scratch_url: ClassVar[str] = "mysql+pymysql://"

    def __init__(self, limits: Limits, folder: Path) -> None:
        self._limits = limits
        self._dialects: dict[str, sa.Dialect] = {}
        self._galera: dict[tuple[Any, ...], bool] = {}

    # Where ------------------------------------------------------------------------------------

    def check_url(self, url: str) -> None:
        given = self._url(url)
        MYSQL.check(given)
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
        return self._look(url, version_table, TABLES)

    def versions(self, url: str, version_table: VersionTable) -> Snapshot:
        return replace(self._look(url, version_table, JOURNAL_ALONE), tables=frozenset())

    def _look(self, url: str, version_table: VersionTable, tables: str) -> Snapshot:
        address = self._url(url)
        try:
            if address.drivername.endswith("+pymysql"):
                with closing(self._reader(address)) as driver, closing(driver.cursor()) as cursor:
                    begin = f"{self._begin(driver)}; START TRANSACTION READ ONLY"
                    return look(cursor, begin, tables, version_table)
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

    def versions_together(
        self, urls: Sequence[str], version_table: VersionTable
    ) -> Mapping[str, Snapshot]:
        found: dict[str, Snapshot] = {}
        if version_table.schema:
            return found
        for server, databases in self._accounts(urls).items():
            if len(databases) < 2:
                continue
            try:
                with closing(self._reader(server)) as driver, closing(driver.cursor()) as cursor:
                    begin = f"{self._begin(driver)}; SET SESSION TRANSACTION READ ONLY"
                    told = look_together(cursor, begin, tuple(databases), version_table)
            except Exception as error:
                if not isinstance(error, BranchmigError) and not self.is_own(error):
                    raise
                continue  # each is asked by itself, and tells what is wrong
            found.update((url, told[name]) for name in told for url in databases[name])
        return found

    def _accounts(self, urls: Sequence[str]) -> dict[URL, dict[str, list[str]]]:
        """URLs by their database's name, by what else they say: those that one login may serve."""
        accounts: dict[URL, dict[str, list[str]]] = {}
        for url in urls:
            with suppress(UsageError):
                address = self._url(url)
                if address.drivername.endswith("+pymysql") and address.database:
                    databases = accounts.setdefault(address.set(database=""), {})
                    databases.setdefault(address.database, []).append(url)
        return accounts

    def _begin(self, driver: Any) -> str:
        """What a look says before its question, in the same round trip."""
        return f"SET NAMES {driver.charset}; {self._settings(driver)}"

    def _reader(self, address: URL) -> Any:
        """A connection of the driver's, set up as an engine would, in autocommit: an engine asks
        the server half a dozen questions of its own first."""
        MYSQL.usable(address)
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
            driver = self._logged_in(dialect, arguments, options, looking=True)
        self._be_patient(driver, False)
        return driver

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
            name = qualified(version_table)
            try:
                rows = connection.exec_driver_sql(f"SELECT version_num FROM {name}").scalars()
            except sa.exc.DBAPIError as error:
                if number_of(error) not in (1146, 1049):
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

    def statements(self, script: str) -> list[str]:
        return statements(script)

    # Opening ----------------------------------------------------------------------------------

    def examine(self, url: str) -> Examination:
        with self.connect(url) as connection:
            return of_mysql(connection)

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
                MYSQL.usable(self._url(url)),
                connect_args={"connect_timeout": self._connect_timeout()},
                hide_parameters=True,
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
        return self._logged_in(dialect, arguments, options)

    def _logged_in(
        self, dialect: sa.Dialect, arguments: Any, options: Any, *, looking: bool = False
    ) -> Any:
        """Complete what the driver is given. PyMySQL's connection is made here, to share TLS;
        None: another driver makes its own."""
        options.setdefault("charset", "utf8mb4")
        # With it a server may answer any statement by asking for any file of this host.
        options["local_infile"] = False
        if dialect.driver != "pymysql":
            return None
        options["read_default_file"] = None
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
            return connection_class(module.connections.Connection, looking=looking)(
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
        keep_alive(driver)
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
        return meaning(error)[0]

    def explain(self, error: BaseException, url: str) -> BranchmigError:
        if isinstance(error, BranchmigError):
            return error
        number = number_of(error)
        arguments = cause(error).args
        # The driver's own text is a tuple's: number and words.
        said = f"{number}: {arguments[1]}" if number and len(arguments) > 1 else str(cause(error))
        said = " ".join(said.split())
        kind, sentence, hint = meaning(error)
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


def _database(connection: sa.Connection) -> str:
    """The server's name for the database of a connection, asked when that was made."""
    return str(connection.dialect.default_schema_name)


def _driver_missing(error: ImportError) -> DriverMissing:
    return DriverMissing(
        f"the driver for MySQL and MariaDB is not installed: {error.name}",
        "pip install 'branchmig[mysql]'",
    )
