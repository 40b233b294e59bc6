"""A process that migrates branches one after another and obeys its parent.

Alembic keeps its context in globals of the process, so migrations never share one; and an executor
breaks as a whole when its process is killed, so each worker is an executor of its own. A pipe joins
it to the parent: fences come down it, the branch that is begun goes up, and its end tells the
worker that the parent died.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection

from ..config import Settings
from ..errors import WorkerDied
from ..fence import Fence, Fencing
from ..migrator import Migrator
from ..model import Attempt, Failure, Task
from ..sinks import LogStyle, about, configure_logging, log_style, of_run

_PRELOADED = ["branchmig.fleet.worker"]

_RECYCLED = 1000
"""Branches after which a process is replaced: what revisions leave in it is not ours to judge."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What a terminal sends to the whole group, and systemd to the whole unit: the parent decides what
it means, so nobody else may die of it."""


class Worker:
    """One worker process, started with the first task and replaced when it dies."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._executor: ProcessPoolExecutor | None = None
        self._control: Connection | None = None
        self._done = 0

    def attempt(self, task: Task, fence: Fence) -> Attempt:
        """Have one branch migrated; waits for it. A worker that dies is this branch's failure, but
        for one that died before it began: that is replaced once."""
        if self._done >= _RECYCLED:
            self.close()
        for _ in range(2):
            try:
                executor = self._started()
                state = fence.state
                with fence.watched(partial(self._tell, task.branch.id, state)):
                    attempt = executor.submit(_attempt, task, state).result()
                self._has_begun()
                self._done += 1
                return attempt
            except BrokenProcessPool:
                begun = self._has_begun()
                self.close()
                if begun:
                    break
            except (OSError, RuntimeError) as error:
                # This host has no more processes, files or threads to give.
                self.close()
                return Attempt(failure=Failure.of(WorkerDied(f"no worker process: {error}")))
        died = WorkerDied(
            # Without its code: one error in several branches is to be seen as one.
            "the process that migrated the branch was killed or crashed",
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
        self._done = 0

    def _tell(self, branch_id: str, known: Fencing, state: Fencing) -> None:
        if state == known:
            return  # it goes with the task
        # A worker that is gone is found out by the future; here it only cannot be told.
        with suppress(OSError):
            assert self._control is not None
            self._control.send((branch_id, state))

    def _has_begun(self) -> bool:
        """Whether the worker has said so since it was last asked; a dead one's word is kept."""
        with suppress(OSError, EOFError):
            if self._control is not None and self._control.poll():
                return bool(self._control.recv())
        return False

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(_PRELOADED)
            _start_fork_server()
            self._control, theirs = context.Pipe()
            self._executor = ProcessPoolExecutor(
                1,
                mp_context=context,
                initializer=_start,
                initargs=(self._settings, log_style(), theirs),
            )
        return self._executor


def _start_fork_server() -> None:
    """The server, and so its children, are born with the signals blocked.

    Without that, one that comes to the whole group or unit would kill the server, and with it the
    sight of the workers (multiprocessing/forkserver.py: it alone knows when they end).
    """
    # First, because starting it unblocks the signals in the parent.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# Within the worker ------------------------------------------------------------------------------

_migrator: Migrator
_control: Connection
_fences: dict[str, Fence] = {}
"""By branch, since the pipe may be quicker than the task, and bring the last branch's late."""


def _start(settings: Settings, style: LogStyle, control: Connection) -> None:
    global _migrator, _control
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    # What a revision starts shall be free to die of them.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    # The parent's standard output carries one document; revisions may print.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    configure_logging(style.fmt, style.debug)
    of_run(style.run_id)
    _migrator, _control = Migrator(settings), control
    # What was loaded by now stays; looking through it again and again would only cost.
    gc.freeze()
    threading.Thread(target=_obey, args=(control,), daemon=True).start()


def _obey(control: Connection) -> None:
    while True:
        try:
            branch_id, state = control.recv()
            _fences.setdefault(branch_id, Fence()).become(state)
        except (EOFError, OSError):
            # The parent closed the pipe when we are idle, or died. Either way nobody is left to
            # take a result: end here, as if killed; the branch is whole after any kill.
            os._exit(0)


def _attempt(task: Task, state: Fencing) -> Attempt:
    _control.send(True)
    fence = _fences.setdefault(task.branch.id, Fence())
    fence.become(state)
    try:
        with about(task.branch.code):
            return _migrator.attempt(task, fence)
    except BaseException as error:
        # Raised again in the parent it would end the whole run.
        return Attempt(failure=Failure.of(error))
    finally:
        del _fences[task.branch.id]
