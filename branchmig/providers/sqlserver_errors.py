"""What SQL Server and its drivers complain of: by native number first, then by SQLSTATE.

The same trouble looks different by driver, and one message may hold several: the database that is
missing stands beside the login that failed for it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ..model import FailureKind
from .connections import cause

_BUSY, _TRANSIENT = FailureKind.BUSY, FailureKind.TRANSIENT
_UNREACHABLE, _PERMANENT = FailureKind.UNREACHABLE, FailureKind.PERMANENT

MISSING = (4060, 911)
"""The database cannot be opened by this login; it does not exist."""
ALREADY_THERE = 1801
LOCKED = 1222
CREATION_WAITS = (1807, LOCKED)
"""Somebody else is creating a database: only one may have the model."""
IN_USE = 3702


class Judgement(NamedTuple):
    """What an error means; `sentence` empty: nothing that the table knows."""

    kind: FailureKind
    sentence: str = ""
    hint: str | None = None


_ENDED = (
    "the transaction had ended already",
    "an error before this one, or the revision itself, rolled it back",
)
_FULL = ("the server's disk is full", "free some space; the revision was rolled back")
_LOST = ("the connection broke", "look at network, proxies and the server's log")
_NO_DATABASE = ("the database does not exist", "create it, or let branchmig: create_databases")
_NO_DRIVER = ("the ODBC driver cannot be loaded", None)
_NO_RIGHT = ("the account lacks a right", "grant what the message names")
_NOT_READY = ("the database is not online", "look at its state in sys.databases")
_NOT_THERE = ("the server cannot be reached", "look at host, port, network and the server")
_READ_ONLY = ("the database is read-only", "is it a replica? Name the primary in the branch's URL")
_REFUSED = ("the login is refused", "look at user, password and the logins of the server")
_SHUT_DOWN = ("the server was shut down", "start it; the revision was rolled back")
_STARTING = ("the server or the database is starting up", "try again")
_TLS = (
    "TLS could not be agreed on",
    "have this host trust the server's certificate, or name it: ?ServerCertificate=FILE; "
    "look at Encrypt in the URL and HostNameInCertificate",
)
_TOO_LONG = ("the statement ran longer than allowed", "look at [run] statement_timeout")
_TOO_MANY = ("the server has too many connections", "the run goes slower and comes back")

_NUMBERS: dict[int, Judgement] = {
    4060: Judgement(_PERMANENT, *_NO_DATABASE),
    911: Judgement(_PERMANENT, *_NO_DATABASE),
    1801: Judgement(_PERMANENT, "the database is there already", "nothing to do"),
    10928: Judgement(_BUSY, *_TOO_MANY),
    10929: Judgement(_BUSY, *_TOO_MANY),
    10936: Judgement(_BUSY, *_TOO_MANY),
    17809: Judgement(_BUSY, *_TOO_MANY),
    40501: Judgement(_BUSY, "the service is busy", "the run goes slower and comes back"),
    1222: Judgement(_TRANSIENT, "a lock was not to be had in time",
                    "somebody uses the table; the run comes back"),
    1205: Judgement(_TRANSIENT, "a deadlock was broken", "the run comes back"),
    1204: Judgement(_TRANSIENT, "the server is out of locks", "the run comes back"),
    1807: Judgement(_TRANSIENT, "another database is being created", "the run comes back"),
    3960: Judgement(_TRANSIENT, "a row changed under the transaction", "the run comes back"),
    8645: Judgement(_TRANSIENT, "the server is short of memory", "the run comes back"),
    18450: Judgement(_UNREACHABLE, *_REFUSED),
    18452: Judgement(_UNREACHABLE, *_REFUSED),
    18456: Judgement(_UNREACHABLE, *_REFUSED),
    18470: Judgement(_UNREACHABLE, "the account is disabled", "enable it"),
    18486: Judgement(_UNREACHABLE, "the account is locked", "unlock it"),
    18487: Judgement(_UNREACHABLE, "the password has expired", "set a new one"),
    18488: Judgement(_UNREACHABLE, "the password has to be changed", "set a new one"),
    18401: Judgement(_UNREACHABLE, *_STARTING),
    18451: Judgement(_UNREACHABLE, "the server lets only administrators in", "try again later"),
    18461: Judgement(_UNREACHABLE, "the server lets only one user in", "try again later"),
    596: Judgement(_UNREACHABLE, "the connection was killed", "somebody ended it at the server"),
    6005: Judgement(_UNREACHABLE, *_SHUT_DOWN),
    17142: Judgement(_UNREACHABLE, "the server is paused", "resume it"),
    17147: Judgement(_UNREACHABLE, *_SHUT_DOWN),
    17148: Judgement(_UNREACHABLE, *_SHUT_DOWN),
    40197: Judgement(_UNREACHABLE, *_SHUT_DOWN),
    40613: Judgement(_UNREACHABLE, *_NOT_READY),
    233: Judgement(_UNREACHABLE, *_LOST),
    4014: Judgement(_UNREACHABLE, *_LOST),
    10053: Judgement(_UNREACHABLE, *_LOST),
    10054: Judgement(_UNREACHABLE, *_LOST),
    10060: Judgement(_UNREACHABLE, *_NOT_THERE),
    10061: Judgement(_UNREACHABLE, *_NOT_THERE),
    20003: Judgement(_UNREACHABLE, *_NOT_THERE),
    20004: Judgement(_UNREACHABLE, *_LOST),
    20006: Judgement(_UNREACHABLE, *_LOST),
    20009: Judgement(_UNREACHABLE, *_NOT_THERE),
    20017: Judgement(_UNREACHABLE, *_LOST),
    20047: Judgement(_UNREACHABLE, *_LOST),
    921: Judgement(_UNREACHABLE, *_STARTING),
    922: Judgement(_UNREACHABLE, *_STARTING),
    924: Judgement(_UNREACHABLE, "the database lets only one user in", "try again later"),
    927: Judgement(_UNREACHABLE, "the database is being restored", "try again later"),
    942: Judgement(_UNREACHABLE, *_NOT_READY),
    945: Judgement(_UNREACHABLE, *_NOT_READY),
    952: Judgement(_UNREACHABLE, *_NOT_READY),
    976: Judgement(_PERMANENT, *_READ_ONLY),
    978: Judgement(_PERMANENT, *_READ_ONLY),
    979: Judgement(_PERMANENT, *_READ_ONLY),
    983: Judgement(_UNREACHABLE, *_NOT_READY),
    3906: Judgement(_PERMANENT, *_READ_ONLY),
    1101: Judgement(_PERMANENT, *_FULL),
    1105: Judgement(_PERMANENT, *_FULL),
    3257: Judgement(_PERMANENT, *_FULL),
    5149: Judgement(_PERMANENT, *_FULL),
    9002: Judgement(_PERMANENT, "the transaction log is full",
                    "back it up or let it grow; the revision was rolled back"),
    229: Judgement(_PERMANENT, *_NO_RIGHT),
    230: Judgement(_PERMANENT, *_NO_RIGHT),
    262: Judgement(_PERMANENT, *_NO_RIGHT),
    297: Judgement(_PERMANENT, *_NO_RIGHT),
    300: Judgement(_PERMANENT, *_NO_RIGHT),
    916: Judgement(_PERMANENT, "the account has no right on this database",
                   "make it a user there"),
    15247: Judgement(_PERMANENT, *_NO_RIGHT),
    3902: Judgement(_PERMANENT, *_ENDED),
    3903: Judgement(_PERMANENT, *_ENDED),
}  # fmt: skip
"""By number (learn.microsoft.com/sql/relational-databases/errors-events; from 20000 on FreeTDS's
own, sybdb.h)."""

_STATES: dict[str, Judgement] = {
    "08001": Judgement(_UNREACHABLE, *_NOT_THERE),
    "08S01": Judgement(_UNREACHABLE, *_LOST),
    "08003": Judgement(_UNREACHABLE, *_LOST),
    "08004": Judgement(_UNREACHABLE, *_REFUSED),
    "08007": Judgement(_UNREACHABLE, *_LOST),
    "HYT01": Judgement(_UNREACHABLE, *_LOST),
    "28000": Judgement(_UNREACHABLE, *_REFUSED),
    "40001": Judgement(_TRANSIENT, "a deadlock was broken", "the run comes back"),
    "25006": Judgement(_PERMANENT, "the session may only read", "nothing was written"),
    "HY008": Judgement(_PERMANENT, "the statement was interrupted", "look who cancelled it"),
    "IM002": Judgement(_PERMANENT, *_NO_DRIVER),
    "IM003": Judgement(_PERMANENT, *_NO_DRIVER),
    "IM004": Judgement(_PERMANENT, *_NO_DRIVER),
}
"""By SQLSTATE (learn.microsoft.com/sql/odbc/reference/appendixes/appendix-a-odbc-error-codes)."""

_NUMBER = re.compile(r"\((-?\d+)\)(?= \(SQL\w+\)|\s*; \[|\s*$)")
"""pyodbc writes `[STATE] text (number) (function)`, and `; [STATE] text (number)` for the rest."""

_TLS_WORDS = ("ssl provider", "certificate verify", "ssl routines", "ssl security", "encryption")
_DRIVER_WORDS = ("can't open lib", "data source name not found")


def is_own(error: BaseException) -> bool:
    """Whether an exception comes from the driver."""
    return type(error).__module__.partition(".")[0] == "pyodbc"


def numbers(error: BaseException) -> tuple[int, ...]:
    """Every native number in a driver's exception, in its order."""
    return tuple(int(number) for number in _NUMBER.findall(text_of(error)))


def text_of(error: BaseException) -> str:
    """What the driver said, without the tuple around it."""
    arguments = cause(error).args
    return str(arguments[1] if len(arguments) > 1 else arguments[0] if arguments else "")


def is_no_driver(error: BaseException) -> bool:
    """Whether unixODBC could not load the driver at all."""
    said = text_of(error).lower()
    return _state(error)[:2] == "IM" or any(word in said for word in _DRIVER_WORDS)


def judge(error: BaseException) -> Judgement:
    """What an exception of the driver means; any other is permanent and without a sentence."""
    own = cause(error)
    if not is_own(own):
        return Judgement(_PERMANENT)
    if is_no_driver(own):
        return Judgement(_PERMANENT, *_NO_DRIVER)
    found = numbers(own)
    # What stands beside a failed login says why it failed.
    for number in sorted(found, key=lambda number: number == 18456):
        if number in _NUMBERS:
            return _NUMBERS[number]
    return _by_state(_state(own), text_of(own))


def _by_state(state: str, said: str) -> Judgement:
    connecting = "SQLDriverConnect" in said
    if connecting and any(word in said.lower() for word in _TLS_WORDS):
        return Judgement(_UNREACHABLE, *_TLS)
    if state == "HYT00":
        # The same for a login and a statement, but for the function that was called.
        return Judgement(_UNREACHABLE, *_NOT_THERE) if connecting else _too_long()
    if state.startswith("08"):
        return _STATES.get(state, Judgement(_UNREACHABLE, *_LOST))
    return _STATES.get(state, Judgement(_PERMANENT))


def _too_long() -> Judgement:
    return Judgement(_PERMANENT, *_TOO_LONG)


def _state(error: BaseException) -> str:
    arguments = cause(error).args
    return str(arguments[0]) if arguments else ""
