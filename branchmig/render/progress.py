"""A run while it lasts: a progress bar on the terminal, and nothing where there is none."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self, TextIO

from ..model import Outcome, Verdict
from ..sinks import BranchFinished, BranchStarted, Event, RunStarted
from .text import visible

if TYPE_CHECKING:
    from rich.progress import Progress


class ProgressSink:
    """A sink and a context manager: the bar is there from `with` to its end, then wiped.

    It shows what is done, failed and left, the branch begun last, and the time. `file` None means
    `sys.stderr`; a file that is no terminal stays untouched. While the bar is there, `sys.stderr`
    puts what others write (log lines) above it.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file or sys.stderr
        self._bar: Progress | None = None
        self._total = self._done = self._failed = 0
        self._in_hand: dict[str, None] = {}

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
                self._in_hand[branch.code] = None
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
        latest = next(reversed(self._in_hand), None)
        return f"{counts}  {visible(latest)}" if latest else counts


def _bar(file: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TimeElapsedColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[told]}", markup=False),
        console=Console(file=file, force_terminal=True),
        transient=True,
        # What a command prints to standard output is its result and goes there untouched.
        redirect_stdout=False,
    )
