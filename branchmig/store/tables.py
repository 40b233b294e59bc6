"""HeadOffice's tables as they stand now, and HeadOffice's clock in each engine's words.

The tables are made by the history `alembic_headoffice`, never from here. Names carry the prefix
`branchmig_`, so that all of it can live in a company's existing database.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from ..errors import HeadOfficeDamaged
from ..masking import mask
from ..model import VersionTable

VERSION_TABLE = VersionTable("branchmig_version")

REVISIONS = ("0001_headoffice", "0002_rollouts", "0003_durations")
"""Every revision of `alembic_headoffice` that this program knows, the one it needs last.

Kept here so that a command can judge HeadOffice without loading Alembic.
"""


class Moment(TypeDecorator[datetime]):
    """An aware moment, kept in UTC without a zone and to the microsecond."""

    impl = sa.DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        if dialect.name == "mssql":
            from sqlalchemy.dialects import mssql

            return dialect.type_descriptor(mssql.DATETIME2())
        return dialect.type_descriptor(sa.DateTime())

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


# A fleet has few different heads, and they are read and written for every branch.


@lru_cache(1024)
def _list_text(names: tuple[str, ...]) -> str:
    return json.dumps(names, ensure_ascii=False)


@lru_cache(1024)
def _names(text: str) -> tuple[str, ...]:
    try:
        found = json.loads(text)
    except (ValueError, TypeError):
        found = None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise unknown("for a list of heads, tags or revisions", str(text))
    return tuple(found)


def unknown(where: str, found: str) -> HeadOfficeDamaged:
    """The error for a value that this program would not have written."""
    return HeadOfficeDamaged(
        f"HeadOffice holds {mask(found)} {where}, which this program does not know",
        "was it written by a newer branchmig, or by hand? Upgrade this one, or mend the row",
    )


class Names(TypeDecorator[tuple[str, ...]]):
    """A tuple of names as a JSON list."""

    impl = sa.UnicodeText
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str:
        return _list_text(tuple(value or ()))

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> tuple[str, ...]:
        return _names(value) if value else ()


class clock(FunctionElement[datetime]):  # noqa: N801 - reads as a function in statements
    """HeadOffice's own time, plus `seconds`: at the statement, not at the transaction's begin."""

    # The seconds are a parameter, so that SQLAlchemy compiles each statement once a process.
    inherit_cache = True
    type = Moment()

    def __init__(self, seconds: float | sa.BindParameter[float] = 0) -> None:
        given = isinstance(seconds, sa.BindParameter)
        super().__init__(seconds if given else sa.literal(float(seconds), sa.Float()))


def _seconds(element: clock, compiler: Any, options: Any) -> Any:
    (seconds,) = element.clauses
    return compiler.process(seconds, **options)


@compiles(clock, "sqlite")
def _sqlite_clock(element: clock, compiler: Any, **options: Any) -> str:
    # Milliseconds are all that SQLite has; padded to the width in which SQLAlchemy stores times.
    seconds = _seconds(element, compiler, options)
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', {seconds} || ' seconds') || '000')"


@compiles(clock, "postgresql")
def _postgresql_clock(element: clock, compiler: Any, **options: Any) -> str:
    return (
        "(clock_timestamp() AT TIME ZONE 'UTC' + make_interval("
        f"secs => CAST({_seconds(element, compiler, options)} AS double precision)))"
    )


@compiles(clock, "mysql", "mariadb")
def _mysql_clock(element: clock, compiler: Any, **options: Any) -> str:
    seconds = _seconds(element, compiler, options)
    return f"(UTC_TIMESTAMP(6) + INTERVAL ROUND({seconds} * 1000000) MICROSECOND)"


@compiles(clock, "mssql")
def _mssql_clock(element: clock, compiler: Any, **options: Any) -> str:
    seconds = _seconds(element, compiler, options)
    return f"DATEADD(millisecond, CAST({seconds} * 1000 AS int), SYSUTCDATETIME())"


metadata = sa.MetaData()

branches = sa.Table(
    "branchmig_branches",
    metadata,
    sa.Column("id", sa.Unicode(36), nullable=False),
    sa.Column("code", sa.Unicode(64), nullable=False),
    sa.Column("code_key", sa.Unicode(64), nullable=False, comment="code in lower case"),
    sa.Column("name", sa.Unicode(200), nullable=False),
    sa.Column("provider", sa.Unicode(16), nullable=False),
    sa.Column("url", sa.UnicodeText, nullable=False),
    sa.Column("database_key", sa.Unicode(64), nullable=False, comment="hash of the database"),
    sa.Column("server", sa.Unicode(255)),
    sa.Column("tags", Names, nullable=False),
    sa.Column("is_active", sa.Boolean, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("updated_at", Moment, nullable=False),
    sa.PrimaryKeyConstraint("id", name="branchmig_branches_pk"),
    sa.UniqueConstraint("code_key", name="branchmig_branches_code_uq"),
    sa.UniqueConstraint("database_key", name="branchmig_branches_database_uq"),
)

states = sa.Table(
    "branchmig_migration_states",
    metadata,
    sa.Column("branch_id", sa.Unicode(36), nullable=False),
    sa.Column("status", sa.Unicode(32), nullable=False),
    sa.Column("heads", Names, nullable=False),
    sa.Column("target", sa.Unicode(255)),
    sa.Column("retry_count", sa.Integer, nullable=False),
    sa.Column("next_attempt_at", Moment),
    sa.Column("last_attempt_at", Moment),
    sa.Column("lock_owner", sa.Unicode(36)),
    sa.Column("lock_token", sa.BigInteger, nullable=False),
    sa.Column("lock_expires_at", Moment),
    sa.Column("error", sa.UnicodeText),
    sa.Column("pinned", sa.Boolean, nullable=False),
    # No foreign key: a state is written without a look at the rollout.
    sa.Column("rollout_id", sa.Unicode(36)),
    sa.Column("wave", sa.Integer),
    sa.Column("failed_revision", sa.Unicode(255)),
    sa.PrimaryKeyConstraint("branch_id", name="branchmig_migration_states_pk"),
    sa.ForeignKeyConstraint(
        ["branch_id"],
        ["branchmig_branches.id"],
        name="branchmig_migration_states_branch_fk",
        ondelete="CASCADE",
    ),
    sa.Index("branchmig_migration_states_rollout_ix", "rollout_id"),
)

runs = sa.Table(
    "branchmig_runs",
    metadata,
    sa.Column("id", sa.Unicode(36), nullable=False),
    sa.Column("command", sa.Unicode(64), nullable=False),
    sa.Column("trigger_kind", sa.Unicode(32), nullable=False, comment="operator, timer or ci"),
    sa.Column("actor", sa.Unicode(255), nullable=False),
    sa.Column("host", sa.Unicode(255), nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("target", sa.Unicode(255)),
    sa.Column("program", sa.Unicode(32), nullable=False, comment="version of branchmig"),
    sa.Column("started_at", Moment, nullable=False),
    sa.Column("finished_at", Moment),
    sa.Column("exit_code", sa.Integer),
    sa.Column("rollout_id", sa.Unicode(36)),
    sa.Column("login", sa.Unicode(255), comment="who had logged in, where it is not the actor"),
    sa.PrimaryKeyConstraint("id", name="branchmig_runs_pk"),
    sa.Index("branchmig_runs_started_ix", "started_at"),
)

outcomes = sa.Table(
    "branchmig_outcomes",
    metadata,
    sa.Column("run_id", sa.Unicode(36), nullable=False),
    # No foreign key: the trail outlives a branch that is removed.
    sa.Column("branch_id", sa.Unicode(36), nullable=False),
    sa.Column("branch_code", sa.Unicode(64), nullable=False),
    sa.Column("verdict", sa.Unicode(16), nullable=False),
    sa.Column("reason", sa.Unicode(32)),
    sa.Column("status", sa.Unicode(32), nullable=False),
    sa.Column("from_heads", Names, nullable=False),
    sa.Column("to_heads", Names, nullable=False),
    sa.Column("applied", Names, nullable=False),
    sa.Column("error", sa.UnicodeText),
    sa.Column("finished_at", Moment, nullable=False),
    sa.Column("duration_ms", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("run_id", "branch_id", name="branchmig_outcomes_pk"),
    sa.ForeignKeyConstraint(["run_id"], ["branchmig_runs.id"], name="branchmig_outcomes_run_fk"),
    sa.Index("branchmig_outcomes_branch_ix", "branch_id", "finished_at"),
)

rollouts = sa.Table(
    "branchmig_rollouts",
    metadata,
    sa.Column("id", sa.Unicode(36), nullable=False),
    sa.Column("target", sa.Unicode(255), nullable=False),
    sa.Column("content_hash", sa.Unicode(64), nullable=False),
    sa.Column("heads", Names, nullable=False),
    sa.Column("started_at", Moment, nullable=False),
    sa.Column("finished_at", Moment),
    sa.Column("wave", sa.Integer, nullable=False),
    sa.Column("attempted", sa.Integer, nullable=False),
    sa.Column("passed", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("halted_at", Moment),
    sa.Column("halted_by", sa.Unicode(36)),
    sa.Column("halt_reason", sa.UnicodeText),
    sa.Column("resumed_at", Moment),
    sa.Column("resumed_by", sa.Unicode(255)),
    sa.PrimaryKeyConstraint("id", name="branchmig_rollouts_pk"),
    sa.UniqueConstraint("target", "content_hash", name="branchmig_rollouts_content_uq"),
)

durations = sa.Table(
    "branchmig_durations",
    metadata,
    sa.Column("provider", sa.Unicode(16), nullable=False),
    sa.Column("revision", sa.Unicode(255), nullable=False),
    sa.Column("longest_ms", sa.BigInteger, nullable=False),
    sa.Column("measured_at", Moment, nullable=False),
    sa.PrimaryKeyConstraint("provider", "revision", name="branchmig_durations_pk"),
)

notices = sa.Table(
    "branchmig_notices",
    metadata,
    sa.Column("kind", sa.Unicode(32), nullable=False),
    # A branch, a rollout or a host: whatever the kind of notice is about. No foreign key.
    sa.Column("subject", sa.Unicode(64), nullable=False),
    sa.Column("detail", sa.UnicodeText),
    sa.Column("since", Moment, nullable=False),
    sa.Column("told_at", Moment, comment="null: somebody is about to tell it"),
    sa.PrimaryKeyConstraint("kind", "subject", name="branchmig_notices_pk"),
)
