"""The course of one run: from the survey to the workers, and from the workers to HeadOffice.

One thread puts together what survey and crew tell of. It alone speaks to HeadOffice: it takes the
leases of what is to be begun next (`dispatch`) and writes down what has ended (`ledger`), many
branches at a time.
"""

from __future__ import annotations

import logging
import queue
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
from ..lease import Tenure
from ..manager import BranchMigrationManager, conclusion, outcome_of, skipped
from ..model import (
    Attempt,
    BranchState,
    Failure,
    MigrationStatus,
    Outcome,
    Provider,
    Record,
    SkipReason,
    Verdict,
)
from ..sinks import BranchFinished, BranchStarted, Sinks
from ..store.leases import Conclusion
from ..waves import Gate
from .backlog import Job
from .crew import Crew
from .dispatch import Assignment, Dispatch, Leased
from .ledger import Entry, Ledger
from .survey import Finding, Survey

log = logging.getLogger("branchmig.fleet")

_AHEAD = 0.25
_MOST_AHEAD = 40
"""Leases are taken for what a worker will do within so many seconds, and for no more branches a
worker than this: others must be able to work too."""


@dataclass(frozen=True, slots=True)
class _Done:
    """A task that a worker has done with."""

    leased: Leased
    future: Future[Attempt]


class Course:
    """The state of a run while it lasts. Everything in here belongs to one thread."""

    def __init__(
        self, manager: BranchMigrationManager, sinks: Sinks, crew: Crew, assignment: Assignment
    ) -> None:
        self.outcomes: list[Outcome] = []
        self.longest: dict[tuple[Provider, str], float] = {}
        self._manager = manager
        self._sinks = sinks
        self._crew = crew
        self._gate = assignment.gate
        self._target = assignment.target
        self._timetable = assignment.timetable
        self._events: queue.SimpleQueue[Sequence[Finding] | _Done | None] = queue.SimpleQueue()
        self._unseen: dict[str, Record] = {}
        self._running = 0
        self._pace = 0.0  # seconds that a branch takes a worker, of late; 0: not known yet
        self._broken: StoreError | ExecutorLost | None = None
        seconds = manager.settings.run.lease_seconds
        self._tenure = Tenure(manager.store, manager.run, seconds)
        self._ledger = Ledger(self._tenure, manager.fence, seconds)
        self._dispatch = Dispatch(manager, assignment, self._tenure, self._ledger, self._finish)

    # The whole --------------------------------------------------------------------------------

    def run(self, records: Sequence[Record]) -> None:
        """From the survey to the last record. Raises StoreError."""
        manager = self._manager
        per_server = manager.settings.run.survey_per_server
        with ExitStack() as stack:
            stack.enter_context(self._tenure)
            stack.callback(self._dispatch.give_back)
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
        self._end_early()
        self._lease()
        self._submit()
        if self._broken:
            self._drop_all()
        due_in = self._ledger.due_in()
        idle = not (self._unseen or self._running) and self._dispatch.is_empty
        if due_in is not None and (due_in == 0.0 or idle or self._dispatch.waits):
            self._record()
            return True
        if idle:
            return False
        waits = [seconds for seconds in (due_in, self._time_left()) if seconds is not None]
        with suppress(queue.Empty):
            self._hear(self._events.get(timeout=min(waits, default=None)))
            # What has come meanwhile belongs into the same batches.
            while True:
                self._hear(self._events.get_nowait())
        return True

    def _time_left(self) -> float | None:
        """Seconds until what is not begun has to wait for the next run, where any is left."""
        waits = self._unseen or not self._dispatch.is_empty
        return self._timetable.left() if waits else None

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
        if not self._unseen or any(self._dispatch.goes_first(found.record) for found in findings):
            self._dispatch.wake()

    def _due(self, records: Iterable[Record]) -> list[Record]:
        """Those that may be attempted now; of the others the outcome is known."""
        now = self._manager.store.now()
        stopped = self._manager.fence.state.signum is not None
        due = []
        for record in records:
            if transitions.abandoned(record.state, now, self._manager.policy):
                self._give_up(record)
            reason = transitions.held_back(record.state, now, self._manager.policy)
            if stopped:
                due.append(record)
            elif reason:
                self._finish(skipped(record, reason, transitions.why(record.state, reason)))
            elif closed := self._timetable.closed(record.branch):
                self._finish(skipped(record, SkipReason.WINDOW, str(closed)))
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
            self._dispatch.add(Job(record, None, server, False, attempt))
        else:
            self._dispatch.add(Job(record, found.heads, server, to_do is not False))

    def _has_steps(self, found: Finding) -> bool | None:
        """Whether revisions are to run on a branch; None: only an attempt can tell."""
        if found.heads is None:
            return None
        try:
            history = self._manager.migrator.history(found.record.branch.provider)
            return bool(history.steps(found.heads, self._target))
        except BranchmigError:
            return None

    def _lease(self) -> None:
        """Take the leases of what the workers will begin next."""
        try:
            while not self._broken:
                awaited = bool(self._running or len(self._ledger) or self._unseen)
                known = self._dispatch.lease(self._wanted(), awaited=awaited)
                if known is None:
                    break
                for leased in known:
                    assert leased.job.attempt is not None
                    self._conclude(leased, leased.job.attempt)
        except StoreError as error:
            self._broken = error

    def _wanted(self) -> int:
        """How many leases more: for every idle worker, and some ahead where the work is quick."""
        ahead = self._ahead() * self._crew.size
        lacking = self._crew.size - self._running - self._dispatch.ready
        if lacking <= 0 and self._dispatch.ready > self._crew.size:
            return 0  # so that the next are taken many at a time
        return max(0, lacking + ahead)

    def _ahead(self) -> int:
        """How many branches a worker is sure to do soon."""
        return min(_MOST_AHEAD, int(_AHEAD / self._pace)) if self._pace else 0

    def _submit(self) -> None:
        # One more than it can do at once lets a quick worker go on without us.
        most = self._crew.size * (2 if self._ahead() else 1)
        while self._running < most and (begun := self._dispatch.next()):
            leased, task = begun
            self._sinks.emit(BranchStarted(task.branch))
            self._running += 1
            try:
                future = self._crew.submit(task, leased.grant.fence)
            except ExecutorLost as error:
                self._running -= 1
                self._dispatch.put_back(leased)
                self._broken = error
                return
            future.add_done_callback(partial(self._tell, leased))

    def _tell(self, leased: Leased, future: Future[Attempt]) -> None:
        self._events.put(_Done(leased, future))

    # From the workers to HeadOffice -----------------------------------------------------------

    def _ended(self, done: _Done) -> None:
        self._running -= 1
        branch = done.leased.job.record.branch
        try:
            attempt = done.future.result()
        except ExecutorLost as error:
            # Perhaps the work goes on where we cannot see it: its lease has to run out.
            self._broken = self._broken or error
            return
        except BaseException as error:
            # A fault of ours: it costs its branch an attempt, and no other branch anything.
            log.debug(
                "while %s was migrated", branch.code, exc_info=error, extra={"branch": branch.code}
            )
            attempt = Attempt(failure=Failure.of(error))
        seconds = attempt.duration.total_seconds()
        self._pace = (3 * self._pace + seconds) / 4 if self._pace else seconds
        for revision, took in zip(attempt.applied, attempt.took, strict=True):
            known = self.longest.get((branch.provider, revision), 0)
            self.longest[branch.provider, revision] = max(known, took)
        self._conclude(done.leased, attempt)

    def _conclude(self, leased: Leased, attempt: Attempt) -> None:
        job, lease = leased.job, leased.grant.lease
        self._dispatch.done(job)
        attempt = self._blamed(job, attempt)
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
        self._dispatch.wake()
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
        if not rollout.is_halted or self._dispatch.is_closed:
            return
        why = f"the rollout is halted: {rollout.halt_reason}"
        if rollout.halted_by == self._manager.run.id:
            log.error("%s", why)
        self._dispatch.close(transitions.HeldBack(SkipReason.HALTED, why))

    # The end ----------------------------------------------------------------------------------

    def _end_early(self) -> None:
        """Begin nothing more once HeadOffice is gone, the run was stopped, or its time is over."""
        if self._broken:
            self._drop_all()
        elif self._manager.fence.state.signum is not None:
            self._drop(SkipReason.STOPPED, "the run was stopped")
        elif self._time_left() == 0:
            minutes = self._manager.settings.run.max_minutes
            self._drop(SkipReason.MAX_MINUTES, f"the run had its {minutes:g} minutes")

    def _drop(self, reason: SkipReason, why: str) -> None:
        for record in self._unseen.values():
            self._finish(skipped(record, reason, why))
        self._unseen.clear()
        self._dispatch.drop(reason, why)

    def _drop_all(self) -> None:
        self._unseen.clear()
        self._dispatch.abandon()

    def _pass_on(self, state: object) -> None:
        self._tenure.obey(self._manager.fence.state)
        self._events.put(None)


def _agrees(record: Record, found: Finding) -> bool:
    """Nothing to put right either: costs no lease and no write."""
    return record.state.status is MigrationStatus.COMPLETED and record.state.heads == found.heads


def _counts(outcome: Outcome) -> bool:
    """Whether it is a failure for which a rollout may have to halt."""
    return outcome.failure is not None and outcome.failure.revision is not None


def _unchanged(record: Record) -> Outcome:
    heads = record.state.heads
    return Outcome(record.branch, Verdict.UNCHANGED, record.state.status, heads, heads)
