"""The program again and again without its start: a process that has loaded it, and forks for each.

As a program it reads one JSON line a command (arguments, environ, folder, stdin, out: a folder) and
answers with the exit code. What it forks prints, reads and ends as the real program does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self


@dataclass
class Zygote:
    """To be used by one thread, as a context manager. `environ`: whose children these all are."""

    environ: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.environ},
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def run(
        self, folder: Path, arguments: list[str], environ: dict[str, str], stdin: str = ""
    ) -> tuple[int, str]:
        """The exit code, and all that was printed to either stream."""
        given, printed = folder / ".stdin", folder / ".printed"
        given.write_text(stdin)
        order = [str(folder), arguments, environ, str(given), str(printed)]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        text = printed.read_text(errors="replace")
        given.unlink()
        printed.unlink()
        return code, text


def _become(
    folder: str, arguments: list[str], environ: dict[str, str], given: str, printed: str
) -> None:
    from branchmig.cli import main

    os.chdir(folder)
    os.environ.update(environ)
    sys.argv = ["branchmig", *arguments]
    os.dup2(os.open(given, os.O_RDONLY), 0)
    out = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - the process's own
    main()


def _serve() -> None:
    import alembic.command
    import psycopg
    import pymysql

    import branchmig.cli.app
    import branchmig.fleet.fleet
    import branchmig.manager
    import branchmig.render.tables  # noqa: F401 - all of them only to be loaded

    del alembic, psycopg, pymysql
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _become(*json.loads(line))
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
