"""The one place where exceptions become messages and exit codes."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import TextIO

import typer

from ..errors import BranchmigError
from ..masking import mask

INTERNAL_ERROR = 70
"""EX_SOFTWARE of sysexits.h: a fault of this program, not of its user or of a branch."""


def run() -> None:
    """Run the program and exit."""
    _open_standard_streams()
    with contextlib.suppress(ValueError):
        # Block-buffered logs would come long after what they tell of.
        sys.stderr.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    code = _guarded(_program)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            silence(stream)
    gc.freeze()  # what is left goes with the process: nobody needs to look for cycles in it
    sys.exit(code)


def _program() -> object:
    from .app import app

    return app(prog_name="branchmig", standalone_mode=False)


def _open_standard_streams() -> None:
    """Whoever starts us may have closed them; the next file to be opened, a database, would then
    stand in their place (https://sqlite.org/howtocorrupt.html, section 2.1)."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115
            os.set_inheritable(stream.fileno(), True)  # by the worker processes
            setattr(sys, name, stream)


def silence(stream: TextIO) -> None:
    """Nobody can read this stream any more: what is left to print goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _say(text: str, stream: TextIO) -> None:
    """Print what perhaps nobody can read; the exit code tells it all the same."""
    with contextlib.suppress(OSError):
        print(text, file=stream)


def _guarded(program: Callable[[], object]) -> int:
    try:
        code = program()
        return code if isinstance(code, int) else 0
    except BranchmigError as error:
        _debug_trace(error)
        return _tell(error)
    except typer.TyperException as error:
        return _wrong_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        _say("stopped", sys.stderr)
        return 130
    except BrokenPipeError:
        silence(sys.stdout)
        return 0
    except Exception as error:
        _debug_trace(error)
        return _tell(_full(error) or _internal(error))


def _full(error: Exception) -> BranchmigError | None:
    """Whatever was written, help on standard output included, has met the end of its space."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        said = mask(str(error))
        return BranchmigError(f"nothing more can be written: {said}", "free some space there")
    return None


def _tell(error: BranchmigError) -> int:
    from ..render import documents

    if "--json" in sys.argv:
        _say(documents.dumps(documents.error(error)), sys.stdout)
    else:
        from ..sinks import say

        with contextlib.suppress(OSError):
            say(logging.ERROR, f"Error: {error.message}")
            if error.hint:
                say(logging.ERROR, f"Hint: {error.hint}")
    return error.exit_code


def _wrong_usage(error: typer.TyperException) -> int:
    """What Typer found wrong, told like every other error."""
    from ..errors import UsageError

    context = getattr(error, "ctx", None)
    path = context.command_path if context else "branchmig"
    if type(error).__name__ == "NoArgsIsHelpError":
        return 2  # it has printed itself
    message: str = getattr(error, "format_message", lambda: str(error))()
    message = message.replace("Value error, ", "").removesuffix(".")
    code = _tell(UsageError(message, f"`{path} -h` shows what it takes"))
    return _unknown(message) if context and context.info_name == "health" else code


def _unknown(message: str) -> int:
    """What a monitoring system must be told: by its contract 2 would be a fleet in distress."""
    from ..health import Level, plain

    if "--json" not in sys.argv:
        _say(f"BRANCHMIG UNKNOWN - {plain(mask(message))}", sys.stdout)
    return Level.UNKNOWN


def _internal(error: Exception) -> BranchmigError:
    """An error that nobody expected: its traceback goes into a file, not over the terminal."""
    import tempfile

    found = BranchmigError(
        f"unexpected {type(error).__name__}: {mask(str(error))}", "run it again with --debug"
    )
    found.exit_code = INTERNAL_ERROR
    with contextlib.suppress(OSError):
        # systemd's LogsDirectory=: a service's own /tmp is gone when it has ended.
        kept = os.environ.get("LOGS_DIRECTORY") or None
        handle, path = tempfile.mkstemp(prefix="branchmig-debug-", suffix=".txt", dir=kept)
        with os.fdopen(handle, "w") as file:
            file.write(_trace(error))
        found.hint = f"this is a fault in branchmig: please report it with {path}"
    return found


def _debug_trace(error: BaseException) -> None:
    if "--debug" in sys.argv:
        _say(_trace(error), sys.stderr)


def _trace(error: BaseException) -> str:
    return mask("".join(traceback.format_exception(error)))
