"""The command line: a command parses, makes one call, renders, exits. Floor 7.

Nothing heavy is imported before a command runs, so that `--help` and completion answer at once.
"""

from __future__ import annotations


def main() -> None:
    """The entry point of the program."""
    from .failures import run

    run()


__all__ = ["main"]
