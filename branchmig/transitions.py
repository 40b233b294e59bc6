"""How a branch's state moves: pure functions from a state and an event to the next state.

Floor 2. No clock, no database: the time is an argument, so that every rule can be tested at every
instant. The rules: every failed attempt counts, whatever its class; after `max_attempts` a person
is needed; a lock conflict or a stop counts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from .errors import LeaseError
from .masking import mask
from .model import BranchState, Failure, FailureKind, Heads, MigrationStatus, SkipReason

MAX_BACKOFF = timedelta(hours=1)

DUE_TOLERANCE = timedelta(seconds=30)
"""What is due within this counts as due: a back-off of 300 s must not miss the tick after 300 s."""


class HeldBack(LeaseError):
    """A branch may not be attempted now, for a reason that is nobody's failure."""

    def __init__(self, reason: SkipReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`backoff` before the second attempt, doubled for each one after it; zero: at the next run."""

    max_attempts: int = 3
    backoff: timedelta = timedelta(seconds=300)
    wait_for_unreachable: bool = False

    def delay(self, attempt: int) -> timedelta:
        """How long after failed attempt number `attempt` (from 1) the next is due."""
        # The exponent is bounded: 2**1000 seconds is no timedelta.
        return min(self.backoff * (1 << min(max(attempt, 1) - 1, 32)), MAX_BACKOFF)


def begin(
    state: BranchState, heads: Heads | None, target: str | None, now: datetime
) -> BranchState:
    """An attempt is about to start from `heads` (None: they could not be read beforehand)."""
    return state._replace(
        status=MigrationStatus.IN_PROGRESS,
        heads=state.heads if heads is None else heads,
        target=target,
        last_attempt_at=now,
    )


def succeed(state: BranchState, heads: Heads, now: datetime) -> BranchState:
    """The branch was brought to, or found at, the attempt's target and validated there."""
    return state._replace(
        status=MigrationStatus.COMPLETED,
        heads=heads,
        retry_count=0,
        next_attempt_at=None,
        last_attempt_at=now,
        error=None,
        failed_revision=None,
    )


def fail(
    state: BranchState,
    failure: Failure,
    heads: Heads | None,
    now: datetime,
    policy: RetryPolicy,
    *,
    previous: BranchState,
) -> BranchState:
    """An attempt failed. `heads`: where the branch was left, None if that could not be read.

    A branch that already needed a person goes on needing one. Under `wait_for_unreachable` a
    branch that cannot be reached stays Failed for as long as that lasts. One that failed before
    any revision was begun says nothing about the scripts, so it counts in no wave.
    """
    waits = policy.wait_for_unreachable and failure.kind is FailureKind.UNREACHABLE
    count = state.retry_count if waits else state.retry_count + 1
    manual = not waits and count >= policy.max_attempts
    manual = manual or previous.status is MigrationStatus.MANUAL
    manual = manual or failure.kind is FailureKind.MANUAL
    counted = state if failure.revision else previous
    if not failure.revision and previous.status is MigrationStatus.IN_PROGRESS:
        # What a killed run had begun there is not known to have failed.
        counted = _unmarked(previous)
    return state._replace(
        status=MigrationStatus.MANUAL if manual else MigrationStatus.FAILED,
        heads=state.heads if heads is None else heads,
        retry_count=count,
        next_attempt_at=None if manual else now + policy.delay(count),
        last_attempt_at=now,
        error=mask(failure.message),
        rollout=counted.rollout,
        wave=counted.wave,
        failed_revision=failure.revision,
    )


def restore(state: BranchState, previous: BranchState, heads: Heads | None) -> BranchState:
    """The attempt ended without a result (busy, stopped): as before, but for heads that moved.

    A branch of which some revisions landed is no longer Completed at what it was; InProgress was
    left by a run that was killed, and says only what its failures before that say.
    """
    moved = heads is not None and heads != previous.heads
    status = previous.status
    if status is MigrationStatus.IN_PROGRESS and previous.retry_count:
        status = MigrationStatus.FAILED
    elif status is MigrationStatus.IN_PROGRESS or (moved and status is MigrationStatus.COMPLETED):
        status = MigrationStatus.PENDING
    return state._replace(
        status=status,
        heads=previous.heads if heads is None else heads,
        target=previous.target,
        retry_count=previous.retry_count,
        next_attempt_at=previous.next_attempt_at,
        last_attempt_at=previous.last_attempt_at,
        error=previous.error,
        pinned=state.pinned or previous.pinned,
        rollout=previous.rollout if status is previous.status else None,
        wave=previous.wave if status is previous.status else None,
        failed_revision=previous.failed_revision,
    )


def withdraw(state: BranchState, target: str, now: datetime) -> BranchState:
    """A rollback to `target` is about to begin: from here on no tick brings the branch up again.

    It counts in no wave any more. The error stays for as long as nobody records an end, since a
    run that is killed can say nothing itself.
    """
    return _unmarked(state)._replace(
        status=MigrationStatus.IN_PROGRESS,
        target=target,
        last_attempt_at=now,
        error=f"a rollback to {target} was begun and has not ended; the same `branchmig rollback` "
        "goes on with it",
        pinned=True,
    )


def fail_back(
    state: BranchState,
    failure: Failure,
    heads: Heads | None,
    now: datetime,
    policy: RetryPolicy,
    *,
    previous: BranchState,
) -> BranchState:
    """A rollback failed: as `fail`, but no rollout is to be judged by it."""
    return _unmarked(fail(state, failure, heads, now, policy, previous=_unmarked(previous)))


def break_off(state: BranchState, previous: BranchState, heads: Heads | None) -> BranchState:
    """A rollback ended without a result (busy, stopped); where it has moved the branch it is still
    to be finished, and says so."""
    after = restore(state, previous, heads)
    if heads is None or heads == previous.heads:
        return after
    return _unmarked(after)._replace(target=state.target, error=state.error)


def _unmarked(state: BranchState) -> BranchState:
    """In no wave: its place is free for another branch."""
    return state._replace(rollout=None, wave=None, failed_revision=None)


def give_up(state: BranchState) -> BranchState:
    """What was abandoned needs a person, and says so. Pinned, it has left its wave."""
    left = _unmarked(state) if state.pinned else state
    return left._replace(status=MigrationStatus.MANUAL, next_attempt_at=None)


def adopt(state: BranchState, heads: Heads, now: datetime) -> BranchState:
    """A baseline was set: what is still to be applied is for the next run to find."""
    return _unmarked(state)._replace(
        status=MigrationStatus.PENDING,
        heads=heads,
        retry_count=0,
        next_attempt_at=None,
        last_attempt_at=now,
        error=None,
    )


def reset(state: BranchState) -> BranchState:
    """A person asked for another try: Pending, and every failure forgotten."""
    return _unmarked(state)._replace(
        status=MigrationStatus.PENDING,
        retry_count=0,
        next_attempt_at=None,
        error=None,
    )


def is_locked(state: BranchState, now: datetime) -> bool:
    """Whether a lease is held and has not expired."""
    return (
        state.lock_owner is not None
        and state.lock_expires_at is not None
        and state.lock_expires_at > now
    )


def abandoned(state: BranchState, now: datetime, policy: RetryPolicy) -> bool:
    """Whether a killed run left a branch InProgress that had failed too often, or that is pinned.

    Nobody attempts it on his own any more: it needs a person.
    """
    return (
        state.status is MigrationStatus.IN_PROGRESS
        and not is_locked(state, now)
        and (state.pinned or state.retry_count >= policy.max_attempts)
    )


def held_back(state: BranchState, now: datetime, policy: RetryPolicy) -> SkipReason | None:
    """Why `apply-all` leaves this branch alone now, or None where it may be attempted.

    InProgress under an expired lease is what a killed run left: it is taken over at once, unless
    the failures before it already call for a person. Only a success or a person forgets those.
    """
    if state.pinned:
        return SkipReason.PINNED
    if is_locked(state, now):
        return SkipReason.LEASED
    if state.status is MigrationStatus.MANUAL or state.retry_count >= policy.max_attempts:
        return SkipReason.MANUAL
    if state.status is MigrationStatus.IN_PROGRESS:
        return None
    due = state.next_attempt_at
    if due is not None and due > now + DUE_TOLERANCE:
        return SkipReason.BACKOFF
    return None


def why(state: BranchState, reason: SkipReason) -> str:
    """A skip in words, for the report and the log."""
    if reason is SkipReason.BACKOFF and state.next_attempt_at:
        return (
            f"failed {state.retry_count} time{'s' * (state.retry_count > 1)}, "
            f"next attempt at {state.next_attempt_at:%H:%M:%SZ}"
        )
    if reason is SkipReason.MANUAL:
        return f"needs a person after {state.retry_count} failed attempts: {state.error}"
    if reason is SkipReason.LEASED:
        return f"leased by another run until {state.lock_expires_at:%H:%M:%SZ}"
    return "pinned at its revision"
