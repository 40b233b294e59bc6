"""A rollback that is planned, as a page for people."""

from __future__ import annotations

from collections.abc import Iterator

from ..masking import mask
from ..model import heads_text
from ..reversal import Retreat, Rollback
from .page import Column, Line, Page, Row, Table

_BAD = "bold red"


def plan(retreat: Retreat) -> Page:
    """The way down of each branch, in the order in which they are taken, and what it would cost."""
    columns = (
        Column("Branch"),
        Column("From"),
        Column("To"),
        Column("Undone", wraps=True),
        Column("Refused", sentence=True),
        Column("Lost", sentence=True),
    )
    rows = [_row(rollback) for rollback in retreat.rollbacks]
    return Page(Table(columns, rows), *_lines(retreat))


def _row(rollback: Rollback) -> Row:
    plan = rollback.plan
    return (
        rollback.branch.code,
        heads_text(plan.current) or "base",
        heads_text(plan.target) or "base",
        ", ".join(step.revision for step in plan.steps),
        mask("; ".join(map(str, rollback.refusals))),
        mask("; ".join(map(str, rollback.losses))),
    )


def _lines(retreat: Retreat) -> Iterator[Line]:
    for one in retreat.left_out:
        yield Line(f"{one.code} is left out: {mask(one.why)}", "yellow")
    facts = [
        (len(retreat.refused), "cannot be rolled back"),
        (len(retreat.losing), "would lose data"),
    ]
    count = len(retreat.rollbacks)
    text = f"{count} branch{'es' * (count != 1)} to roll back, {retreat.steps} "
    text += "revision to undo" if retreat.steps == 1 else "revisions to undo"
    told = [f"{number} {what}" for number, what in facts if number]
    yield Line("; ".join([text, *told]), _BAD if told else "bold")
