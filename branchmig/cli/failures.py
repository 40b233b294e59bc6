"""The one place where exceptions become messages and exit codes."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import traceback
from collections.abc import Callable

import typer

from ..errors import BranchmigError
from ..masking import mask

INTERNAL_ERROR = 70
"""EX_SOFTWARE of sysexits.h: a fault of this program, not of its user or of a branch."""


def run() -> None:
    """Run the program and exit."""
    from .app import app

    with contextlib.suppress(ValueError):
        # Block-buffered logs would come long after what they tell of.
        sys.stderr.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    code = _guarded(lambda: app(standalone_mode=False))
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()
    sys.exit(code)


def silence_stdout() -> None:
    """The reader of our output has gone: what is left to print goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        silence_stdout()
        return 0
    except Exception as error:
        _debug_trace(error)
        return _tell(_internal(error))


def _tell(error: BranchmigError) -> int:
    from ..render import documents

    if "--json" in sys.argv:
        print(documents.dumps(documents.error(error)))
    else:
        from ..render.text import visible

        print(f"Error: {visible(mask(error.message))}", file=sys.stderr)
        if error.hint:
            print(f"Hint: {visible(mask(error.hint))}", file=sys.stderr)
    return error.exit_code


def _wrong_usage(error: typer.TyperException) -> int:
    if "--json" in sys.argv:
        from ..errors import UsageError

        format_message = getattr(error, "format_message", lambda: str(error))
        return _tell(UsageError(format_message(), "`branchmig COMMAND --help` shows what it takes"))
    show = getattr(error, "show", None)
    if show:
        show()
    else:
        print(f"Error: {error}", file=sys.stderr)
    return getattr(error, "exit_code", 2)


def _internal(error: Exception) -> BranchmigError:
    """An error that nobody expected: its traceback goes into a file, not over the terminal."""
    found = BranchmigError(
        f"unexpected {type(error).__name__}: {mask(str(error))}", "run it again with --debug"
    )
    found.exit_code = INTERNAL_ERROR
    with contextlib.suppress(OSError):
        handle, path = tempfile.mkstemp(prefix="branchmig-debug-", suffix=".txt")
        with os.fdopen(handle, "w") as file:
            file.write(_trace(error))
        found.hint = f"this is a fault in branchmig: please report it with {path}"
    return found


def _debug_trace(error: BaseException) -> None:
    if "--debug" in sys.argv:
        print(_trace(error), file=sys.stderr)


def _trace(error: BaseException) -> str:
    return mask("".join(traceback.format_exception(error)))
