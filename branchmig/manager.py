"""One branch under lease: take the lease, have the work done, record what became of it.

Floor 5. A newcomer reads this after `model`. The work itself is `migrator`'s, here or in another
process; HeadOffice is `store`'s; every rule of what follows what is `transitions`'.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from . import transitions
from .config import Settings
from .errors import (
    BranchmigError,
    LeaseHeld,
    LeaseLost,
    NotAdopted,
    RollbackRefused,
    StateConflict,
    StoreError,
    UsageError,
)
from .fence import Fence
from .health import Condition
from .lease import RECORDING, hold, patiently
from .migrator import Migrator
from .model import (
    Attempt,
    Branch,
    BranchState,
    BranchStatus,
    FailureKind,
    Heads,
    Lease,
    MigrationHistory,
    MigrationStatus,
    Outcome,
    PendingRevisions,
    Plan,
    Provider,
    Record,
    Resolution,
    Reversal,
    Rollout,
    Run,
    SkipReason,
    Task,
    ValidationResult,
    Verdict,
    heads_text,
)
from .sinks import about
from .store import Store
from .store.durations import Measured
from .store.rows import Transition

UNRECORDED = (
    "the next run reads it off the branch once this run's lease has expired; "
    "`branchmig unlock --force` frees it sooner"
)
"""What becomes of work that landed and of which HeadOffice could not be told."""

Work = Callable[[Task, Fence], Attempt]
"""Does the work on one branch's database: `Migrator.attempt`, or a worker process."""


class BranchMigrationManager:
    """What may be asked of one branch.

    `run` is written beside every outcome; `fence` stops the work in hand.
    """

    def __init__(
        self, settings: Settings, store: Store, migrator: Migrator, run: Run, fence: Fence
    ) -> None:
        self.settings = settings
        self.store = store
        self.migrator = migrator
        self.run = run
        self.fence = fence
        given = settings.retry
        self.policy = transitions.RetryPolicy(
            max_attempts=given.max_attempts,
            backoff=timedelta(seconds=given.backoff_seconds),
            wait_for_unreachable=given.unreachable == "wait",
        )

    # Reading ----------------------------------------------------------------------------------

    def pending(self, branch: Branch, target: str) -> PendingRevisions:
        """The revisions that a branch lacks, read from the branch. Raises ProviderError."""
        steps = self.migrator.plan(branch, target).steps
        return PendingRevisions(branch, tuple(step.revision for step in steps))

    def plan(self, branch: Branch, target: str) -> Plan:
        """The way of a branch to a target, read from the branch. Raises ProviderError."""
        return self.migrator.plan(branch, target)

    def history(self, record: Record) -> MigrationHistory:
        """A branch's past, read from the branch; when, from HeadOffice's outcomes."""
        plan = self.migrator.plan(record.branch, self.settings.migrations.target)
        return MigrationHistory(
            branch=record.branch,
            applied=self.migrator.applied(record.branch, plan.current),
            pending=tuple(step.revision for step in plan.steps),
            last_migration_at=self.store.last_migration(record.branch),
            state=record.state,
        )

    def validate(self, branch: Branch) -> ValidationResult:
        """Whether a branch is what the configured target promises, read from the branch."""
        return self.migrator.validate(branch)

    def status(self, records: Iterable[Record]) -> tuple[BranchStatus, ...]:
        """What HeadOffice knows, held against the history: no branch is opened.

        A branch recorded Completed at older heads is behind, and shown as Pending.
        """
        now = self.store.now()
        rollout = self.store.rollouts.latest()
        halted = rollout if rollout and rollout.is_halted else None
        return tuple(self._status(record, now, halted) for record in records)

    def _status(self, record: Record, now: datetime, halted: Rollout | None) -> BranchStatus:
        history = self.migrator.history(record.branch.provider)
        wanted = history.target_heads(self.settings.migrations.target)
        behind = self.is_behind(record.branch.provider, record.state.heads)
        status = record.state.status
        if transitions.abandoned(record.state, now, self.policy):
            status = MigrationStatus.MANUAL
        return BranchStatus(
            branch=record.branch,
            state=record.state,
            status=(
                MigrationStatus.PENDING
                if behind and status is MigrationStatus.COMPLETED
                else status
            ),
            behind=behind,
            target=heads_text(wanted) if wanted else None,
            is_locked=transitions.is_locked(record.state, now),
            halted=halted.halt_reason if halted and behind and halted.heads == wanted else None,
        )

    def is_behind(self, provider: Provider, heads: Heads) -> bool:
        """Whether a branch at these heads lacks revisions of the configured target.

        False where that cannot be told: for heads that the history does not know, or for a target
        that counts from where a branch stands. Raises HistoryError.
        """
        history, target = self.migrator.history(provider), self.settings.migrations.target
        known = history.target_heads(target) is not None and history.knows(heads)
        return known and bool(history.steps(heads, target))

    def condition(self, rows: Iterable[BranchStatus]) -> Condition:
        """How the fleet of these rows is doing, in figures; from HeadOffice alone."""
        rows = tuple(rows)
        now = self.store.now()
        laggards = [row for row in rows if row.behind and not row.state.pinned]
        reached = {target: self._first_reached(target) for target in {r.target for r in laggards}}
        added = self.store.added() if laggards else {}
        # A branch that was added later has lacked it since then.
        since = [
            max(moment, added.get(row.branch.id, moment))
            for row in laggards
            if (moment := reached[row.target])
        ]
        last = self.store.trail.last_tick()
        return Condition(
            total=len(rows),
            at_head=sum(row.status is MigrationStatus.COMPLETED for row in rows),
            behind=len(laggards),
            failed=sum(row.status is MigrationStatus.FAILED for row in rows),
            manual=sum(row.status is MigrationStatus.MANUAL for row in rows),
            stuck=sum(row.state.lock_owner is not None and not row.is_locked for row in rows),
            lag=(now - min(since)).total_seconds() if since else None,
            silence=(now - last).total_seconds() if last else None,
            halted=next((row.halted for row in rows if row.halted), None),
        )

    def _first_reached(self, target: str | None) -> datetime | None:
        heads = tuple(sorted(target.split(", "))) if target else ()
        return self.store.trail.first_reached(heads) if heads else None

    # Changing ---------------------------------------------------------------------------------

    def apply(self, record: Record, target: str, *, create: bool = False) -> Outcome:
        """Migrate one branch because a person asked: whatever its retries and its pin say.

        A pin that was there before is gone once this succeeds.

        Raises UsageError for an inactive branch; anything else is in the outcome.
        """
        if not record.branch.is_active:
            raise UsageError(
                f"{record.branch.code} is inactive",
                f"`branchmig branch update {record.branch.code} --active` takes it back",
            )

        def begin(state: BranchState, now: datetime) -> BranchState:
            return transitions.begin(state, None, target, now)

        with about(record.branch.code):
            return self.migrate(
                record, target, self.migrator.attempt, begin, partial(conclusion, unpins=True),
                create=create,
            )  # fmt: skip

    def roll_back(self, record: Record, reversal: Reversal) -> Outcome:
        """Take one branch down the way that a person agreed to. It is pinned before the first step,
        and stays so however this ends. Whatever goes wrong is in the outcome.
        """
        target = heads_text(reversal.target) or "base"

        def begin(state: BranchState, now: datetime) -> BranchState:
            return transitions.withdraw(state, target[:255], now)

        def work(task: Task, fence: Fence) -> Attempt:
            # How long a downgrade took says nothing of the upgrade of that name.
            return replace(self.migrator.attempt(replace(task, reversal=reversal), fence), took=())

        with about(record.branch.code):
            return self.migrate(record, target, work, begin, withdrawal)

    def migrate(
        self,
        record: Record,
        target: str,
        work: Work,
        begin: Callable[[BranchState, datetime], BranchState],
        end: Callable[[BranchState, Attempt, transitions.RetryPolicy], Transition],
        *,
        create: bool = False,
    ) -> Outcome:
        """Take the lease, writing the state that `begin` gives, have the work done, record what
        `end` makes of it.

        A lease that another run holds is an outcome, not an error. Raises StoreError, and
        UnknownBranch where it has been removed.
        """
        branch = record.branch
        started = time.monotonic()
        seconds = self.settings.run.lease_seconds
        try:
            with hold(self.store, branch, self.run.id, seconds, self.fence, begin) as lease:
                task = Task(branch, target, lease.previous.heads, create)
                with self._given_back(lease):
                    attempt = work(task, self.fence)
                elapsed = timedelta(seconds=time.monotonic() - started)
                outcome = outcome_of(branch, lease.previous, replace(attempt, duration=elapsed))
                change = end(lease.previous, attempt, self.policy)
                recorded = self._recorded(lease, change, outcome)
            took = zip(attempt.applied, attempt.took, strict=False)
            self.learn({(branch.provider, revision): seconds for revision, seconds in took})
            return recorded
        except (LeaseHeld, StateConflict) as error:
            return skipped(record, SkipReason.LEASED, error.message)
        except LeaseLost as error:
            # Whoever has the lease now records what is true; of ours only the report remains.
            landed = attempt.applied
            return replace(skipped(record, SkipReason.LEASED, error.message), applied=landed)

    def learn(self, measured: Measured) -> None:
        """Remember how long revisions took, for those that have to be done before a window closes.

        What cannot be remembered is no loss: it is measured again elsewhere.
        """
        with suppress(StoreError):
            if measured:
                self.store.durations.learn(measured)

    def _recorded(self, lease: Lease, change: Transition, outcome: Outcome) -> Outcome:
        """Record an outcome, and give HeadOffice a while to come back where it is away.

        Raises StoreError that says what landed and is not recorded.
        """
        try:
            state = patiently(
                lambda: self.store.conclude(lease, change, self.run, outcome),
                self.fence,
                min(RECORDING, self.settings.run.lease_seconds),
            )
        except StoreError as error:
            landed = ", ".join(outcome.applied) or "nothing"
            error.message += (
                f"; on {outcome.branch.code} {landed} landed in this run, which could not be "
                "recorded"
            )
            error.hint = UNRECORDED
            raise
        return replace(outcome, status=state.status)

    @contextmanager
    def _given_back(self, lease: Lease) -> Iterator[None]:
        """Within, whatever is raised gives the lease back at once, everything as it was before."""
        try:
            yield
        except BaseException:
            with suppress(BranchmigError):
                self.store.conclude(
                    lease,
                    lambda state, now: transitions.restore(state, lease.previous, None),
                    self.run,
                    None,
                )
            raise

    def baseline(self, record: Record, revision: str) -> Heads:
        """Take over a database that another tool made. Gives the heads it now stands at.

        Raises DriftDetected, NotAdopted, LeaseHeld, ProviderError; nothing is written then.
        """
        branch = record.branch
        if not self.migrator.look(branch).exists:
            raise NotAdopted(
                f"{branch.code} has no database yet", "`branchmig apply` makes it from the start"
            )

        def begin(state: BranchState, now: datetime) -> BranchState:
            return transitions.begin(state, None, revision, now)

        seconds = self.settings.run.lease_seconds
        with hold(self.store, branch, self.run.id, seconds, self.fence, begin) as lease:
            with self._given_back(lease):
                heads = self.migrator.baseline(branch, revision, self.fence)
            outcome = Outcome(
                branch, Verdict.UNCHANGED, MigrationStatus.PENDING, (), heads,
                detail=f"baseline {revision}",
            )  # fmt: skip
            self.store.conclude(
                lease, lambda s, now: transitions.adopt(s, heads, now), self.run, outcome
            )
            return heads

    def resolve(self, record: Record, resolution: Resolution) -> str:
        """Settle, as a person says, a revision that broke half way; the next run goes on from it.

        Gives what was done, as a sentence. Raises UsageError, LeaseHeld, BranchBusy,
        ProviderError; nothing is written then.
        """
        branch = record.branch
        seconds = self.settings.run.lease_seconds
        with hold(
            self.store, branch, self.run.id, seconds, self.fence, lambda state, now: state
        ) as lease:
            try:
                done = self.migrator.resolve(branch, resolution, self.fence)
            except BaseException:
                self.store.conclude(
                    lease, lambda s, now: transitions.restore(s, lease.previous, None),
                    self.run, None,
                )  # fmt: skip
                raise
            self.store.conclude(lease, lambda s, now: transitions.reset(s), self.run, None)
            return done


def _unrecorded(previous: BranchState, start: Heads) -> tuple[str, ...]:
    """What a run that was killed had done, as far as the branch tells: no outcome says it."""
    if previous.status is not MigrationStatus.IN_PROGRESS or start == previous.heads:
        return ()
    was, now = heads_text(previous.heads) or "base", heads_text(start) or "base"
    return (f"a run that ended without a word had brought it from {was} to {now}",)


def skipped(record: Record, reason: SkipReason, detail: str | None = None) -> Outcome:
    """The outcome of a branch that the run left alone."""
    heads = record.state.heads
    return Outcome(
        branch=record.branch,
        verdict=Verdict.SKIPPED,
        status=record.state.status,
        from_heads=heads,
        to_heads=heads,
        reason=reason,
        detail=detail,
    )


def conclusion(
    previous: BranchState,
    attempt: Attempt,
    policy: transitions.RetryPolicy,
    *,
    unpins: bool = False,
) -> Transition:
    """The transition that an attempt amounts to."""

    def change(state: BranchState, now: datetime) -> BranchState:
        if attempt.failure and attempt.failure.kind is FailureKind.HOST:
            # Another host may do better: here it failed, and the branch is what it was.
            return transitions.restore(state, previous, attempt.heads)
        if attempt.failure:
            return transitions.fail(
                state, attempt.failure, attempt.heads, now, policy, previous=previous
            )
        if attempt.skip:
            return transitions.restore(state, previous, attempt.heads)
        done = transitions.succeed(state, attempt.heads or (), now)
        # A pin set while the work lasted stays.
        return done._replace(pinned=state.pinned and not (unpins and previous.pinned))

    return change


def withdrawal(
    previous: BranchState, attempt: Attempt, policy: transitions.RetryPolicy
) -> Transition:
    """The transition that an attempt to roll back amounts to."""
    failure = attempt.failure
    # Refused, or a fault of this host: neither says anything of the branch.
    refused = failure is not None and (
        failure.type == RollbackRefused.__name__ or failure.kind is FailureKind.HOST
    )

    def change(state: BranchState, now: datetime) -> BranchState:
        if attempt.skip or refused:
            return transitions.break_off(state, previous, attempt.heads)
        if attempt.failure:
            return transitions.fail_back(
                state, attempt.failure, attempt.heads, now, policy, previous=previous
            )
        return transitions.succeed(state, attempt.heads or (), now)

    return change


def outcome_of(branch: Branch, previous: BranchState, attempt: Attempt) -> Outcome:
    """What the run says of an attempt; the status is filled in when it has been recorded."""
    if attempt.failure:
        verdict = Verdict.FAILED
    elif attempt.skip:
        verdict = Verdict.SKIPPED
    else:
        verdict = Verdict.MIGRATED if attempt.applied else Verdict.UNCHANGED
    start = attempt.plan.current if attempt.plan else previous.heads
    return Outcome(
        branch=branch,
        verdict=verdict,
        status=previous.status,
        from_heads=start,
        to_heads=start if attempt.heads is None else attempt.heads,
        applied=attempt.applied,
        failure=attempt.failure,
        reason=attempt.skip,
        detail=attempt.reason,
        warnings=(*_unrecorded(previous, start), *attempt.warnings),
        duration=attempt.duration,
    )
