"""Several workers at once, each a process that one thread of the parent waits for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ..config import Settings
from ..fence import Fence, Fencing
from .worker import Worker

Job = TypeVar("Job")
Result = TypeVar("Result")


class _Member(Generic[Job]):
    """A worker, the fence around what it has in hand, and the thread that serves it."""

    def __init__(self, settings: Settings, serve: Callable[[_Member[Job]], None]) -> None:
        self.worker = Worker(settings)
        self.fence = Fence()
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=serve, args=(self,), daemon=True)


class Crew(Generic[Job, Result]):
    """At most `size` workers, each started with its first job.

    `work` does a job with a worker under a fence, in a thread; `done` is told of its result, or of
    the exception that it raised, from that thread.
    """

    def __init__(
        self,
        settings: Settings,
        size: int,
        work: Callable[[Job, Worker, Fence], Result],
        done: Callable[[Job, Result | BaseException], object],
    ) -> None:
        self._settings = settings
        self._size = size
        self._work = work
        self._done = done
        self._lock = threading.Lock()
        self._idle: list[_Member[Job]] = []
        self._members: list[_Member[Job]] = []
        self._state = Fencing()

    @property
    def has_room(self) -> bool:
        """Whether another job would be begun at once."""
        with self._lock:
            return bool(self._idle) or len(self._members) < self._size

    def begin(self, job: Job) -> None:
        """Have a job done; to be asked for room first, by one thread alone."""
        with self._lock:
            if not self._idle:
                member = _Member[Job](self._settings, self._serve)
                member.fence.follow(self._state)
                member.thread.start()
                self._members.append(member)
            else:
                member = self._idle.pop()
        member.jobs.put(job)

    def obey(self, state: Fencing) -> None:
        """Pass a stop or an interruption on to every worker."""
        with self._lock:
            self._state = state
            for member in self._members:
                member.fence.follow(state)

    def close(self) -> None:
        """Wait for what is in hand, then end every process."""
        for member in self._members:
            member.jobs.put(None)
        for member in self._members:
            member.thread.join()

    def _serve(self, member: _Member[Job]) -> None:
        while (job := member.jobs.get()) is not None:
            result: Result | BaseException
            try:
                result = self._work(job, member.worker, member.fence)
            except BaseException as error:
                result = error
            with self._lock:
                self._idle.append(member)
            self._done(job, result)
        member.worker.close()
