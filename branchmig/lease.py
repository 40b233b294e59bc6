"""The right to migrate one branch: taken in HeadOffice, renewed in the background, lost.

Floor 4. The lease says who may; the session lock on the branch says who can.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import BranchmigError
from .fence import Fence, clock
from .model import Branch, Lease
from .store import Store
from .store.store import Transition

log = logging.getLogger("branchmig.lease")


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
    renewal = _Renewal(store, lease, seconds, fence)
    renewal.start()
    try:
        yield lease
    finally:
        renewal.end()
        fence.clear()


class _Renewal(threading.Thread):
    """Renews a lease every third of its time, and tells the fence when it is lost."""

    def __init__(self, store: Store, lease: Lease, seconds: float, fence: Fence) -> None:
        super().__init__(name="lease-renewal", daemon=True)
        self._store = store
        self._lease = lease
        self._seconds = seconds
        self._fence = fence
        self._ended = threading.Event()

    def run(self) -> None:
        pause = self._seconds / 3
        while not self._ended.wait(pause):
            pause = self._seconds / 3
            deadline = clock() + self._seconds
            try:
                held = self._store.renew(self._lease, self._seconds)
            except BranchmigError as error:
                # The fence knows the deadline: until then HeadOffice may come back.
                log.warning("the lease could not be renewed: %s", error)
                pause = self._seconds / 10
                continue
            if not held:
                self._fence.lose("another run took the lease of this branch over")
                return
            self._fence.extend(deadline)

    def end(self) -> None:
        self._ended.set()
        self.join()
