"""The log of a run: a line a branch, and two for the whole."""

from __future__ import annotations

import logging

from ..model import Outcome, Report, Run, Verdict, heads_text
from .events import BranchFinished, Event, RunFinished, RunStarted
from .logger import logger, visible

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
