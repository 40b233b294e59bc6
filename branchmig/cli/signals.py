"""SIGINT and SIGTERM, delivered to a fence even while the main thread is deep within a driver."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..fence import Fence

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def listening(fence: Fence) -> Iterator[None]:
    """Within, the first signal stops after the revision in hand, the second rolls it back.

    Python runs signal handlers between instructions of the main thread, which a long statement
    keeps from coming; the interpreter's own C handler writes to the wakeup descriptor at once.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    before = [(number, signal.signal(number, lambda *_: None)) for number in _SIGNALS]
    wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(receiver, fence), daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before:
            signal.signal(number, handler)
        sender.close()
        listener.join()
        receiver.close()


def _listen(receiver: socket.socket, fence: Fence) -> None:
    from ..sinks import say

    while numbers := receiver.recv(64):
        for number in numbers:
            if number not in _SIGNALS:
                continue
            again = fence.state.signum is not None
            fence.stop(number)
            doing = (
                "rolling it back"
                if again
                else "finishing the revision in hand (again: roll it back)"
            )
            # Nobody may be reading any more, and the next signal must still be heard.
            with suppress(OSError, ValueError):
                say(logging.WARNING, f"{signal.Signals(number).name}: {doing}")
