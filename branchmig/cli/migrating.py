"""Commands that migrate: one branch, or all of them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import (
    UsageError,
)
from .options import (
    BranchName,
    Providers,
    Shard,
    Statuses,
    Tags,
    To,
    filters,
)
from .session import Session, command, log, recorded, stdout_kept
from .signals import listening

if TYPE_CHECKING:
    from ..fleet.crew import Crew
    from ..manager import BranchMigrationManager
    from ..model import Record, Report
    from ..sinks import Sink, Sinks

TRY_AGAIN_LATER = 75
"""EX_TEMPFAIL of sysexits.h."""


def register(app: typer.Typer) -> None:
    command(app, "apply")(apply)
    command(app, "apply-all")(apply_all)


def apply(
    session: Session,
    branch: BranchName,
    to: To = None,
    create: Annotated[
        bool, typer.Option("--create", help="Make its database anew where it has vanished.")
    ] = False,
) -> None:
    """Bring one branch to the target, whatever its retries and its pin say; success unpins it.

    Example: branchmig apply BR001
    """
    from ..model import Report, SkipReason
    from ..sinks import BranchFinished, RunFinished, Sinks
    from ..sinks.hooks import HookSink, before_run

    started = time.monotonic()
    target = to or session.settings.migrations.target
    with session.writing("apply", target) as manager, listening(manager.fence):
        record = manager.store.record(branch)
        manager.migrator.history(record.branch.provider).check_target(target)
        manager.migrator.check_scripts(record.branch.provider)
        sinks = Sinks(HookSink(session.settings, manager.run, manager.fence))
        with recorded(manager) as end:
            before_run(session.settings, manager.run, 1, manager.fence)
            with stdout_kept():
                outcome = manager.apply(record, target, create=create)
            elapsed = timedelta(seconds=time.monotonic() - started)
            report = Report(manager.run.id, (outcome,), elapsed)
            sinks.emit(BranchFinished(outcome))
            sinks.emit(RunFinished(manager.run, report))
            code = report.exit_code
            if outcome.reason in (SkipReason.LEASED, SkipReason.BUSY):
                code = TRY_AGAIN_LATER
            code = signalled(manager) or code
            end(code)
    show_report(session, report, prefixed=False)
    raise typer.Exit(code)


def apply_all(
    session: Session,
    to: To = None,
    tag: Tags = None,
    provider: Providers = None,
    status: Statuses = None,
    shard: Shard = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            min=1,
            max=1000,
            help="How many branches are migrated at once.",
            show_default=False,
        ),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(
            "--executor",
            metavar="dask:ADDRESS",
            help="Where to migrate, instead of on this host.",
            show_default=False,
        ),
    ] = None,
    ignore_windows: Annotated[
        bool,
        typer.Option("--ignore-windows", help="Also outside of windows, and in freezes."),
    ] = False,
    init: Annotated[bool, typer.Option("--init", help="Run `init` first, for timers.")] = False,
) -> None:
    """Bring every active branch to the target; one bad branch never stops the others.

    Leaves alone what waits for its next attempt or its window, needs a person, is pinned or is
    being migrated.

    Example: branchmig apply-all --tag north
    """
    from ..fleet.dispatch import Assignment
    from ..fleet.fleet import Fleet, check
    from ..fleet.rollout import joined
    from ..fleet.selection import select
    from ..fleet.timetable import Timetable, scheduled
    from ..sinks.hooks import before_run
    from ..windows import Schedule

    if init:
        from dataclasses import replace

        from .setup import initialise

        file, _, applied = initialise(session)
        if applied and "0001_headoffice" in applied:
            log.warning("HeadOffice was created anew just now: it holds no branches")
        session = replace(session, config=file)
    target = to or session.settings.migrations.target
    chosen = filters(tag, provider, status, shard)
    with session.writing("apply-all", target) as manager, ExitStack() as stack:
        stack.enter_context(listening(manager.fence))
        everyone = manager.store.records()
        records = select(everyone, chosen)
        check(manager, records, target)
        with recorded(manager) as end:
            schedule = scheduled(session.settings.schedule)
            timetable = Timetable(manager, Schedule() if ignore_windows else schedule)
            assignment = Assignment(target, joined(manager, everyone, target), timetable)
            before_run(session.settings, manager.run, len(records), manager.fence)
            crew = _crew(manager, workers, executor)
            metrics = _metrics(manager, everyone)
            fleet = Fleet(manager, run_sinks(session, manager, stack, *metrics), crew)
            report = fleet.apply_all(records, assignment)
            code = signalled(manager) or report.exit_code
            end(code)
    show_report(session, report, prefixed=True)
    raise typer.Exit(code)


def _crew(manager: BranchMigrationManager, workers: int | None, executor: str | None) -> Crew:
    """Who migrates. Raises UsageError, DriverMissing, ExecutorLost, HistoryError."""
    from ..fleet.crew import Workers

    if executor is None:
        size = workers or manager.settings.run.workers or 2 * (os.cpu_count() or 1)
        return Workers(manager.settings, size)
    kind, _, address = executor.partition(":")
    if kind != "dask" or not address or workers:
        raise UsageError(
            f"--executor {executor} cannot be understood",
            "write dask:tls://HOST:PORT, and no --workers: the cluster has its own number",
        )
    from ..fleet.cluster import Cluster

    cluster = Cluster(manager.settings, address, manager.run.id)
    try:
        cluster.check_scripts(manager.migrator)
    except BaseException:
        cluster.close()
        raise
    return cluster


def signalled(manager: BranchMigrationManager) -> int | None:
    """The exit code of a run that a signal stopped."""
    signum = manager.fence.state.signum
    return None if signum is None else 128 + signum


def show_report(session: Session, report: Report, *, prefixed: bool) -> None:
    from ..render import documents, tables

    session.show(lambda: documents.report(report, prefixed=prefixed), lambda: tables.report(report))


def run_sinks(
    session: Session, manager: BranchMigrationManager, stack: ExitStack, *more: Sink
) -> Sinks:
    """A progress bar on a terminal, a log line a branch otherwise; the operator's hooks."""
    from ..sinks import LogSink, Sinks
    from ..sinks.hooks import HookSink

    others = HookSink(session.settings, manager.run, manager.fence), *more
    if sys.stderr.isatty() and session.log_format == "human":
        from ..render.progress import ProgressSink

        return Sinks(stack.enter_context(ProgressSink()), *others)
    return Sinks(LogSink(), *others)


def _metrics(manager: BranchMigrationManager, everyone: Iterable[Record]) -> tuple[Sink, ...]:
    """Of an apply-all alone: a rollback by hand must not make a dead timer look alive."""
    given = manager.settings.metrics
    if given.textfile is None:
        return ()
    from ..sinks.metrics import MetricsSink

    file = manager.settings.folder / given.textfile
    return (MetricsSink(file, given.labels, everyone, manager.is_behind),)
