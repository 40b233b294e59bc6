"""Messages to people, sent by a process of its own that ends in time.

Floor 3. Whatever a service does to its caller (silence, a name that is never resolved, a library
that waits), happens in there; at the end of the time it is killed. What it prints goes nowhere, and
the addresses, which are secrets, reach it by a pipe and leave it only starred out.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection

from .errors import ConfigError
from .masking import mask_words
from .notices import Delivery

_LOOK = 0.2
"""Seconds between two looks at whether the run is to end."""

Letter = tuple[str, str, str]
"""Title, body, and the kind by which services choose a colour: info, success, warning, failure."""


def check_installed() -> None:
    """Raises ConfigError where the library that speaks to the services is missing."""
    from importlib.util import find_spec

    if find_spec("apprise") is None:
        raise ConfigError(
            "nobody can be told: the package apprise is not installed",
            "pip install 'branchmig[notify]'",
        )


def send(
    urls: Sequence[str],
    letters: Sequence[Letter],
    seconds: float,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[Delivery, ...]:
    """Send every letter to every address, all of it within so many seconds.

    Addresses are served side by side, so that a silent one keeps none of the others waiting.
    `stopped`: asked now and then whether to end at once. Raises ConfigError.
    """
    check_installed()
    ours, theirs = multiprocessing.Pipe()
    # Forked from nothing: this process has threads, and databases open.
    process = multiprocessing.get_context("spawn").Process(
        target=_deliver, args=(tuple(urls), tuple(letters), seconds, theirs), daemon=True
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    every = [(address, letter) for address in range(len(urls)) for letter in range(len(letters))]
    try:
        found, why = _heard(ours, len(every), seconds, stopped)
    finally:
        # Together with what it may have started; some services are programs.
        with suppress(OSError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.kill()
        process.join()
        process.close()
        ours.close()
    return tuple(found.get(key) or Delivery(*key, why) for key in every)


def _heard(
    pipe: Connection, expected: int, seconds: float, stopped: Callable[[], bool]
) -> tuple[dict[tuple[int, int], Delivery], str]:
    """What became of each letter, as far as it is told in time, and what keeps the rest back."""
    found: dict[tuple[int, int], Delivery] = {}
    deadline = time.monotonic() + seconds
    try:
        while len(found) < expected:
            left = deadline - time.monotonic()
            if left <= 0:
                return found, f"no answer within {seconds:g} s"
            if stopped():
                return found, "the run was stopped"
            if pipe.poll(min(_LOOK, left)):
                delivery = pipe.recv()
                found[delivery.address, delivery.letter] = delivery
    except (EOFError, OSError):
        pass
    return found, "the process that sends ended without a word"


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


# Within the process that sends --------------------------------------------------------------------


def _deliver(
    urls: Sequence[str], letters: Sequence[Letter], seconds: float, pipe: Connection
) -> None:
    with suppress(OSError):
        os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    lock = threading.Lock()

    def serve(address: int) -> None:
        for number, letter in enumerate(letters):
            error = _told(urls[address], letter, seconds)
            with lock, suppress(OSError):
                pipe.send(Delivery(address, number, error))

    threads = [threading.Thread(target=serve, args=(i,), daemon=True) for i in range(len(urls))]
    logging.getLogger("apprise").addHandler(_said)
    logging.getLogger("apprise").propagate = False
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _end_with_parent(pipe: Connection) -> None:
    with suppress(EOFError, OSError):
        pipe.recv()
    os._exit(1)


class _Said(logging.Handler):
    """What the library said last in each thread: only there is the reason of a failure."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):
            self._lines.value = [*self.lines, record.getMessage()]

    @property
    def lines(self) -> list[str]:
        return getattr(self._lines, "value", [])

    def forget(self) -> None:
        self._lines.value = []


_said = _Said()


def _told(url: str, letter: Letter, seconds: float) -> str | None:
    """None where the service has taken the letter, otherwise why not."""
    _said.forget()
    title, body, kind = letter
    try:
        import apprise

        service = apprise.Apprise.instantiate(url)
        if service is None:
            return f"it is no address that can be used{_reason(url)}"
        # An enumeration in some releases, a class of texts in others.
        colour = getattr(apprise.NotifyType, kind.upper())
        service.socket_connect_timeout = service.socket_read_timeout = seconds
        if service.notify(body=body, title=title, notify_type=colour):
            return None
        return f"it was not taken{_reason(url)}"
    except Exception as error:
        return mask_words(f"{type(error).__name__}: {error}", url)


def _reason(url: str) -> str:
    said = " / ".join(line.strip() for line in _said.lines if line.strip())
    return f": {mask_words(said, url)[:500]}" if said else ""
