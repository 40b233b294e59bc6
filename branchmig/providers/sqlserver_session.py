"""One session of SQL Server: its first error, its application lock, and who ended its transaction.

Most errors abort the whole transaction on the server, and the next statement silently begins
another; so after its first error a connection is of no use, and nobody can go on with it.
"""

from __future__ import annotations

from contextlib import closing, suppress
from typing import Any

import sqlalchemy as sa

from ..errors import BranchBusy, BranchUnusable
from .connections import own_transaction

OPTION = "branchmig_session"
"""The execution option by which a connection leads to its session."""

# Without parameters, or the table would be gone with the procedure that the driver wraps around
# them; and one by one, as an error of a second statement in a batch comes to light only later. The
# table belongs to the session and tells COMMIT from ROLLBACK: there afterwards, or not.
_MARK = (
    "IF OBJECT_ID('tempdb..#branchmig_watch') IS NOT NULL DROP TABLE #branchmig_watch",
    "CREATE TABLE #branchmig_watch (id int)",
)
_UNMARK = "DROP TABLE #branchmig_watch"
_MARKED = "SELECT CASE WHEN OBJECT_ID('tempdb..#branchmig_watch') IS NULL THEN 0 ELSE 1 END"

# It belongs to the transaction and is gone with it. The ids of transactions would tell as well, but
# have a function since 2016 alone, and a view that not everybody may read.
_BIND = """
SET NOCOUNT ON;
DECLARE @answer int, @name nvarchar(64);
SET @name = N'branchmig:watch:' + CAST(@@SPID AS nvarchar(16));
EXEC @answer = sp_getapplock @Resource = @name, @LockMode = 'Exclusive',
    @LockOwner = 'Transaction', @LockTimeout = 0;
SET NOCOUNT OFF;
SELECT @answer
"""
_BOUND = """
SELECT CASE WHEN @@TRANCOUNT = 0 THEN 'NoLock' ELSE APPLOCK_MODE('public',
    N'branchmig:watch:' + CAST(@@SPID AS nvarchar(16)), 'Transaction') END
"""

# Where a revision has ended the transaction there is none for the driver to commit, which FreeTDS
# calls an error after everything has landed. Where the driver has them begun by the server (bit 2:
# IMPLICIT_TRANSACTIONS) any look at a table begins one.
_GO_ON = (
    "IF @@TRANCOUNT = 0 AND @@OPTIONS & 2 = 0 BEGIN TRANSACTION",
    "SELECT TOP 1 object_id FROM sys.objects",
)

_TAKE = """
SET NOCOUNT ON;
DECLARE @answer int;
EXEC @answer = sp_getapplock @Resource = ?, @LockMode = 'Exclusive', @LockOwner = 'Session',
    @LockTimeout = ?;
SET NOCOUNT OFF;
SELECT @answer
"""
_GIVE_BACK = """
SET NOCOUNT ON;
DECLARE @answer int;
EXEC @answer = sp_releaseapplock @Resource = ?, @LockOwner = 'Session';
SET NOCOUNT OFF;
SELECT @answer
"""

_HOLDER = """
SELECT TOP 1 s.session_id, s.login_name, s.host_name, s.program_name
FROM sys.dm_tran_locks l JOIN sys.dm_exec_sessions s ON s.session_id = l.request_session_id
WHERE l.resource_type = 'APPLICATION' AND l.request_status = 'GRANT'
    AND l.resource_database_id = DB_ID() AND l.resource_description LIKE ?
"""

_RESOURCE_SHOWN = 32
"""So many characters of an application lock's name sys.dm_tran_locks shows."""

_REFUSALS = {
    -1: "held by {holder}",
    -2: "asked for in a statement that was cancelled",
    -3: "asked for in a deadlock",
}
"""sp_getapplock's answers that mean "not now"; 0 and 1 are granted, any other is an error."""


class Session:
    """What has to be known of the one connection of an attempt beyond what the driver tells."""

    def __init__(self) -> None:
        self._first: BaseException | None = None
        self._watching = False
        self._kept: str | None = None
        self._cursor: Any = None

    @classmethod
    def of(cls, connection: sa.Connection) -> Session:
        """The session behind a connection of a strategy."""
        found: Session = connection.get_execution_options()[OPTION]
        return found

    def attend(self, engine: sa.Engine) -> None:
        """Watch over everything that is sent through an engine. To be called before any other
        listener of do_connect: a connection that broke is not replaced by anybody."""
        sa.event.listen(engine, "handle_error", self._failed)
        sa.event.listen(engine, "before_cursor_execute", self._sending)
        sa.event.listen(engine, "commit", self._committing)
        sa.event.listen(engine, "rollback", self._give_up)
        sa.event.listen(engine, "do_connect", self._refuse)

    @property
    def is_broken(self) -> bool:
        """Whether the connection had an error and is of no more use."""
        return self._first is not None

    def _failed(self, context: Any) -> None:
        if self._first is None and _is_drivers(context):
            self._first = context.original_exception
            self._look_behind(context.connection)

    def _sending(self, _: sa.Connection, cursor: Any, *__: Any) -> None:
        self._refuse()
        self._cursor = cursor

    def _refuse(self, *_: Any) -> None:
        """A revision that swallows an error cannot go on; what it is told is that error again."""
        if self._first is not None:
            raise self._first

    def _committing(self, connection: sa.Connection) -> None:
        self._give_up(connection)
        self._refuse()

    def _give_up(self, connection: sa.Connection) -> None:
        """Nobody rolls back what the server has: FreeTDS complains of it, which hides the error,
        and can be left in autocommit."""
        if self._first is not None and not connection.invalidated:
            connection.invalidate(self._first)

    def interrupt(self) -> None:
        """Cancel the statement that runs; from another thread."""
        if self._cursor is not None:
            self._cursor.cancel()

    # The transaction of a revision --------------------------------------------------------------

    def begin_watch(self, connection: sa.Connection) -> None:
        """From now on notice whether the transaction is ended by anybody."""
        self._kept = None
        for statement in _MARK:
            connection.exec_driver_sql(statement)
        answer = connection.exec_driver_sql(_BIND).scalar()
        self._watching = answer in (0, 1)

    def end_watch(self, connection: sa.Connection) -> str | None:
        """ "COMMIT" or "ROLLBACK" where the transaction was ended since `begin_watch`."""
        if not self._watching:
            return None
        self._watching = False
        going_on = connection.exec_driver_sql(_BOUND).scalar() != "NoLock"
        marked = bool(connection.exec_driver_sql(_MARKED).scalar())
        if marked:
            connection.exec_driver_sql(_UNMARK)
        if going_on:
            return None
        for statement in _GO_ON:
            connection.exec_driver_sql(statement).close()
        return "COMMIT" if marked else "ROLLBACK"

    def end_failed_watch(self, connection: sa.Connection) -> str | None:
        """The same after a revision has raised; rolls back, and gives the connection up."""
        if not self.is_broken:
            self._look_behind(connection)
        self._watching = False
        return self._kept

    def _look_behind(self, connection: sa.Connection | None) -> None:
        """What an error has left: the mark outlives the rollback where somebody had committed."""
        if not self._watching or connection is None:
            return
        self._watching = False
        with suppress(Exception):
            driver: Any = connection.connection.dbapi_connection
            # The server may have rolled back already, and FreeTDS then complains.
            with suppress(Exception):
                driver.rollback()
            with closing(driver.cursor()) as cursor:
                (marked,) = cursor.execute(_MARKED).fetchone()
            self._kept = "COMMIT" if marked else None


def distrust(engine: sa.Engine) -> None:
    """Have each connection of a pool given up at its first error, instead of rolled back."""

    def failed(context: Any) -> None:
        if _is_drivers(context):
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = False

    sa.event.listen(engine, "handle_error", failed)


def _is_drivers(context: Any) -> bool:
    """Whether an error comes from a connection that there is, not from the attempt to open one."""
    error = context.original_exception
    return context.connection is not None and isinstance(error, context.dialect.loaded_dbapi.Error)


# The session lock -------------------------------------------------------------------------------


def resource(database: str) -> str:
    """The lock's name: some servers keep one list of names for all of their databases."""
    return f"branchmig:{database.lower()}"


def take(connection: sa.Connection, name: str, seconds: float) -> None:
    """Take the lock, waiting for it at the server. Raises BranchBusy, BranchUnusable."""
    with own_transaction(connection):
        answer = connection.exec_driver_sql(_TAKE, (name, round(seconds * 1000))).scalar()
    if answer in (0, 1):
        return
    if answer in _REFUSALS:
        why = _REFUSALS[answer].format(holder=_holder(connection, name) if answer == -1 else "")
        raise BranchBusy(f"the database's migration lock is {why}", "try again when that has ended")
    raise BranchUnusable(
        f"sp_getapplock refused the lock {name} with {answer}",
        "the account needs to be a user of the database: the lock belongs to the role public",
    )


def give_back(connection: sa.Connection, name: str) -> bool:
    """Release the lock; False where it was not ours any more."""
    if connection.in_transaction():
        connection.rollback()
    with own_transaction(connection):
        return bool(connection.exec_driver_sql(_GIVE_BACK, (name,)).scalar() == 0)


def _holder(connection: sa.Connection, name: str) -> str:
    """Who has the lock, where the account may see it (VIEW SERVER STATE)."""
    shown = name[:_RESOURCE_SHOWN]
    for sign in ("[", "%", "_"):
        shown = shown.replace(sign, f"[{sign}]")
    try:
        with own_transaction(connection):
            row = connection.exec_driver_sql(_HOLDER, (f"%[[]{shown}%",)).first()
    except sa.exc.DBAPIError:
        return "another session"
    if row is None:
        return "another session"
    host = f" from {row[2]}" if row[2] else ""
    program = f" ({row[3]})" if row[3] else ""
    return f"session {row[0]} of {row[1]}{host}{program}"
