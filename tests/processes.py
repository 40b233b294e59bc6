"""Processes as the kernel sees them, and waiting for what they do."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_MARK = "TEST_FAMILY"


def until(condition: Callable[[], T], what: str, seconds: float = 30) -> T:
    """Wait until `condition` gives something true, and give that; fail after a deadline."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"within {seconds} s not seen: {what}"
        time.sleep(0.005)
    return found


def children(parent: int) -> list[int]:
    """The ids of the processes that a process has started."""
    pids = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return [pid for pid in pids if _parent(pid) == parent]


def lives(pid: int) -> bool:
    """Whether there is such a process, zombies left out."""
    return _state(pid) != "Z"


def stopped(pid: int) -> bool:
    """Whether a process has been stopped by a signal, or is no more."""
    return _state(pid) in "TZ"


@dataclass(frozen=True)
class Family:
    """Every process that descends from a test: they inherit a variable that no other has."""

    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def environ(self) -> dict[str, str]:
        return {_MARK: self.mark}

    def members(self) -> list[int]:
        """The ids of those that live, zombies left out."""
        wanted = f"{_MARK}={self.mark}".encode()
        found = []
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if folder.name.isdigit() and wanted in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return [pid for pid in found if lives(pid)]

    def workers(self, parent: int) -> list[int]:
        """The processes that migrate for `parent`: children of the fork server, its child."""
        living = self.members()
        servers = [pid for pid in living if _parent(pid) == parent]
        return [pid for pid in living if _parent(pid) in servers]

    def gone(self, seconds: float = 20) -> None:
        """Wait until nobody lives any more."""
        until(lambda: not self.members(), "the end of every process", seconds)

    def end(self) -> None:
        """Kill, by their ids, all that are left."""
        for pid in self.members():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _fields(pid: int) -> list[str]:
    """What /proc says after the command's name: state, parent, ... (proc_pid_stat(5))."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return ["Z", "0"]


def _state(pid: int) -> str:
    return _fields(pid)[0]


def _parent(pid: int) -> int:
    return int(_fields(pid)[1])
