"""Going back: a rollback planned for every branch of it, refused or agreed to, and carried out.

Floor 6. All is planned before anything is touched. Branches are then taken one after another, in
this process: whoever goes back wants to see the first that fails before the next is begun, and a
signal ends it between two.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from datetime import timedelta

from .descent import Aim
from .errors import (
    BranchmigError,
    ConfigError,
    LeaseHeld,
    RollbackRefused,
    StoreError,
    UnknownBranch,
    UnknownHeads,
    UnknownRevision,
    UsageError,
)
from .manager import BranchMigrationManager, skipped
from .model import Heads, Outcome, Record, Report, Reversal, SkipReason, Step, Verdict, heads_text
from .reversal import Change, FormerRun, LeftOut, Retreat, Rollback, is_unfinished, unfinished
from .revisions.history import History
from .sinks import BranchFinished, BranchStarted, RunFinished, RunStarted, Sinks

log = logging.getLogger("branchmig")

_UNDONE = ("apply", "apply-all")
"""The commands whose runs can be undone as a whole: those that apply revisions."""

_STEPS = re.compile(r"-[0-9]+")
"""A target that counts from wherever the branch stands."""

_NAMED = 20
"""So many of what stands against a rollback an error spells out."""


# Planning ---------------------------------------------------------------------------------------


def of_branch(manager: BranchMigrationManager, name: str, target: str) -> Retreat:
    """One branch down to `target`. One that is so many steps away is that of a rollback that has
    not ended, where there is one, so that the same command goes on with it.

    Raises UsageError, UnknownBranch, UnknownRevision, NotAdopted, ProviderError, BranchBusy.
    """
    record = manager.store.record(name)
    if not record.branch.is_active:
        raise UsageError(
            f"{record.branch.code} is inactive",
            f"`branchmig branch update {record.branch.code} --active` takes it back",
        )

    def aim(history: History, now: Heads) -> tuple[Step, ...]:
        rest = _rest(record, history, now) if _STEPS.fullmatch(target) else None
        return history.descent(now, target) if rest is None else rest

    return Retreat((manager.migrator.descend(record, aim),))


def _rest(record: Record, history: History, now: Heads) -> tuple[Step, ...] | None:
    """What is left of a rollback that was begun on a branch; None where none is open."""
    begun = unfinished(record)
    if begun is None:
        return None
    try:
        steps = history.descent_to(now, begun)
    except (UnknownHeads, UnknownRevision):
        return None  # it was on its way up
    log.warning(
        "%s: a rollback to %s has not ended, and this goes on with it", record.branch, _text(begun)
    )
    return steps


def of_run(manager: BranchMigrationManager, run: FormerRun) -> Retreat:
    """Every branch that a run changed back to the heads it had before, the last of them first.

    Raises UsageError where the run applies no revisions, LeaseHeld while it is at work, and
    ConfigError.
    """
    _refuse_run(run)
    records = {record.branch.id: record for record in manager.store.records()}
    rollbacks: list[Rollback] = []
    left_out: list[LeftOut] = []
    for change in manager.store.past.changes(run.id):
        found = _of_change(manager, change, records.get(change.branch_id))
        if isinstance(found, Rollback):
            rollbacks.append(found)
        else:
            left_out.append(found)
    return Retreat(tuple(rollbacks), tuple(left_out))


def _refuse_run(run: FormerRun) -> None:
    if run.command == "rollback":
        raise UsageError(
            f"the run {run.id} was a rollback itself", "`branchmig apply BRANCH` goes up again"
        )
    if run.command not in _UNDONE:
        # What `baseline` recorded was there before: to undo it would drop what it took over.
        raise UsageError(
            f"the run {run.id} was `{run.command}`, which applied no revision",
            "only a run of `apply` or `apply-all` can be rolled back; for one branch say "
            "`branchmig rollback BRANCH --to REV`",
        )
    if run.at_work:
        raise LeaseHeld(
            f"the run {run.id} is still at work: what it does from now on would be left standing",
            "stop it or let it end, then try again; of a run that was killed, the leases run out "
            "by themselves or are cleared by `branchmig unlock`",
        )


class _Moved(BranchmigError):
    """A branch no longer stands where the run left it."""


def _of_change(
    manager: BranchMigrationManager, change: Change, record: Record | None
) -> Rollback | LeftOut:
    if record is None:
        return LeftOut(change.branch_code, "it has been removed")
    code = record.branch.code
    if not record.branch.is_active:
        return LeftOut(code, "it is inactive", record)
    try:
        return manager.migrator.descend(record, _back(change, record))
    except ConfigError:
        raise
    except (_Moved, UnknownRevision) as error:
        return LeftOut(code, error.message, record)
    except BranchmigError as error:
        failure = manager.migrator.failure(record.branch, error)
        return LeftOut(code, failure.message, record, failure)


def _back(change: Change, record: Record) -> Aim:
    """The steps to the heads before a run, for a branch that stands where the run left it.

    Or that is there already, or on its way down: then a rollback has not ended, or not said so.
    """

    def aim(history: History, now: Heads) -> tuple[Step, ...]:
        before, after = change.from_heads, change.to_heads
        if after is None:
            return _undone(history, now, before)
        begun = is_unfinished(record, _text(before))
        if now in (before, after) or (begun and history.is_between(now, before, after)):
            return history.descent_to(now, before)
        raise _Moved(f"it is at {_text(now)}, no longer at {_text(after)}, where the run left it")

    return aim


def _undone(history: History, now: Heads, before: Heads) -> tuple[Step, ...]:
    """The steps down for a branch of which the run, that was killed, has recorded nothing."""
    if now == before:
        raise _Moved(f"the run has not moved it from {_text(before)}")
    return history.descent_to(now, before)


def _text(heads: Heads) -> str:
    return heads_text(heads) or "base"


# Refusing ---------------------------------------------------------------------------------------


def refuse_impossible(retreat: Retreat) -> None:
    """Raise RollbackRefused where a revision in the way cannot be undone."""
    found = [f"{r.branch.code}: {why}" for r in retreat.rollbacks for why in r.refusals]
    if found:
        raise RollbackRefused(
            f"nothing was touched, since there is no way down: {_listed(found)}",
            "mend the downgrade of the revision, or bring the branch back from a backup",
        )


def refuse_loss(retreat: Retreat) -> None:
    """Raise RollbackRefused where data would be lost, naming it."""
    found = [f"{r.branch.code}: {loss}" for r in retreat.rollbacks for loss in r.losses]
    if found:
        raise RollbackRefused(
            f"nothing was touched, since data would be lost: {_listed(found)}",
            "save it first; `--allow-data-loss` goes on all the same, and it is gone then",
        )


def _listed(found: list[str]) -> str:
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return "; ".join(found[:_NAMED]) + more


# Carrying out -----------------------------------------------------------------------------------


def sparing(retreat: Retreat) -> list[tuple[Record, Reversal]]:
    """What is to be done where nobody agreed to any loss."""
    return [(rollback.record, rollback.sparing()) for rollback in retreat.rollbacks]


def forfeiting(retreat: Retreat) -> list[tuple[Record, Reversal]]:
    """What is to be done where somebody agreed to every loss."""
    return [(rollback.record, rollback.forfeiting()) for rollback in retreat.rollbacks]


def carry_out(
    manager: BranchMigrationManager,
    agreed: list[tuple[Record, Reversal]],
    left_out: tuple[LeftOut, ...],
    sinks: Sinks,
) -> Report:
    """Take the branches down, one after another; one that fails stops none of the others.

    Raises StoreError where HeadOffice is gone: nothing more is begun then.
    """
    started = time.monotonic()
    outcomes: list[Outcome] = []
    sinks.emit(RunStarted(manager.run, len(agreed) + len(left_out)))
    for outcome in _outcomes(manager, agreed, left_out, sinks):
        sinks.emit(BranchFinished(outcome))
        outcomes.append(outcome)
    elapsed = timedelta(seconds=time.monotonic() - started)
    report = Report(manager.run.id, tuple(outcomes), elapsed)
    sinks.emit(RunFinished(manager.run, report))
    return report


def _outcomes(
    manager: BranchMigrationManager,
    agreed: list[tuple[Record, Reversal]],
    left_out: tuple[LeftOut, ...],
    sinks: Sinks,
) -> Iterator[Outcome]:
    for one in left_out:
        if one.record is None:
            log.warning("%s is left out: %s", one.code, one.why)
        else:
            yield _passed_over(one, one.record)
    for number, (record, reversal) in enumerate(agreed):
        if manager.fence.state.signum is not None:
            yield skipped(record, SkipReason.STOPPED, "the run was stopped")
            continue
        sinks.emit(BranchStarted(record.branch))
        try:
            yield manager.roll_back(record, reversal)
        except UnknownBranch as error:
            yield skipped(record, SkipReason.MOVED, error.message)
        except StoreError as error:
            error.message += f"; of {len(agreed)} branches {number} had been rolled back before it"
            raise


def _passed_over(one: LeftOut, record: Record) -> Outcome:
    heads, status = record.state.heads, record.state.status
    if one.failure:
        return Outcome(record.branch, Verdict.FAILED, status, heads, heads, failure=one.failure)
    return skipped(record, SkipReason.MOVED, one.why)
