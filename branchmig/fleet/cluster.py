"""Migrations on the workers of a Dask cluster, for fleets that one machine does not reach.

The workers have branchmig and the same scripts installed, under the same path. A task carries the
URL of its branch, so it crosses the network over TLS or not at all. Dask runs a task again where
its worker dies: the branch's own lock and its version table make that as safe as another attempt.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from urllib.parse import urlsplit

from ..config import HeadOfficeSettings, Settings
from ..errors import DriverMissing, ExecutorLost, HistoryError, UsageError, WorkerDied
from ..fence import Fence, Fencing, clock
from ..migrator import Migrator
from ..model import Attempt, Failure, Provider, SkipReason, Task

_LOOK = 1.0
"""Seconds between two looks at whether the cluster still has workers."""


class Cluster:
    """A crew of as many members as a Dask cluster has workers.

    Raises UsageError: an address that is neither TLS nor of this host; DriverMissing: Dask is not
    installed; ExecutorLost: no scheduler answers, or it has no workers.
    """

    def __init__(self, settings: Settings, address: str, run: str) -> None:
        """`address` as Dask writes it; TLS files are those of Dask's own configuration. `run`: the
        id of the run; with another one workers load the scripts anew."""
        _check(address)
        try:
            from distributed import Client
        except ImportError as error:
            raise DriverMissing(
                f"the executor dask is not installed: {error}",
                "pip install 'branchmig[dask]'",
            ) from None
        self._address = address
        # Of HeadOffice its workers need to know nothing.
        self._settings = settings.model_copy(update={"headoffice": HeadOfficeSettings()})
        self._run = run
        self._content = ""
        self._patience = settings.run.connect_timeout
        try:
            self._client = Client(address, timeout=self._patience, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise ExecutorLost(
                f"the Dask scheduler {address} does not answer: {error}",
                "is it running, and is its address right?",
            ) from error
        self._executor = self._client.get_executor(pure=False, retries=0)
        self._news: dict[str, Fencing] = {}
        self._is_news = threading.Event()
        self._open: dict[Future[Attempt], None] = {}
        self._lost = False
        self._closed = threading.Event()
        self.size = self._workers()
        if not self.size:
            self._end()
            raise self._without_workers()
        # Daemons: neither a dead cluster nor its silence may keep the program from ending.
        for task in (self._watch_workers, self._pass_on):
            threading.Thread(target=task, daemon=True).start()

    def check_scripts(self, migrator: Migrator) -> None:
        """Raise HistoryError where a worker has other scripts than this host."""
        provider = next((kind for kind in Provider if migrator.knows(kind)), None)
        if provider is None:
            return
        self._content = migrator.history(provider).content
        found = self._client.run(_content, self._run, self._settings, provider, on_error="return")
        strange = sorted(worker for worker, theirs in found.items() if theirs != self._content)
        if strange:
            raise HistoryError(
                f"the scripts of these Dask workers differ from those of this host: "
                f"{', '.join(strange)}",
                "bring them all to the same version",
            )

    def submit(self, task: Task, fence: Fence) -> Future[Attempt]:
        """Raises ExecutorLost once the cluster has no workers any more."""
        stack = ExitStack()
        state = fence.state
        # First, so that a change while the task is on its way is told as well.
        stack.enter_context(fence.watched(partial(self._tell, task.branch.id, state)))
        # Ours: Dask's own stays open for ever once there is no worker.
        future: Future[Attempt] = Future()
        self._open[future] = None
        try:
            if self._lost:
                raise self._without_workers()
            theirs = self._executor.submit(
                attempt, self._run, self._settings, self._content, task, _relative(state)
            )
        except Exception as error:
            self._open.pop(future, None)
            stack.close()
            raise self._gone(error) from error
        theirs.add_done_callback(partial(self._end_task, future, stack))
        return future

    def _end_task(self, future: Future[Attempt], stack: ExitStack, theirs: Future[Attempt]) -> None:
        stack.close()
        if self._open.pop(future, self) is self:
            return
        try:
            future.set_result(theirs.result())
        except BaseException as error:
            if type(error).__name__ == "KilledWorker":
                died = WorkerDied(
                    "every Dask worker that migrated the branch was killed or crashed",
                    "look at the workers' logs and at the revision in hand",
                )
                future.set_result(Attempt(failure=Failure.of(died)))
            else:
                # The connection is gone, and the work perhaps goes on.
                future.set_exception(self._gone(error))

    def _gone(self, error: BaseException) -> ExecutorLost:
        if isinstance(error, ExecutorLost):
            return error
        return ExecutorLost(
            f"the Dask cluster {self._address} was lost: {type(error).__name__} {error}",
            "what was in hand goes on from where it stands once its lease has run out",
        )

    def close(self) -> None:
        self._executor.shutdown(wait=not self._lost)
        self._end()

    def _end(self) -> None:
        self._closed.set()
        self._client.close()

    def _workers(self) -> int:
        """How many there are; none where the scheduler does not answer."""
        # A client that lost its scheduler raises all sorts of things.
        with suppress(Exception):
            return len(self._client.ncores())
        return 0

    def _tell(self, branch_id: str, known: Fencing, state: Fencing) -> None:
        # Whoever tells of a fence must not wait for a network.
        if state != known:
            self._news[branch_id] = state
            self._is_news.set()

    def _pass_on(self) -> None:
        """Of each branch the latest, however long a message takes."""
        while self._is_news.wait():
            self._is_news.clear()
            while self._news:
                with suppress(Exception):
                    branch_id, state = self._news.popitem()
                    self._client.run(obey, branch_id, _relative(state), on_error="ignore")

    def _watch_workers(self) -> None:
        """A task without a worker would be waited for without an end."""
        seen = time.monotonic()
        while not self._closed.wait(_LOOK):
            found = self._workers()
            self.size = max(1, found)
            if found:
                seen = time.monotonic()
            elif time.monotonic() > seen + self._patience:
                self._lost = True
                while self._open:
                    with suppress(KeyError):
                        future, _ = self._open.popitem()
                        future.set_exception(self._without_workers())

    def _without_workers(self) -> ExecutorLost:
        return ExecutorLost(
            f"the Dask cluster {self._address} has no workers",
            "start some, or leave --executor out to migrate from this host",
        )


def _check(address: str) -> None:
    parts = urlsplit(address)
    try:
        loopback = parts.hostname == "localhost" or ip_address(parts.hostname or "").is_loopback
    except ValueError:
        loopback = False
    if parts.scheme == "tls" or (parts.scheme == "tcp" and loopback):
        return
    raise UsageError(
        f"the Dask scheduler {address!r} is neither on TLS nor on this host",
        "tasks carry the URLs of branches: write dask:tls://HOST:PORT",
    )


def _relative(state: Fencing) -> Fencing:
    """A fence's times count on a clock of its host: as seconds from now they can travel."""
    return _moved(state, -clock())


def _absolute(state: Fencing) -> Fencing:
    return _moved(state, clock())


def _moved(state: Fencing, seconds: float) -> Fencing:
    return replace(
        state,
        deadline=None if state.deadline is None else state.deadline + seconds,
        closes=None if state.closes is None else state.closes + seconds,
    )


# Within a worker of the cluster -------------------------------------------------------------------

_one_at_a_time = threading.Lock()
"""Alembic keeps its context in globals of the process; Dask may give a worker several threads."""

_fences: dict[str, Fence] = {}
_migrators: dict[str, Migrator] = {}


def attempt(run: str, settings: Settings, content: str, task: Task, state: Fencing) -> Attempt:
    """Have one branch migrated by this process, if its scripts are those that are meant."""
    fence = _fences.setdefault(task.branch.id, Fence())
    fence.become(_absolute(state))
    with _one_at_a_time:
        try:
            migrator = _migrator(run, settings)
            if migrator.history(task.branch.provider).content != content:
                why = f"the scripts on {os.uname().nodename} are not those of this run"
                return Attempt(skip=SkipReason.BUSY, reason=why)
            return migrator.attempt(task, fence)
        except BaseException as error:
            return Attempt(failure=Failure.of(error))
        finally:
            _fences.pop(task.branch.id, None)


def obey(branch_id: str, state: Fencing) -> None:
    """Pass on what the parent says of a branch, wherever it is."""
    fence = _fences.get(branch_id)
    if fence:
        fence.become(_absolute(state))


def _content(run: str, settings: Settings, provider: Provider) -> str:
    with _one_at_a_time:
        return _migrator(run, settings).history(provider).content


def _migrator(run: str, settings: Settings) -> Migrator:
    """That of a run: the next one may bring other scripts."""
    if run not in _migrators:
        _migrators.clear()
        _migrators[run] = Migrator(settings)
    return _migrators[run]
