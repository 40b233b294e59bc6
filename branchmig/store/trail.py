"""The audit trail: which runs there were, and what became of the branches in each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ..model import AuditFilter, Heads, PastRun, Result, Run
from . import rows
from .rows import Transaction
from .tables import branches, clock, outcomes, runs, states

_GIVEN_UP = timedelta(days=7)
"""A timer that has been silent for so long, while others ran, is not what runs this fleet."""

_PAGE = 100
"""Runs that are read at a time: a trail of years must not have to fit into memory."""

_RESULTS = 10_000
"""Results that are read at a time, but for a single run that has more."""


class Trail:
    """Every statement that reads the trail."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def runs(self, wanted: AuditFilter) -> Iterator[PastRun]:
        """Those that the filter means, the latest first, each with the branches that it means."""
        last: str | None = None
        left = wanted.limit
        while left is None or left > 0:
            count = _PAGE if left is None else min(_PAGE, left)
            with self._transaction() as connection:
                found = connection.execute(_page(wanted, last).limit(count)).all()
            for batch in _batches(found):
                with self._transaction() as connection:
                    results = _results(connection, [row.id for row in batch], wanted.branch)
                for row in batch:
                    yield _past_run(row, results.get(row.id, ()))
            if len(found) < count:
                return
            last = found[-1].id
            left = None if left is None else left - count

    def last_tick(self) -> datetime | None:
        """When an `apply-all` was last seen: begun, ended, or this very moment at work.

        The timer's own; anybody's where the timer has had none for a week while others had.
        """
        with self._transaction() as connection:
            anybodys = _seen(connection)
            timers = _seen(connection, runs.c.trigger_kind == "timer")
        if timers is None or anybodys is None:
            return anybodys
        return anybodys if anybodys - timers > _GIVEN_UP else timers

    def first_reached(self, heads: Heads) -> datetime | None:
        """When the first branch was brought to these heads."""
        statement = sa.select(sa.func.min(outcomes.c.finished_at)).where(
            outcomes.c.to_heads == heads, outcomes.c.applied != ()
        )
        with self._transaction() as connection:
            found: datetime | None = connection.execute(statement).scalar()
            return found


def _seen(connection: sa.Connection, *which: sa.ColumnElement[bool]) -> datetime | None:
    row = connection.execute(
        sa.select(runs.c.id, runs.c.started_at, runs.c.finished_at)
        .where(runs.c.command == "apply-all", *which)
        .order_by(runs.c.started_at.desc())
        .limit(1)
    ).first()
    if row is None:
        return None
    at_work = sa.select(states.c.branch_id).where(
        states.c.lock_owner == row.id, states.c.lock_expires_at > clock()
    )
    if row.finished_at is None and connection.execute(at_work.limit(1)).first():
        return rows.now(connection)
    found: datetime = row.finished_at or row.started_at
    return found


def _page(wanted: AuditFilter, last: str | None) -> sa.Select[Any]:
    """The runs after `last`, each with the number of its results.

    Pages begin where the one before ended, not at a number of rows: runs that begin meanwhile would
    push some of them into the next page, a second time.
    """
    results = sa.select(sa.func.count()).where(outcomes.c.run_id == runs.c.id).scalar_subquery()
    statement = sa.select(runs, results.label("results")).where(*_conditions(wanted))
    if last is not None:
        # By the moment as HeadOffice has it: SQL Server's is finer than Python's.
        earlier = runs.alias("earlier")
        began = sa.select(earlier.c.started_at).where(earlier.c.id == last).scalar_subquery()
        statement = statement.where(
            # Said apart, or the index would be read from its end for every page.
            runs.c.started_at <= began,
            sa.or_(
                runs.c.started_at < began,
                runs.c.id > last,
            ),
        )
    return statement.order_by(runs.c.started_at.desc(), runs.c.id)


def _batches(found: Sequence[sa.Row[Any]]) -> Iterator[list[sa.Row[Any]]]:
    """The same runs, as many at a time as have few enough results."""
    batch: list[sa.Row[Any]] = []
    size = 0
    for row in found:
        if batch and size + row.results > _RESULTS:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row.results
    if batch:
        yield batch


def _conditions(wanted: AuditFilter) -> Iterator[sa.ColumnElement[bool]]:
    if wanted.run is not None:
        yield runs.c.id.startswith(wanted.run.lower(), autoescape=True)
    if wanted.command is not None:
        yield runs.c.command == wanted.command
    if wanted.actor is not None:
        yield sa.or_(runs.c.actor == wanted.actor, runs.c.login == wanted.actor)
    if wanted.host is not None:
        yield runs.c.host == wanted.host
    if wanted.since is not None:
        yield runs.c.started_at >= wanted.since
    if wanted.until is not None:
        yield runs.c.started_at < wanted.until
    if wanted.failed:
        yield sa.or_(runs.c.exit_code.is_(None), runs.c.exit_code != 0)
    if wanted.branch is not None:
        yield runs.c.id.in_(
            sa.select(outcomes.c.run_id).where(_is_branch(wanted.branch)).scalar_subquery()
        )


def _is_branch(name: str) -> sa.ColumnElement[bool]:
    """By code as it was then, or by id; the branch itself may be gone."""
    known = sa.select(branches.c.id).where(branches.c.code_key == name.lower()).scalar_subquery()
    return sa.or_(
        sa.func.lower(outcomes.c.branch_code) == name.lower(),
        outcomes.c.branch_id == name.lower(),
        outcomes.c.branch_id.in_(known),
    )


def _results(
    connection: sa.Connection, ids: Sequence[str], branch: str | None
) -> dict[str, list[Result]]:
    if not ids:
        return {}
    statement = sa.select(outcomes).where(outcomes.c.run_id.in_(ids))
    if branch is not None:
        statement = statement.where(_is_branch(branch))
    found: dict[str, list[Result]] = {}
    for row in connection.execute(statement.order_by(outcomes.c.branch_code)):
        found.setdefault(row.run_id, []).append(_result(row))
    return found


def _past_run(row: sa.Row[Any], results: Sequence[Result]) -> PastRun:
    run = Run(
        id=row.id,
        command=row.command,
        trigger=row.trigger_kind,
        actor=row.actor,
        host=row.host,
        pid=row.pid,
        target=row.target,
        login=row.login,
    )
    return PastRun(run, row.program, row.started_at, row.finished_at, row.exit_code, tuple(results))


def _result(row: sa.Row[Any]) -> Result:
    return Result(
        branch_id=row.branch_id,
        branch_code=row.branch_code,
        verdict=row.verdict,
        reason=row.reason,
        status=row.status,
        from_heads=row.from_heads,
        to_heads=row.to_heads,
        applied=row.applied,
        error=row.error,
        finished_at=row.finished_at,
        duration=timedelta(milliseconds=row.duration_ms),
    )
