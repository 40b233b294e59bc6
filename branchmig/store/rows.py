"""HeadOffice's rows as values, and what every statement on states has in common."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ..model import Branch, BranchState, MigrationStatus, Provider, Record
from .tables import branches, clock, states

Transaction = Callable[[], AbstractContextManager[sa.Connection]]
"""Opens a transaction on HeadOffice whose errors are those of the house."""

Transition = Callable[[BranchState, datetime], BranchState]
"""From the state as it is and HeadOffice's time to the next state; see `transitions`."""

_COLUMNS = {
    "status": "status", "heads": "heads", "target": "target", "retry_count": "retry_count",
    "next_attempt_at": "next_attempt_at", "last_attempt_at": "last_attempt_at", "error": "error",
    "pinned": "pinned", "rollout_id": "rollout", "wave": "wave",
    "failed_revision": "failed_revision",
}  # fmt: skip
"""The columns that a transition may write, and the fields of a state that they hold."""

_NOW = sa.select(clock())

# As attributes of the enums these would be looked up slowly, and they are for every branch.
_PROVIDERS = {provider.value: provider for provider in Provider}
_STATUSES = {status.value: status for status in MigrationStatus}


def records() -> sa.Select[Any]:
    """Every branch with its state."""
    return sa.select(branches, states).join_from(
        branches, states, branches.c.id == states.c.branch_id
    )


def record(row: sa.Row[Any]) -> Record:
    branch = Branch(
        id=row.id,
        code=row.code,
        name=row.name,
        provider=_PROVIDERS[row.provider],
        url=row.url,
        server=row.server,
        tags=row.tags,
        is_active=row.is_active,
    )
    return Record(branch, state(row))


def state(row: sa.Row[Any]) -> BranchState:
    return BranchState(
        status=_STATUSES[row.status],
        heads=row.heads,
        target=row.target,
        retry_count=row.retry_count,
        next_attempt_at=row.next_attempt_at,
        last_attempt_at=row.last_attempt_at,
        lock_owner=row.lock_owner,
        lock_token=row.lock_token,
        lock_expires_at=row.lock_expires_at,
        error=row.error,
        pinned=row.pinned,
        rollout=row.rollout_id,
        wave=row.wave,
        failed_revision=row.failed_revision,
    )


def locking(statement: sa.Select[Any]) -> sa.Select[Any]:
    """The same, holding the states that it finds until the transaction ends.

    T-SQL knows no FOR UPDATE and SQLAlchemy leaves it out there; a hint beside the table does it.
    """
    hint = "WITH (UPDLOCK, ROWLOCK)"
    return statement.with_for_update(of=states).with_hint(states, hint, "mssql")


def state_values(state: BranchState) -> dict[str, Any]:
    """What a transition may write, by column."""
    return {column: getattr(state, field) for column, field in _COLUMNS.items()}


def changes(before: BranchState, after: BranchState) -> dict[str, Any]:
    """Of `state_values` what differs: the rest may have been changed by others meanwhile."""
    return {
        column: value
        for column, field in _COLUMNS.items()
        if (value := getattr(after, field)) != getattr(before, field)
    }


def now(connection: sa.Connection) -> datetime:
    found: datetime = connection.execute(_NOW).scalar_one()
    return found


def free() -> sa.ColumnElement[bool]:
    """Nobody holds a lease that has not expired."""
    return sa.or_(states.c.lock_owner.is_(None), states.c.lock_expires_at <= clock())
