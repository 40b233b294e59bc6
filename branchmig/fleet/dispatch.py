"""Who is next: branches on their way from the survey to a worker, each under a lease.

Leases are taken many at a time, and only for what the workers begin next: other hosts must be able
to work too. What the waves, a window or a stop hold back is given back without having been begun.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from .. import transitions
from ..errors import BranchmigError, StoreError, UnknownBranch
from ..lease import RECORDING, RETRYING, Grant, Tenure
from ..manager import BranchMigrationManager, skipped
from ..model import BranchState, Outcome, Record, SkipReason, Task
from ..store.leases import Conclusion, Wanted
from ..store.rows import Transition
from ..waves import Gate
from .backlog import Backlog, Job
from .ledger import Entry, Ledger
from .timetable import Timetable

log = logging.getLogger("branchmig.fleet")

_KNOWN = 50
"""Leases taken at once only to record what the survey has found out already."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a run over many branches is to reach, as part of which rollout, and when."""

    target: str
    gate: Gate | None
    timetable: Timetable


@dataclass(frozen=True, slots=True)
class Leased:
    """A job whose lease has been taken."""

    job: Job
    grant: Grant


class Dispatch:
    """Jobs that wait, and those that have their lease. Belongs to one thread."""

    def __init__(
        self,
        manager: BranchMigrationManager,
        assignment: Assignment,
        tenure: Tenure,
        ledger: Ledger,
        finish: Callable[[Outcome], None],
    ) -> None:
        """`finish` is told of every branch that is left alone."""
        self._manager = manager
        self._assignment = assignment
        self._tenure = tenure
        self._ledger = ledger
        self._finish = finish
        gate = assignment.gate
        self.goes_first = gate.goes_first if gate else lambda record: False
        self._backlog = Backlog(manager.settings.run.per_server, self.goes_first)
        self._known: deque[Job] = deque()
        self._ready: deque[Leased] = deque()
        self._unbegun: list[Leased] = []
        self._closed: transitions.HeldBack | None = None
        self._waits = False
        self._away_since: float | None = None
        self._hopeless: set[str] = set()

    # What waits -------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        return not (self._backlog or self._known or self._ready)

    @property
    def ready(self) -> int:
        """How many have their lease and are not begun."""
        return len(self._ready)

    @property
    def waits(self) -> bool:
        """Whether the gate lets nobody in before something else has ended; see `wake`."""
        return self._waits

    def wake(self) -> None:
        """Ask the gate again."""
        self._waits = False

    def add(self, job: Job) -> None:
        if job.attempt:
            self._known.append(job)
        else:
            self._backlog.add(job)

    def done(self, job: Job) -> None:
        """A job is over; others of its server may follow."""
        if job.attempt is None:
            self._backlog.done(job)

    # Taking leases ----------------------------------------------------------------------------

    def lease(self, count: int, *, awaited: bool) -> list[Leased] | None:
        """Take the leases of at most `count` jobs to be begun, and of those that need no work.

        The latter are given back, to be recorded; None: there is nothing more to be leased now.
        `awaited`: work is in hand, or branches may still be found, that the gate may wait for.
        Raises StoreError where HeadOffice stays away.
        """
        if self._waits:
            return None
        jobs = [self._known.popleft() for _ in range(min(len(self._known), _KNOWN))]
        jobs += self._backlog.take(count)
        if not jobs:
            return None
        jobs = [job for job in jobs if not self._held_back(job)]
        wanted = [Wanted(job.record.branch, self._begin(job), job.in_wave) for job in jobs]
        try:
            grants = self._tenure.take(wanted, self._assignment.gate) if wanted else []
        except StoreError as error:
            self._backlog.put_back(job for job in jobs if job.attempt is None)
            self._known.extendleft(job for job in jobs if job.attempt)
            return self._put_off(error)
        self._away_since = None
        return self._taken(jobs, grants, awaited)

    def _taken(
        self, jobs: Sequence[Job], grants: Sequence[Grant | BranchmigError], awaited: bool
    ) -> list[Leased]:
        known: list[Leased] = []
        refused: list[tuple[Job, BranchmigError]] = []
        for job, grant in zip(jobs, grants, strict=True):
            if isinstance(grant, Grant):
                (known if job.attempt else self._ready).append(Leased(job, grant))
            elif job.in_wave and getattr(grant, "reason", None) in _OF_THE_GATE:
                refused.append((job, grant))
            else:
                self._refused(job, grant)
        if refused:
            self._at_the_gate([job for job, _ in refused], refused[0][1], awaited)
        return known

    def _put_off(self, error: StoreError) -> list[Leased] | None:
        """HeadOffice is away: it is asked again for a while."""
        self._away_since = self._away_since or time.monotonic()
        patience = min(RECORDING, self._manager.settings.run.lease_seconds)
        if time.monotonic() > self._away_since + patience:
            raise error
        self._manager.fence.pause(RETRYING)
        return [] if self._manager.fence.state.signum is None else None

    def _begin(self, job: Job) -> Transition:
        def begin(state: BranchState, now: datetime) -> BranchState:
            reason = transitions.held_back(state, now, self._manager.policy)
            if reason:
                raise transitions.HeldBack(reason, transitions.why(state, reason))
            return transitions.begin(state, job.heads, self._assignment.target, now)

        return begin

    def _refused(self, job: Job, error: BranchmigError) -> None:
        self.done(job)
        if isinstance(error, UnknownBranch):
            log.info("%s", error, extra={"branch": job.record.branch.code})
            return
        reason = getattr(error, "reason", SkipReason.LEASED)
        self._finish(skipped(job.record, reason, str(error)))

    # Beginning work ---------------------------------------------------------------------------

    def next(self) -> tuple[Leased, Task] | None:
        """The next job to be begun, and the work on it; None: none is ready."""
        if not self._ready:
            return None
        leased = self._ready.popleft()
        job, grant = leased.job, leased.grant
        branch, timetable = job.record.branch, self._assignment.timetable
        expected: tuple[tuple[str, float], ...] = ()
        closes = timetable.closes(branch)
        if closes is not None:
            grant.fence.close_at(closes)
            expected = timetable.expected(branch.provider, job.heads, self._assignment.target)
            self._warn_hopeless(job, expected)
        recorded = grant.lease.previous.heads
        return leased, Task(branch, self._assignment.target, recorded, expected=expected)

    def _warn_hopeless(self, job: Job, expected: tuple[tuple[str, float], ...]) -> None:
        """Once a run: what is longer than a whole window is never begun on its own."""
        length = self._assignment.timetable.window(job.record.branch)
        for revision, seconds in expected:
            if length is not None and seconds > length and revision not in self._hopeless:
                self._hopeless.add(revision)
                log.warning(
                    "the revision %s has taken up to %.0f s, longer than the whole window of %s "
                    "(%.0f s), so it is not begun there: lengthen the window, or say "
                    "--ignore-windows", revision, seconds, job.record.branch.code, length,
                )  # fmt: skip

    def put_back(self, leased: Leased) -> None:
        """What `next` gave could not be begun."""
        self._ready.appendleft(leased)

    # The waves and the windows ----------------------------------------------------------------

    def _held_back(self, job: Job) -> bool:
        if job.in_wave and self._closed:
            self._leave(job, self._closed.reason, str(self._closed))
            return True
        if closed := self._assignment.timetable.closed(job.record.branch):
            self._leave(job, SkipReason.WINDOW, str(closed))
            return True
        return False

    def _leave(self, job: Job, reason: SkipReason, why: str) -> None:
        self.done(job)
        self._finish(skipped(job.record, reason, why))

    def _at_the_gate(self, jobs: list[Job], error: BranchmigError, awaited: bool) -> None:
        """Branches that the waves did not let in: they wait for those of ours that are in hand,
        and for those that may still be found to go first."""
        assert isinstance(error, transitions.HeldBack)
        self._backlog.put_back(jobs)
        if error.reason is SkipReason.WAVE and (awaited or self._ready):
            self._waits = True
        else:
            self.close(error)

    @property
    def is_closed(self) -> bool:
        """Whether the gate lets in nobody more for the rest of this run."""
        return self._closed is not None

    def close(self, error: transitions.HeldBack) -> None:
        """Nothing more is let in by this run; what has a lease and is not begun gives it back."""
        self._closed = error
        in_wave = [leased for leased in self._ready if leased.job.in_wave]
        self._return(in_wave, error.reason, str(error))

    # The end ----------------------------------------------------------------------------------

    def drop(self, reason: SkipReason, why: str) -> None:
        """Begin nothing more of what waits."""
        for record in self._emptied():
            self._finish(skipped(record, reason, why))
        self._return(list(self._ready), reason, why)

    def abandon(self) -> None:
        """HeadOffice or the workers are gone: begin nothing more, and say nothing of it."""
        self._emptied()
        self._unbegun += self._ready
        self._ready.clear()

    def _emptied(self) -> list[Record]:
        left = [job.record for job in (*self._backlog.drain(), *self._known)]
        self._known.clear()
        self._waits = False
        return left

    def _return(self, ready: list[Leased], reason: SkipReason, why: str) -> None:
        """Give back leases under which nothing was begun."""
        for leased in ready:
            self._ready.remove(leased)
            self.done(leased.job)
            outcome = skipped(leased.job.record, reason, why)
            self._ledger.add(Entry(leased.job.record, _untouched(leased.grant), outcome))

    def give_back(self) -> None:
        """Whatever ended the run: leases under which nothing was begun are nobody's any more."""
        with suppress(BranchmigError):
            left = [*self._unbegun, *self._ready]
            self._tenure.give_back([_untouched(leased.grant) for leased in left])


_OF_THE_GATE = (SkipReason.HALTED, SkipReason.WAVE)


def _untouched(grant: Grant) -> Conclusion:
    previous = grant.lease.previous
    return Conclusion(
        grant.lease, lambda state, now: transitions.restore(state, previous, None), None
    )
