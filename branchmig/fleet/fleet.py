"""`apply-all`: find out who is behind, have the work done, put the outcomes together."""

from __future__ import annotations

import hashlib
import logging
import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from .. import transitions
from ..errors import BranchmigError, ProviderError, UnknownBranch
from ..fence import Fence, Fencing
from ..manager import BranchMigrationManager, skipped
from ..model import (
    BranchState,
    Filters,
    Heads,
    MigrationStatus,
    Outcome,
    Record,
    Report,
    SkipReason,
    Verdict,
)
from ..sinks import BranchFinished, BranchStarted, RunFinished, RunStarted, Sinks
from .crew import Crew
from .survey import Finding, Survey
from .worker import Worker

log = logging.getLogger("branchmig.fleet")


def select(records: Iterable[Record], filters: Filters) -> tuple[Record, ...]:
    """The active branches that the filters mean, by code."""
    return tuple(r for r in records if r.branch.is_active and _meant(r, filters))


def _meant(record: Record, filters: Filters) -> bool:
    branch = record.branch
    return (
        (not filters.tags or bool(set(filters.tags) & set(branch.tags)))
        and (not filters.providers or branch.provider in filters.providers)
        and (not filters.statuses or record.state.status in filters.statuses)
        and (filters.shard is None or _in_shard(branch.id, *filters.shard))
    )


def _in_shard(branch_id: str, index: int, count: int) -> bool:
    """The same answer on every host and in every version: by the hash of the id."""
    digest = hashlib.sha256(branch_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") % count == index - 1


class _HeldBack(Exception):
    """Found out while taking the lease: somebody else has changed the branch's state."""

    def __init__(self, reason: SkipReason, why: str) -> None:
        super().__init__(why)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Job:
    """One branch to be migrated, and what the survey found it at."""

    record: Record
    heads: Heads | None
    server: str | None


@dataclass(frozen=True, slots=True)
class _Done:
    job: _Job
    result: Outcome | BaseException | None


class Fleet:
    """One run over many branches.

    The survey finds out who is behind; the crew's workers migrate those, so many at once. One
    thread puts together what both tell of, gives out the work, and is the only one that talks.
    """

    def __init__(self, manager: BranchMigrationManager, sinks: Sinks, workers: int) -> None:
        """`workers`: how many processes migrate at once."""
        self._manager = manager
        self._sinks = sinks
        self._workers = workers
        self._events: queue.SimpleQueue[Finding | _Done | None] = queue.SimpleQueue()
        self._waiting: deque[_Job] = deque()
        self._at_work: Counter[str] = Counter()

    def check(self, records: Iterable[Record], target: str) -> None:
        """Raise HistoryError, UnknownRevision or MultipleHeads before anything is touched."""
        migrator = self._manager.migrator
        for provider in sorted({record.branch.provider for record in records}):
            # A provider without a driver or a strategy harms its own branches alone.
            with suppress(ProviderError):
                migrator.strategy(provider)
                migrator.history(provider).check_target(target)

    def apply_all(self, records: Iterable[Record], target: str) -> Report:
        """Bring every one of `records` to `target`; one bad branch costs its neighbours nothing.

        To be checked with `check` first. Raises StoreError where HeadOffice goes away: what was
        done then is found by the next run.
        """
        started = time.monotonic()
        chosen = tuple(records)
        self._sinks.emit(RunStarted(self._manager.run, len(chosen)))
        outcomes = []
        for outcome in self._outcomes(chosen, target):
            self._sinks.emit(BranchFinished(outcome))
            outcomes.append(outcome)
        # In the order of the list, whoever was quicker.
        place = {record.branch.id: number for number, record in enumerate(chosen)}
        outcomes.sort(key=lambda outcome: place[outcome.branch.id])
        elapsed = timedelta(seconds=time.monotonic() - started)
        report = Report(self._manager.run.id, tuple(outcomes), elapsed)
        self._sinks.emit(RunFinished(self._manager.run, report))
        return report

    def _outcomes(self, records: tuple[Record, ...], target: str) -> Iterator[Outcome]:
        manager = self._manager
        now = manager.store.now()
        due = []
        for record in records:
            reason = transitions.held_back(record.state, now, manager.policy)
            if reason and manager.fence.state.signum is None:
                yield skipped(record, reason, _why(record.state, reason))
            else:
                due.append(record)
        per_server = manager.settings.run.survey_per_server
        with (
            closing(Crew[_Job, Outcome | None](manager.settings, self._workers, self._work(target),
                                        lambda job, result: self._events.put(_Done(job, result)))
                    ) as crew,
            closing(Survey(manager.migrator, per_server, self._events.put)) as survey,
            manager.fence.watched(lambda state: self._pass_on(crew, state)),
        ):  # fmt: skip
            survey.begin(due)
            yield from self._worked(crew, {record.branch.id: record for record in due}, target)

    def _worked(
        self, crew: Crew[_Job, Outcome | None], unseen: dict[str, Record], target: str
    ) -> Iterator[Outcome]:
        """Whatever becomes of `unseen`, the branches that the survey has not told of yet."""
        in_hand = 0
        broken: BaseException | None = None
        while True:
            if broken or self._manager.fence.state.signum is not None:
                left = [*unseen.values(), *(job.record for job in self._waiting)]
                unseen.clear()
                self._waiting.clear()
                for record in () if broken else left:
                    yield skipped(record, SkipReason.STOPPED, "the run was stopped")
            in_hand += self._give_out(crew)
            if not (in_hand or unseen or self._waiting):
                break
            match self._events.get():
                case Finding(record) as found if unseen.pop(record.branch.id, None):
                    yield from self._surveyed(found, target)
                case _Done(job, result):
                    in_hand -= 1
                    self._at_work[job.server or ""] -= 1
                    if isinstance(result, BaseException):
                        broken = broken or result
                    elif result is not None:
                        yield result
        if broken:
            raise broken

    def _pass_on(self, crew: Crew[_Job, Outcome | None], state: Fencing) -> None:
        crew.obey(state)
        self._events.put(None)

    def _surveyed(self, found: Finding, target: str) -> Iterator[Outcome]:
        record = found.record
        if found.busy:
            yield skipped(record, SkipReason.BUSY, found.busy)
        elif self._agrees(record, found.heads, target):
            yield _unchanged(record)
        else:
            server = self._manager.migrator.server(record.branch)
            self._waiting.append(_Job(record, found.heads, server))

    def _give_out(self, crew: Crew[_Job, Outcome | None]) -> int:
        """Begin what can be begun; how many that were."""
        begun = 0
        passed: list[_Job] = []
        while self._waiting and crew.has_room:
            job = self._waiting.popleft()
            if job.server and self._at_work[job.server] >= self._manager.settings.run.per_server:
                passed.append(job)
                continue
            self._at_work[job.server or ""] += 1
            self._sinks.emit(BranchStarted(job.record.branch))
            crew.begin(job)
            begun += 1
        self._waiting.extendleft(reversed(passed))
        return begun

    def _work(self, target: str) -> Callable[[_Job, Worker, Fence], Outcome | None]:
        """What a thread of the crew does with one branch."""

        def work(job: _Job, worker: Worker, fence: Fence) -> Outcome | None:
            manager = self._manager.under(fence)
            try:
                return manager.migrate(
                    job.record, target, worker.attempt, self._beginning(job.heads, target)
                )
            except _HeldBack as held:
                return skipped(job.record, held.reason, str(held))
            except UnknownBranch as removed:
                log.info("%s", removed)
                return None

        return work

    def _agrees(self, record: Record, heads: Heads | None, target: str) -> bool:
        """Nothing to do and nothing to put right: costs no lease and no write."""
        if heads is None or record.state.status is not MigrationStatus.COMPLETED:
            return False
        if heads != record.state.heads:
            return False
        try:
            history = self._manager.migrator.history(record.branch.provider)
            return not history.steps(heads, target)
        except BranchmigError:
            return False

    def _beginning(
        self, heads: Heads | None, target: str
    ) -> Callable[[BranchState, datetime], BranchState]:
        def begin(state: BranchState, now: datetime) -> BranchState:
            reason = transitions.held_back(state, now, self._manager.policy)
            if reason:
                raise _HeldBack(reason, _why(state, reason))
            return transitions.begin(state, heads, target, now)

        return begin


def _unchanged(record: Record) -> Outcome:
    heads = record.state.heads
    return Outcome(record.branch, Verdict.UNCHANGED, record.state.status, heads, heads)


def _why(state: BranchState, reason: SkipReason) -> str:
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
