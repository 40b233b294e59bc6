"""What happens in a run, told to whoever listens: logs, a progress bar, metrics, notifications.

Floor 4. A sink can never break a run: whatever it raises is logged once and forgotten. This room
also owns the `branchmig` logger, its two formats, and the filter that keeps secrets out of it.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from dataclasses import dataclass
from typing import Literal, Protocol, TextIO

from .masking import mask
from .model import Branch, Outcome, Report, Run, Verdict, heads_text

logger = logging.getLogger("branchmig")

HIDDEN = re.compile(
    # Control characters (C0, DEL, C1), Unicode's line ends and direction marks, lone surrogates.
    r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""`text` on one line that no terminal obeys: ESC becomes `\x1b`, a line end `\n`."""
    return HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


# Events -------------------------------------------------------------------------------------------


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


# The log ------------------------------------------------------------------------------------------


_LEVELS = {Verdict.FAILED: logging.ERROR, Verdict.UNCHANGED: logging.DEBUG}
"""Of ten thousand branches with nothing to do, every five minutes, a count is enough."""


class LogSink:
    """One log line for a branch, one for each warning about it, and two for the run.

    Records carry `runId` and `branch` (a code) as extra fields.
    """

    def __init__(self) -> None:
        self._run: Run | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted(run, total):
                self._run = run
                self._log(logging.INFO, f"{run.command} started: {_branches(total)}")
            case BranchFinished(outcome):
                self._outcome(outcome)
            case RunFinished(run, report):
                self._log(logging.INFO, f"{run.command} finished: {_counts(report)}")

    def _outcome(self, outcome: Outcome) -> None:
        code = outcome.branch.code
        for warning in outcome.warnings:
            self._log(logging.WARNING, f"{code}: {warning}", code)
        level = _LEVELS.get(outcome.verdict, logging.INFO)
        if logger.isEnabledFor(level):
            self._log(level, f"{code} {self._sentence(outcome)}", code)

    def _sentence(self, outcome: Outcome) -> str:
        match outcome.verdict:
            case Verdict.MIGRATED:
                return f"{self._done}{_listed(outcome.applied)} in {_seconds(outcome)}"
            case Verdict.UNCHANGED:
                heads = heads_text(outcome.to_heads)
                return f"unchanged at {heads}" if heads else "unchanged"
            case Verdict.SKIPPED:
                reason = f" ({outcome.reason})" if outcome.reason else ""
                detail = f": {outcome.detail}" if outcome.detail else ""
                return f"skipped{reason}{detail}"
            case Verdict.FAILED:
                return _failure(outcome)

    @property
    def _done(self) -> str:
        return "rolled back" if self._run and self._run.command == "rollback" else "migrated"

    def _log(self, level: int, text: str, code: str | None = None) -> None:
        run_id = self._run.id if self._run else None
        logger.log(level, "%s", visible(text), extra={"runId": run_id, "branch": code})


def _failure(outcome: Outcome) -> str:
    text = f"failed: {outcome.message}" if outcome.message else "failed"
    if outcome.failure and outcome.failure.hint:
        text += f" (hint: {outcome.failure.hint})"
    return f"{text}; landed before it{_listed(outcome.applied)}" if outcome.applied else text


def _listed(revisions: tuple[str, ...]) -> str:
    return f": {', '.join(revisions)}" if revisions else ""


def _seconds(of: Outcome | Report) -> str:
    return f"{of.duration.total_seconds():.3f} s"


def _branches(count: int) -> str:
    return "1 branch" if count == 1 else f"{count} branches"


def _counts(report: Report) -> str:
    counts = [f"{len(found)} {verdict}" for verdict in Verdict if (found := report.of(verdict))]
    return f"{', '.join(counts) or 'nothing to do'} in {_seconds(report)}"


# The logger ---------------------------------------------------------------------------------------

_TIME = "%Y-%m-%dT%H:%M:%SZ"


def configure_logging(
    fmt: Literal["human", "json"], debug: bool, stream: TextIO | None = None
) -> None:
    """Send the `branchmig` logger, and no other, to `stream`; called again, set it anew.

    `stream` None means whatever `sys.stderr` is when a line is written: a progress bar replaces it
    to put lines above itself. `debug` lets DEBUG lines through. Secrets are masked.
    """
    handler = _Handler(stream)
    handler.addFilter(_Masking())
    handler.setFormatter(_json_formatter() if fmt == "json" else _HumanFormatter())
    for old in [h for h in logger.handlers if isinstance(h, _Handler)]:
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False


class _Handler(logging.Handler):
    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        try:
            stream = self._stream or sys.stderr
            stream.write(self.format(record) + "\n")
            stream.flush()
        except Exception:
            self.handleError(record)


class _Masking(logging.Filter):
    """Masks what a record says before any formatter sees it, tracebacks included."""

    _plain = logging.Formatter()

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = mask(_message(record)), None
        if record.exc_info:
            record.exc_text = self._plain.formatException(record.exc_info)
            # Formatters prefer the exception to its text, and would print the secret again.
            record.exc_info = None
        if record.exc_text:
            record.exc_text = mask(record.exc_text)
        return True


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:
        # Arguments that do not fit their format are no reason to fail: filters, unlike handlers,
        # are not guarded by logging.
        return f"{record.msg} {record.args!r}"


class _HumanFormatter(logging.Formatter):
    """`2026-01-01T00:00:00Z INFO text`; the lines of a traceback follow, indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", _TIME)
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = visible(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return "\n  ".join(visible(line) for line in super().format(record).split("\n"))


def _json_formatter() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    formatter = JsonFormatter(
        "%(asctime)s %(levelname)s %(message)s %(runId)s %(branch)s",
        _TIME,
        rename_fields={"asctime": "time", "levelname": "level"},
    )
    formatter.converter = time.gmtime
    return formatter
