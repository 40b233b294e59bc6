"""The fence: whatever makes work in hand stop, asked before every statement and every revision.

Floor 2. Three things may come from outside, each from another thread or process: a stop (finish
the revision in hand), an interruption (roll it back), and the loss of the lease.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from .errors import LeaseLost, Stopped, WindowClosed


def clock() -> float:
    """Seconds on a clock that nobody sets and that runs on while the machine is suspended.

    A lease goes on expiring in HeadOffice while this host sleeps, so its deadline must too; Linux
    stops CLOCK_MONOTONIC during suspend (clock_gettime(2)).
    """
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True, slots=True)
class Fencing:
    """The whole state of a fence, as it crosses to a worker process. `deadline` is on `clock`,
    which all processes of a host share; None: no lease is held. `closes`, on the same clock, is
    the end of the window in which the branch may be migrated. `serial` rises with every change, so
    that a message that was overtaken does no harm."""

    serial: int = 0
    signum: int | None = None
    interrupted: bool = False
    lost: str | None = None
    deadline: float | None = None
    closes: float | None = None


class Fence:
    """Guards one run. Thread-safe; whoever watches it is told of every change."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._watcher: Callable[[Fencing], None] | None = None
        self.state = Fencing()

    def stop(self, signum: int) -> None:
        """Ask for an end after the revision in hand; asked again: now, rolling it back."""
        with self._lock:
            again = self.state.signum is not None
            self._change(signum=self.state.signum or signum, interrupted=again)

    def lose(self, why: str) -> None:
        """The lease is gone: nothing more may be written, to the branch or to HeadOffice."""
        with self._lock:
            self._change(lost=self.state.lost or why)

    def extend(self, deadline: float) -> None:
        """A lease was taken or renewed until `deadline`."""
        with self._lock:
            self._change(deadline=deadline)

    def close_at(self, closes: float) -> None:
        """No revision is to be begun that would not be done by `closes`."""
        with self._lock:
            self._change(closes=closes)

    def clear(self) -> None:
        """No lease is held any more."""
        with self._lock:
            self._change(lost=None, deadline=None, closes=None)

    def become(self, state: Fencing) -> None:
        """Take over a state, such as one that came from the parent process."""
        with self._lock:
            if state.serial < self.state.serial:
                return
            self.state = state
            self._changed.notify_all()
            if self._watcher:
                self._watcher(state)

    def follow(self, other: Fencing) -> None:
        """Stop and be interrupted as another fence; the lease is one's own."""
        with self._lock:
            if (self.state.signum, self.state.interrupted) != (other.signum, other.interrupted):
                self._change(signum=other.signum, interrupted=other.interrupted)

    def _change(self, **fields: Any) -> None:
        self.become(replace(self.state, serial=self.state.serial + 1, **fields))

    @contextmanager
    def watched(self, watcher: Callable[[Fencing], None]) -> Iterator[None]:
        """Within, `watcher` is called with the present state and with every later one.

        It is called from whichever thread makes the change and must not block.
        """
        with self._lock:
            self._watcher = watcher
            watcher(self.state)
        try:
            yield
        finally:
            with self._lock:
                self._watcher = None

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than until the work is asked to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self.state.lost or self.state.signum, seconds)

    def check_statement(self) -> None:
        """Raise LeaseLost or Stopped where not one statement more may be sent."""
        state = self.state
        if state.lost or (state.deadline is not None and clock() > state.deadline):
            raise LeaseLost(
                state.lost or "the lease expired before it could be renewed",
                "nothing more was written; the next run takes over from where the branch stands",
            )
        if state.interrupted:
            raise stopped(state.signum, "the revision in hand was rolled back")

    def check_step(self, seconds: float = 0) -> None:
        """Raise where no further revision may be begun: LeaseLost, Stopped, or WindowClosed.

        `seconds`: how long it is expected to take.
        """
        self.check_statement()
        if self.state.signum is not None:
            raise stopped(self.state.signum, "no further revision was begun")
        closes = self.state.closes
        if closes is not None and clock() + seconds > closes:
            raise WindowClosed(_no_time(closes - clock(), seconds))


def _no_time(left: float, seconds: float) -> str:
    if left <= 0:
        return "its window has closed, so no further revision was begun"
    return (
        f"its window closes in {left:.0f} s, and the next revision has taken up to {seconds:.0f} s "
        "elsewhere, so it was not begun"
    )


def stopped(signum: int | None, what: str) -> Stopped:
    """The error of a run that a signal ended in good order."""
    number = signum or signal.SIGINT
    error = Stopped(f"stopped by {signal.Signals(number).name}: {what}", "run it again to go on")
    error.exit_code = 128 + number
    return error
