"""Values as JSON documents, in the shapes that scripts rely on.

Keys may be added; none is ever renamed or dropped. Keys are camelCase, times UTC ISO 8601 ending
in Z, durations `hh:mm:ss.mmm`; what there is none of is null or an empty list, never left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from ..errors import BranchmigError
from ..health import Health
from ..masking import mask, mask_address
from ..model import (
    Branch,
    BranchStatus,
    Diagnosis,
    HistoryReport,
    MigrationHistory,
    Outcome,
    PastRun,
    PendingRevisions,
    Plan,
    Report,
    Result,
    Standing,
    Step,
    ValidationResult,
    heads_text,
)
from ..notices import Delivery
from ..sinks import HIDDEN
from .text import duration_text, masked, time_text

Document = dict[str, object]

_NAMED_FAILURES = 3
"""How many failures the sentence about a whole run spells out; `branches` has them all."""


def dumps(document: object) -> str:
    """One document as text: indented, people's letters as they are, nothing a terminal obeys."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return HIDDEN.sub(_escape, text)


def line(document: object) -> str:
    """One document on one line, for files of many."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(found: re.Match[str]) -> str:
    # JSON has escaped what lies below a space; the line ends that are left are the indentation's.
    return "\n" if found[0] == "\n" else f"\\u{ord(found[0]):04x}"


def report(report: Report, *, prefixed: bool) -> Document:
    """The document of apply, apply-all and rollback.

    `prefixed`: of many branches; migrations name theirs (`[BR001] 20251206_InitialCreate`), the
    message counts, and skipping is no lack of success. Otherwise of one branch, and what is not
    done is no success.
    """
    return {
        "success": not report.failed and (prefixed or not report.skipped),
        "appliedMigrations": [
            f"[{outcome.branch.code}] {revision}" if prefixed else revision
            for outcome in report.outcomes
            for revision in outcome.applied
        ],
        "errorMessage": _fleet_message(report) if prefixed else _single_message(report),
        "duration": duration_text(report.duration),
        "branchesProcessed": len(report.succeeded) + len(report.failed),
        "branchesSucceeded": len(report.succeeded),
        "branchesFailed": len(report.failed),
        "branchesSkipped": len(report.skipped),
        "runId": report.run_id,
        "rollout": rollout(report.rollout) if report.rollout else None,
        "branches": [_outcome(outcome) for outcome in report.outcomes],
    }


def rollout(standing: Standing) -> Document:
    """How far a rollout has come. `wave` counts from 0, which is the canary."""
    rollout, whole = standing.rollout, standing.whole
    return {
        "rolloutId": rollout.id,
        "target": rollout.target,
        "startedAt": time_text(rollout.started_at),
        "finishedAt": time_text(rollout.finished_at),
        "wave": rollout.wave,
        "attempted": whole.taken,
        "passed": whole.passed,
        "failed": whole.failed,
        "isHalted": rollout.is_halted,
        "haltedAt": time_text(rollout.halted_at),
        "haltReason": masked(rollout.halt_reason),
        "resumedAt": time_text(rollout.resumed_at),
        "resumedBy": rollout.resumed_by,
    }


def _outcome(outcome: Outcome) -> Document:
    return {
        "branchId": outcome.branch.id,
        "branchCode": outcome.branch.code,
        "verdict": outcome.verdict,
        "reason": outcome.reason,
        "status": outcome.status,
        "appliedMigrations": list(outcome.applied),
        "errorMessage": masked(outcome.message),
        "errorType": outcome.failure.type if outcome.failure else None,
        "hint": masked(outcome.failure.hint) if outcome.failure else None,
        "warnings": [mask(warning) for warning in outcome.warnings],
        "duration": duration_text(outcome.duration),
    }


def _single_message(report: Report) -> str | None:
    messages = (outcome.message for outcome in (*report.failed, *report.skipped))
    return masked(next(messages, None))


def _fleet_message(report: Report) -> str | None:
    failed = report.failed
    if not failed:
        return None
    named = [f"{outcome.branch.code}: {outcome.message}" for outcome in failed[:_NAMED_FAILURES]]
    if len(failed) > len(named):
        named.append(f"and {len(failed) - len(named)} more")
    processed = len(report.succeeded) + len(failed)
    return mask(f"{len(failed)} of {processed} failed: {'; '.join(named)}")


def pending(pending: PendingRevisions) -> Document:
    """What one branch still lacks."""
    return {
        "branchId": pending.branch.id,
        "branchCode": pending.branch.code,
        "pendingMigrations": list(pending.revisions),
        "count": len(pending.revisions),
    }


def history(history: MigrationHistory) -> Document:
    """One branch's past and what is before it."""
    return {
        "branchId": history.branch.id,
        "branchCode": history.branch.code,
        "appliedMigrations": list(history.applied),
        "pendingMigrations": list(history.pending),
        "lastMigrationDate": time_text(history.last_migration_at),
        "status": history.state.status,
        "retryCount": history.state.retry_count,
        "errorDetails": masked(history.state.error),
    }


def validation(result: ValidationResult) -> Document:
    """Whether one branch is what the target promises."""
    return {
        "branchId": result.branch.id,
        "branchCode": result.branch.code,
        "isValid": result.is_valid,
        "status": "Valid" if result.is_valid else "Invalid",
        "missingTables": list(result.missing_tables),
        "pendingMigrations": list(result.pending),
        "reason": masked(result.reason),
    }


def validation_all(results: Sequence[ValidationResult], history: HistoryReport) -> Document:
    """Whether every branch looked at (there may be none) and the history are valid."""
    return {
        "isValid": history.is_valid and all(result.is_valid for result in results),
        "branches": [validation(result) for result in results],
        "migrations": {
            "isValid": history.is_valid,
            "heads": list(history.heads),
            "findings": [mask(finding) for finding in history.findings],
        },
    }


def status(rows: Sequence[BranchStatus]) -> list[Document]:
    """What HeadOffice knows of each branch, in the order given."""
    return [_status(row) for row in rows]


def _status(row: BranchStatus) -> Document:
    return {
        "branchId": row.branch.id,
        "branchCode": row.branch.code,
        "branchName": row.branch.name,
        "lastMigrationApplied": heads_text(row.state.heads),
        "status": row.status,
        "lastAttemptAt": time_text(row.state.last_attempt_at),
        "retryCount": row.state.retry_count,
        "errorDetails": masked(row.state.error),
        "isLocked": row.is_locked,
        "lockExpiresAt": time_text(row.state.lock_expires_at),
        "provider": row.branch.provider,
        "behind": row.behind,
        "targetMigration": row.target,
        "pinned": row.state.pinned,
        "tags": list(row.branch.tags),
        "halted": row.halted is not None,
        "haltReason": masked(row.halted),
    }


def plan(plan: Plan, sql: Mapping[str, str] | None = None) -> Document:
    """The steps before one branch. `sql`: each revision's statements, where they are wanted."""
    return {
        "branchId": plan.branch.id,
        "branchCode": plan.branch.code,
        "current": heads_text(plan.current),
        "target": heads_text(plan.target),
        "steps": [_step(step, sql or {}) for step in plan.steps],
    }


def _step(step: Step, sql: Mapping[str, str]) -> Document:
    document: Document = {
        "revision": step.revision,
        "direction": step.direction,
        "fromHeads": list(step.from_heads),
        "toHeads": list(step.to_heads),
        "description": step.description,
    }
    return document | ({"sql": sql[step.revision]} if step.revision in sql else {})


def branch(branch: Branch) -> Document:
    """One branch, its password starred out."""
    return {
        "branchId": branch.id,
        "branchCode": branch.code,
        "branchName": branch.name,
        "provider": branch.provider,
        "url": branch.masked_url,
        "server": branch.server,
        "tags": list(branch.tags),
        "isActive": branch.is_active,
    }


def deliveries(urls: Sequence[str], deliveries: Sequence[Delivery]) -> Document:
    """What became of a test message at each address, which is shown by its kind alone."""
    return {
        "success": not any(delivery.error for delivery in deliveries),
        "addresses": [
            {
                "url": mask_address(urls[delivery.address]),
                "delivered": delivery.error is None,
                "errorMessage": masked(delivery.error),
            }
            for delivery in deliveries
        ],
    }


def past_run(past: PastRun) -> Document:
    """One run of the audit trail."""
    run = past.run
    return {
        "runId": run.id,
        "command": run.command,
        "trigger": run.trigger,
        "actor": run.actor,
        "login": run.login,
        "host": run.host,
        "pid": run.pid,
        "startedAt": time_text(past.started_at),
        "finishedAt": time_text(past.finished_at),
        "exitCode": past.exit_code,
        "target": masked(run.target),
        "program": past.program,
        "branches": [_result(result) for result in past.results],
    }


def _result(result: Result) -> Document:
    return {
        "branchId": result.branch_id,
        "branchCode": result.branch_code,
        "verdict": result.verdict,
        "reason": result.reason,
        "status": result.status,
        "fromHeads": list(result.from_heads),
        "toHeads": list(result.to_heads),
        "appliedMigrations": list(result.applied),
        "errorMessage": masked(result.error),
        "finishedAt": time_text(result.finished_at),
        "duration": duration_text(result.duration),
    }


def health(found: Health) -> Document:
    """How well the fleet is; times in seconds."""
    condition = found.condition
    return {
        "level": found.level.name,
        "reasons": [masked(reason) for reason in found.reasons],
        "branches": condition.total,
        "atHead": condition.at_head,
        "behind": condition.behind,
        "failed": condition.failed,
        "needPerson": condition.manual,
        "expiredLeases": condition.stuck,
        "lagSeconds": condition.lag,
        "silenceSeconds": condition.silence,
        "haltReason": masked(condition.halted),
    }


def diagnoses(found: Sequence[Diagnosis]) -> list[Document]:
    """What the doctor found, in the order in which it looked."""
    return [
        {
            "check": item.check,
            "subject": item.subject,
            "severity": item.severity,
            "message": mask(item.message),
            "hint": masked(item.hint),
        }
        for item in found
    ]


def error(error: BranchmigError) -> Document:
    """What stands in a result's place when an error prevents it."""
    return {
        "success": False,
        "error": {
            "type": type(error).__name__,
            "message": mask(error.message),
            "hint": masked(error.hint),
        },
    }
