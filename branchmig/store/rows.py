"""HeadOffice's rows as values, and what every statement on states has in common."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import fields
from datetime import datetime
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from ..model import Branch, BranchState, MigrationStatus, Provider, Record
from .tables import branches, clock, states, unknown

Transaction = Callable[[], AbstractContextManager[sa.Connection]]
"""Opens a transaction on HeadOffice whose errors are those of the house."""

Transition = Callable[[BranchState, datetime], BranchState]
"""From the state as it is and HeadOffice's time to the next state; see `transitions`."""

_COLUMN_OF = {"rollout": "rollout_id"}
"""Fields whose columns are called otherwise."""

_LEASE = {"lock_owner", "lock_token", "lock_expires_at"}
_COLUMNS = {_COLUMN_OF.get(name, name): name for name in BranchState._fields if name not in _LEASE}
"""The columns that a transition may write, and the fields of a state that they hold."""

_values = attrgetter(*_COLUMNS.values())

_NOW = sa.select(clock())

# As attributes of the enums these would be looked up slowly, and they are for every branch.
PROVIDERS = {provider.value: provider for provider in Provider}
_STATUSES = {status.value: status for status in MigrationStatus}

_BRANCH = [branches.c[field.name] for field in fields(Branch)]
STATE = [states.c[_COLUMN_OF.get(name, name)] for name in BranchState._fields]
"""The columns of a state. These and those of a branch are in the order of the fields: read by place
a row costs half of what it does by names, and there is one for every branch."""


def records() -> sa.Select[Any]:
    """Every branch with its state, for `record`."""
    return sa.select(*STATE, *_BRANCH).join_from(
        branches, states, branches.c.id == states.c.branch_id
    )


def record(row: sa.Row[Any]) -> Record:
    """From a row of `records`."""
    branch_id, code, name, provider, *rest = row[len(STATE) :]
    if provider not in PROVIDERS:
        raise unknown(f"for the provider of {code}", provider)
    return Record(Branch(branch_id, code, name, PROVIDERS[provider], *rest), state(row, code))


def state(row: sa.Row[Any], code: str) -> BranchState:
    """From a row that begins with `STATE`, of the branch of this code."""
    status, *rest = row[: len(STATE)]
    if status not in _STATUSES:
        raise unknown(f"for the status of {code}", status)
    return BranchState(_STATUSES[status], *rest)


def locking(statement: sa.Select[Any]) -> sa.Select[Any]:
    """The same, holding the states that it finds until the transaction ends.

    T-SQL knows no FOR UPDATE and SQLAlchemy leaves it out there; a hint beside the table does it.
    """
    hint = "WITH (UPDLOCK, ROWLOCK)"
    return statement.with_for_update(of=states).with_hint(states, hint, "mssql")


def state_values(state: BranchState) -> dict[str, Any]:
    """What a transition may write, by column."""
    return dict(zip(_COLUMNS, _values(state), strict=True))


def changes(before: BranchState, after: BranchState) -> dict[str, Any]:
    """Of `state_values` what differs: the rest may have been changed by others meanwhile."""
    pairs = zip(_COLUMNS, _values(before), _values(after), strict=True)
    return {column: value for column, former, value in pairs if value != former}


def now(connection: sa.Connection) -> datetime:
    found: datetime = connection.execute(_NOW).scalar_one()
    return found


def free() -> sa.ColumnElement[bool]:
    """Nobody holds a lease that has not expired."""
    return sa.or_(states.c.lock_owner.is_(None), states.c.lock_expires_at <= clock())
