"""What happens in a run, and those who listen, as one that never raises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..masking import mask
from ..model import Branch, Outcome, Report, Run
from .logger import logger, visible


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run is about to look at `total` branches."""

    run: Run
    total: int


@dataclass(frozen=True, slots=True)
class BranchStarted:
    """Work on one branch begins."""

    branch: Branch


@dataclass(frozen=True, slots=True)
class BranchFinished:
    """One branch is done with, whatever the verdict; it may never have started."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run is over and its outcomes are recorded."""

    run: Run
    report: Report


Event = RunStarted | BranchStarted | BranchFinished | RunFinished


class Sink(Protocol):
    """Anything that can be called with an event."""

    def __call__(self, event: Event, /) -> None: ...


class Sinks:
    """Several sinks as one that never raises."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks
        self._broken: set[int] = set()

    def emit(self, event: Event) -> None:
        """Tell every sink, in order. An Exception of one is logged the first time, then ignored."""
        for position, sink in enumerate(self._sinks):
            try:
                sink(event)
            except Exception as error:
                self._complain(position, sink, error)

    def _complain(self, position: int, sink: Sink, error: Exception) -> None:
        if position in self._broken:
            return
        self._broken.add(position)
        name = getattr(sink, "__name__", type(sink).__name__)
        what = visible(mask(f"{type(error).__name__}: {error}"))
        logger.warning("the sink %s failed and is ignored when it fails again: %s", name, what)
        logger.debug("where the sink %s failed", name, exc_info=error)
