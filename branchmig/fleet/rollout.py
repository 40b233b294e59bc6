"""A run as a part of a rollout: which one, and what its waves are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from ..errors import HistoryError
from ..manager import BranchMigrationManager
from ..model import Heads, MigrationStatus, Record
from ..revisions.history import History
from ..waves import Gate, cohorts, portion


def joined(manager: BranchMigrationManager, everyone: Sequence[Record], target: str) -> Gate | None:
    """The rollout of `target`, begun where there is none yet; None without [rollout] settings.

    `everyone`: every branch of HeadOffice, whichever of them the run is for, since a percentage
    means the same on every host. Raises HistoryError where the scripts of this host are behind.
    """
    rules = manager.settings.rollout
    active = [record for record in everyone if record.branch.is_active]
    loaded = (r.branch.provider for r in active if manager.migrator.knows(r.branch.provider))
    provider = next(loaded, None)
    if rules is None or provider is None:
        return None
    history = manager.migrator.history(provider)
    heads = history.target_heads(target) or ()
    _refuse_outdated(manager, history)
    name = ", ".join(heads) or target
    rollout = manager.store.rollouts.join(manager.run, name[:255], heads, history.content)
    canaries = None
    if isinstance(rules.canary, str) and not rules.canary.endswith("%"):
        canaries = frozenset(
            record.branch.id
            for record in active
            if rules.canary in record.branch.tags
            and _is_to_come(record, history, target, rollout.id)
        )
        first = len(canaries)
    else:
        first = portion(rules.canary, len(active))
    waves = cohorts(first, rules.waves, rules.max_failures, len(active))
    soak = timedelta(seconds=rules.soak_seconds)

    def applied(heads: Heads) -> tuple[str, ...]:
        # Some branch may stand where only a newer history, or another tool, knows its way.
        return history.applied(heads) if history.knows(heads) else ()

    return Gate(rollout.id, waves, soak, canaries, applied)


def _is_to_come(record: Record, history: History, target: str, rollout: str) -> bool:
    """Whether a tagged branch has a part in the canary: it has been there, or has still to go.

    What is left alone until a person comes would hold the canary up for ever.
    """
    state = record.state
    if state.rollout == rollout:
        return True
    if state.pinned or state.status is MigrationStatus.MANUAL or not history.knows(state.heads):
        return False
    return bool(history.steps(state.heads, target))


def _refuse_outdated(manager: BranchMigrationManager, history: History) -> None:
    """A host whose scripts are older than those that are being rolled out would hold that up.

    After a halt they may be the mended ones, from which a revision was taken out.
    """
    latest = manager.store.rollouts.latest()
    if latest is None or latest.is_halted or history.knows(latest.heads):
        return
    raise HistoryError(
        f"the rollout of {latest.target} is under way, which the scripts of this host do not know",
        "bring the scripts of this host up to date",
    )
