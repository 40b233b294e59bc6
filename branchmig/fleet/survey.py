"""Where every branch stands, at the cost of one look each: no Alembic, no lease, no write.

Files are looked at one after another, since threads are no faster there; databases of servers in a
pool of threads, so many of one server at once and no more.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..errors import BranchBusy
from ..migrator import Migrator
from ..model import Failure, Heads, Record

_THREADS = 128
"""Connections in all: at 100 ms for a round trip they survey ten thousand databases in a minute."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at one branch gave.

    `heads` None: an attempt will have to find out what is wrong; `busy`: why an attempt would only
    wait in vain; `failure`: what an attempt would end with as well.
    """

    record: Record
    heads: Heads | None = None
    busy: str | None = None
    failure: Failure | None = None


class Survey:
    """Looks at branches in threads of its own, and tells of each as it is found."""

    def __init__(
        self, migrator: Migrator, per_server: int, tell: Callable[[Finding], object]
    ) -> None:
        """`tell` is called from any thread. `migrator` has loaded its histories before."""
        self._migrator = migrator
        self._per_server = per_server
        self._tell = tell
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[Record]] = {}
        self._asked: Counter[str] = Counter()
        self._turns: deque[str] = deque()  # servers that may be asked once a thread is free
        self._free = _THREADS
        self._ended = False
        self._pool = ThreadPoolExecutor(_THREADS + 1, thread_name_prefix="survey")

    def begin(self, records: Iterable[Record]) -> None:
        """Look at all of them; each is told of exactly once, unless `close` comes before."""
        files = []
        for record in records:
            if not self._migrator.knows(record.branch.provider):
                # Its driver is missing, say. Loading a history is not for threads.
                self._tell(Finding(record))
                continue
            server = self._migrator.server(record.branch)
            if server is None:
                files.append(record)
            else:
                self._waiting.setdefault(server, deque()).append(record)
        self._pool.submit(self._look_at_files, files)
        with self._lock:
            self._turns.extend(self._waiting)
            self._take_turns()

    def close(self) -> None:
        """Begin no further look; those under way end by their own time limits."""
        with self._lock:
            self._ended = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _look_at_files(self, records: list[Record]) -> None:
        for record in records:
            if self._ended:
                return
            self._tell(self._found(record))

    def _take_turns(self) -> None:
        """Give every free thread a look, one server after another. The lock is held."""
        while self._turns and self._free and not self._ended:
            server = self._turns.popleft()
            waiting = self._waiting[server]
            if not waiting or self._asked[server] >= self._per_server:
                continue  # its next turn comes when one of its looks ends
            self._free -= 1
            self._asked[server] += 1
            self._pool.submit(self._look, waiting.popleft(), server)
            self._turns.append(server)

    def _look(self, record: Record, server: str) -> None:
        self._tell(self._found(record))
        with self._lock:
            self._free += 1
            self._asked[server] -= 1
            self._turns.append(server)
            self._take_turns()

    def _found(self, record: Record) -> Finding:
        try:
            snapshot = self._migrator.look(record.branch)
        except BranchBusy as busy:
            # On a server a look waits for no lock: all its connections are taken, perhaps by our
            # own looks. The attempt asks again, among fewer.
            alone = self._migrator.server(record.branch) is None
            return Finding(record, busy=busy.message if alone else None)
        except Exception:
            # Whatever it is, and be it a fault of ours: the attempt meets it again and tells of it.
            return Finding(record)
        whole = snapshot.versioned and not snapshot.unfinished
        return Finding(record, snapshot.heads if whole else None)
