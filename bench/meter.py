"""CPU time of a command with everything that it starts, its wall time, and its memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """From now on a process whose parent ends becomes our child, so that we reap it.

    Worker processes belong to a fork server that outlives the program by an instant: without this
    nobody would see what they used (prctl(2)).
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


@dataclass(frozen=True)
class Usage:
    """Seconds: `cpu` user and system of a command and all it started, `wall` until its own end."""

    cpu: float
    wall: float


def usage(command: Sequence[str | Path], folder: Path, **environ: str) -> Usage:
    """Run a command to its end and to that of all it started; what they used together.

    What wait4 tells of a process includes the children that it reaped itself; the others come to
    us. So each is counted once. Raises RuntimeError with its output where the command fails.
    """
    _reap()
    used = took = 0.0
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = _started(command, folder, environ, output)
        with suppress(ChildProcessError):
            while True:
                pid, status, spent = os.wait4(-1, 0)
                used += spent.ru_utime + spent.ru_stime
                if pid == process.pid:
                    took = time.perf_counter() - started
                    process.returncode = os.waitstatus_to_exitcode(status)
        _check(process, output)
    return Usage(used, took)


def cpu(command: Sequence[str | Path], folder: Path, **environ: str) -> float:
    """CPU seconds as `usage` tells them."""
    return usage(command, folder, **environ).cpu


def wall(command: Sequence[str | Path], folder: Path, *, code: int = 0, **environ: str) -> float:
    """Run a command to its end; seconds by the clock on the wall.

    Raises RuntimeError with its output where it ends with another code.
    """
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = _started(command, folder, environ, output)
        process.wait()
        took = time.perf_counter() - started
        _check(process, output, code)
    return took


def peak(command: Sequence[str | Path], folder: Path, **environ: str) -> int:
    """Run a command to its end; the most bytes that its own process had in memory, without those
    of the processes it started.

    Asked again and again while it runs: what wait4 tells would include what was there before its
    exec. Raises RuntimeError with its output where the command fails.
    """
    most = 0
    with tempfile.TemporaryFile() as output:
        process = _started(command, folder, environ, output)
        while process.poll() is None:
            most = _high_water(process.pid) or most
            # The kernel forgets the peak with the process: so it is looked at again and again.
            time.sleep(_MOMENT)
        _check(process, output)
    return most


_MOMENT = 0.005
"""Seconds between two looks at a process; what it gains in its last ones goes unseen."""


def _high_water(pid: int) -> int:
    """The largest resident size so far, in bytes; 0 once the process has ended (proc(5))."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _started(
    command: Sequence[str | Path], folder: Path, environ: Mapping[str, str], output: IO[bytes]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=folder,
        env=_environment(environ),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    )


def _check(process: subprocess.Popen[bytes], output: IO[bytes], code: int = 0) -> None:
    if process.returncode != code:
        output.seek(0)
        told = output.read().decode()
        raise RuntimeError(f"{process.args!r}: {process.returncode}\n{told}")


def _reap() -> None:
    """Forget the processes that ended before: they are no part of what is measured next."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """Ours without the settings of whoever runs this; what is installed has its bytecode."""
    foreign = ("BRANCHMIG_", "DBMATE_", "PYTHONDONTWRITEBYTECODE")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    return {**kept, **given}
