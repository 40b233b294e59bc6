"""Going back: the values in which a rollback is planned, shown and agreed to, and its pure rules.

Floor 2. Touches no database.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from .deeds import Deed, Effect
from .model import Branch, Failure, Heads, MigrationStatus, Plan, Record, Reversal

_HARMLESS = (Deed.ADDS, Deed.RENAMES, Deed.SHAPES, Deed.ROWS)


@dataclass(frozen=True, slots=True)
class Loss:
    """Data that a step down would take away. `what`: the table or column and its rows, or what
    cannot be told; `how`: what happens to it, empty where it is dropped."""

    revision: str
    what: str
    how: str = ""

    def __str__(self) -> str:
        how = f", {self.how}" if self.how else ""
        return f"{self.what}{how} [{self.revision}]"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A step that cannot be taken at all, whatever a person says; `why`: a sentence."""

    revision: str
    why: str

    def __str__(self) -> str:
        return f"{self.why} [{self.revision}]"


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What the steps of a plan would do, found out without doing it."""

    effects: tuple[Effect, ...] = ()
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Rollback:
    """The way down of one branch and what stands against it. A dry run, and the thing agreed to."""

    record: Record
    plan: Plan
    effects: tuple[Effect, ...] = ()
    losses: tuple[Loss, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    @property
    def branch(self) -> Branch:
        return self.record.branch

    def sparing(self) -> Reversal:
        """What is carried out where no loss was agreed to.

        All that it spares was there when it was looked for. What is gone when it is looked for once
        more has been dropped since, perhaps by a try that broke; not so what a step has renamed.
        """
        spares = tuple(
            replace(effect, may_be_gone=effect.may_be_gone or not effect.followed)
            for effect in self.effects
        )
        return Reversal(self.plan.target, self.plan.steps, spares)

    def forfeiting(self) -> Reversal:
        """What is carried out where every loss was."""
        return Reversal(self.plan.target, self.plan.steps)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A branch that a rollback passes over, and why, as a sentence. `failure`: it could not even be
    looked at, which is no success; `record` None: HeadOffice knows the branch no longer."""

    code: str
    why: str
    record: Record | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Retreat:
    """A rollback of one branch or of many, in the order in which it is carried out."""

    rollbacks: tuple[Rollback, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def refused(self) -> tuple[Rollback, ...]:
        return tuple(rollback for rollback in self.rollbacks if rollback.refusals)

    @property
    def losing(self) -> tuple[Rollback, ...]:
        return tuple(rollback for rollback in self.rollbacks if rollback.losses)

    @property
    def steps(self) -> int:
        return sum(len(rollback.plan.steps) for rollback in self.rollbacks)


@dataclass(frozen=True, slots=True)
class FormerRun:
    """A run as the audit trail has it. `at_work`: no end of it is recorded, and it holds the lease
    of a branch; one that was killed holds none once they have run out or been cleared."""

    id: str
    command: str
    at_work: bool


@dataclass(frozen=True, slots=True)
class Change:
    """What a run did to the heads of one branch, as the audit trail has it. `to_heads` None: it was
    killed before it recorded anything, and nobody has looked since."""

    branch_id: str
    branch_code: str
    from_heads: Heads
    to_heads: Heads | None


# Rules ------------------------------------------------------------------------------------------


def settle(effects: Iterable[Effect], begun: str | None = None) -> tuple[Effect, ...]:
    """Of effects in their order those that may lose data, under the names that the branch has now.

    What the steps themselves have added holds nothing that was there before; what they have renamed
    is looked for under its former name. `begun`: a revision of which some may have been done before
    it broke, so that what it drops may be gone.
    """
    names = _Names(begun)
    found = (names.settled(effect) for effect in effects)
    return tuple(effect for effect in found if effect is not None)


class _Names:
    """By the names that are valid at the moment those that the branch has; None: it was added."""

    def __init__(self, begun: str | None) -> None:
        self._begun = begun
        self._tables: dict[tuple[str | None, str], str | None] = {}
        self._columns: dict[tuple[tuple[str | None, str], str], str | None] = {}

    def settled(self, effect: Effect) -> Effect | None:
        """The effect under the branch's own names; None where it loses nothing."""
        if effect.deed is Deed.UNKNOWN:
            return effect
        table = self._tables.get((effect.schema, effect.table), effect.table)
        if effect.column is None:
            self._follow(effect, self._tables, effect.schema, effect.table, table)
        elif table is not None:
            place = (effect.schema, table)
            column = self._columns.get((place, effect.column), effect.column)
            self._follow(effect, self._columns, place, effect.column, column)
            if column is None:
                return None
            effect = replace(effect, column=column, followed=column != effect.column)
        if table is None or effect.deed in _HARMLESS:
            return None
        followed = effect.followed or table != effect.table
        gone = effect.may_be_gone or (effect.revision == self._begun and not followed)
        return replace(effect, table=table, followed=followed, may_be_gone=gone)

    def _follow(
        self, effect: Effect, names: dict[Any, str | None], within: Any, name: str,
        former: str | None,
    ) -> None:  # fmt: skip
        if effect.deed is Deed.RENAMES and effect.new:
            names[within, effect.new] = former
        if effect.deed in (Deed.RENAMES, Deed.ADDS):
            names[within, name] = None


def is_unfinished(record: Record, name: str) -> bool:
    """Whether a rollback to `name` was begun on a branch, and perhaps has not ended."""
    return record.state.pinned and record.state.target == name[:255]


def unfinished(record: Record) -> Heads | None:
    """Where a rollback was to end that was begun on a branch and has not; None: there is none.

    To be looked at more closely: a branch that was pinned by hand and failed on its way up has a
    target too.
    """
    state = record.state
    if not state.pinned or state.status is MigrationStatus.COMPLETED or state.target is None:
        return None
    return () if state.target == "base" else tuple(sorted(state.target.split(", ")))
