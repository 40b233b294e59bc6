"""Where every branch stands, at the cost of one look each: no Alembic, no lease, no write.

Files are looked at one after another, since threads are no faster there; databases of servers in a
pool of threads, so many of one server at once and no more. Where one connection can tell of many
databases, it is asked: of servers for all that are left once the server has answered at all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ..errors import BranchBusy, BranchmigError, BranchUnreachable
from ..migrator import Migrator
from ..model import Failure, FailureKind, Heads, Record, Snapshot
from .pace import Pace

log = logging.getLogger("branchmig.survey")

_LOOKS = 128
"""Looks at once: at 100 ms for a round trip they survey ten thousand databases in a minute."""

_THREADS = 512
_LONG = 1.0
"""A look that takes more seconds than this waits for a server that is slow or gone. It holds up
nobody else: another may begin beside it, up to so many threads in all."""

_PAUSE = 0.25
"""Seconds before a server that has too many connections is asked again."""

_TOGETHER = 1000
"""Databases asked about over one connection: a survey that is closed ends after so many."""

_FILES = 64
_SOON = 0.02
"""So many files at most are looked at before they are told of, and fewer where that takes more
seconds than this."""


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


@dataclass(eq=False, slots=True)
class _Server:
    """A server, and its branches that have not been looked at."""

    pace: Pace
    waiting: deque[Record] = field(default_factory=deque)
    asked_together: bool = False


@dataclass(eq=False, slots=True)
class _Look:
    """A look under way. `is_long`: another has begun in its place."""

    began: float
    is_long: bool = False


class Survey:
    """Looks at branches in threads of its own, and tells of them as they are found."""

    def __init__(
        self, migrator: Migrator, per_server: int, tell: Callable[[Sequence[Finding]], object]
    ) -> None:
        """`tell` is called from any thread. `migrator` has loaded its histories before."""
        self._migrator = migrator
        self._per_server = per_server
        self._tell = tell
        self._lock = threading.Lock()
        self._servers: dict[str, _Server] = {}
        self._turns: deque[_Server] = deque()  # servers that may be asked once there is room
        self._looks: set[_Look] = set()
        self._room = _LOOKS
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(_THREADS + 2, thread_name_prefix="survey")

    def begin(self, records: Iterable[Record]) -> None:
        """Look at all of them; each is told of exactly once, unless `close` comes before."""
        files = []
        for record in records:
            if not self._migrator.knows(record.branch.provider):
                # Its driver is missing, say. Loading a history is not for threads.
                self._tell([Finding(record)])
                continue
            name = self._migrator.server(record.branch)
            if name is None:
                files.append(record)
            else:
                if name not in self._servers:
                    self._servers[name] = _Server(Pace(self._per_server))
                self._servers[name].waiting.append(record)
        self._pool.submit(self._look_at_files, files)
        if self._servers:
            self._pool.submit(self._watch)
        with self._lock:
            self._turns.extend(self._servers.values())
            self._take_turns()

    def close(self) -> None:
        """Begin no further look; those under way end by their own time limits."""
        with self._lock:
            self._ended.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    # Files ------------------------------------------------------------------------------------

    def _look_at_files(self, records: list[Record]) -> None:
        waiting, count = deque(records), 1
        while waiting:
            asked = [waiting.popleft() for _ in range(min(count, len(waiting)))]
            since = time.monotonic()
            found = self._told_together(asked)
            known = {finding.record.branch.id for finding in found}
            for record in asked:
                if self._ended.is_set():
                    return
                if record.branch.id in known:
                    continue
                found.append(self._file(record))
                if time.monotonic() > since + _SOON:
                    self._tell(found)
                    found, since = [], time.monotonic()
            if found:
                self._tell(found)
            # As many as take so long: on a share each may.
            quick = time.monotonic() < since + _SOON
            count = min(2 * count, _FILES) if quick else max(count // 2, 1)

    def _file(self, record: Record) -> Finding:
        try:
            return _finding(record, self._migrator.versions(record.branch))
        except BranchBusy as busy:
            return Finding(record, busy=busy.message)
        except Exception as error:
            return _unknown(record, error)

    # Servers ----------------------------------------------------------------------------------

    def _take_turns(self) -> None:
        """Begin as many looks as there is room for, one server after another, under the lock."""
        while self._turns and self._room and not self._ended.is_set():
            server = self._turns.popleft()
            if not server.waiting or not server.pace.has_room:
                continue  # its next turn comes when one of its looks ends
            self._room -= 1
            server.pace.begin()
            self._pool.submit(self._ask, server, server.waiting.popleft())
            self._turns.append(server)

    def _ask(self, server: _Server, record: Record) -> None:
        look = _Look(time.monotonic())
        with self._lock:
            self._looks.add(look)
        try:
            finding = self._look(server, record, look)
            if finding:
                self._tell([finding])
                if not finding.failure:
                    self._ask_together(server)
        finally:
            with self._lock:
                self._looks.discard(look)
                self._room += not look.is_long
                server.pace.end()
                unasked = []
                if server.pace.is_silent:
                    unasked = list(server.waiting)
                    server.waiting.clear()
                self._turns.append(server)
                self._take_turns()
            self._tell([Finding(each, failure=self._silence(server, each)) for each in unasked])

    def _look(self, server: _Server, record: Record, look: _Look) -> Finding | None:
        """What was found; None where the branch waits again, for a server that refused."""
        try:
            finding = _finding(record, self._migrator.versions(record.branch))
        except BranchBusy as busy:
            return self._refused(server, record, busy)
        except Exception as error:
            failure = self._failure(record, error)
            if failure.kind is FailureKind.UNREACHABLE:
                limit = self._migrator.settings.run.connect_timeout
                if time.monotonic() >= look.began + limit:
                    with self._lock:
                        server.pace.waited()
                return Finding(record, failure=failure)
            finding = _unknown(record, error)
        with self._lock:
            server.pace.answered()
        return finding

    def _failure(self, record: Record, error: Exception) -> Failure:
        try:
            return self._migrator.failure(record.branch, error)
        except Exception as fault:
            # Ours: the attempt meets it again and tells of it.
            return Failure.of(fault)

    def _refused(self, server: _Server, record: Record, busy: BranchBusy) -> Finding | None:
        """Too many connections: fewer from us, a little later."""
        with self._lock:
            if server.pace.refused(time.monotonic()):
                return Finding(record, busy=busy.message)
            server.waiting.append(record)
        # The look is not over: so nobody else begins in its place.
        self._ended.wait(_PAUSE)
        return None

    def _silence(self, server: _Server, record: Record) -> Failure:
        limit = self._migrator.settings.run.connect_timeout
        error = BranchUnreachable(
            f"the server did not answer within {limit:g} s when it was asked for "
            f"{server.pace.timed_out} other branches; for this one it was not asked again",
            "look at the server, its network and firewalls",
        )
        return self._failure(record, error)

    def _ask_together(self, server: _Server) -> None:
        """Once, when the server is known to answer: about all that wait, over few connections."""
        with self._lock:
            if server.asked_together or server.pace.timed_out or len(server.waiting) < 2:
                return
            server.asked_together = True
            records = deque(server.waiting)
            server.waiting.clear()
        left: list[Record] = []
        while records and not self._ended.is_set():
            asked = [records.popleft() for _ in range(min(_TOGETHER, len(records)))]
            told = self._told_together(asked)
            self._tell(told)
            known = {finding.record.branch.id for finding in told}
            left += [record for record in asked if record.branch.id not in known]
            if not told:
                break
        with self._lock:
            server.waiting.extend(left)
            server.waiting.extend(records)

    def _told_together(self, records: list[Record]) -> list[Finding]:
        try:
            found = self._migrator.versions_together([record.branch for record in records])
        except Exception as error:
            log.debug("while %d databases were asked about at once", len(records), exc_info=error)
            return []
        return [_finding(r, found[r.branch.id]) for r in records if r.branch.id in found]

    def _watch(self) -> None:
        """Let others begin beside looks that take long."""
        while not self._ended.wait(_LONG / 4):
            with self._lock:
                late = time.monotonic() - _LONG
                for look in self._looks:
                    if not look.is_long and look.began < late and self._spare_threads():
                        look.is_long = True
                        self._room += 1
                self._take_turns()

    def _spare_threads(self) -> bool:
        return len(self._looks) + self._room < _THREADS


def _unknown(record: Record, error: Exception) -> Finding:
    """Whatever it is, and be it a fault of ours: the attempt meets it again and tells of it."""
    if not isinstance(error, BranchmigError):
        code = record.branch.code
        log.debug("while %s was looked at", code, exc_info=error, extra={"branch": code})
    return Finding(record)


def _finding(record: Record, snapshot: Snapshot) -> Finding:
    whole = snapshot.versioned and not snapshot.unfinished
    return Finding(record, snapshot.heads if whole else None)
