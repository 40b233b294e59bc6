"""`rollback`: one branch to an earlier revision, or what a run changed to where it was before."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import BranchmigError, UsageError
from .migrating import TRY_AGAIN_LATER, run_sinks, show_report, signalled
from .options import AnyBranch, Yes
from .session import Session, command, recorded, stdout_kept
from .signals import listening

if TYPE_CHECKING:
    from ..model import Record, Report, Reversal
    from ..reversal import LeftOut, Retreat


def register(app: typer.Typer) -> None:
    command(app, "rollback")(rollback)


def rollback(
    session: Session,
    branch: AnyBranch = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="REV",
            help='Where it is to stand: a revision, -N, or "base".',
            show_default=False,
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="Every branch that this run changed; the id of the run, or its beginning.",
            show_default=False,
        ),
    ] = None,
    allow_data_loss: Annotated[
        bool,
        typer.Option("--allow-data-loss", help="Also where rows or values would be lost."),
    ] = False,
    yes: Yes = False,
) -> None:
    """Undo revisions, on one branch or wherever a run applied them, and pin the branches there.

    What would be done is shown first. Nothing is touched where a revision cannot be undone, or
    where data would be lost.

    Example: branchmig rollback BR001 --to 20251206_InitialCreate
    """
    from .. import rollback as going_back

    _check(branch, to, run)
    target, retreat = _planned(session, branch, to, run)
    if not session.json:
        _show(retreat)
    going_back.refuse_impossible(retreat)
    if allow_data_loss:
        agreed = going_back.forfeiting(retreat)
    else:
        going_back.refuse_loss(retreat)
        agreed = going_back.sparing(retreat)
    if agreed:
        session.confirm(_question(retreat), yes)
    report, code = _carried_out(session, target, agreed, retreat.left_out)
    show_report(session, report, prefixed=run is not None)
    raise typer.Exit(code)


def _check(branch: str | None, to: str | None, run: str | None) -> None:
    one, many = branch is not None and to is not None, run is not None
    if one == many or (many and (branch or to)):
        raise UsageError(
            "say what to roll back: BRANCH --to REV, or --run RUN",
            "`branchmig rollback -h` shows what it takes",
        )


def _planned(
    session: Session, branch: str | None, to: str | None, run: str | None
) -> tuple[str, Retreat]:
    """The target as the audit trail is to have it, and the plan."""
    from .. import rollback as going_back

    with session.reading() as manager, stdout_kept():
        if branch is not None and to is not None:
            return to, going_back.of_branch(manager, branch, to)
        found = manager.store.past.run(run or "")
        return f"before run {found.id}", going_back.of_run(manager, found)


def _show(retreat: Retreat) -> None:
    from ..render import retreat as pages
    from ..render.page import print_table

    try:
        print_table(pages.plan(retreat), sys.stderr)
        sys.stderr.flush()
    except OSError as error:
        raise BranchmigError(
            f"the plan cannot be shown on standard error: {error.strerror}",
            "nothing was done; with --json it is not shown",
        ) from None


def _question(retreat: Retreat) -> str:
    count = len(retreat.rollbacks)
    named = retreat.rollbacks[0].branch.code if count == 1 else f"{count} branches"
    lost = ", losing what is named" if retreat.losing else ""
    return f"Roll {named} back{lost}?"


def _carried_out(
    session: Session,
    target: str,
    agreed: list[tuple[Record, Reversal]],
    left_out: tuple[LeftOut, ...],
) -> tuple[Report, int]:
    from .. import rollback as going_back
    from ..model import SkipReason
    from ..sinks.hooks import before_run

    with (
        session.writing("rollback", target[:255]) as manager,
        ExitStack() as stack,
        listening(manager.fence),
        recorded(manager) as end,
    ):
        before_run(session.settings, manager.run, len(agreed), manager.fence)
        sinks = run_sinks(session, manager, stack)
        with stdout_kept():
            report = going_back.carry_out(manager, agreed, left_out, sinks)
        code = report.exit_code
        waiting = (SkipReason.LEASED, SkipReason.BUSY)
        if not code and any(outcome.reason in waiting for outcome in report.outcomes):
            code = TRY_AGAIN_LATER
        code = signalled(manager) or code
        end(code)
    return report, code
