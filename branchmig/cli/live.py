"""A page that is shown anew again and again, until somebody has seen enough."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..errors import StoreError, UsageError
from .session import Session

if TYPE_CHECKING:
    from ..render.page import Page


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

    from ..render.page import Line, Page

    page = read()
    console = Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        trouble: Line | None = None
        while True:
            head = Line(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ}, every {seconds:g} s", "dim")
            lines = [block for block in page.blocks if isinstance(block, Line)]
            # The figures first: a long table is cut at the end of the screen.
            tables = [block for block in page.blocks if not isinstance(block, Line)]
            told = [trouble] if trouble else []
            live.update(Page(head, *told, *lines, *tables), refresh=True)
            time.sleep(seconds)
            try:
                page, trouble = read(), None
            except StoreError as error:
                trouble = Line(f"{error.message}; what was read before:", "bold red")
