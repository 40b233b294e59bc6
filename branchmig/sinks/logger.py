"""The `branchmig` logger, its formats, and the filter that keeps secrets out of it."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, TextIO

from ..masking import mask

logger = logging.getLogger("branchmig")

HIDDEN = re.compile(
    # Control characters (C0, DEL, C1), Unicode's line ends and direction marks, lone surrogates.
    r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""`text` on one line that no terminal obeys: ESC becomes `\x1b`, a line end `\n`."""
    return HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


# How lines are written ----------------------------------------------------------------------------

_TIME = "%Y-%m-%dT%H:%M:%SZ"


LogFormat = Literal["human", "json"]


@dataclass(frozen=True, slots=True)
class LogStyle:
    """How a process logs, so that its worker processes can do the same."""

    fmt: LogFormat = "human"
    debug: bool = False
    run_id: str | None = None
    branch: str | None = None


class _Now:
    """The one thing here that changes; a logger belongs to the process as well."""

    style = LogStyle()


def log_style() -> LogStyle:
    """How this process logs now."""
    return _Now.style


def configure_logging(fmt: LogFormat, debug: bool, stream: TextIO | None = None) -> None:
    """Send the `branchmig` logger, and no other, to `stream`; called again, set it anew.

    `stream` None means whatever `sys.stderr` is when a line is written: a progress bar replaces it
    to put lines above itself. `debug` lets DEBUG lines through. Secrets are masked. Where the
    stream is systemd's journal, human lines carry its priorities instead of a time.
    """
    _Now.style = LogStyle(fmt, debug)
    handler = _Handler(stream)
    handler.addFilter(_Masking())
    handler.addFilter(_of_whom)
    if fmt == "json":
        handler.setFormatter(_json_formatter())
    else:
        handler.setFormatter(_HumanFormatter(_is_journal(stream or sys.stderr)))
    for old in [h for h in logger.handlers if isinstance(h, _Handler)]:
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False


def of_run(run_id: str | None) -> None:
    """From now on every record of this process that names no run of its own is of this one, the
    error that ends it included.

    Not by thread: leases are renewed and databases looked at in threads of the same run.
    """
    _Now.style = replace(_Now.style, run_id=run_id)


@contextmanager
def about(branch: str) -> Iterator[None]:
    """Within, every record of this process that names no branch of its own is of this one."""
    before = _Now.style
    _Now.style = replace(before, branch=branch)
    try:
        yield
    finally:
        _Now.style = before


def _of_whom(record: logging.LogRecord) -> bool:
    if getattr(record, "runId", None) is None:
        record.runId = _Now.style.run_id
    if getattr(record, "branch", None) is None:
        record.branch = _Now.style.branch
    return True


# The journal --------------------------------------------------------------------------------------

_PRIORITIES = {logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6}


def say(level: int, text: str) -> None:
    """Write a line to standard error that is no log line, and still can be told from one by who
    reads the log: in the journal it has its priority, among JSON lines it is one of them."""
    if _Now.style.fmt == "json":
        logger.log(level, "%s", text)
        return
    prefix = f"<{_PRIORITIES.get(level, 7)}>" if _is_journal(sys.stderr) else ""
    print(f"{prefix}{visible(mask(text))}", file=sys.stderr)  # noqa: T201


def _is_journal(stream: TextIO) -> bool:
    """$JOURNAL_STREAM holds device and inode of the journal's socket; who redirects a stream of a
    service leaves the variable as it is, so they are compared (systemd.exec(5))."""
    told = os.environ.get("JOURNAL_STREAM")
    if not told:
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False  # no file at all, or closed
    return told == f"{found.st_dev}:{found.st_ino}"


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
    """`2026-01-01T00:00:00Z INFO text`; the lines of a traceback follow, indented.

    In the journal `<6>INFO text`: it keeps the time itself, and takes the priority off each line.
    """

    def __init__(self, journal: bool) -> None:
        super().__init__(f"{'' if journal else '%(asctime)s '}%(levelname)s %(message)s", _TIME)
        self.converter = time.gmtime
        self._journal = journal

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = visible(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        start = f"<{_PRIORITIES.get(record.levelno, 7)}>" if self._journal else ""
        lines = (visible(line) for line in super().format(record).split("\n"))
        return start + f"\n{start}  ".join(lines)


def _json_formatter() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    formatter = JsonFormatter(
        "%(asctime)s %(levelname)s %(message)s %(runId)s %(branch)s",
        _TIME,
        rename_fields={"asctime": "time", "levelname": "level"},
    )
    formatter.converter = time.gmtime
    return formatter
