"""The way down of one branch, and what stands against it: looked at, and nothing changed.

Floor 4, below `migrator`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial

import sqlalchemy as sa

from .deeds import Effect
from .errors import DatabaseMissing, NotAdopted
from .forfeits import losses
from .model import Direction, Heads, Plan, Record, Snapshot, Step
from .providers import MigrationStrategy
from .providers.sql_deeds import deeds
from .reversal import Loss, Refusal, Rollback
from .revisions.history import History

Aim = Callable[[History, Heads], tuple[Step, ...]]
"""The steps down from where a branch stands; raises UnknownRevision, UnknownHeads."""


def descend(record: Record, aim: Aim, strategy: MigrationStrategy, history: History) -> Rollback:
    """Plan a rollback, and find out on the branch itself what it would lose.

    Raises DatabaseMissing, NotAdopted, what `aim` raises, ProviderError, BranchBusy and exceptions
    of the driver.
    """
    branch = record.branch
    snapshot = strategy.inspect(branch.url, history.version_table)
    if not snapshot.exists:
        raise DatabaseMissing(
            f"{branch.code} has no database: there is nothing to roll back",
            "is its disk or share mounted?",
        )
    if not snapshot.versioned:
        raise NotAdopted(
            f"{branch.code} has no version table: there is nothing to roll back",
            f"`branchmig baseline {branch.code} --revision REV` takes it over",
        )
    steps = aim(history, snapshot.heads)
    plan = Plan(branch, snapshot.heads, steps[-1].to_heads if steps else snapshot.heads, steps)
    if not steps and not snapshot.unfinished:
        return Rollback(record, plan)
    return _examined(record, plan, snapshot, strategy, history)


def _examined(
    record: Record, plan: Plan, snapshot: Snapshot, strategy: MigrationStrategy, history: History
) -> Rollback:
    from .revisions.rehearsal import rehearse

    read = partial(deeds, dialect=strategy.dialect)
    engine = strategy.read_engine(record.branch.url)
    try:
        with closing(engine.connect()) as connection:
            journal = strategy.journal(connection, record.branch.code, there=snapshot.journaled)
            broken = journal.broken_off(snapshot.heads) if snapshot.unfinished else None
            first = (plan.steps[0].revision, Direction.DOWNGRADE) if plan.steps else None
            if broken is not None and broken != first:
                return Rollback(record, plan, refusals=(_half_way(record, *broken),))
            begun = broken[0] if broken else None
            found = rehearse(history, connection, plan.steps, read, begun)
            lost = _weighed(connection, found.effects)
            return Rollback(record, plan, found.effects, lost, found.refusals)
    finally:
        engine.dispose()


def _weighed(connection: sa.Connection, effects: tuple[Effect, ...]) -> tuple[Loss, ...]:
    try:
        return losses(connection, effects)
    except sa.exc.DBAPIError:
        # A count that outlasts what a question may take costs the connection on some engines.
        text = "what it holds could not be read in time"
        return tuple(Loss(e.revision, f"{e.table or 'a table'} ({text})", e.what) for e in effects)


def _half_way(record: Record, revision: str, direction: Direction) -> Refusal:
    code = record.branch.code
    return Refusal(
        revision,
        f"its {direction} broke half way: finish it (`branchmig apply {code}`), or put the schema "
        f"in order and say `branchmig resolve {code} --discard`",
    )
