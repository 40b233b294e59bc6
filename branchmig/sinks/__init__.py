"""What happens in a run, told to whoever listens: logs, a progress bar, metrics.

Floor 4. A sink can never break a run: whatever it raises is logged once and forgotten. This room
also owns the `branchmig` logger, its formats, and the filter that keeps secrets out of it.
"""

from __future__ import annotations

from .events import (
    BranchFinished,
    BranchStarted,
    Event,
    RunFinished,
    RunStarted,
    Sink,
    Sinks,
)
from .log import LogSink
from .logger import (
    HIDDEN,
    LogStyle,
    about,
    configure_logging,
    log_style,
    logger,
    of_run,
    say,
    visible,
)

__all__ = [
    "HIDDEN",
    "BranchFinished",
    "BranchStarted",
    "Event",
    "LogSink",
    "LogStyle",
    "RunFinished",
    "RunStarted",
    "Sink",
    "Sinks",
    "about",
    "configure_logging",
    "log_style",
    "logger",
    "of_run",
    "say",
    "visible",
]
