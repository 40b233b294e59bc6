"""What a doctor asks of a branch's server, in each engine's words; nothing is written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa


@dataclass(frozen=True, slots=True)
class Examination:
    """`time`: the server's clock, None: it has none of its own. `lacking`: rights that a migration
    may need and that the account has not got, as far as can be told."""

    time: datetime | None = None
    lacking: tuple[str, ...] = ()


def of_file(file: Path) -> Examination:
    """A SQLite database: it needs its folder too, for the journal."""
    lacking = [
        f"write permission on {path}"
        for path in (file, file.parent)
        if path.exists() and not os.access(path, os.W_OK)
    ]
    return Examination(None, tuple(lacking))


def of_postgresql(connection: sa.Connection) -> Examination:
    """Rights on the schema in which tables are made, and on those that are there."""
    time, schema = _row(
        connection, "SELECT clock_timestamp() AT TIME ZONE 'UTC', current_schema()::text"
    )
    if schema is None:
        return Examination(_utc(time), ("USAGE on the schema",))
    lacking = []
    may_create, others = _row(
        connection,
        "SELECT has_schema_privilege(current_schema(), 'CREATE'), (SELECT count(*) FROM pg_tables "
        "WHERE schemaname = current_schema() AND NOT pg_has_role(tableowner, 'USAGE'))",
    )
    if not may_create:
        lacking.append(f"CREATE on the schema {schema}")
    if others:
        lacking.append(f"ownership of {others} of its tables")
    return Examination(_utc(time), tuple(lacking))


_MYSQL_NEEDED = ("SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP", "INDEX")

_MYSQL_GRANTED = """
SELECT privilege_type FROM information_schema.user_privileges WHERE grantee = {me}
UNION SELECT privilege_type FROM information_schema.schema_privileges
WHERE grantee = {me} AND DATABASE() LIKE table_schema
""".format(me="CONCAT(QUOTE(SUBSTRING_INDEX(CURRENT_USER(), '@', 1)), '@', "
              "QUOTE(SUBSTRING_INDEX(CURRENT_USER(), '@', -1)))")  # fmt: skip


def of_mysql(connection: sa.Connection) -> Examination:
    """Grants on everything and on the database; those of roles cannot be told apart here."""
    (time,) = _row(connection, "SELECT UTC_TIMESTAMP(6)")
    granted = {str(row[0]).upper() for row in connection.execute(sa.text(_MYSQL_GRANTED))}
    lacking = tuple(f"{right} on the database" for right in _MYSQL_NEEDED if right not in granted)
    return Examination(_utc(time), lacking)


_SQLSERVER_NEEDED = ("SELECT", "INSERT", "UPDATE", "DELETE", "CREATE TABLE", "ALTER ANY SCHEMA")


def of_sqlserver(connection: sa.Connection) -> Examination:
    """Effective permissions on the database (HAS_PERMS_BY_NAME)."""
    (time,) = _row(connection, "SELECT SYSUTCDATETIME()")
    asked = ", ".join(
        f"HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', '{right}')" for right in _SQLSERVER_NEEDED
    )
    answers = _row(connection, f"SELECT {asked}")
    lacking = (
        f"{right} on the database"
        for right, has in zip(_SQLSERVER_NEEDED, answers, strict=True)
        if not has
    )
    return Examination(_utc(time), tuple(lacking))


def _row(connection: sa.Connection, statement: str) -> tuple[object, ...]:
    return tuple(connection.exec_driver_sql(statement).one())


def _utc(time: object) -> datetime:
    assert isinstance(time, datetime)
    return time.replace(tzinfo=UTC)
