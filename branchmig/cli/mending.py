"""Commands of a person who puts right what a run leaves alone: states, leases, pins, halts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import (
    BranchmigError,
    LeaseError,
    LeaseHeld,
    StateConflict,
    UnknownBranch,
    UsageError,
)
from .migrating import TRY_AGAIN_LATER
from .options import (
    All,
    AnyBranch,
    BranchName,
    Providers,
    Shard,
    Statuses,
    Tags,
    Yes,
    filters,
)
from .session import Session, command, log, recorded
from .signals import listening

if TYPE_CHECKING:
    from ..manager import BranchMigrationManager
    from ..model import Branch, Filters, Record


def register(app: typer.Typer) -> None:
    command(app, "baseline")(baseline)
    command(app, "retry")(retry)
    command(app, "resolve")(resolve)
    command(app, "unlock")(unlock)
    command(app, "pin")(pin)
    command(app, "unpin")(unpin)
    command(app, "resume")(resume)


def baseline(
    session: Session,
    branch: BranchName,
    revision: Annotated[
        str, typer.Option(metavar="REV", help='Where it stands; "base": before the first.')
    ],
) -> None:
    """Take over a database that another tool made, as standing at a revision.

    Its tables and columns are compared with those that the revision should have left.

    Example: branchmig baseline BR001 --revision 20251206_InitialCreate
    """
    from ..model import heads_text

    with session.writing("baseline", revision) as manager, listening(manager.fence):
        record = manager.store.record(branch)
        if revision != "base":
            manager.migrator.history(record.branch.provider).check_target(revision)
        with recorded(manager) as end:
            heads = manager.baseline(record, revision)
            end(0)
    code = record.branch.code
    session.tell(
        lambda: {
            "success": True,
            "branchId": record.branch.id,
            "branchCode": code,
            "lastMigrationApplied": heads_text(heads),
        },
        f"{code} is taken over at {heads_text(heads) or 'base'}; `branchmig apply {code}` goes on.",
    )


def retry(
    session: Session,
    branch: AnyBranch = None,
    all: All = False,
    tag: Tags = None,
    provider: Providers = None,
    status: Statuses = None,
    shard: Shard = None,
) -> None:
    """Forget the failures of a branch, so that the next run attempts it.

    Example: branchmig retry BR001
    """
    from .. import transitions

    def change(manager: BranchMigrationManager, record: Record) -> bool:
        if record.state.retry_count == 0 and record.state.next_attempt_at is None:
            return False
        manager.store.change(record.branch, lambda state, now: transitions.reset(state))
        return True

    chosen = filters(tag, provider, status, shard)
    _each(session, "retry", branch, all, chosen, change, "to be attempted again")


def resolve(
    session: Session,
    branch: BranchName,
    landed: Annotated[
        bool, typer.Option("--landed", help="The statement in doubt is in the schema.")
    ] = False,
    not_landed: Annotated[bool, typer.Option("--not-landed", help="It is not.")] = False,
    discard: Annotated[
        bool, typer.Option("--discard", help="Forget what the revision did; it begins anew.")
    ] = False,
) -> None:
    """Say what became of a revision that broke half way, where branchmig cannot know it.

    Example: branchmig resolve BR001 --landed
    """
    from ..model import Resolution

    given = dict(zip(Resolution, (landed, not_landed, discard), strict=True))
    chosen = [resolution for resolution, wanted in given.items() if wanted]
    if len(chosen) != 1:
        raise UsageError("say one of --landed, --not-landed and --discard")
    with session.writing("resolve", chosen[0]) as manager:
        record = manager.store.record(branch)
        with recorded(manager) as end:
            done = manager.resolve(record, chosen[0])
            end(0)
    code = record.branch.code
    session.tell(
        lambda: {"success": True, "branchId": record.branch.id, "branchCode": code,
                 "resolution": chosen[0].value},
        f"{code}: {done}; the next attempt goes on.",
    )  # fmt: skip


def unlock(
    session: Session,
    branch: AnyBranch = None,
    all: All = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also leases that have not expired.")
    ] = False,
    yes: Yes = False,
    tag: Tags = None,
    provider: Providers = None,
    status: Statuses = None,
    shard: Shard = None,
) -> None:
    """Clear expired leases. Whoever held one can record nothing more under it.

    Example: branchmig unlock BR001 --force
    """
    from ..transitions import is_locked

    if force:
        session.confirm("Clear leases under which somebody may be migrating?", yes)

    def change(manager: BranchMigrationManager, record: Record) -> bool:
        if manager.store.unlock(record.branch, live=force):
            return True
        # Among many, those at work are simply left alone; one that was named was meant.
        if branch is not None and is_locked(record.state, manager.store.now()):
            raise LeaseHeld(
                f"{record.branch.code} is leased by {record.state.lock_owner}, which renews it",
                f"`branchmig unlock {record.branch.code} --force` takes it away all the same",
            )
        return False

    chosen = filters(tag, provider, status, shard)
    _each(session, "unlock", branch, all, chosen, change, "unlocked")


def pin(session: Session, branch: BranchName) -> None:
    """Hold a branch at its revision: apply-all leaves it alone.

    Example: branchmig pin BR001
    """
    _set_pinned(session, "pin", branch, True)


def unpin(session: Session, branch: BranchName) -> None:
    """Let a pinned branch go on.

    Example: branchmig unpin BR001
    """
    _set_pinned(session, "unpin", branch, False)


def resume(session: Session) -> None:
    """Let a halted rollout go on; the failures for which it halted are forgotten.

    Example: branchmig resume
    """
    with session.writing("resume") as manager, recorded(manager) as end:
        resumed = manager.store.rollouts.resume(manager.run.actor)
        end(0)
    session.tell(
        lambda: {
            "success": True,
            "rolloutId": resumed.id if resumed else None,
            "target": resumed.target if resumed else None,
            "haltReason": resumed.halt_reason if resumed else None,
        },
        f"The rollout of {resumed.target} goes on with the next apply-all."
        if resumed
        else "No rollout is halted.",
    )


def _set_pinned(session: Session, name: str, branch: str, pinned: bool) -> None:
    with session.writing(name, branch) as manager:
        found = manager.store.record(branch).branch
        with recorded(manager) as end:
            manager.store.set_pinned(found, pinned)
            end(0)
    session.tell(
        lambda: {"branchId": found.id, "branchCode": found.code, "pinned": pinned},
        f"{found.code} is {'pinned' if pinned else 'no longer pinned'}.",
    )


def _each(
    session: Session,
    name: str,
    branch: str | None,
    all: bool,
    chosen: Filters,
    change: Callable[[BranchMigrationManager, Record], bool],
    participle: str,
) -> None:
    """Do something to one branch, or to all that the filters leave, and say to which."""
    from ..model import Filters

    if (branch is None) == (not all and chosen == Filters()):
        raise UsageError("name a BRANCH, or --all, or a filter", "one of them, not several")
    with session.writing(name, branch) as manager:
        records = _chosen(manager, branch, chosen)
        with recorded(manager) as end:
            changed, refused = _changed(manager, records, change)
            code = TRY_AGAIN_LATER if refused else 0
            end(code)
    if branch is not None and refused:
        raise refused[0]
    for error in refused:
        log.warning("%s", error.message)
    _show_changed(session, changed, participle)
    if code:
        raise typer.Exit(code)


def _changed(
    manager: BranchMigrationManager,
    records: Iterable[Record],
    change: Callable[[BranchMigrationManager, Record], bool],
) -> tuple[list[Branch], list[BranchmigError]]:
    """The branches that were changed, and why others could not be."""
    changed: list[Branch] = []
    refused: list[BranchmigError] = []
    for record in records:
        try:
            if change(manager, record):
                changed.append(record.branch)
        except (LeaseError, StateConflict, UnknownBranch) as error:
            refused.append(error)
    return changed, refused


def _chosen(
    manager: BranchMigrationManager, branch: str | None, chosen: Filters
) -> tuple[Record, ...]:
    from ..fleet.selection import select

    if branch is not None:
        return (manager.store.record(branch),)
    return select(manager.store.records(), chosen)


def _show_changed(session: Session, changed: list[Branch], participle: str) -> None:
    codes = [branch.code for branch in changed]
    shown = ", ".join(codes[:20]) + (f" and {len(codes) - 20} more" if len(codes) > 20 else "")
    session.tell(
        lambda: {"success": True, "count": len(codes), "branches": codes},
        f"{len(codes)} {participle}: {shown}" if codes else f"Nothing is {participle}.",
    )
