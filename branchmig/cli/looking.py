"""Commands that only look: nothing is written, anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BranchmigError, HistoryError, StoreError, UsageError
from ..terms import MigrationStatus
from .options import (
    All,
    AnyBranch,
    BranchName,
    Check,
    Providers,
    Shard,
    Statuses,
    Tags,
    To,
    filters,
)
from .session import Session, command

if TYPE_CHECKING:
    from ..manager import BranchMigrationManager
    from ..model import (
        Branch,
        BranchStatus,
        Filters,
        HistoryReport,
        Plan,
        Record,
        ValidationResult,
    )
    from ..render.page import Page


def register(app: typer.Typer) -> None:
    command(app, "pending")(pending)
    command(app, "history")(history)
    command(app, "validate")(validate)
    command(app, "status")(status)
    command(app, "plan")(plan)


def pending(
    session: Session,
    branch: AnyBranch = None,
    all: All = False,
    to: To = None,
    check: Check = False,
    tag: Tags = None,
    provider: Providers = None,
    status: Statuses = None,
    shard: Shard = None,
) -> None:
    """The revisions that a branch still lacks, read from the branch itself.

    Example: branchmig pending BR001
    """
    from ..model import PendingRevisions
    from ..render import documents, tables

    chosen = filters(tag, provider, status, shard)
    plans, errors = _plans(session, branch, all, to, chosen)
    found = [PendingRevisions(p.branch, tuple(s.revision for s in p.steps)) for p in plans]

    def document() -> object:
        listed = [documents.pending(item) for item in found]
        return (
            listed[0] if branch else [*listed, *_unreadable(errors, "pendingMigrations", "count")]
        )

    session.show(document, lambda: tables.pending(found))
    _report(errors)
    if errors or (check and any(item.revisions for item in found)):
        raise typer.Exit(1)


def plan(
    session: Session,
    branch: AnyBranch = None,
    all: All = False,
    to: To = None,
    sql: Annotated[bool, typer.Option("--sql", help="Show the statements.")] = False,
    tag: Tags = None,
    provider: Providers = None,
    status: Statuses = None,
    shard: Shard = None,
) -> None:
    """The ordered steps that apply would run, read from the branch itself.

    Example: branchmig plan BR001 --sql
    """
    from ..render import documents, tables

    chosen = filters(tag, provider, status, shard)
    plans, errors = _plans(session, branch, all, to, chosen)
    scripts = [session.migrator.sql(item) if sql else None for item in plans]

    def document() -> object:
        listed = [documents.plan(p, script) for p, script in zip(plans, scripts, strict=True)]
        return (
            listed[0] if branch else [*listed, *_unreadable(errors, "current", "target", "steps")]
        )

    def page() -> Page:
        if branch or sql:
            return tables.together(
                tables.plan(p, script) for p, script in zip(plans, scripts, strict=True)
            )
        return tables.plans(plans)

    session.show(document, page)
    _report(errors)
    if errors:
        raise typer.Exit(1)


def history(session: Session, branch: BranchName) -> None:
    """What a branch has had and what is before it, read from the branch itself.

    Example: branchmig history BR001
    """
    from ..render import documents, tables

    with session.reading() as manager:
        found = manager.history(manager.store.record(branch))
    session.show(lambda: documents.history(found), lambda: tables.history(found))


def status(
    session: Session,
    branch: Annotated[
        list[str] | None,
        typer.Argument(metavar="[BRANCH]...", help="Codes or ids.", show_default=False),
    ] = None,
    check: Check = False,
    behind: Annotated[bool, typer.Option("--behind", help="Only those behind.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it anew every few seconds, until Ctrl-C.")
    ] = False,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, max=3600, help="How often, with --watch.")
    ] = 2,
    tag: Tags = None,
    provider: Providers = None,
    status: Statuses = None,
    shard: Shard = None,
) -> None:
    """Who is behind and why, the worst first, from HeadOffice alone: no branch is opened.

    Example: branchmig status --behind
    """
    from ..render import documents, tables

    # By the status that is shown, not the one recorded: Completed at older heads is Pending.
    chosen = filters(tag, provider, None, shard)
    if branch and (tag or provider or shard):
        raise UsageError("name branches, or filters", "not both")

    def read() -> tuple[BranchStatus, ...]:
        with session.reading() as manager:
            rows = manager.status(_named(manager, branch, chosen))
        return tuple(
            row
            for row in rows
            if (row.behind or not behind) and (not status or row.status in status)
        )

    if watch:
        from .live import watched

        watched(session, lambda: tables.status(read()), interval)
        return
    rows = read()
    session.show(lambda: documents.status(rows), lambda: tables.status(rows))
    if check and any(_amiss(row) for row in rows):
        raise typer.Exit(1)


def validate(
    session: Session,
    branch: AnyBranch = None,
    no_branches: Annotated[
        bool, typer.Option("--no-branches", help="The history alone; needs no HeadOffice.")
    ] = False,
) -> None:
    """Whether the history can be trusted and every branch is what the target promises.

    Example: branchmig validate --no-branches
    """
    from ..render import documents, tables

    if branch and no_branches:
        raise UsageError("--no-branches looks at no branch", "leave one of the two out")
    if branch:
        with session.reading() as manager:
            result = manager.validate(manager.store.record(branch).branch)
        session.show(lambda: documents.validation(result), lambda: tables.validation(result))
        raise typer.Exit(0 if result.is_valid else 1)
    report = _judged_history(session)
    results = [] if no_branches else _validated(session, report)
    session.show(
        lambda: documents.validation_all(results, report),
        lambda: tables.validations(results, report),
    )
    if not report.heads:
        raise typer.Exit(HistoryError.exit_code)
    valid = report.is_valid and all(result.is_valid for result in results)
    raise typer.Exit(0 if valid else 1)


def _judged_history(session: Session) -> HistoryReport:
    """What can be said of the history; one that does not load is a finding, not an error."""
    from ..model import HistoryReport

    try:
        return session.migrator.history().report(session.settings.migrations.target)
    except HistoryError as error:
        return HistoryReport((), (error.message,))


def _validated(session: Session, report: HistoryReport) -> list[ValidationResult]:
    from ..fleet.selection import select
    from ..model import Filters

    with session.reading() as manager:
        return [manager.validate(r.branch) for r in select(manager.store.records(), Filters())]


def _plans(
    session: Session, branch: str | None, all: bool, to: str | None, chosen: Filters
) -> tuple[list[Plan], list[tuple[Branch, BranchmigError]]]:
    """The plan of one branch, or of many with the errors of those that cannot be read.

    Raises the error itself where one branch was asked for.
    """
    from ..model import Filters

    if (branch is None) == (not all and chosen == Filters()):
        raise UsageError("name a BRANCH, or --all, or a filter", "one of them, not several")
    target = to or session.settings.migrations.target
    plans, errors = [], []
    with session.reading() as manager:
        if branch is not None:
            return [manager.plan(manager.store.record(branch).branch, target)], []
        for record in _named(manager, None, chosen):
            try:
                plans.append(manager.plan(record.branch, target))
            except BranchmigError as error:
                if _concerns_all(error):
                    raise
                errors.append((record.branch, error))
    return plans, errors


def _concerns_all(error: BranchmigError) -> bool:
    """Settings, history, HeadOffice or the request are wrong: no other branch will do better."""
    return isinstance(error, StoreError) or error.exit_code in (2, 78)


def _named(
    manager: BranchMigrationManager, names: Iterable[str] | None, chosen: Filters
) -> tuple[Record, ...]:
    from ..fleet.selection import select

    if names:
        return tuple({r.branch.id: r for r in map(manager.store.record, names)}.values())
    return select(manager.store.records(), chosen)


def _unreadable(
    errors: Iterable[tuple[Branch, BranchmigError]], *keys: str
) -> Iterator[dict[str, Any]]:
    """The entries of a list for branches of which nothing can be said."""
    from ..render import documents

    for branch, error in errors:
        yield {
            "branchId": branch.id,
            "branchCode": branch.code,
            **dict.fromkeys(keys),
            "error": documents.error(error)["error"],
        }


def _report(errors: Iterable[tuple[Branch, BranchmigError]]) -> None:
    from .session import log

    for branch, error in errors:
        log.error("%s: %s", branch.code, error.message, extra={"branch": branch.code})


def _amiss(row: BranchStatus) -> bool:
    """Standing trouble: behind, or not known to be well."""
    return row.behind or row.status is not MigrationStatus.COMPLETED
