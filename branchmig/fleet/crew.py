"""Where migrations run, so many at once: worker processes of this host."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from ..config import Settings
from ..fence import Fence
from ..model import Attempt, Task
from .worker import Worker


class Crew(Protocol):
    """Does tasks as futures of `concurrent.futures`, whatever executor is behind them."""

    @property
    def size(self) -> int:
        """How many tasks may be in hand at once."""

    def submit(self, task: Task, fence: Fence) -> Future[Attempt]:
        """Have one branch migrated, as far as its fence lets that happen."""

    def close(self) -> None:
        """Wait for what is in hand, then end."""


class Workers:
    """At most `size` processes, each started with its first task and served by a thread of ours."""

    def __init__(self, settings: Settings, size: int) -> None:
        self.size = size
        self._settings = settings
        self._own = threading.local()
        self._started: list[Worker] = []
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="worker")

    def submit(self, task: Task, fence: Fence) -> Future[Attempt]:
        return self._threads.submit(self._attempt, task, fence)

    def close(self) -> None:
        self._threads.shutdown(wait=True)
        for worker in self._started:
            worker.close()

    def _attempt(self, task: Task, fence: Fence) -> Attempt:
        worker: Worker | None = getattr(self._own, "worker", None)
        if worker is None:
            worker = self._own.worker = Worker(self._settings)
            self._started.append(worker)
        return worker.attempt(task, fence)
