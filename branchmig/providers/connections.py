"""What the strategies of servers share: one connection and no second, and waiting for a lock."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from ..errors import (
    BranchBusy,
    BranchUnreachable,
    BranchUnusable,
    SecondConnection,
    UsageError,
)
from ..masking import mask, remember


def parsed(url: str, driver: str) -> URL:
    """A URL in its parts, with `driver` where it names none; its passwords are masked from now on.

    Raises UsageError: malformed, or with a driver that SQLAlchemy does not know.
    """
    try:
        found = make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise UsageError(f"malformed URL: {malformed(error)}") from None
    remember(found.password)
    for key, value in found.query.items():
        if "passw" in key.lower():
            for secret in [value] if isinstance(value, str) else value:
                remember(secret)
    if "@" in (found.host or "") or re.search("@.*/", found.database or ""):
        # What SQLAlchemy takes for host and database then, is the end of the password.
        raise UsageError("malformed URL: it has an @ too many", "write %40 for an @ in a password")
    if "+" not in found.drivername:
        found = found.set(drivername=f"{found.drivername}+{driver}")
    try:
        found.get_dialect()
    except sa.exc.NoSuchModuleError:
        raise UsageError(
            f"unknown driver in the URL: {found.drivername}",
            f"leave it out, for {driver}, or name one that SQLAlchemy knows",
        ) from None
    return found


def malformed(error: Exception) -> str:
    """Why SQLAlchemy does not take a URL. What it takes for the port may be a part of the
    password, so that is not quoted."""
    return "its port is no number" if isinstance(error, ValueError) else mask(str(error))


def dialect_with_driver(address: URL) -> sa.Dialect:
    """The dialect of a URL, to connect by its driver without an engine. Raises ImportError."""
    kind: Any = address.get_dialect()  # its class takes arguments that sa.Dialect does not declare
    dialect: sa.Dialect = kind(dbapi=kind.import_dbapi())
    return dialect


@contextmanager
def options_taken() -> Iterator[None]:
    """Within, a driver is given what a URL says. Raises BranchUnusable where it chokes on that."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise BranchUnusable(
            f"the driver does not take what the URL says: {mask(str(error))}",
            "look at what stands behind the question mark of the branch's URL",
        ) from error


def refuse_second(engine: sa.Engine) -> None:
    """From now on whoever asks an engine for another connection gets SecondConnection.

    Once the first was lost that is BranchUnreachable: SQLAlchemy itself asks, to replace it. To be
    called before other listeners of do_connect: the first that opens one ends their turn.
    """
    opened: list[bool] = []
    lost: list[bool] = []

    def once(*_: Any) -> None:
        if lost:
            raise BranchUnreachable(
                "the connection to the branch was lost",
                "look at network, proxies and the server's log",
            )
        if opened:
            raise SecondConnection(
                "a second connection to the branch was asked for within one attempt",
                "a revision must use op.get_bind(): another connection has neither the lock "
                "nor the limits",
            )
        opened.append(True)

    sa.event.listen(engine, "do_connect", once)
    sa.event.listen(engine, "invalidate", lambda *_: lost.append(True))


@contextmanager
def connected(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection of an engine that is gone afterwards.

    Raises what the driver raises, within SQLAlchemy's exceptions.
    """
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def own_transaction(connection: sa.Connection) -> Iterator[None]:
    """Leaves the connection as it was: a question asked outside a transaction opens one."""
    before = connection.in_transaction()
    try:
        yield
    finally:
        if not before and connection.in_transaction():
            connection.rollback()


def wait_for_lock(taken: Callable[[], bool], holder: Callable[[], str], seconds: float) -> None:
    """Ask until the lock is `taken`. Raises BranchBusy, naming its `holder`, after `seconds`."""
    deadline = time.monotonic() + seconds
    while not taken():
        if time.monotonic() >= deadline:
            raise BranchBusy(
                f"the database is being migrated by {holder()}", "try again when that has ended"
            )
        # Not the servers' own waiting: a stop could not end that.
        time.sleep(0.1)


def cause(error: BaseException) -> BaseException:
    """The driver's own exception within SQLAlchemy's."""
    original = getattr(error, "orig", None)
    return original if isinstance(original, BaseException) else error
