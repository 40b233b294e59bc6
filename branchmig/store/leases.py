"""Leases in HeadOffice: taken, renewed and given back with a result, many in one transaction.

Rows are locked in the order of their ids, so that two hosts that want the same ones wait for each
other and never in a circle. What several branches have in common is written in one statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa

from ..errors import BranchmigError, LeaseHeld, LeaseLost, StateConflict, UnknownBranch
from ..model import Branch, BranchState, Lease, MigrationStatus, Outcome, Run, Verdict
from ..transitions import is_locked
from ..waves import Gate
from . import rows
from .rollouts import Turnstile
from .rows import Transaction, Transition
from .tables import branches, clock, outcomes, runs, states

_TOGETHER = 1000
"""Branches that one statement names: SQL Server takes 2,100 parameters and no more."""

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A lease that is asked for, and the state to be written with it.

    `in_wave`: revisions are to run under it, so the waves of a rollout have a say.
    """

    branch: Branch
    begin: Transition
    in_wave: bool = False


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What became of a lease: the state to be written, and the line for the audit trail."""

    lease: Lease
    end: Transition
    outcome: Outcome | None


class Leases:
    """Every statement on leases."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    # Taking -----------------------------------------------------------------------------------

    def acquire(
        self, wanted: Sequence[Wanted], owner: str, seconds: float, gate: Gate | None = None
    ) -> tuple[Lease | BranchmigError, ...]:
        """A lease for each, or why there is none; expired ones are taken over.

        That is LeaseHeld with the holder's name, StateConflict where the branch is no longer the
        database that was read, UnknownBranch where it is gone, or what its transition raised;
        nothing is written for it then. `gate`: the rollout that this belongs to.
        """
        with self._transaction() as connection:
            turnstile = Turnstile(connection, gate) if gate else None
            ids = [asked.branch.id for asked in wanted]
            found = {row.id: row for row in _rows(connection, _FOUND, ids)}
            now = rows.now(connection)
            given: list[Lease | BranchmigError] = []
            for asked in wanted:
                try:
                    previous = _free_state(connection, asked.branch, found, now)
                    after = asked.begin(previous, now)
                    if turnstile and asked.in_wave:
                        after = turnstile.enter(asked.branch, after, now)
                except BranchmigError as error:
                    given.append(error)
                    continue
                token = previous.lock_token + 1
                given.append(Lease(asked.branch.id, owner, token, previous, after))
            leases = [lease for lease in given if isinstance(lease, Lease)]
            for values, group in _grouped(
                (lease, rows.changes(lease.previous, lease.state)) for lease in leases
            ):
                done = connection.execute(
                    _ACQUIRE,
                    values
                    | {"lock_owner": owner, "seconds": float(seconds)}
                    | {"of_branches": [lease.branch_id for lease in group]},
                )
                if done.rowcount != len(group):
                    # Nobody should have come between: the rows are locked.
                    raise StateConflict("states changed while they were leased", "try again")
            if turnstile:
                turnstile.close()
        return tuple(given)

    def renew(self, leases: Sequence[Lease], seconds: float) -> tuple[Lease, ...]:
        """Move the expiry of all of them; gives those that are held no longer."""
        if not leases:
            return ()
        ids = [lease.branch_id for lease in leases]
        ours: set[tuple[str, str | None, int]] = set()
        with self._transaction() as connection:
            ours.update(tuple(row) for row in _rows(connection, _HELD, ids))
            held = [lease for lease in leases if _key(lease) in ours]
            for _, group in _grouped((lease, {}) for lease in held):
                connection.execute(
                    _RENEW,
                    {"seconds": float(seconds), "of_owner": group[0].owner}
                    | {"of_branches": [lease.branch_id for lease in group]},
                )
        return tuple(lease for lease in leases if _key(lease) not in ours)

    # Giving back ------------------------------------------------------------------------------

    def conclude(
        self, concluded: Sequence[Conclusion], run: Run
    ) -> tuple[BranchState | LeaseLost, ...]:
        """Write the results and give the leases back, in one transaction.

        For each the state written, which is its outcome's status too; or LeaseLost, with nothing
        written, where the lease is no longer this one. What a call before this one had written, of
        which only the answer was lost, is not written again.
        """
        ids = [conclusion.lease.branch_id for conclusion in concluded]
        results: dict[int, BranchState | LeaseLost] = {}
        with self._transaction() as connection:
            ours = {tuple(row) for row in _rows(connection, _HELD, ids)}
            known = _recorded(connection, run, [c for c in concluded if _key(c.lease) not in ours])
            now = rows.now(connection)
            trail: list[Mapping[str, Any]] = []
            written: list[tuple[Lease, dict[str, Any]]] = []
            for number, (lease, end, outcome) in enumerate(
                (c.lease, c.end, c.outcome) for c in concluded
            ):
                if _key(lease) not in ours:
                    written_before = outcome is not None and lease.branch_id in known
                    results[number] = end(lease.state, now) if written_before else _lost()
                    continue
                ours.discard(_key(lease))
                after = end(lease.state, now)
                results[number] = after
                written.append((lease, rows.changes(lease.state, after)))
                if outcome is not None:
                    trail.append(_outcome(run.id, outcome, after, now))
                    trail += _of_former_run(connection, run, lease.previous, outcome, now)
            for values, group in _grouped(written):
                done = connection.execute(
                    _CONCLUDE,
                    values
                    | {"of_owner": group[0].owner}
                    | {"of_branches": [lease.branch_id for lease in group]},
                )
                if done.rowcount != len(group):
                    raise StateConflict("leases changed while they were concluded", "try again")
            if trail:
                connection.execute(sa.insert(outcomes), trail)
        return tuple(results[number] for number in range(len(concluded)))


def _rows(
    connection: sa.Connection, statement: sa.Select[Any], ids: Iterable[str]
) -> Iterator[sa.Row[Any]]:
    """What a statement finds of these branches, locked in the order of their ids."""
    for part in _parts(sorted(ids)):
        yield from connection.execute(statement, {"of_branches": part})


def _parts(items: list[_Item]) -> Iterator[list[_Item]]:
    for start in range(0, len(items), _TOGETHER):
        yield items[start : start + _TOGETHER]


def _grouped(
    leases: Iterable[tuple[Lease, dict[str, Any]]],
) -> Iterator[tuple[dict[str, Any], list[Lease]]]:
    """Those for which the same is to be written, under the same owner, as many as go together."""
    groups: dict[Any, tuple[dict[str, Any], list[Lease]]] = {}
    for lease, values in leases:
        key = (lease.owner, tuple(values.items()))
        groups.setdefault(key, (values, []))[1].append(lease)
    for values, group in groups.values():
        for part in _parts(group):
            yield values, part


def _recorded(
    connection: sa.Connection, run: Run, concluded: Sequence[Conclusion]
) -> frozenset[str]:
    """Those of the branches of which this run has recorded an outcome already."""
    found: set[str] = set()
    for part in _parts([conclusion.lease.branch_id for conclusion in concluded]):
        statement = sa.select(outcomes.c.branch_id).where(
            outcomes.c.run_id == run.id, outcomes.c.branch_id.in_(part)
        )
        found.update(connection.execute(statement).scalars())
    return frozenset(found)


def _key(lease: Lease) -> tuple[str, str, int]:
    return lease.branch_id, lease.owner, lease.token


def _free_state(
    connection: sa.Connection, branch: Branch, found: Mapping[str, sa.Row[Any]], now: datetime
) -> BranchState:
    row = found.get(branch.id)
    if row is None:
        raise UnknownBranch(f"the branch {branch.code} has been removed meanwhile")
    state = rows.state(row, branch.code)
    if is_locked(state, now):
        raise held(connection, branch, row.lock_owner, row.lock_expires_at)
    if (row.url, row.is_active) != (branch.url, branch.is_active):
        raise changed(branch)
    return state


def changed(branch: Branch) -> StateConflict:
    return StateConflict(f"{branch.code} was changed by somebody else meanwhile", "try again")


def held(
    connection: sa.Connection, branch: Branch, owner: str, expires: datetime | None
) -> LeaseHeld:
    """The error that names who holds a lease."""
    row = connection.execute(sa.select(runs).where(runs.c.id == owner)).first()
    who = f"{row.command} of {row.actor} on {row.host} (pid {row.pid})" if row else f"run {owner}"
    until = f" until {expires:%Y-%m-%dT%H:%M:%SZ}" if expires else ""
    return LeaseHeld(
        f"{branch.code} is leased by {who}{until}",
        "try again later; `branchmig unlock` clears a lease that nobody works under any more",
    )


def _lost() -> LeaseLost:
    return LeaseLost(
        "the lease of this branch has gone to somebody else",
        "nothing was recorded; who holds it now records what is found",
    )


def _of_former_run(
    connection: sa.Connection, run: Run, previous: BranchState, outcome: Outcome, now: datetime
) -> list[Mapping[str, Any]]:
    """What a run that was killed had done to a branch: it never said so, and `run` has found it.
    For whoever wants to know, or to undo it."""
    if (
        previous.status is not MigrationStatus.IN_PROGRESS
        or previous.lock_owner in (None, run.id)
        or previous.heads == outcome.from_heads
    ):
        return []
    recorded = sa.exists().where(
        outcomes.c.run_id == runs.c.id, outcomes.c.branch_id == outcome.branch.id
    )
    former = connection.execute(
        sa.select(runs).where(runs.c.id == previous.lock_owner, sa.not_(recorded))
    ).first()
    if former is None:
        return []
    done = replace(
        outcome, verdict=Verdict.MIGRATED, from_heads=previous.heads, to_heads=outcome.from_heads,
        applied=(), failure=None, reason=None, duration=timedelta(),
        detail="it ended without a word; what it had done was found by the next run",
    )  # fmt: skip
    return [_outcome(former.id, done, previous, now)]


def _outcome(run: str, outcome: Outcome, after: BranchState, now: datetime) -> Mapping[str, Any]:
    return {
        "run_id": run,
        "branch_id": outcome.branch.id,
        "branch_code": outcome.branch.code,
        "verdict": outcome.verdict.value,
        "reason": outcome.reason.value if outcome.reason else None,
        "status": after.status.value,
        "from_heads": outcome.from_heads,
        "to_heads": outcome.to_heads,
        "applied": outcome.applied,
        "error": outcome.message,
        "finished_at": now,
        "duration_ms": round(outcome.duration.total_seconds() * 1000),
    }


# What a run sends again and again, made once: the values of its columns come with the call.

_LATER = clock(sa.bindparam("seconds", type_=sa.Float()))
_THESE = states.c.branch_id.in_(sa.bindparam("of_branches", expanding=True))
_MINE = (_THESE, states.c.lock_owner == sa.bindparam("of_owner"))
_FOUND = rows.locking(
    sa.select(*rows.STATE, branches.c.id, branches.c.url, branches.c.is_active)
    .join_from(branches, states, branches.c.id == states.c.branch_id)
    .where(_THESE)
    .order_by(states.c.branch_id)
)
_HELD = rows.locking(
    sa.select(states.c.branch_id, states.c.lock_owner, states.c.lock_token)
    .where(_THESE)
    .order_by(states.c.branch_id)
)
_ACQUIRE = (
    sa.update(states)
    .where(_THESE, rows.free())
    .values(lock_token=states.c.lock_token + 1, lock_expires_at=_LATER)
)
_RENEW = sa.update(states).where(*_MINE).values(lock_expires_at=_LATER)
_CONCLUDE = sa.update(states).where(*_MINE).values(lock_owner=None, lock_expires_at=None)
