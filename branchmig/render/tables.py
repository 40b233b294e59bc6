"""Values as pages for people: the same facts as `documents`, news in colour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..errors import BranchmigError
from ..masking import mask, mask_address
from ..model import (
    Branch,
    BranchStatus,
    Diagnosis,
    HistoryReport,
    MigrationHistory,
    MigrationStatus,
    Outcome,
    PastRun,
    PendingRevisions,
    Plan,
    Report,
    Result,
    Severity,
    ValidationResult,
    Verdict,
    heads_text,
)
from ..notices import Delivery
from .page import Column, Line, Page, Row, Table
from .page import print_table as print_table  # noqa: PLC0414  (offered here as well)
from .text import duration_text, masked, tally, time_text

_LISTED_UNCHANGED = 50
"""In a run over more branches than this those unchanged are counted and not listed."""

_BAD = "bold red"

_STATUS = {
    MigrationStatus.COMPLETED.value: "green",
    MigrationStatus.PENDING.value: "yellow",
    MigrationStatus.IN_PROGRESS.value: "cyan",
    MigrationStatus.FAILED.value: "red",
    MigrationStatus.MANUAL.value: _BAD,
}
_VERDICT = {
    Verdict.MIGRATED.value: "green",
    Verdict.UNCHANGED.value: "dim",
    Verdict.SKIPPED.value: "yellow",
    Verdict.FAILED.value: "red",
}
_VALID = {"Valid": "green", "Invalid": "red"}

_BRANCH = Column("Branch")
_NAME = Column("Name", optional=2)


def report(report: Report) -> Page:
    """What a run did: every branch with its news, what landed, and why something did not."""
    columns = (
        _BRANCH,
        Column("Verdict", styles=_VERDICT),
        Column("Reason", optional=1),
        Column("Status", styles=_STATUS),
        Column("Landed", wraps=True),
        Column("Duration", optional=2),
        Column("Error", sentence=True),
        Column("Hint", sentence=True),
        Column("Note", sentence=True),
        Column("Warning", sentence=True),
    )
    everything = len(report.outcomes) <= _LISTED_UNCHANGED
    rows = [
        _outcome(outcome)
        for outcome in report.outcomes
        if everything or outcome.verdict is not Verdict.UNCHANGED or outcome.warnings
    ]
    counts = tally((outcome.verdict for outcome in report.outcomes), Verdict)
    text = f"{counts} in {duration_text(report.duration)}"
    lines = [Line(text, _BAD if report.failed else "bold")]
    if report.rollout and report.rollout.rollout.is_halted:
        lines.append(_halted(report.rollout.rollout.halt_reason))
    return Page(Table(columns, rows), *lines)


def _halted(reason: str | None) -> Line:
    return Line(
        f"The rollout is halted: {masked(reason)}. Mend the scripts, or let it go on with "
        "`branchmig resume`.",
        _BAD,
    )


def _outcome(outcome: Outcome) -> Row:
    failure = outcome.failure
    return (
        outcome.branch.code,
        outcome.verdict,
        outcome.reason,
        outcome.status,
        ", ".join(outcome.applied),
        duration_text(outcome.duration),
        masked(failure.message) if failure else None,
        masked(failure.hint) if failure else None,
        None if failure else masked(outcome.detail),
        mask("; ".join(outcome.warnings)),
    )


def pending(lists: Sequence[PendingRevisions]) -> Page:
    """What each branch still lacks."""
    columns = (_BRANCH, _NAME, Column("Count"), Column("Pending", wraps=True))
    rows = (
        (each.branch.code, each.branch.name, str(len(each.revisions)), ", ".join(each.revisions))
        for each in lists
    )
    words = ("pending" if each.revisions else "up to date" for each in lists)
    return Page(Table(columns, rows), Line(tally(words, ("pending", "up to date")), "bold"))


def history(history: MigrationHistory) -> Page:
    """One branch's revisions, applied and pending, and what HeadOffice remembers of it."""
    branch, state = history.branch, history.state
    columns = (Column("Revision"), Column("State", styles={"applied": "green"}))
    rows = [(revision, "applied") for revision in history.applied]
    rows += [(revision, "pending") for revision in history.pending]
    otherwise = "not by a recorded run" if history.applied else "never"
    facts = [
        f"{len(history.applied)} applied",
        f"{len(history.pending)} pending",
        f"{state.retry_count} retries",
        f"last migrated {time_text(history.last_migration_at) or otherwise}",
    ]
    lines = [
        Line(f"{branch.code} ({branch.name}): {state.status}", _STATUS[state.status]),
        Line(", ".join(facts)),
    ]
    if state.error:
        lines.append(Line(f"Error: {mask(state.error)}", "red"))
    return Page(lines[0], Table(columns, rows), *lines[1:])


def validation(result: ValidationResult) -> Page:
    """Whether one branch is what the target promises."""
    return validations([result])


def validations(results: Sequence[ValidationResult], history: HistoryReport | None = None) -> Page:
    """Whether each branch is what the target promises, and whether the history can be trusted."""
    columns = (
        _BRANCH,
        _NAME,
        Column("Result", styles=_VALID),
        Column("Reason", sentence=True),
        Column("Missing tables", sentence=True),
        Column("Pending", sentence=True),
    )
    rows = [_validation(result) for result in results]
    counts = tally((_verdict(result) for result in results), _VALID)
    lines = [Line(counts, _VALID["Valid" if all(r.is_valid for r in results) else "Invalid"])]
    return Page(Table(columns, rows), *lines, *(_findings(history) if history else ()))


def _validation(result: ValidationResult) -> Row:
    return (
        result.branch.code,
        result.branch.name,
        _verdict(result),
        masked(result.reason),
        ", ".join(result.missing_tables),
        ", ".join(result.pending),
    )


def _verdict(result: ValidationResult | HistoryReport) -> str:
    return "Valid" if result.is_valid else "Invalid"


def _findings(history: HistoryReport) -> Iterator[Line]:
    verdict = _verdict(history)
    yield Line(
        f"migrations: {verdict}, heads: {heads_text(history.heads) or 'none'}", _VALID[verdict]
    )
    for finding in history.findings:
        yield Line(f"  {mask(finding)}", "red")


def status(rows: Sequence[BranchStatus]) -> Page:
    """Where every branch stands by HeadOffice's books, who is behind, and why."""
    columns = (
        _BRANCH,
        _NAME,
        Column("Status", styles=_STATUS),
        Column("Migration"),
        Column("Target", optional=5),
        Column("Last attempt", optional=4),
        Column("Retries", optional=3),
        Column("Flags", optional=1, wraps=True),
        Column("Error", sentence=True),
    )
    table = Table(columns, (_status(row) for row in sorted(rows, key=_badness)))
    behind = sum(row.behind for row in rows)
    asides = {MigrationStatus.PENDING.value: f"{behind} behind"} if behind else None
    words = [row.status.value for row in rows]
    lines = [Line(tally(words, _STATUS, asides), "bold")]
    halted = next((row.halted for row in rows if row.halted), None)
    return Page(table, *lines, *([_halted(halted)] if halted else []))


_WORST_FIRST = (
    MigrationStatus.MANUAL,
    MigrationStatus.FAILED,
    MigrationStatus.IN_PROGRESS,
    MigrationStatus.PENDING,
    MigrationStatus.COMPLETED,
)


def _badness(row: BranchStatus) -> tuple[int, int]:
    """What has to be looked at first is at the top; among equals the order given is kept."""
    return _WORST_FIRST.index(row.status), -row.state.retry_count


def _status(row: BranchStatus) -> Row:
    state = row.state
    flags = {"behind": row.behind, "locked": row.is_locked, "pinned": state.pinned}
    flags["halted"] = row.halted is not None
    return (
        row.branch.code,
        row.branch.name,
        row.status,
        heads_text(state.heads),
        row.target if row.behind else None,
        time_text(state.last_attempt_at),
        str(state.retry_count) if state.retry_count else None,
        ", ".join(flag for flag, is_set in flags.items() if is_set),
        masked(state.error),
    )


def plan(plan: Plan, sql: Mapping[str, str] | None = None) -> Page:
    """The steps before one branch; with `sql`, their statements under comments: a script."""
    where = f"{plan.branch.code}: {_heads(plan.current)} -> {_heads(plan.target)}"
    if sql is not None:
        return Page(Line(f"-- {where}", "bold"), *_script(plan, sql))
    if not plan.steps:
        return Page(Line(f"{plan.branch.code}: nothing to do at {_heads(plan.current)}"))
    columns = (Column("Step"), Column("Revision"), Column("Direction"), Column("What", wraps=True))
    rows = (
        (str(number), step.revision, step.direction, step.description)
        for number, step in enumerate(plan.steps, 1)
    )
    return Page(Line(where, "bold"), Table(columns, rows))


def _script(plan: Plan, sql: Mapping[str, str]) -> Iterator[Line]:
    for step in plan.steps:
        yield Line(f"-- {step.direction} {step.revision}: {step.description}", "dim")
        statements = sql.get(step.revision, "").strip().expandtabs()
        if statements:
            yield from (Line(line, code=True) for line in statements.split("\n"))


def together(pages: Iterable[Page]) -> Page:
    """Several pages as one."""
    return Page(*(block for page in pages for block in page.blocks))


def plans(plans: Sequence[Plan]) -> Page:
    """The way before each branch, one row each."""
    columns = (
        _BRANCH,
        Column("Current"),
        Column("Target", optional=1),
        Column("Steps"),
        Column("Revisions", wraps=True),
    )
    rows = (
        (
            plan.branch.code,
            heads_text(plan.current),
            heads_text(plan.target),
            str(len(plan.steps)),
            ", ".join(step.revision for step in plan.steps),
        )
        for plan in plans
    )
    words = ("to migrate" if plan.steps else "up to date" for plan in plans)
    return Page(Table(columns, rows), Line(tally(words, ("to migrate", "up to date")), "bold"))


def _heads(heads: tuple[str, ...]) -> str:
    return heads_text(heads) or "no revision"


def branches(branches: Sequence[Branch]) -> Page:
    """The branches that HeadOffice knows, passwords starred out."""
    columns = (
        _BRANCH,
        _NAME,
        Column("Provider"),
        Column("Active", styles={"no": "yellow"}),
        Column("Tags", optional=3),
        Column("Server", optional=4),
        Column("URL", optional=5),
    )
    rows = (
        (
            branch.code,
            branch.name,
            branch.provider,
            "yes" if branch.is_active else "no",
            ", ".join(branch.tags),
            branch.server,
            branch.masked_url,
        )
        for branch in branches
    )
    words = ("active" if branch.is_active else "inactive" for branch in branches)
    return Page(Table(columns, rows), Line(tally(words, ("active", "inactive")), "bold"))


def branch(branch: Branch) -> Page:
    """All that HeadOffice knows about one branch, its password starred out."""
    facts = (
        ("Code", branch.code),
        ("Name", branch.name),
        ("Id", branch.id),
        ("Provider", branch.provider),
        ("URL", branch.masked_url),
        ("Server", branch.server),
        ("Tags", ", ".join(branch.tags)),
        ("Active", "yes" if branch.is_active else "no"),
    )
    return Page(*(Line(f"{title:<8}  {fact or '-'}") for title, fact in facts))


def audit(found: Sequence[PastRun]) -> Page:
    """Runs, and below each what it did to branches."""
    columns = (
        Column("Run"),
        Column("Started"),
        Column("Command"),
        Column("Exit"),
        Column("Actor"),
        Column("Login", optional=3),
        Column("Host", optional=1),
        Column("Trigger", optional=2),
        Column("Target", optional=4),
        Column("Did", sentence=True),
    )
    rows = (
        (
            past.run.id[:8],
            time_text(past.started_at),
            past.run.command,
            "not ended" if past.exit_code is None else str(past.exit_code),
            past.run.actor,
            past.run.login,
            past.run.host,
            past.run.trigger,
            masked(past.run.target),
            _did(past.results),
        )
        for past in found
    )
    return Page(Table(columns, rows), Line(f"{len(found)} run{'s' * (len(found) != 1)}", "bold"))


_NAMED_RESULTS = 5


def _did(results: Sequence[Result]) -> str:
    named = [f"{result.branch_code} {_became(result)}" for result in results[:_NAMED_RESULTS]]
    rest = len(results) - _NAMED_RESULTS
    return "; ".join([*named, *([f"and {rest} branches more"] if rest > 0 else [])])


def _became(result: Result) -> str:
    landed = f" {', '.join(result.applied)}" if result.applied else ""
    why = f" ({masked(result.error)})" if result.error else ""
    return f"{result.verdict}{landed}{why}"


_SEVERITY = {
    Severity.OK.value: "green",
    Severity.NOTE.value: "cyan",
    Severity.WARNING.value: "yellow",
    Severity.ERROR.value: _BAD,
}


def diagnoses(found: Sequence[Diagnosis]) -> Page:
    """What the doctor found, a line each, and below it what to mend."""
    columns = (
        Column("Check"),
        Column("Of", optional=1),
        Column("Result", styles=_SEVERITY),
        Column("Found", sentence=True),
        Column("Mend", sentence=True),
    )
    rows = (
        (item.check, item.subject, item.severity, mask(item.message), masked(item.hint))
        for item in found
    )
    counts = Counter(item.severity.value for item in found)
    told = ", ".join(f"{counts[word]} {word}" for word in _SEVERITY if counts[word])
    bad = counts[Severity.ERROR.value]
    return Page(Table(columns, rows), Line(told, _BAD if bad else "bold"))


def error(error: BranchmigError) -> Page:
    """What prevented a result, and what to do about it."""
    hint = [Line(f"Hint: {mask(error.hint)}")] if error.hint else []
    return Page(Line(f"Error: {mask(error.message)}", _BAD), *hint)


def deliveries(urls: Sequence[str], deliveries: Sequence[Delivery]) -> Page:
    """What became of a test message at each address."""
    columns = (
        Column("Number"),
        Column("Address"),
        Column("Delivered"),
        Column("Error", sentence=True),
    )
    rows = [
        (
            str(d.address + 1),
            mask_address(urls[d.address]),
            "no" if d.error else "yes",
            masked(d.error),
        )
        for d in deliveries
    ]
    return Page(Table(columns, rows))
