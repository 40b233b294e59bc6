"""SQLite: a file, its write transaction as the lock, and a driver that must be kept from helping.

The driver's default mode commits DDL statement by statement; here it never emits a BEGIN or COMMIT
of its own (`isolation_level=None`), every transaction is BEGIN IMMEDIATE, and so a revision lands
whole or not at all (https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#pysqlite-serializable).
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool, Pool, QueuePool

from ..errors import (
    BranchBusy,
    BranchmigError,
    BranchUnreachable,
    BranchUnusable,
    DatabaseMissing,
    DatabaseVanished,
    ProviderError,
    SecondConnection,
    UsageError,
)
from ..masking import mask
from ..model import FailureKind, Heads, Provider, Snapshot, VersionTable
from .connections import malformed
from .examination import Examination, of_file
from .journal import NoJournal
from .protocol import Capabilities, Limits

_COMPILED = 500
"""Compiled statements that a process keeps; SQLAlchemy's engines keep as many each."""

_MAGIC = b"SQLite format 3\0"
_WAL_READ_VERSION = 19
"""Offset of the header byte that is 2 in write-ahead mode (https://sqlite.org/fileformat2.html)."""

_PLAIN_URL = re.compile(r"sqlite:///([A-Za-z0-9_./-]+)")
"""URLs of which nothing has to be found out: the path is what stands behind the three slashes."""

_READS = 10
_PAUSE = 0.01
"""How often a file whose log comes and goes is read anew, and seconds between two such reads."""

_ENDS_TRANSACTION = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(COMMIT|END|ROLLBACK)\b(?!\s+(TRANSACTION\s+)?TO\b)",
    re.IGNORECASE | re.DOTALL,
)
"""A statement, comments before it included, that ends a transaction and not just a savepoint."""

_KINDS = {
    "SQLITE_BUSY": FailureKind.BUSY,
    "SQLITE_LOCKED": FailureKind.BUSY,
    "SQLITE_CANTOPEN": FailureKind.UNREACHABLE,
    "SQLITE_PERM": FailureKind.UNREACHABLE,
    "SQLITE_AUTH": FailureKind.UNREACHABLE,
    "SQLITE_IOERR": FailureKind.TRANSIENT,
    "SQLITE_PROTOCOL": FailureKind.TRANSIENT,
    "SQLITE_SCHEMA": FailureKind.TRANSIENT,
}
"""By primary result code (https://sqlite.org/rescode.html); everything else is permanent."""

_SENTENCES = {
    "SQLITE_READONLY": (
        "the database or its folder is read-only",
        "the user needs to write both the file and its folder: the journal is made beside it",
    ),
    "SQLITE_FULL": ("the disk is full", "free some space; what was begun is rolled back"),
    "SQLITE_IOERR": (
        "the disk failed to read or write",
        "look at free space, quotas and the kernel log; what was begun is rolled back",
    ),
    "SQLITE_NOTADB": (
        "the file is not a SQLite database, or it is encrypted",
        "look at what its URL points to",
    ),
    "SQLITE_CORRUPT": (
        "the database is damaged or truncated",
        "restore it from a backup; `PRAGMA integrity_check` tells more",
    ),
    "SQLITE_INTERRUPT": (
        "a statement took longer than [run] statement_timeout allows",
        "allow it more time; the revision was rolled back",
    ),
    "SQLITE_CANTOPEN": (
        "the database cannot be opened",
        "look at the path, its folder and the rights of the user that runs this",
    ),
}

_PROGRESS = 10_000
"""Instructions of SQLite's virtual machine between two looks at the clock: about a millisecond."""

_READ_ONLY = _SENTENCES["SQLITE_READONLY"]
_NOT_A_DATABASE = _SENTENCES["SQLITE_NOTADB"]

_UNFINISHED = (
    "the database has an unfinished transaction that only a writer can recover",
    "nothing was read, so as to change nothing; `branchmig apply BRANCH` recovers it",
)


class SqliteStrategy:
    """A branch in a file."""

    provider: ClassVar[Provider] = Provider.SQLITE
    dialect: ClassVar[str] = "sqlite"
    capabilities: ClassVar[Capabilities] = Capabilities(
        transactional_ddl=True,
        session_lock=False,
        creates_databases=True,
        scratch_in_memory=True,
        url_holds_secrets=False,
    )
    scratch_url: ClassVar[str] = "sqlite://"

    def __init__(self, limits: Limits, folder: Path) -> None:
        self._limits = limits
        self._folder = folder
        self._dialect: sa.Dialect | None = None
        self._compiled: dict[Any, Any] = {}

    # Where ------------------------------------------------------------------------------------

    def check_url(self, url: str) -> None:
        path = self._path(url)
        try:
            kind = path.stat().st_mode
        except OSError as error:
            # What is not there yet, or not for us to see, an attempt will find out.
            if error.errno == errno.ENAMETOOLONG:
                raise UsageError(f"{path} is longer than a path may be", "shorten it") from None
            return
        if not stat.S_ISREG(kind):
            raise UsageError(f"{path} is {_other(kind)}, not a database file", "name a file")

    def server(self, url: str) -> None:
        return None

    def identity(self, url: str) -> str:
        path = Path(os.path.realpath(self._path(url)))
        # Two names of one file (a hard link) are one database.
        with suppress(OSError):
            info = path.stat()
            if info.st_nlink > 1:
                return f"sqlite:inode:{info.st_dev}:{info.st_ino}"
        return f"sqlite:{path}"

    def _path(self, url: str) -> Path:
        try:
            parsed = make_url(url)
        except (sa.exc.ArgumentError, ValueError) as error:
            raise UsageError(
                f"malformed URL: {malformed(error)}", "for example sqlite:///branches/br001.db"
            ) from None
        if parsed.get_backend_name() != "sqlite" or parsed.drivername not in (
            "sqlite",
            "sqlite+pysqlite",
        ):
            raise UsageError(
                f"the driver {parsed.drivername!r} is not one for SQLite here",
                "write sqlite:///PATH",
            )
        if parsed.host or parsed.username:
            raise UsageError(
                # Not as it was written: what stands there may be the end of a password.
                "a SQLite URL has three slashes before the path: sqlite:///PATH",
                "four for an absolute path: sqlite:////srv/branches/br001.db",
            )
        if not parsed.database or parsed.database == ":memory:":
            raise UsageError(
                "an in-memory database is gone with the connection to it",
                "name a file: sqlite:///branches/br001.db",
            )
        # As written: releases of SQLAlchemy differ in what they make of %XX within a path.
        database = url.partition(":///")[2]
        if parsed.query or "?" in url or database.startswith("file:"):
            raise UsageError(
                "a SQLite URL takes no options here: branchmig decides how a file is opened",
                "write sqlite:///PATH and nothing behind it",
            )
        if "\0" in database or not database.isprintable():
            raise UsageError("a path cannot hold control characters here", "mend the URL")
        return self._folder / database

    # Looking ----------------------------------------------------------------------------------

    def inspect(self, url: str, version_table: VersionTable) -> Snapshot:
        path = self._path(url)
        header = self._header(path)
        if header is None:
            return Snapshot(exists=False, versioned=False)
        found: BranchmigError = BranchBusy(f"{path} is being written", "try again")
        for _ in range(_READS):
            before = _stamp(path)
            mode = _reading_mode(path, header)
            try:
                with closing(self._open(path, mode)) as driver:
                    driver.execute("BEGIN")
                    snapshot = _read(driver, version_table)
            except sqlite3.Error as error:
                found = self.explain(error, url)
                if not _is_wal(header) or isinstance(found, BranchBusy):
                    raise found from error
                # Its log may just be coming or going, and be whole in a moment.
                time.sleep(_PAUSE)
            else:
                # `immutable` takes no lock and sees no log: it is right only if nobody wrote.
                if "immutable" not in mode or _stamp(path) == before:
                    return snapshot
        raise found

    def _header(self, path: Path) -> bytes | None:
        """The first bytes of the file, None where there is no database (no file, or an empty one).

        Not to be called while this process has the file open: closing any descriptor of a file
        drops all locks that the process holds on it (https://sqlite.org/howtocorrupt.html).
        """
        try:
            kind = path.stat().st_mode
            # Before opening it: a pipe would wait for whoever writes it.
            if not stat.S_ISREG(kind):
                raise BranchUnusable(
                    f"{path} is {_other(kind)}, not a database file", "mend the branch's URL"
                )
            with path.open("rb") as file:
                header = file.read(100)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise BranchUnreachable(
                f"{path}: a part of this path is a file", "mend the branch's URL"
            ) from None
        except OSError as error:
            raise BranchUnreachable(
                f"{path} cannot be read: {error.strerror}",
                "look at the path and at the rights of the user that runs this",
            ) from error
        if not header:
            return None
        if not header.startswith(_MAGIC):
            raise BranchUnusable(f"{path}: {_NOT_A_DATABASE[0]}", _NOT_A_DATABASE[1])
        return header

    def versions(self, url: str, version_table: VersionTable) -> Snapshot:
        return replace(self.inspect(url, version_table), tables=frozenset())

    def versions_together(
        self, urls: Sequence[str], version_table: VersionTable
    ) -> Mapping[str, Snapshot]:
        """Of the plain ones, over one connection to which each file is attached in its turn: to
        open one for each costs a quarter more. The others, and those that somebody is writing, are
        for `inspect`."""
        found: dict[str, Snapshot] = {}
        snapshots: dict[Heads, Snapshot] = {}  # mostly it is one for all of them
        select = _select_versions(version_table.name)
        with closing(sqlite3.connect(":memory:", 0, isolation_level=None, uri=True)) as driver:
            for url in urls:
                try:
                    path = self._quick_path(url)
                    if not _is_plain(path):
                        continue
                    driver.execute("ATTACH ? AS branch", (_file_uri(path, "mode=ro"),))
                    try:
                        # One statement is one consistent view.
                        rows = driver.execute(select).fetchall()
                    finally:
                        driver.execute("DETACH branch")
                except (OSError, UsageError, sqlite3.Error):
                    continue
                heads = tuple(sorted([str(row[0]) for row in rows]))
                if heads not in snapshots:
                    snapshots[heads] = Snapshot(True, True, heads)
                found[url] = snapshots[heads]
        return found

    def _quick_path(self, url: str) -> str:
        """As `_path`, for ten thousand of them."""
        if plain := _PLAIN_URL.fullmatch(url):
            return os.path.join(self._folder, plain[1])  # noqa: PTH118 - ten thousand times
        return str(self._path(url))

    # Opening ----------------------------------------------------------------------------------

    def examine(self, url: str) -> Examination:
        return of_file(self._path(url))

    def create(self, url: str) -> None:
        path = self._path(url)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o666))
        except OSError as error:
            raise BranchUnreachable(
                f"{path} cannot be created: {error.strerror}",
                "make its folder and let the user that runs this write it",
            ) from error

    @contextmanager
    def connect(self, url: str) -> Iterator[sa.Connection]:
        path = self._path(url)
        header = self._header(path)
        if header is None and not path.exists():
            raise DatabaseMissing(
                f"there is no database {path}",
                "let it be created ([run] create_databases = true), or mend the branch's URL",
            )
        if header and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)):
            raise BranchUnusable(f"{path}: {_READ_ONLY[0]}", _READ_ONLY[1])
        with self._one(_address(path), lambda: self._open(path, "mode=rw")) as connection:
            yield connection

    @contextmanager
    def scratch(self, url: str) -> Iterator[sa.Connection]:
        with self._one(
            self.scratch_url, lambda: sqlite3.connect(":memory:", isolation_level=None)
        ) as connection:
            yield connection

    def engine(self, url: str) -> sa.Engine:
        path = self._path(url)
        return _engine(_address(path), lambda: self._open(path, "mode=rw"), QueuePool)

    def read_engine(self, url: str) -> sa.Engine:
        path = self._path(url)

        def open_reader() -> sqlite3.Connection:
            header = self._header(path)
            if header is None:
                raise DatabaseMissing(f"there is no database {path}")
            driver = self._open(path, _reading_mode(path, header))
            driver.execute("PRAGMA query_only=ON")
            return driver

        return _engine(_address(path), open_reader, NullPool)

    def _open(self, path: Path, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(
            _file_uri(path, mode),
            uri=True,
            timeout=self._limits.lock_timeout,
            isolation_level=None,
            # `interrupt` comes from another thread; everything else stays on one.
            check_same_thread=False,
        )

    @contextmanager
    def _one(self, url: str, opener: Callable[[], sqlite3.Connection]) -> Iterator[sa.Connection]:
        """One SQLAlchemy connection over one driver connection, and no second."""
        opened: list[sqlite3.Connection] = []

        def open_once() -> sqlite3.Connection:
            if opened:
                raise SecondConnection(
                    "a second connection to the branch was asked for within one attempt",
                    "a revision must use op.get_bind(): another connection (bind.engine, a Session "
                    "of its own) would meet the lock that the migration holds",
                )
            opened.append(opener())
            return opened[0]

        def begin(connection: sa.Connection) -> None:
            try:
                _begin_immediate(connection)
            except sqlite3.Error as error:
                # SQLAlchemy does not wrap what its events raise.
                raise self.explain(error, url) from error

        engine = self._prepared(url, open_once)
        sa.event.listen(engine, "begin", begin)
        try:
            with engine.connect() as connection:
                self._dialect = engine.dialect
                connection.execution_options(compiled_cache=self._compiled)
                yield connection
        finally:
            engine.dispose()
            for driver in opened:
                driver.close()

    def _prepared(self, url: str, opener: Callable[[], sqlite3.Connection]) -> sa.Engine:
        """An engine that is one branch's alone, by its URL, pool and listeners. What it has found
        out about SQLite, and the statements that it has compiled, are those of the one before it:
        to begin anew was a tenth of the CPU of an attempt."""
        if len(self._compiled) > _COMPILED:
            self._compiled.clear()
        if self._dialect is None:
            return sa.create_engine(url, creator=opener, poolclass=NullPool, hide_parameters=True)
        dialect = self._dialect
        prepare = dialect.on_connect()

        def open_prepared() -> sqlite3.Connection:
            driver = opener()
            if prepare:
                prepare(driver)
            return driver

        creator: Any = open_prepared  # the pool's own types know no driver's connection
        pool = NullPool(creator, dialect=dialect)
        return sa.Engine(pool, dialect, make_url(url), hide_parameters=True)

    # The lock ---------------------------------------------------------------------------------

    @contextmanager
    def lock(self, connection: sa.Connection) -> Iterator[None]:
        """The write transaction is the lock, and each revision takes it anew; here it is tried."""
        connection.begin().rollback()
        yield

    def schema(self, connection: sa.Connection) -> dict[str, frozenset[str]]:
        found = sa.inspect(connection).get_multi_columns()
        return {
            name: frozenset(column["name"] for column in columns)
            for (_, name), columns in found.items()
        }

    def read(self, connection: sa.Connection, version_table: VersionTable) -> Snapshot:
        return _read(_driver(connection), version_table)

    def missing_tables(self, present: frozenset[str], required: tuple[str, ...]) -> tuple[str, ...]:
        # SQLite compares names without regard to ASCII case.
        known = {name.lower() for name in present}
        return tuple(name for name in required if name.lower() not in known)

    def statements(self, script: str) -> list[str]:
        found, text = [], ""
        for piece in script.split(";"):
            text += piece
            # SQLite's own word on it: within a literal, a comment or a trigger it goes on.
            if sqlite3.complete_statement(f"{text};"):
                found.append(text)
                text = ""
            else:
                text += ";"
        found.append(text.removesuffix(";"))
        return [statement for statement in found if _says_anything(statement)]

    # Within a revision ------------------------------------------------------------------------

    def journal(self, connection: sa.Connection, name: str, *, there: bool) -> NoJournal:
        return NoJournal()

    def begin_watch(self, connection: sa.Connection) -> None:
        ended: list[str] = []
        connection.info["branchmig_ended"] = ended

        def see(statement: str) -> None:
            match = _ENDS_TRANSACTION.match(statement)
            if match:
                ended.append(match[1].upper())
            deadline[0] = time.monotonic() + limit

        limit = self._limits.statement_timeout
        deadline = [time.monotonic() + limit]
        if limit:
            # A true answer interrupts the statement (https://sqlite.org/c3ref/progress_handler.html).
            _driver(connection).set_progress_handler(
                lambda: time.monotonic() > deadline[0], _PROGRESS
            )
        # The trace sees what no event of SQLAlchemy does: executescript and raw cursors.
        _driver(connection).set_trace_callback(see)

    def end_watch(self, connection: sa.Connection, *, failed: bool = False) -> str | None:
        driver = _driver(connection)
        driver.set_trace_callback(None)
        driver.set_progress_handler(None, 0)
        ended: list[str] = connection.info.pop("branchmig_ended", [])
        # Without a word: ON CONFLICT ROLLBACK and RAISE(ROLLBACK), whose error was swallowed.
        if "ROLLBACK" in ended or not (ended or driver.in_transaction):
            return "ROLLBACK"
        return "COMMIT" if ended else None

    def integrity(self, connection: sa.Connection) -> Counter[tuple[str, str]] | None:
        """Broken foreign keys counted by child and parent; None where the check itself cannot run.

        Foreign keys are off while a revision runs, or a table rebuilt in batch mode would delete
        the rows of its children; so they are checked as a whole before the commit
        (https://sqlite.org/lang_altertable.html#otheralter, steps 1 and 10).
        """
        try:
            found = _driver(connection).execute("PRAGMA foreign_key_check").fetchall()
        except sqlite3.OperationalError as error:
            if _code(error) != "SQLITE_ERROR":
                raise
            return None
        return Counter((row[0], row[2]) for row in found)

    def check_integrity(
        self, connection: sa.Connection, before: Counter[tuple[str, str]] | None
    ) -> None:
        after = self.integrity(connection)
        if after is None:
            if before is None:
                return
            raise BranchUnusable(
                "a foreign key refers to columns that are not unique in its parent table",
                "mend the revision: it was rolled back",
            )
        before = before or Counter()
        worse = after - before
        # What was broken before may only have moved with a table that was renamed.
        tables = {name.lower() for name in _tables(_driver(connection))}
        moved = sum(
            count
            for pair, count in (before - after).items()
            if not {name.lower() for name in pair} <= tables
        )
        if worse.total() > moved:
            (child, parent), count = worse.most_common(1)[0]
            raise BranchUnusable(
                f"{count} rows of {child} would refer to rows of {parent} that do not exist",
                "mend the revision or the data: it was rolled back",
            )

    def interrupt(self, connection: sa.Connection) -> None:
        # It may just have been closed; then there is nothing to cancel.
        with suppress(sqlite3.ProgrammingError, sa.exc.InvalidRequestError, AttributeError):
            _driver(connection).interrupt()

    # Errors -----------------------------------------------------------------------------------

    def is_own(self, error: BaseException) -> bool:
        return isinstance(error, sqlite3.Error)

    def classify(self, error: BaseException) -> FailureKind:
        if isinstance(error, BranchBusy):
            return FailureKind.BUSY
        # What has vanished is mostly a share that is not mounted.
        if isinstance(error, (BranchUnreachable, DatabaseVanished)):
            return FailureKind.UNREACHABLE
        return _KINDS.get(_code(_cause(error)), FailureKind.PERMANENT)

    def explain(self, error: BaseException, url: str) -> BranchmigError:
        if isinstance(error, BranchmigError):
            return error
        cause = _cause(error)
        code = _code(cause)
        path = self._path(url) if url != self.scratch_url else Path("scratch")
        if _KINDS.get(code) is FailureKind.BUSY:
            return BranchBusy(
                f"{path} is locked by another program for longer than "
                f"{self._limits.lock_timeout:g} s",
                "try again when it has finished; `fuser` names who holds a file open",
            )
        if getattr(cause, "sqlite_errorname", "") in (
            "SQLITE_READONLY_ROLLBACK",
            "SQLITE_READONLY_RECOVERY",
            "SQLITE_READONLY_CANTINIT",
        ) or (code == "SQLITE_CANTOPEN" and _unfinished(path)):
            return BranchUnusable(f"{path}: {_UNFINISHED[0]}", _UNFINISHED[1])
        if getattr(cause, "sqlite_errorname", "") == "SQLITE_READONLY_DBMOVED":
            return BranchUnreachable(
                f"{path} was moved or deleted while it was open", "is its disk or share mounted?"
            )
        sentence, hint = _SENTENCES.get(code, (str(cause), None))
        kind: type[ProviderError] = (
            BranchUnreachable if _KINDS.get(code) is FailureKind.UNREACHABLE else BranchUnusable
        )
        if code not in _SENTENCES:
            kind = ProviderError
        return kind(f"{path}: {mask(sentence)}", hint)


def _file_uri(path: Path | str, mode: str) -> str:
    """What SQLite opens (https://sqlite.org/uri.html); a name that is not UTF-8 as its bytes."""
    return f"file:{quote(os.fsencode(path))}?{mode}"


def _address(path: Path) -> str:
    return sa.URL.create("sqlite", database=str(path)).render_as_string()


def _driver(connection: sa.Connection) -> sqlite3.Connection:
    driver = connection.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def _begin_immediate(connection: sa.Connection) -> None:
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        return  # within Alembic's autocommit_block
    driver = _driver(connection)
    if driver.in_transaction:
        return
    # autocommit_block leaves the level at "", with which the driver begins transactions itself.
    driver.isolation_level = None
    # Here, not on connect: other listeners may have switched it on, and within a transaction
    # the pragma is ignored.
    driver.execute("PRAGMA foreign_keys=OFF")
    # A reader cannot take the write lock, and does not need it for one consistent view.
    reader = driver.execute("PRAGMA query_only").fetchone()[0]
    driver.execute("BEGIN" if reader else "BEGIN IMMEDIATE")


def _engine(
    url: str,
    opener: Callable[[], sqlite3.Connection],
    pool: type[Pool],
    begin: Callable[[sa.Connection], None] = _begin_immediate,
) -> sa.Engine:
    engine = sa.create_engine(url, creator=opener, poolclass=pool, hide_parameters=True)
    sa.event.listen(engine, "begin", begin)
    return engine


def _is_wal(header: bytes) -> bool:
    return header[_WAL_READ_VERSION : _WAL_READ_VERSION + 1] == b"\x02"


def _reading_mode(path: Path, header: bytes) -> str:
    """How to open a file so that reading it leaves nothing behind.

    In write-ahead mode even `mode=ro` makes the log and its index where they are missing. Without
    a log the file itself is complete, so it may be read as `immutable`; with one the reader uses
    what is there (`readonly_shm`), or fails.
    """
    if not _is_wal(header):
        return "mode=ro"
    log = Path(f"{path}-wal").exists()
    return "mode=ro&readonly_shm=1" if log else "mode=ro&immutable=1"


def _stamp(path: Path) -> tuple[object, ...]:
    """What differs after somebody wrote, or opened or closed a log."""
    try:
        info = path.stat()
    except OSError:
        return ()
    logs = (Path(f"{path}{suffix}").exists() for suffix in ("-wal", "-shm"))
    return info.st_mtime_ns, info.st_size, *logs


def _unfinished(path: Path) -> bool:
    with suppress(OSError):
        return any(Path(f"{path}{suffix}").exists() for suffix in ("-journal", "-wal"))
    return False


def _other(kind: int) -> str:
    """What is not a regular file, by the mode that stat gives."""
    return "a folder" if stat.S_ISDIR(kind) else "a device or a pipe"


def _tables(driver: sqlite3.Connection) -> set[str]:
    found = driver.execute(
        "SELECT name FROM sqlite_master "
        "WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    return {name for (name,) in found}


def _read(driver: sqlite3.Connection, version_table: VersionTable) -> Snapshot:
    tables = _tables(driver)
    own = next((name for name in tables if name.lower() == version_table.name.lower()), None)
    if own is None:
        # A database without any table is one that nothing was ever done to.
        return Snapshot(exists=True, versioned=False, tables=frozenset(tables))
    rows = driver.execute(_select_versions(own)).fetchall()
    return Snapshot(
        exists=True,
        versioned=True,
        heads=tuple(sorted(str(row[0]) for row in rows)),
        tables=frozenset(tables - {own}),
    )


def _says_anything(statement: str) -> bool:
    """Whether there is more than blanks and comments."""
    return bool(re.sub(r"--[^\n]*|/\*.*?\*/|\s", "", statement, flags=re.DOTALL))


@lru_cache(16)
def _select_versions(table: str) -> str:
    quoted = table.replace('"', '""')
    return f'SELECT version_num FROM "{quoted}"'


def _is_plain(path: str) -> bool:
    """Whether there is a database with a rollback journal, to be read without a trace."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for whoever writes it
    try:
        header = os.read(file, 100)
    finally:
        os.close(file)
    return header.startswith(_MAGIC) and not _is_wal(header)


def _cause(error: BaseException) -> BaseException:
    """The driver's own exception within SQLAlchemy's, or the one given."""
    original = getattr(error, "orig", None)
    return original if isinstance(original, BaseException) else error


def _code(error: BaseException) -> str:
    """The primary result code by name; extended codes add a suffix to it."""
    name = getattr(error, "sqlite_errorname", "") or ""
    return "_".join(name.split("_")[:2])
