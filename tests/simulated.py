"""The real program at moments that a test chooses: libfaketime gives it the time of its clock.

The clock stands still while a command runs; time that is waited for goes on as it does. As a
program (`python simulated.py CLOCK`) it forks one branchmig for each line that it reads, with
everything imported, since a month has many ticks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from office import Office

LIBRARY = "libfaketimeMT.so.1"


def library() -> Path | None:
    """Where Debian's package faketime puts its library."""
    return next(iter(Path("/usr/lib").glob(f"*/faketime/{LIBRARY}")), None)


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


class Host:
    """A machine whose clock the test sets."""

    def __init__(self, office: Office) -> None:
        self._clock = office.folder / "clock"
        self._clock.write_text("2000-01-01 00:00:00")
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self._clock)],
            cwd=office.folder,
            env=office.environment(
                LD_PRELOAD=str(library()),
                FAKETIME_TIMESTAMP_FILE=str(self._clock),
                FAKETIME_CACHE_DURATION="1",
                FAKETIME_DONT_FAKE_MONOTONIC="1",
                TZ="UTC",
                PYTHONPATH=os.pathsep.join(path for path in sys.path if path),
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)

    def run(self, now: datetime, *arguments: str) -> Done:
        """Run the program at `now`, an aware moment, to its end."""
        assert self._process.stdin
        assert self._process.stdout
        # By renaming: no command may find half a clock.
        fresh = self._clock.with_suffix(".new")
        fresh.write_text(now.strftime("%Y-%m-%d %H:%M:%S"))
        fresh.rename(self._clock)
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        return Done(**json.loads(self._process.stdout.readline()))


def serve() -> None:
    """Fork a branchmig for each list of arguments on standard input."""
    import branchmig.cli.app
    import branchmig.fleet.fleet
    import branchmig.headoffice
    import branchmig.migrator  # noqa: F401

    # The library reads the file again once what it has read is a second old. From here on this
    # process asks for no time, so whatever it forks reads it at its first question.
    threading.Event().wait(1.5)  # time.sleep() is beyond the library where its clock stands still
    for line in sys.stdin:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            pid = os.fork()
            if not pid:
                become(json.loads(line), out.fileno(), err.fileno())
            _, status = os.waitpid(pid, 0)
            texts = []
            for stream in (out, err):
                stream.seek(0)
                texts.append(stream.read().decode())
        code = os.waitstatus_to_exitcode(status)
        sys.stdout.write(json.dumps({"code": code, "out": texts[0], "err": texts[1]}) + "\n")
        sys.stdout.flush()


def become(arguments: list[str], out: int, err: int) -> None:
    """Be the program, as if it had just been started."""
    null = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((null, out, err)):
        os.dup2(descriptor, number)
    sys.argv = ["branchmig", *arguments]
    code = 70
    try:
        from branchmig.cli import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
