"""The right to migrate a branch: taken in HeadOffice, renewed in the background, lost.

Floor 4. The lease says who may; the session lock on the branch says who can.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self, TypeVar

from .errors import BranchmigError, LeaseLost, StoreError
from .fence import Fence, Fencing, clock
from .model import Branch, BranchState, Lease, Run
from .store import Store
from .store.leases import Conclusion, Wanted
from .store.rows import Transition
from .waves import Gate

log = logging.getLogger("branchmig.lease")


RECORDING = 60.0
"""Seconds at most for which HeadOffice is given time to come back."""

RETRYING = 0.5
"""Seconds between two attempts to reach it."""

_Answer = TypeVar("_Answer")


def patiently(call: Callable[[], _Answer], fence: Fence, seconds: float) -> _Answer:
    """What `call` gives, repeated while HeadOffice is away: for so many seconds, or until the run
    is stopped. Raises StoreError."""
    end = time.monotonic() + seconds
    while True:
        try:
            return call()
        except StoreError:
            if time.monotonic() >= end or fence.state.signum is not None:
                raise
            # Not the fence's own pause: that is none where a lease is lost, and this would ask
            # without a rest. A stop is seen when this short one is over.
            time.sleep(RETRYING)


@contextmanager
def hold(
    store: Store,
    branch: Branch,
    owner: str,
    seconds: float,
    fence: Fence,
    transition: Transition,
) -> Iterator[Lease]:
    """Hold the lease of `branch` for the time of the block.

    `transition` gives the state that is written together with the lease. The block must conclude
    it (`Store.conclude`); where it does not, the lease runs out. Raises LeaseHeld.
    """
    # Counted from before the request: HeadOffice's expiry can only be later than this deadline.
    deadline = clock() + seconds
    lease = store.acquire(branch, owner, seconds, transition)
    fence.extend(deadline)
    renewal = _Renewal(store, seconds)
    renewal.add(lease, fence)
    try:
        yield lease
    finally:
        renewal.end()
        fence.clear()


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease, and the fence around the work that is done under it."""

    lease: Lease
    fence: Fence


class Tenure:
    """The leases of many branches that one run holds at a time, renewed together.

    A context manager; what it still holds at the end runs out.
    """

    def __init__(self, store: Store, run: Run, seconds: float) -> None:
        self._store = store
        self._run = run
        self._seconds = seconds
        self._renewal = _Renewal(store, seconds)
        self._state = Fencing()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._renewal.end()

    def take(self, wanted: Sequence[Wanted], gate: Gate | None) -> list[Grant | BranchmigError]:
        """See `Leases.acquire`."""
        deadline = clock() + self._seconds
        given = self._store.leases.acquire(wanted, self._run.id, self._seconds, gate)
        return [
            self._granted(lease, deadline) if isinstance(lease, Lease) else lease for lease in given
        ]

    def _granted(self, lease: Lease, deadline: float) -> Grant:
        fence = Fence()
        fence.extend(deadline)
        self._renewal.add(lease, fence)
        # Last: a stop that came before was told to those alone that were there.
        fence.follow(self._state)
        return Grant(lease, fence)

    def give_back(self, concluded: Sequence[Conclusion]) -> tuple[BranchState | LeaseLost, ...]:
        """See `Leases.conclude`; what could not be written is held on."""
        states = self._store.leases.conclude(concluded, self._run)
        for conclusion in concluded:
            self._renewal.remove(conclusion.lease)
        return states

    def obey(self, state: Fencing) -> None:
        """Pass a stop or an interruption of the run on to all work in hand."""
        self._state = state
        for fence in self._renewal.fences():
            fence.follow(state)


class _Renewal:
    """Renews leases every third of their time, and tells their fences when they are lost.

    In a thread that is there while anything is held.
    """

    def __init__(self, store: Store, seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self._lock = threading.Lock()
        self._held: dict[str, Grant] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease, fence: Fence) -> None:
        with self._lock:
            self._held[lease.branch_id] = Grant(lease, fence)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._renew, name="lease-renewal", daemon=True
                )
                self._thread.start()

    def remove(self, lease: Lease) -> None:
        with self._lock:
            self._held.pop(lease.branch_id, None)

    def fences(self) -> list[Fence]:
        with self._lock:
            return [grant.fence for grant in self._held.values()]

    def end(self) -> None:
        self._ended.set()
        if thread := self._thread:
            thread.join()

    def _renew(self) -> None:
        pause = self._seconds / 3
        while not self._ended.wait(pause):
            with self._lock:
                grants = list(self._held.values())
                if not grants:
                    self._thread = None
                    return
            renewed = self._renewed(grants)
            # The fences know the deadline: until then HeadOffice may come back.
            pause = self._seconds / (3 if renewed else 10)

    def _renewed(self, grants: list[Grant]) -> bool:
        deadline = clock() + self._seconds
        try:
            lost = self._store.leases.renew([grant.lease for grant in grants], self._seconds)
        except BranchmigError as error:
            log.warning("leases could not be renewed: %s", error)
            return False
        for grant in grants:
            if grant.lease in lost:
                # It may have been given back meanwhile: then nobody listens any more.
                grant.fence.lose("another run took the lease of this branch over")
                self.remove(grant.lease)
            else:
                grant.fence.extend(deadline)
        return True
