"""The command line: a command parses, makes one call, renders, exits. Floor 7.

Nothing heavy is imported before a command runs, so that `--help` and completion answer at once.
"""

from __future__ import annotations

import gc
import sys

_NEW_OBJECTS = 100_000
"""So many more before cycles among them are looked for. The records and outcomes of a fleet have
none, and looking was a twentieth of the CPU of a run with nothing to do."""


def main() -> None:
    """The entry point of the program."""
    gc.set_threshold(_NEW_OBJECTS)
    try:
        from .failures import run
    except KeyboardInterrupt:
        print("stopped before anything was begun", file=sys.stderr)
        sys.exit(130)
    run()


__all__ = ["main"]
