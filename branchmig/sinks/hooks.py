"""The hooks of a whole run: after it, on a failure, on a halt.

They can change nothing any more: one that fails is a warning.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from ..config import Settings
from ..errors import BranchmigError
from ..fence import Fence
from ..hooks import described, hook
from ..model import Outcome, Report, Run, Verdict
from .events import BranchFinished, Event, RunFinished

log = logging.getLogger("branchmig.hooks")

_LOOK = 0.1
"""Seconds between two looks at the fence."""

_AT_ONCE = 4
"""Commands for failed branches that run beside each other."""


class HookSink:
    """Calls `on_failure` for each branch that failed, then `on_halt`, then `after_run`."""

    def __init__(self, settings: Settings, run: Run, fence: Fence) -> None:
        self._settings = settings
        self._run = _run(run)
        self._fence = fence
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: list[Future[None]] = []

    def __call__(self, event: Event) -> None:
        match event:
            case BranchFinished(outcome) if outcome.verdict is Verdict.FAILED:
                if self._settings.hooks.on_failure:
                    self._pool = self._pool or ThreadPoolExecutor(_AT_ONCE)
                    document = _failed(outcome)
                    self._waiting.append(self._pool.submit(self._call, "on_failure", document))
            case RunFinished(_, report):
                self._finish(report)

    def _finish(self, report: Report) -> None:
        self._await_failures()
        if report.halted and report.rollout:
            rollout = report.rollout.rollout
            self._call("on_halt", {"target": rollout.target, "haltReason": rollout.halt_reason})
        self._call("after_run", _summed_up(report))

    def _await_failures(self) -> None:
        """All commands for failed branches together have as long as one of them: thousands of
        branches that cannot be reached must not keep a tick from its end."""
        if self._pool is None:
            return
        end = time.monotonic() + self._settings.hooks.timeout
        left = set(self._waiting)
        while left and time.monotonic() < end and self._fence.state.signum is None:
            left = wait(left, timeout=_LOOK).not_done
        dropped = sum(future.cancel() for future in left)
        if dropped:
            log.warning(
                "[hooks] on_failure was not called for %d of the branches that failed: there was "
                "no more time", dropped,
            )  # fmt: skip
        self._pool.shutdown(wait=True)

    def _call(self, event: str, document: dict[str, Any]) -> None:
        try:
            if found := hook(self._settings, event):
                found.call({"run": self._run, **document}, self._fence)
        except BranchmigError as error:
            log.warning("%s", error.message)


def before_run(settings: Settings, run: Run, branches: int, fence: Fence) -> None:
    """Call the hook before anything is changed. Raises HookFailed, Stopped: then nothing is."""
    if found := hook(settings, "before_run"):
        found.call({"run": _run(run), "branches": branches}, fence)


def _run(run: Run) -> dict[str, Any]:
    return {
        "runId": run.id,
        "command": run.command,
        "trigger": run.trigger,
        "actor": run.actor,
        "host": run.host,
        "target": run.target,
    }


def _failed(outcome: Outcome) -> dict[str, Any]:
    return {
        "branch": described(outcome.branch),
        "status": outcome.status.value,
        "appliedMigrations": list(outcome.applied),
        "errorMessage": outcome.message,
    }


def _summed_up(report: Report) -> dict[str, Any]:
    return {
        "exitCode": report.exit_code,
        "branchesSucceeded": len(report.succeeded),
        "branchesFailed": len(report.failed),
        "branchesSkipped": len(report.skipped),
        "durationSeconds": round(report.duration.total_seconds(), 3),
        "failed": [outcome.branch.code for outcome in report.failed],
    }
