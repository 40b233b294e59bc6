"""A page that is shown anew again and again, until somebody has seen enough."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

import typer

from ..errors import StoreError, UsageError
from .session import Session

if TYPE_CHECKING:
    from ..render.page import Line, Page


def watched(session: Session, read: Callable[[], Page], seconds: float) -> None:
    """Show what `read` gives every so many seconds, until KeyboardInterrupt.

    HeadOffice may go away and come back meanwhile: what was read last stays, and that is said.
    Raises UsageError where there is no terminal, and StoreError at the first look.
    """
    if session.json or not sys.stdout.isatty():
        raise UsageError(
            "--watch needs a terminal to draw on", "leave it out; `watch` or a loop can repeat it"
        )
    from rich.console import Console
    from rich.live import Live

    from ..render.page import Line

    page = read()
    console = Console(highlight=False)
    with _terminable(), Live(console=console, screen=True, auto_refresh=False) as live:
        trouble: Line | None = None
        while True:
            head = Line(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ}, every {seconds:g} s", "dim")
            told = (head, trouble) if trouble else (head,)
            live.update(_fitted(page, told, console.height), refresh=True)
            time.sleep(seconds)  # Ctrl-C and SIGTERM end it by an exception
            try:
                page, trouble = read(), None
            except StoreError as error:
                trouble = Line(f"{error.message}; what was read before:", "bold red")


@contextmanager
def _terminable() -> Iterator[None]:
    """Within, SIGTERM unwinds as Ctrl-C does: else it would leave the terminal without its cursor
    and what had been on it."""

    def end(number: int, _: object) -> NoReturn:
        raise typer.Exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fitted(page: Page, told: tuple[Line, ...], height: int) -> Page:
    """The figures first: a long table is cut at the end of the screen. Nor are more of its rows
    laid out than could be seen, which would take a second for ten thousand."""
    from ..render.page import Line, Page

    lines = [block for block in page.blocks if isinstance(block, Line)]
    tables = [block.first(height) for block in page.blocks if not isinstance(block, Line)]
    return Page(*told, *lines, *tables)
