"""The branches that wait for a worker, handed out so that no server gets too many at once."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..model import Attempt, Heads, Record


@dataclass(frozen=True, slots=True)
class Job:
    """One branch to be migrated, and what the survey found it at.

    `server` None: it shares nothing with others. `in_wave`: revisions are to run on it. `attempt`:
    the survey has found out already what would become of it.
    """

    record: Record
    heads: Heads | None
    server: str | None
    in_wave: bool
    attempt: Attempt | None = None


@dataclass(slots=True)
class _Rank:
    """Jobs of the same precedence. `turns`: servers of which a job may be taken, in turn."""

    waiting: dict[str | None, deque[Job]] = field(default_factory=dict)
    turns: dict[str | None, None] = field(default_factory=dict)


class Backlog:
    """Jobs by server, one server after another; of each at most `per_server` are at work."""

    def __init__(
        self, per_server: int, goes_first: Callable[[Record], bool] = lambda record: False
    ) -> None:
        """`goes_first`: whether a branch is taken before those for which this does not hold."""
        self._per_server = per_server
        self._goes_first = goes_first
        self._at_work: Counter[str | None] = Counter()
        # Those that go first, then the others.
        self._ranks = (_Rank(), _Rank())

    def __bool__(self) -> bool:
        return any(any(rank.waiting.values()) for rank in self._ranks)

    def add(self, job: Job) -> None:
        self._waiting(job).append(job)
        self._take_turn(job.server)

    def put_back(self, jobs: Iterable[Job]) -> None:
        """Jobs that were taken and are not to be done yet, in the order of the taking."""
        for job in reversed(list(jobs)):
            self._waiting(job).appendleft(job)
            self.done(job)

    def take(self, count: int) -> list[Job]:
        """At most so many jobs to be done now; each is at work until `done` is told of it."""
        taken: list[Job] = []
        while len(taken) < count and (rank := next((r for r in self._ranks if r.turns), None)):
            server = next(iter(rank.turns))
            del rank.turns[server]
            taken.append(rank.waiting[server].popleft())
            self._at_work[server] += 1
            self._take_turn(server)
        return taken

    def done(self, job: Job) -> None:
        self._at_work[job.server] -= 1
        self._take_turn(job.server)

    def drain(self) -> list[Job]:
        """Everything that waits; nothing does afterwards."""
        left = [job for rank in self._ranks for jobs in rank.waiting.values() for job in jobs]
        self._ranks = (_Rank(), _Rank())
        return left

    def _waiting(self, job: Job) -> deque[Job]:
        rank = self._ranks[0 if self._goes_first(job.record) else 1]
        return rank.waiting.setdefault(job.server, deque())

    def _take_turn(self, server: str | None) -> None:
        has_room = server is None or self._at_work[server] < self._per_server
        for rank in self._ranks:
            if has_room and rank.waiting.get(server):
                rank.turns[server] = None
            else:
                rank.turns.pop(server, None)
