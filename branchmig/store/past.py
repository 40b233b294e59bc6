"""What a run of the past did to the heads of branches, read from the audit trail."""

from __future__ import annotations

import sqlalchemy as sa

from ..errors import NotFound, UsageError
from ..model import MigrationStatus
from ..reversal import Change, FormerRun
from . import rows
from .rows import Transaction
from .tables import branches, outcomes, runs, states


class Past:
    """Every statement on runs that are to be undone."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def run(self, name: str) -> FormerRun:
        """The run of this id, or whose id begins so.

        Raises NotFound, and UsageError where several do.
        """
        wanted = runs.c.id.startswith(name.lower(), autoescape=True)
        holds = sa.exists().where(states.c.lock_owner == runs.c.id, sa.not_(rows.free()))
        statement = sa.select(runs, sa.case((holds, 1), else_=0).label("holds")).where(wanted)
        with self._transaction() as connection:
            found = connection.execute(statement.limit(2)).all() if name else []
        if not found:
            raise NotFound(
                f"there is no run {name!r}", "`runId` in what `apply-all --json` printed names it"
            )
        if len(found) > 1:
            raise UsageError(f"{name!r} is not one run", "write more of its id")
        (row,) = found
        return FormerRun(row.id, row.command, row.finished_at is None and bool(row.holds))

    def changes(self, run: str) -> tuple[Change, ...]:
        """The branches that a run brought from some heads to others, the last of them first; before
        them those that it had in hand when it was killed."""
        recorded = (
            sa.select(outcomes)
            .where(outcomes.c.run_id == run)
            .order_by(outcomes.c.finished_at.desc(), outcomes.c.branch_code)
        )
        in_hand = (
            rows.records()
            .where(
                states.c.lock_owner == run,
                states.c.status == MigrationStatus.IN_PROGRESS.value,
                states.c.branch_id.not_in(
                    sa.select(outcomes.c.branch_id).where(outcomes.c.run_id == run)
                ),
            )
            .order_by(branches.c.code_key)
        )
        with self._transaction() as connection:
            held = [rows.record(row) for row in connection.execute(in_hand)]
            found = connection.execute(recorded).all()
        return (
            *(Change(each.branch.id, each.branch.code, each.state.heads, None) for each in held),
            *(
                Change(row.branch_id, row.branch_code, row.from_heads, row.to_heads)
                for row in found
                if row.from_heads != row.to_heads
            ),
        )
