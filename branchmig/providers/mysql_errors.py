"""What the errors of MySQL and MariaDB mean, by their numbers."""

from __future__ import annotations

from ..model import FailureKind
from .connections import cause

_BUSY, _TRANSIENT = FailureKind.BUSY, FailureKind.TRANSIENT
_UNREACHABLE, _PERMANENT = FailureKind.UNREACHABLE, FailureKind.PERMANENT

_FULL = ("the server's disk is full", "free some space; what landed before is journaled")
_LOST = ("the connection broke", "look at network, proxies and the server's log")
_NO_FILES = (
    "LOAD DATA LOCAL is never allowed: it sends a file of this host to the server",
    "insert the rows from the revision, with op.bulk_insert",
)
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
    2068: (_PERMANENT, "the server asked for a file of this host and got none",
           "is it the server that it should be?"),
    3948: (_PERMANENT, *_NO_FILES),
    4166: (_PERMANENT, *_NO_FILES),
    1317: (_PERMANENT, "the statement was interrupted", "look who sent KILL QUERY"),
    1969: (_PERMANENT, *_TOO_LONG),
    3024: (_PERMANENT, *_TOO_LONG),
}  # fmt: skip
"""By error number (https://mariadb.com/kb/en/mariadb-error-codes/, MySQL's from 3000 on)."""


def meaning(error: BaseException) -> tuple[FailureKind, str, str | None]:
    """What to do about an error, a sentence and a hint; of one that is not known here no words."""
    number = number_of(error)
    unknown = (_PERMANENT, "", None)
    return unknown if number is None else _ERRORS.get(number, unknown)


def number_of(error: BaseException) -> int | None:
    """The engine's own number of an error, None where it comes from elsewhere."""
    own = cause(error)
    first = own.args[0] if own.args else None
    driver = type(own).__module__.partition(".")[0] in ("pymysql", "MySQLdb")
    return first if driver and isinstance(first, int) else None
