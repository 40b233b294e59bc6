"""The course of one run: from the survey to the workers, and from the workers to HeadOffice.

One thread puts together what survey and crew tell of. It alone speaks to HeadOffice: it takes the
leases of what is to be begun next and writes down what has ended, many branches at a time.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from .. import transitions
from ..errors import (
    BranchmigError,
    ExecutorLost,
    LeaseError,
    StateConflict,
    StoreError,
    UnknownBranch,
)
from ..lease import Grant, Tenure
from ..manager import (
    RECORDING,
    RETRYING,
    BranchMigrationManager,
    conclusion,
    outcome_of,
    skipped,
)
from ..model import (
    Attempt,
    BranchState,
    Failure,
    MigrationStatus,
    Outcome,
    Record,
    SkipReason,
    Task,
    Verdict,
)
from ..sinks import BranchFinished, BranchStarted, Sinks
from ..store.leases import Conclusion, Wanted
from ..store.rows import Transition
from ..waves import Gate
from .backlog import Backlog, Job
from .crew import Crew
from .ledger import Entry, Ledger
from .survey import Finding, Survey

log = logging.getLogger("branchmig.fleet")

_AHEAD = 0.25
_MOST_AHEAD = 20
"""Leases are taken for what a worker will do within so many seconds, and for no more branches a
worker than this: others must be able to work too."""

_KNOWN = 50
"""Leases taken at once only to record what the survey has found out already."""


@dataclass(frozen=True, slots=True)
class _Done:
    """A task that a worker has done with."""

    job: Job
    grant: Grant
    future: Future[Attempt]


class Course:
    """The state of a run while it lasts. Everything in here belongs to one thread."""

    def __init__(
        self,
        manager: BranchMigrationManager,
        sinks: Sinks,
        crew: Crew,
        gate: Gate | None,
        target: str,
    ) -> None:
        self.outcomes: list[Outcome] = []
        self._manager = manager
        self._sinks = sinks
        self._crew = crew
        self._gate = gate
        self._target = target
        self._events: queue.SimpleQueue[Sequence[Finding] | _Done | None] = queue.SimpleQueue()
        self._unseen: dict[str, Record] = {}
        self._goes_first = gate.goes_first if gate else lambda record: False
        self._backlog = Backlog(manager.settings.run.per_server, self._goes_first)
        self._known: deque[Job] = deque()
        self._ready: deque[tuple[Job, Grant]] = deque()
        self._unbegun: list[tuple[Job, Grant]] = []
        self._running = 0
        self._pace = 0.0  # seconds that a branch takes a worker, of late; 0: not known yet
        self._closed: transitions.HeldBack | None = None
        self._waits = False
        self._away_since: float | None = None
        self._broken: StoreError | ExecutorLost | None = None
        seconds = manager.settings.run.lease_seconds
        self._tenure = Tenure(manager.store, manager.run, seconds)
        self._ledger = Ledger(self._tenure, manager.fence, seconds)

    # The whole --------------------------------------------------------------------------------

    def run(self, records: Sequence[Record]) -> None:
        """From the survey to the last record. Raises StoreError."""
        manager = self._manager
        per_server = manager.settings.run.survey_per_server
        with ExitStack() as stack:
            stack.enter_context(self._tenure)
            stack.callback(self._give_back)
            stack.callback(self._crew.close)
            if self._gate:
                # What a run that was killed had not judged any more.
                self._judge(self._gate)
            stack.enter_context(manager.fence.watched(self._pass_on))
            due = self._due(records)
            self._unseen = {record.branch.id: record for record in due}
            survey = Survey(manager.migrator, per_server, self._events.put)
            stack.enter_context(closing(survey))
            survey.begin(due)
            while self._goes_on():
                pass
        if self._broken:
            raise self._broken

    def _goes_on(self) -> bool:
        """One turn: record what has ended, begin what can be begun, wait for what comes next."""
        if self._ledger.due_in() == 0.0:
            # First, since a failure may forbid to begin anything more.
            self._record()
        if self._broken or self._manager.fence.state.signum is not None:
            self._drop()
        while self._lease():
            pass
        self._submit()
        if self._broken:
            self._drop()
        due_in = self._ledger.due_in()
        idle = not (self._unseen or self._running or self._backlog or self._known or self._ready)
        if due_in is not None and (due_in == 0.0 or idle or self._waits):
            self._record()
            return True
        if idle:
            return False
        with suppress(queue.Empty):
            self._hear(self._events.get(timeout=due_in))
            # What has come meanwhile belongs into the same batches.
            while True:
                self._hear(self._events.get_nowait())
        return True

    def _hear(self, event: Sequence[Finding] | _Done | None) -> None:
        match event:
            case _Done() as done:
                self._ended(done)
            case list(findings):
                self._found(findings)

    def _found(self, findings: Sequence[Finding]) -> None:
        for found in findings:
            if self._unseen.pop(found.record.branch.id, None):
                self._surveyed(found)
        # Whom the gate waits for may be among them, or will not come any more.
        if not self._unseen or any(self._goes_first(found.record) for found in findings):
            self._waits = False

    def _due(self, records: Iterable[Record]) -> list[Record]:
        """Those that may be attempted now; of the others the outcome is known."""
        now = self._manager.store.now()
        due = []
        for record in records:
            if transitions.abandoned(record.state, now, self._manager.policy):
                self._give_up(record)
            reason = transitions.held_back(record.state, now, self._manager.policy)
            if reason and self._manager.fence.state.signum is None:
                self._finish(skipped(record, reason, transitions.why(record.state, reason)))
            else:
                due.append(record)
        return due

    def _give_up(self, record: Record) -> None:
        """Nobody attempts it on his own any more, so its state must not say InProgress."""
        # Somebody who was quicker has taken it up, or removed it.
        with suppress(LeaseError, StateConflict, UnknownBranch):
            self._manager.store.change(record.branch, self._given_up)

    def _given_up(self, state: BranchState, now: datetime) -> BranchState:
        abandoned = transitions.abandoned(state, now, self._manager.policy)
        return transitions.give_up(state) if abandoned else state

    def _finish(self, outcome: Outcome) -> None:
        self._sinks.emit(BranchFinished(outcome))
        self.outcomes.append(outcome)

    # From the survey to the workers -----------------------------------------------------------

    def _surveyed(self, found: Finding) -> None:
        record = found.record
        if found.busy:
            self._finish(skipped(record, SkipReason.BUSY, found.busy))
            return
        to_do = self._has_steps(found)
        if to_do is False and _agrees(record, found):
            self._finish(_unchanged(record))
            return
        server = self._manager.migrator.server(record.branch)
        if found.failure:
            attempt = Attempt(failure=found.failure)
            self._known.append(Job(record, None, server, False, attempt))
        else:
            self._backlog.add(Job(record, found.heads, server, to_do is not False))

    def _has_steps(self, found: Finding) -> bool | None:
        """Whether revisions are to run on a branch; None: only an attempt can tell."""
        if found.heads is None:
            return None
        try:
            history = self._manager.migrator.history(found.record.branch.provider)
            return bool(history.steps(found.heads, self._target))
        except BranchmigError:
            return None

    def _lease(self) -> bool:
        """Take the leases of what the workers will begin next; whether there is room for others."""
        if self._waits or self._broken:
            return False
        jobs = [self._known.popleft() for _ in range(min(len(self._known), _KNOWN))]
        jobs += self._backlog.take(self._wanted())
        if not jobs:
            return False
        if self._closed:
            jobs = [job for job in jobs if not self._held_back(job, self._closed)]
        wanted = [Wanted(job.record.branch, self._begin(job), job.in_wave) for job in jobs]
        try:
            grants = self._tenure.take(wanted, self._gate) if wanted else []
        except StoreError as error:
            self._backlog.put_back(job for job in jobs if job.attempt is None)
            self._known.extendleft(job for job in jobs if job.attempt)
            return self._put_off(error)
        self._away_since = None
        refused = []
        for job, grant in zip(jobs, grants, strict=True):
            if isinstance(grant, Grant):
                self._granted(job, grant)
            elif job.in_wave and getattr(grant, "reason", None) in (
                SkipReason.HALTED, SkipReason.WAVE,
            ):  # fmt: skip
                refused.append((job, grant))
            else:
                self._refused(job, grant)
        if refused:
            self._at_the_gate([job for job, _ in refused], refused[0][1])
        return True

    def _put_off(self, error: StoreError) -> bool:
        """HeadOffice is away: whether it is to be asked again."""
        self._away_since = self._away_since or time.monotonic()
        patience = min(RECORDING, self._manager.settings.run.lease_seconds)
        if time.monotonic() > self._away_since + patience:
            self._broken = error
            return False
        self._manager.fence.pause(RETRYING)
        return self._manager.fence.state.signum is None

    def _wanted(self) -> int:
        """How many leases more: for every idle worker, and some ahead where the work is quick."""
        ahead = self._ahead() * self._crew.size
        lacking = self._crew.size - self._running - len(self._ready)
        if lacking <= 0 and len(self._ready) > self._crew.size:
            return 0  # so that the next are taken many at a time
        return max(0, lacking + ahead)

    def _ahead(self) -> int:
        """How many branches a worker is sure to do soon."""
        return min(_MOST_AHEAD, int(_AHEAD / self._pace)) if self._pace else 0

    def _begin(self, job: Job) -> Transition:
        def begin(state: BranchState, now: datetime) -> BranchState:
            reason = transitions.held_back(state, now, self._manager.policy)
            if reason:
                raise transitions.HeldBack(reason, transitions.why(state, reason))
            return transitions.begin(state, job.heads, self._target, now)

        return begin

    def _granted(self, job: Job, grant: Grant) -> None:
        if job.attempt:
            self._conclude(job, grant, job.attempt)
        else:
            self._ready.append((job, grant))

    def _refused(self, job: Job, error: BranchmigError | Grant) -> None:
        if job.attempt is None:
            self._backlog.done(job)
        if isinstance(error, UnknownBranch):
            log.info("%s", error, extra={"branch": job.record.branch.code})
            return
        reason = getattr(error, "reason", SkipReason.LEASED)
        self._finish(skipped(job.record, reason, str(error)))

    def _submit(self) -> None:
        # One more than it can do at once lets a quick worker go on without us.
        most = self._crew.size * (2 if self._ahead() else 1)
        while self._ready and self._running < most:
            job, grant = self._ready.popleft()
            branch = job.record.branch
            self._sinks.emit(BranchStarted(branch))
            self._running += 1
            task = Task(branch, self._target, grant.lease.previous.heads)
            try:
                future = self._crew.submit(task, grant.fence)
            except ExecutorLost as error:
                self._running -= 1
                self._ready.appendleft((job, grant))
                self._broken = error
                return
            future.add_done_callback(partial(self._tell, job, grant))

    def _tell(self, job: Job, grant: Grant, future: Future[Attempt]) -> None:
        self._events.put(_Done(job, grant, future))

    # From the workers to HeadOffice -----------------------------------------------------------

    def _ended(self, done: _Done) -> None:
        self._running -= 1
        try:
            attempt = done.future.result()
        except ExecutorLost as error:
            # Perhaps the work goes on where we cannot see it: its lease has to run out.
            self._broken = self._broken or error
            return
        except BaseException as error:
            # A fault of ours: it costs its branch an attempt, and no other branch anything.
            code = done.job.record.branch.code
            log.debug("while %s was migrated", code, exc_info=error, extra={"branch": code})
            attempt = Attempt(failure=Failure.of(error))
        seconds = attempt.duration.total_seconds()
        self._pace = (3 * self._pace + seconds) / 4 if self._pace else seconds
        self._conclude(done.job, done.grant, attempt)

    def _conclude(self, job: Job, grant: Grant, attempt: Attempt) -> None:
        if job.attempt is None:
            self._backlog.done(job)
        attempt, lease = self._blamed(job, attempt), grant.lease
        outcome = outcome_of(job.record.branch, lease.previous, attempt)
        end = conclusion(lease.previous, attempt, self._manager.policy)
        entry = Entry(job.record, Conclusion(lease, end, outcome), outcome)
        # A rollout is judged by its failures: the sooner, the fewer branches follow.
        self._ledger.add(entry, urgent=self._gate is not None and _counts(outcome))

    def _blamed(self, job: Job, attempt: Attempt) -> Attempt:
        """A worker that died cannot say which revision it had in hand: the first is suspected."""
        failure = attempt.failure
        if failure is None or failure.type != "WorkerDied" or job.heads is None:
            return attempt
        first = None
        with suppress(BranchmigError):
            history = self._manager.migrator.history(job.record.branch.provider)
            first = next((step.revision for step in history.steps(job.heads, self._target)), None)
        return replace(attempt, failure=replace(failure, revision=first))

    def _record(self) -> None:
        self._waits = False
        try:
            outcomes = self._ledger.write(patient=self._broken is None)
            for outcome in outcomes:
                self._finish(outcome)
            if self._gate and any(map(_counts, outcomes)):
                self._judge(self._gate)
        except StoreError as error:
            self._broken = self._broken or error

    # The waves --------------------------------------------------------------------------------

    def _judge(self, gate: Gate) -> None:
        rollout = self._manager.store.rollouts.judge(gate, self._manager.run)
        if not rollout.is_halted or self._closed:
            return
        why = f"the rollout is halted: {rollout.halt_reason}"
        if rollout.halted_by == self._manager.run.id:
            log.error("%s", why)
        self._close_gate(transitions.HeldBack(SkipReason.HALTED, why))

    def _at_the_gate(self, jobs: list[Job], error: BranchmigError | Grant) -> None:
        """Branches that the waves did not let in: they wait for those of ours that are in hand,
        and for those that may still be found to go first."""
        assert isinstance(error, transitions.HeldBack)
        self._backlog.put_back(jobs)
        in_hand = self._running or self._ready or len(self._ledger) or self._unseen
        if error.reason is SkipReason.WAVE and in_hand:
            self._waits = True
        else:
            self._close_gate(error)

    def _close_gate(self, error: transitions.HeldBack) -> None:
        """Nothing more is let in by this run; what has a lease and is not begun gives it back."""
        self._closed = error
        self._return([item for item in self._ready if item[0].in_wave], error.reason, str(error))

    def _held_back(self, job: Job, error: transitions.HeldBack) -> bool:
        if job.in_wave:
            self._backlog.done(job)
            self._finish(skipped(job.record, error.reason, str(error)))
        return job.in_wave

    # The end ----------------------------------------------------------------------------------

    def _drop(self) -> None:
        """Begin nothing more: the run was stopped, or HeadOffice is gone."""
        left = [*self._unseen.values(), *(job.record for job in self._backlog.drain())]
        left += [job.record for job in self._known]
        self._unseen.clear()
        self._known.clear()
        self._waits = False
        if self._broken:
            self._unbegun += self._ready
            self._ready.clear()
            return
        for record in left:
            self._finish(skipped(record, SkipReason.STOPPED, _STOPPED))
        self._return(list(self._ready), SkipReason.STOPPED, _STOPPED)

    def _return(self, ready: list[tuple[Job, Grant]], reason: SkipReason, why: str) -> None:
        """Give back leases under which nothing was begun."""
        for job, grant in ready:
            self._ready.remove((job, grant))
            self._backlog.done(job)
            outcome = skipped(job.record, reason, why)
            self._ledger.add(Entry(job.record, _untouched(grant), outcome))

    def _give_back(self) -> None:
        """Whatever ended the run: leases under which nothing was begun are nobody's any more."""
        with suppress(BranchmigError):
            left = [*self._unbegun, *self._ready]
            self._tenure.give_back([_untouched(grant) for _, grant in left])

    def _pass_on(self, state: object) -> None:
        self._tenure.obey(self._manager.fence.state)
        self._events.put(None)


_STOPPED = "the run was stopped"


def _untouched(grant: Grant) -> Conclusion:
    previous = grant.lease.previous
    return Conclusion(
        grant.lease, lambda state, now: transitions.restore(state, previous, None), None
    )


def _agrees(record: Record, found: Finding) -> bool:
    """Nothing to put right either: costs no lease and no write."""
    return record.state.status is MigrationStatus.COMPLETED and record.state.heads == found.heads


def _counts(outcome: Outcome) -> bool:
    """Whether it is a failure for which a rollout may have to halt."""
    return outcome.failure is not None and outcome.failure.revision is not None


def _unchanged(record: Record) -> Outcome:
    heads = record.state.heads
    return Outcome(record.branch, Verdict.UNCHANGED, record.state.status, heads, heads)
