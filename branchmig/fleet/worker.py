"""A process that migrates branches one after another and obeys its parent.

Alembic keeps its context in globals of the process, so migrations never share one; and an executor
breaks as a whole when its process is killed, so each worker is an executor of its own. A pipe runs
from the parent to the worker: fences go down it, and its end tells the worker that the parent died.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import Connection

from ..config import Settings
from ..errors import WorkerDied
from ..fence import Fence, Fencing
from ..migrator import Migrator
from ..model import Attempt, Failure, Task

_PRELOADED = ["branchmig.fleet.worker"]


class Worker:
    """One worker process, started with the first task and replaced when it dies."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._executor: ProcessPoolExecutor | None = None
        self._control: Connection | None = None

    def attempt(self, task: Task, fence: Fence) -> Attempt:
        """Have one branch migrated; waits for it. A worker that dies is this branch's failure."""
        executor = self._started()
        try:
            with fence.watched(self._tell):
                return executor.submit(_attempt, task, fence.state).result()
        except BrokenProcessPool:
            self.close()
            died = WorkerDied(
                f"the process that migrated {task.branch.code} was killed or crashed",
                "look at the kernel log (out of memory?) and at the revision in hand",
            )
            return Attempt(failure=Failure.of(died))

    def close(self) -> None:
        """End the process once it is idle."""
        if self._control is not None:
            self._control.close()
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = self._control = None

    def _tell(self, state: Fencing) -> None:
        # A worker that is gone is found out by the future; here it only cannot be told.
        with suppress(OSError):
            assert self._control is not None
            self._control.send(state)

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(_PRELOADED)
            theirs, self._control = context.Pipe(duplex=False)
            self._executor = ProcessPoolExecutor(
                1, mp_context=context, initializer=_start, initargs=(self._settings, theirs)
            )
        return self._executor


# Within the worker ------------------------------------------------------------------------------

_migrator: Migrator
_fence: Fence


def _start(settings: Settings, control: Connection) -> None:
    global _migrator, _fence
    # Ctrl-C reaches the whole foreground group; the parent decides what it means.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    # The parent's standard output carries one document; revisions may print.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _migrator, _fence = Migrator(settings), Fence()
    threading.Thread(target=_obey, args=(control, _fence), daemon=True).start()


def _obey(control: Connection, fence: Fence) -> None:
    while True:
        try:
            fence.become(control.recv())
        except (EOFError, OSError):
            # The parent closed the pipe when we are idle, or died. Either way nobody is left to
            # take a result: end here, as if killed; the branch is whole after any kill.
            os._exit(0)


def _attempt(task: Task, state: Fencing) -> Attempt:
    # The pipe may be slower than the task, and would leave us with the last branch's fence.
    _fence.become(state)
    return _migrator.attempt(task, _fence)
