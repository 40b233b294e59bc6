"""CPU time of a command with everything that it starts, and its wall time."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """From now on a process whose parent ends becomes our child, so that we reap it.

    Worker processes belong to a fork server that outlives the program by an instant: without this
    nobody would see what they used (prctl(2)).
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def cpu(command: Sequence[str | Path], folder: Path, **environ: str) -> float:
    """Run a command to its end and to that of all it started; user and system seconds of them all.

    What wait4 tells of a process includes the children that it reaped itself; the others come to
    us. So each is counted once. Raises RuntimeError with its output where the command fails.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env=_environment(environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        used = 0.0
        while True:
            try:
                pid, status, usage = os.wait4(-1, 0)
            except ChildProcessError:
                break
            used += usage.ru_utime + usage.ru_stime
            if pid == process.pid:
                process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{command}: {process.returncode}\n{output.read().decode()}")
    return used


def wall(command: Sequence[str | Path], folder: Path, **environ: str) -> float:
    """Run a command to its end; seconds by the clock on the wall.

    Raises RuntimeError with its output where the command fails.
    """
    started = time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=_environment(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    took = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{command}: {done.returncode}\n{done.stdout.decode()}")
    return took


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """Ours without the settings of whoever runs this; what is installed has its bytecode."""
    foreign = ("BRANCHMIG_", "DBMATE_", "PYTHONDONTWRITEBYTECODE")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    return {**kept, **given}
