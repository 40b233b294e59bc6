"""Commands of the operator's own, run at certain moments with a JSON document on standard input.

Floor 3. A command is run without a shell, in the settings' folder, in a process group of its own,
and for no longer than it may take: then the whole group is killed. What it prints is read to its
end and shown only when it fails, with every secret masked.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .config import Settings
from .errors import HookFailed
from .fence import Fence
from .masking import mask, remember, remember_url, remember_variables
from .model import Branch

if TYPE_CHECKING:
    import subprocess

_GRACE = 2.0
"""Seconds between the request to end and the kill."""

_LOOK = 0.05
"""Seconds between two looks at the fence while a command runs."""

_READ = 64 * 1024
"""Bytes of what it printed that are looked at, and of a secret's file."""

_MOST_SECRETS = 1000
"""Files that are looked at for secrets after a failure."""

_SHOWN = 500
"""Characters of what a command printed last that an error quotes."""

_LAUNCH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(signum, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
try:
    os.execvp(sys.argv[1], sys.argv[1:])
except OSError as error:
    sys.exit(f"it cannot be started: {error.strerror}")
"""
"""Becomes the command, after it has been made to die with the process that called it
(PR_SET_PDEATHSIG of prctl(2)) and to take the signals that a worker process leaves to its parent
and those that Python ignores: without SIGPIPE a `yes | head` does not end quietly.
A program of its own, since Python's `preexec_fn` may hang where there are threads.
"""


@dataclass(frozen=True, slots=True)
class Hook:
    """One command: its event, its words, how many seconds it may take, and where it runs."""

    event: str
    command: tuple[str, ...]
    seconds: float
    folder: Path
    secrets: tuple[Path, ...] = ()
    """Folders with secrets that the command can read, and print."""

    def call(self, document: Mapping[str, Any], fence: Fence) -> None:
        """Run it to its end. Raises HookFailed, and LeaseLost or Stopped where the fence says so:
        the second signal of a stop ends it at once."""
        try:
            self._call(document, fence)
        except OSError as error:
            # Of this host: no room for temporary files, no more processes, no such program.
            raise self._failed(f"cannot be started: {error.strerror}", "") from error

    def _call(self, document: Mapping[str, Any], fence: Fence) -> None:
        import subprocess
        import tempfile

        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as printed:
            given.write(json.dumps({"event": self.event, **document}).encode())
            given.seek(0)
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCH, *self.command],
                stdin=given,
                stdout=printed,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )
            try:
                self._wait(process, fence)
            finally:
                _end(process)
            if process.returncode:
                _remember(self.secrets)
                raise self._failed(_how(process.returncode), _last(printed))

    def _wait(self, process: subprocess.Popen[bytes], fence: Fence) -> None:
        import subprocess

        end = time.monotonic() + self.seconds
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK)
                return
            fence.check_statement()
            if time.monotonic() > end:
                raise self._failed(f"was killed after {self.seconds:g} seconds", "")

    def _failed(self, what: str, printed: str) -> HookFailed:
        said = f": {printed}" if printed else ""
        return HookFailed(
            f"[hooks] {self.event} ({self.command[0]}) {what}{said}",
            "mend the command; it is run again at the next attempt",
        )


def hook(settings: Settings, event: str) -> Hook | None:
    """What is to be run at `event`, a key of [hooks]; None where nothing is."""
    given = settings.hooks
    command: tuple[str, ...] = getattr(given, event)
    if not command:
        return None
    program = command[0]
    if "/" in program:
        program = str(settings.folder / program)
    return Hook(event, (program, *command[1:]), given.timeout, settings.folder, _kept(settings))


def _kept(settings: Settings) -> tuple[Path, ...]:
    credentials, own = os.environ.get("CREDENTIALS_DIRECTORY"), settings.secrets.directory
    return (
        *([Path(credentials)] if credentials else ()),
        *([settings.folder / own] if own is not None else ()),
    )


def _remember(folders: Iterable[Path]) -> None:
    """Have masked what a command has been given: the environment, and files of secrets. As they
    are and by lines, since some hold more than one."""
    remember_variables(os.environ)
    files = (file for folder in folders for file in folder.rglob("*"))
    for file in islice(files, _MOST_SECRETS):
        with suppress(OSError, UnicodeDecodeError), file.open("rb") as opened:
            text = opened.read(_READ).decode()
            for secret in (text.strip(), *text.splitlines()):
                remember(secret.strip())
                remember_url(secret.strip())


def described(branch: Branch) -> dict[str, Any]:
    """A branch as hooks are told of it; its URL without the password."""
    from .masking import mask_url

    return {
        "branchId": branch.id,
        "branchCode": branch.code,
        "branchName": branch.name,
        "provider": branch.provider.value,
        "url": mask_url(branch.url),
        "server": branch.server,
        "tags": list(branch.tags),
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of the group is left, whether or not the command itself has ended."""
    import subprocess

    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _how(code: int) -> str:
    if code > 0:
        return f"failed with exit code {code}"
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def _last(printed: IO[bytes]) -> str:
    """The end of what was printed, on one line."""
    size = printed.seek(0, os.SEEK_END)
    printed.seek(max(0, size - _READ))
    # First as it is, since a secret may hold blanks, then as it is shown.
    text = mask(printed.read().decode(errors="replace"))
    text = mask(" ".join(text.split()))
    return text if len(text) <= _SHOWN else f"...{text[-_SHOWN:]}"
