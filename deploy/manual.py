"""Prints the manual page branchmig(1): what people wrote, with every command as the program has it.

`make install` runs this with the program's own interpreter. The prose is branchmig.1.in, in the
macros of man(7); where it says @COMMANDS@ and @OPTIONS@ stand the commands and the options before
them, with the sentences of `--help`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import typer.main

from branchmig.cli.app import app
from branchmig.cli.session import program_version

PROSE = Path(__file__).with_name("branchmig.1.in")
_OF_EVERY_COMMAND = {"json", "debug", "help"}
_NOT_TOLD = {"install_completion", "show_completion"}
"""`make install` puts completions where the shells find them."""


def page() -> str:
    """The whole page."""
    root = typer.main.get_command(app)
    context = typer.Context(root, info_name="branchmig")
    parts = {
        "@VERSION@": text(program_version()),
        "@OPTIONS@": "\n".join(options(root, context, _NOT_TOLD)),
        "@COMMANDS@": "\n".join(line for name, c in commands(root) for line in told(name, c)),
    }
    return re.sub(r"@[A-Z]+@", lambda found: parts[found[0]], PROSE.read_text(encoding="utf-8"))


def commands(group: Any, path: str = "branchmig") -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its full name, in the order of `--help`."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def told(name: str, command: Any) -> Iterator[str]:
    """The lines on one command."""
    context = typer.Context(command, info_name=name)
    shown = [p for p in command.params if p.name not in _OF_EVERY_COMMAND]
    arguments = [p.metavar or str(p.name).upper() for p in shown if is_argument(p)]
    taken = " [OPTIONS]" if len(arguments) < len(shown) else ""
    yield f".SS {text(' '.join([name, *arguments]) + taken)}"
    for paragraph in re.split(r"\n\s*\n", command.help or ""):
        yield ".PP"
        if paragraph.startswith("Example: "):
            yield f"Example:\n.B {text(paragraph.removeprefix('Example: '))}"
        else:
            yield from map(text, paragraph.splitlines())
    yield from options(command, context, _OF_EVERY_COMMAND)


def options(command: Any, context: Any, left_out: set[str]) -> Iterator[str]:
    """A paragraph for each option, as `--help` tells of it."""
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is None or parameter.name in left_out or is_argument(parameter):
            continue
        words, help_text = record
        # A flag takes nothing, and a list one at a time, whatever Typer calls their types.
        words = words.replace(" <bool>", "") if parameter.is_flag else words
        words = re.sub(r"<list\[(.*)\]>", r"<\1>", words)
        yield f".TP\n.B {text(words)}\n{text(help_text or '')}"


def is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def text(given: str) -> str:
    """`given` as roff prints it unchanged: escapes, hyphens that can be copied, no requests."""
    escaped = given.strip().replace("\\", r"\e").replace("-", r"\-")
    return "\n".join(rf"\&{line}" if line[:1] in (".", "'") else line for line in [escaped])


if __name__ == "__main__":
    sys.stdout.write(page())
