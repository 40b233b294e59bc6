"""The branches that wait for a worker, handed out so that no server gets too many at once."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

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


class Backlog:
    """Jobs by server, one server after another; of each at most `per_server` are at work."""

    def __init__(self, per_server: int) -> None:
        self._per_server = per_server
        self._waiting: dict[str | None, deque[Job]] = {}
        self._at_work: Counter[str | None] = Counter()
        self._turns: dict[str | None, None] = {}  # servers of which a job may be taken, in turn

    def __bool__(self) -> bool:
        return any(self._waiting.values())

    def add(self, job: Job) -> None:
        self._waiting.setdefault(job.server, deque()).append(job)
        self._take_turn(job.server)

    def put_back(self, jobs: Iterable[Job]) -> None:
        """Jobs that were taken and are not to be done yet, in the order of the taking."""
        for job in reversed(list(jobs)):
            self._waiting[job.server].appendleft(job)
            self.done(job)

    def take(self, count: int) -> list[Job]:
        """At most so many jobs to be done now; each is at work until `done` is told of it."""
        taken: list[Job] = []
        while self._turns and len(taken) < count:
            server = next(iter(self._turns))
            del self._turns[server]
            taken.append(self._waiting[server].popleft())
            self._at_work[server] += 1
            self._take_turn(server)
        return taken

    def done(self, job: Job) -> None:
        self._at_work[job.server] -= 1
        self._take_turn(job.server)

    def drain(self) -> list[Job]:
        """Everything that waits; nothing does afterwards."""
        left = [job for waiting in self._waiting.values() for job in waiting]
        self._waiting.clear()
        self._turns.clear()
        return left

    def _take_turn(self, server: str | None) -> None:
        has_room = server is None or self._at_work[server] < self._per_server
        if has_room and self._waiting.get(server):
            self._turns[server] = None
