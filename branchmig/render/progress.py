"""A run while it lasts: a progress bar on the terminal, and nothing where there is none."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self, TextIO

from ..model import Outcome, Verdict
from ..sinks import BranchFinished, BranchStarted, Event, RunStarted
from .text import visible

if TYPE_CHECKING:
    from rich.progress import Progress


class ProgressSink:
    """A sink and a context manager: the bar is there from `with` to its end, then wiped.

    It shows the time, what is done, failed and left, how many a second, how long it will still
    take, and the slowest branch: the one in hand for the longest. `file` None means `sys.stderr`; a
    file that is no terminal stays untouched. While the bar is there, `sys.stderr` puts what others
    write (log lines) above it.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file or sys.stderr
        self._bar: Progress | None = None
        self._total = self._done = self._failed = 0
        self._in_hand: dict[str, float] = {}  # since when, the longest first

    def __enter__(self) -> Self:
        if self._file.isatty():
            self._bar = _bar(self._file)
            self._bar.add_task("run", total=None, told="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        bar, self._bar = self._bar, None
        if bar:
            bar.stop()

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted(total=total):
                self._total = total
            case BranchStarted(branch):
                self._in_hand[branch.code] = time.monotonic()
            case BranchFinished(outcome):
                self._finish(outcome)
        self._show()

    def _finish(self, outcome: Outcome) -> None:
        self._done += 1
        self._failed += outcome.verdict is Verdict.FAILED
        self._in_hand.pop(outcome.branch.code, None)

    def _show(self) -> None:
        if self._bar:
            task = self._bar.task_ids[0]
            self._bar.update(task, total=self._total, completed=self._done, told=self._told())

    def _told(self) -> str:
        left = max(self._total - self._done, 0)
        counts = f"{self._done} done, {self._failed} failed, {left} left"
        for code, since in self._in_hand.items():
            return f"{counts}  {visible(code)} for {time.monotonic() - since:.0f} s"
        return counts


def _bar(file: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Branches a second, of late."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.0f}/s" if task.speed else "")

    return Progress(
        TimeElapsedColumn(),
        BarColumn(bar_width=20),
        TimeRemainingColumn(),
        Rate(),
        TextColumn("{task.fields[told]}", markup=False),
        console=Console(file=file, force_terminal=True),
        transient=True,
        # What a command prints to standard output is its result and goes there untouched.
        redirect_stdout=False,
    )
