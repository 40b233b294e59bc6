"""Rollouts in HeadOffice, and the turnstile through which their branches are leased.

How many of a rollout's branches passed or failed is counted from their states whenever it matters:
a count that is kept beside them would go wrong with the first kill. The rollout's own row is the
lock under which hosts count and take.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ..model import (
    Branch,
    BranchState,
    Heads,
    MigrationStatus,
    Rollout,
    Run,
    SkipReason,
    Standing,
    Tally,
    Trouble,
)
from ..transitions import HeldBack
from ..waves import Gate, name
from .rows import Transaction, free
from .tables import branches, clock, rollouts, runs, states

_FAILED = (MigrationStatus.FAILED.value, MigrationStatus.MANUAL.value)


class Rollouts:
    """Every statement on rollouts but those that take a lease."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def join(self, run: Run, target: str, heads: Heads, content: str) -> Rollout:
        """The rollout of a target with one content of scripts (a hash), begun where there is none;
        the run is recorded as a part of it."""
        mine = sa.and_(rollouts.c.target == target, rollouts.c.content_hash == content)
        found = self._first(sa.select(rollouts).where(mine))
        if found is None:
            try:
                with self._transaction() as connection:
                    connection.execute(
                        sa.insert(rollouts).values(
                            id=str(uuid.uuid4()),
                            target=target,
                            content_hash=content,
                            heads=heads,
                            started_at=clock(),
                            wave=0,
                            attempted=0,
                            passed=0,
                            failed=0,
                        )
                    )
            except sa.exc.IntegrityError:
                pass  # another host was quicker
            found = self._first(sa.select(rollouts).where(mine))
        assert found is not None
        with self._transaction() as connection:
            connection.execute(
                sa.update(runs).where(runs.c.id == run.id).values(rollout_id=found.id)
            )
        return found

    def latest(self) -> Rollout | None:
        """The one that was begun last."""
        return self._first(sa.select(rollouts).order_by(rollouts.c.started_at.desc()).limit(1))

    def standing(self, rollout: str) -> Standing:
        """What became of a rollout's branches so far; its counts are recorded as well."""
        with self._transaction() as connection:
            row = _locked(connection, rollout)
            standing = Standing(_rollout(row), _tallies(connection, rollout))
            _write_counts(connection, standing)
            return standing

    def judge(self, gate: Gate, run: Run) -> Rollout:
        """Halt the rollout where its failures call for it; as it is then."""
        with self._transaction() as connection:
            row = _locked(connection, gate.rollout)
            standing = Standing(_rollout(row), _tallies(connection, gate.rollout))
            _write_counts(connection, standing)
            if standing.rollout.is_halted:
                return standing.rollout
            heads = _all_heads(connection)
            reason = gate.halt(standing, _troubles(connection, gate.rollout), heads)
            if reason is not None:
                connection.execute(
                    sa.update(rollouts)
                    .where(rollouts.c.id == gate.rollout)
                    .values(
                        halted_at=clock(),
                        halted_by=run.id,
                        halt_reason=reason,
                        resumed_at=None,
                        resumed_by=None,
                    )
                )
            return _rollout(_locked(connection, gate.rollout))

    def resume(self, who: str) -> Rollout | None:
        """Let the latest rollout go on where it is halted, and forget the failures for which it is.

        Its failed branches count anew when they are attempted again. One before it stays halted:
        its scripts have been replaced. None: nothing was halted.
        """
        latest = self.latest()
        if latest is None or not latest.is_halted:
            return None
        with self._transaction() as connection:
            _locked(connection, latest.id)
            connection.execute(
                sa.update(rollouts)
                .where(rollouts.c.id == latest.id)
                .values(resumed_at=clock(), resumed_by=who)
            )
            connection.execute(
                sa.update(states)
                .where(states.c.rollout_id == latest.id, states.c.status.in_(_FAILED))
                .values(rollout_id=None, wave=None)
            )
        return latest

    def finish(self, rollout: Rollout) -> None:
        """Record that it is over, if every active branch is at its target."""
        elsewhere = (
            sa.select(states.c.branch_id)
            .join(branches, branches.c.id == states.c.branch_id)
            .where(
                branches.c.is_active == sa.true(),
                sa.or_(
                    states.c.status != MigrationStatus.COMPLETED.value,
                    states.c.heads != rollout.heads,
                ),
            )
        )
        with self._transaction() as connection:
            connection.execute(
                sa.update(rollouts)
                .where(
                    rollouts.c.id == rollout.id,
                    rollouts.c.finished_at.is_(None),
                    ~sa.exists(elsewhere),
                )
                .values(finished_at=clock())
            )

    def _first(self, statement: sa.Select[Any]) -> Rollout | None:
        with self._transaction() as connection:
            row = connection.execute(statement).first()
        return _rollout(row) if row else None


class Turnstile:
    """Lets branches into the wave that is open, within the transaction that leases them."""

    def __init__(self, connection: sa.Connection, gate: Gate) -> None:
        self._connection = connection
        self._gate = gate
        self._rollout = _rollout(_locked(connection, gate.rollout))
        self._wave = self._rollout.wave
        self._room: int | None = None
        self._why: str | None = None
        self._counted = False

    def enter(self, branch: Branch, state: BranchState, now: datetime) -> BranchState:
        """The state of a branch that may begin, marked with its wave. Raises HeldBack."""
        rollout = self._rollout
        if rollout.is_halted:
            raise HeldBack(SkipReason.HALTED, f"the rollout was halted: {rollout.halt_reason}")
        if state.rollout == rollout.id:
            return state  # it was let in before
        self._count(now)
        if self._room == 0 or not self._gate.admits(branch, self._wave):
            raise HeldBack(SkipReason.WAVE, self._why or f"{name(self._wave)} goes first")
        if self._room is not None:
            self._room -= 1
        return state._replace(rollout=rollout.id, wave=self._wave)

    def close(self) -> None:
        """Record how far the rollout has come."""
        if self._wave > self._rollout.wave:
            self._connection.execute(
                sa.update(rollouts).where(rollouts.c.id == self._rollout.id).values(wave=self._wave)
            )

    def _count(self, now: datetime) -> None:
        if self._counted:
            return
        self._counted = True
        if self._gate.is_last(self._wave):
            return
        standing = Standing(self._rollout, _tallies(self._connection, self._rollout.id))
        opening = self._gate.opening(standing, now)
        self._wave, self._room, self._why = opening.wave, opening.room, opening.why


def _locked(connection: sa.Connection, rollout: str) -> sa.Row[Any]:
    statement = sa.select(rollouts).where(rollouts.c.id == rollout).with_for_update()
    hint = "WITH (UPDLOCK, ROWLOCK)"
    return connection.execute(statement.with_hint(rollouts, hint, "mssql")).one()


def _rollout(row: sa.Row[Any]) -> Rollout:
    return Rollout(
        id=row.id,
        target=row.target,
        heads=row.heads,
        started_at=row.started_at,
        finished_at=row.finished_at,
        wave=row.wave,
        halted_at=row.halted_at,
        halted_by=row.halted_by,
        halt_reason=row.halt_reason,
        resumed_at=row.resumed_at,
        resumed_by=row.resumed_by,
    )


# Left in hand by a run that was killed, and then taken out by a person: nobody goes on with it.
_FORSAKEN = sa.and_(
    states.c.status == MigrationStatus.IN_PROGRESS.value,
    free(),
    sa.or_(
        states.c.pinned == sa.true(),
        states.c.branch_id.in_(sa.select(branches.c.id).where(branches.c.is_active == sa.false())),
    ),
)
_COUNTED = (
    sa.select(
        states.c.wave,
        states.c.status,
        sa.func.count().label("branches"),
        sa.func.max(states.c.last_attempt_at).label("last"),
    )
    .where(
        states.c.rollout_id == sa.bindparam("of_rollout"), states.c.wave.is_not(None), ~_FORSAKEN
    )
    .group_by(states.c.wave, states.c.status)
)


def _tallies(connection: sa.Connection, rollout: str) -> dict[int, Tally]:
    tallies: dict[int, Tally] = {}
    for row in connection.execute(_COUNTED, {"of_rollout": rollout}):
        tally = tallies.get(row.wave, Tally())
        if row.status == MigrationStatus.IN_PROGRESS.value:
            tally = replace(tally, in_hand=row.branches)
        elif row.status == MigrationStatus.COMPLETED.value:
            tally = replace(tally, passed=row.branches, last=_later(tally.last, row.last))
        elif row.status in _FAILED:
            failed = tally.failed + row.branches
            tally = replace(tally, failed=failed, last=_later(tally.last, row.last))
        tallies[row.wave] = tally
    return tallies


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((moment for moment in (one, other) if moment), default=None)


def _troubles(connection: sa.Connection, rollout: str) -> tuple[Trouble, ...]:
    counts: dict[tuple[str, str], int] = {}
    found = connection.execute(
        sa.select(states.c.failed_revision, states.c.error).where(
            states.c.rollout_id == rollout,
            states.c.status.in_(_FAILED),
            states.c.failed_revision.is_not(None),
        )
    )
    for row in found:
        key = (row.failed_revision, row.error or "")
        counts[key] = counts.get(key, 0) + 1
    return tuple(Trouble(*key, branches=count) for key, count in counts.items())


def _all_heads(connection: sa.Connection) -> frozenset[Heads]:
    return frozenset(connection.execute(sa.select(states.c.heads).distinct()).scalars())


def _write_counts(connection: sa.Connection, standing: Standing) -> None:
    whole = standing.whole
    connection.execute(
        sa.update(rollouts)
        .where(rollouts.c.id == standing.rollout.id)
        .values(attempted=whole.taken, passed=whole.passed, failed=whole.failed)
    )
