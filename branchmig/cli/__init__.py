"""The command line: a command parses, makes one call, renders, exits. Floor 7.

Nothing heavy is imported before a command runs, so that `--help` and completion answer at once.
"""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point of the program."""
    try:
        from .failures import run
    except KeyboardInterrupt:
        print("stopped before anything was begun", file=sys.stderr)
        sys.exit(130)
    run()


__all__ = ["main"]
