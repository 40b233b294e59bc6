"""The real program, quickly: forked from a process that has imported everything.

As a program (`python prompt.py`) it forks one branchmig for each line that it reads. What a command
has learned, its secrets above all, ends with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


class Prompt:
    """Where commands are typed, one after another."""

    def __init__(self) -> None:
        self._paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, "PYTHONPATH": self._paths},
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

    def run(
        self, folder: Path, arguments: tuple[str, ...], stdin: str, environ: Mapping[str, str]
    ) -> Done:
        """Run the program in a folder, to its end."""
        assert self._process.stdin
        assert self._process.stdout
        asked = {
            "folder": str(folder), "arguments": arguments, "stdin": stdin,
            "environ": {**environ, "PYTHONPATH": self._paths},
        }  # fmt: skip
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return Done(**json.loads(self._process.stdout.readline()))


def serve() -> None:
    """Fork a branchmig for each line on standard input."""
    import psycopg  # noqa: F401
    import pymysql  # noqa: F401

    import branchmig.cli.app
    import branchmig.fleet.fleet
    import branchmig.headoffice
    import branchmig.migrator
    import branchmig.telling  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            given.write(asked.pop("stdin").encode())
            given.seek(0)
            pid = os.fork()
            if not pid:
                become((given.fileno(), out.fileno(), err.fileno()), **asked)
            _, status = os.waitpid(pid, 0)
            texts = []
            for stream in (out, err):
                stream.seek(0)
                texts.append(stream.read().decode(errors="replace"))
        code = os.waitstatus_to_exitcode(status)
        sys.stdout.write(json.dumps({"code": code, "out": texts[0], "err": texts[1]}) + "\n")
        sys.stdout.flush()


def become(
    streams: tuple[int, int, int], folder: str, arguments: list[str], environ: dict[str, Any]
) -> None:
    """Be the program, as if it had just been started."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    sys.stdin = os.fdopen(0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
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
