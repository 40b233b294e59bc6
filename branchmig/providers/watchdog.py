"""A limit on waiting for an answer, for drivers that have none.

A server that is frozen goes on acknowledging what it is sent, so that no keepalive finds out. One
thread a process watches over all who wait, and shuts the socket of whoever has waited too long.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from ..errors import BranchUnreachable


class _Wait:
    def __init__(self, end: socket.socket, seconds: float) -> None:
        self.end = end
        self.deadline = time.monotonic() + seconds
        self.over = False


class _Watchdog:
    def __init__(self) -> None:
        self._waits: set[_Wait] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._sleeps_until = math.inf

    def add(self, wait: _Wait) -> None:
        with self._changed:
            self._waits.add(wait)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
                self._thread.start()
            elif wait.deadline < self._sleeps_until:
                self._changed.notify()

    def remove(self, wait: _Wait) -> None:
        with self._changed:
            self._waits.discard(wait)

    def _run(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for wait in [w for w in self._waits if w.deadline <= now]:
                    self._waits.discard(wait)
                    wait.over = True
                    with suppress(OSError):
                        wait.end.shutdown(socket.SHUT_RDWR)
                # Not woken for each wait: the next one's deadline mostly lies behind this.
                first = min((w.deadline for w in self._waits), default=math.inf)
                self._sleeps_until = first
                self._changed.wait(None if first == math.inf else max(0, first - now))


_watchdog = _Watchdog()


@contextmanager
def answer_within(seconds: float, fileno: int) -> Iterator[None]:
    """Within, the peer of a socket must answer. Raises BranchUnreachable where it has not.

    The connection is of no use then.
    """
    with closing(socket.socket(fileno=os.dup(fileno))) as end:
        wait = _Wait(end, seconds)
        _watchdog.add(wait)
        try:
            yield
        except Exception as error:
            if wait.over:
                raise BranchUnreachable(
                    f"the server has not answered for {seconds:g} s",
                    "is it frozen, overloaded, or cut off by a firewall?",
                ) from error
            raise
        finally:
            _watchdog.remove(wait)
