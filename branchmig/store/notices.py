"""What people have been told, kept so that each trouble is told once by any number of hosts.

A row is a claim before anything is sent, and becomes a record once it was; a claim whose owner died
expires by HeadOffice's clock. So a kill may have something told twice, and never not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import sqlalchemy as sa

from ..model import MigrationStatus, Rollout
from ..notices import CLAIM, Board, Claims, Item, Notice, Topic
from . import rows
from .rows import Transaction
from .tables import branches, clock, notices, states

_TRIES = 3
"""How often rows are read anew where another host has written the same ones meanwhile."""

_LASTING = (Topic.FAILURE.value, Topic.MANUAL.value, Topic.HALT.value)


class Notices:
    """Every statement on what has been told. `latest`: gives the rollout that was begun last."""

    def __init__(self, transaction: Transaction, latest: Callable[[], Rollout | None]) -> None:
        self._transaction = transaction
        self._latest = latest

    def claim(self, topics: Collection[str], decide: Callable[[Board], Claims]) -> tuple[Item, ...]:
        """Read what stands, and claim what `decide` says is to be told; gives what is ours to tell.

        What another host has claimed in the same moment is not among it. `topics`: those that may
        be told.
        """
        for _ in range(_TRIES - 1):
            try:
                return self._claimed(topics, decide)
            except sa.exc.IntegrityError:
                continue  # another host has just inserted one of them
        return self._claimed(topics, decide)

    def _claimed(
        self, topics: Collection[str], decide: Callable[[Board], Claims]
    ) -> tuple[Item, ...]:
        rollout = self._latest() if Topic.HALT in topics else None
        halted = rollout if rollout and rollout.is_halted else None
        with self._transaction() as connection:
            board = Board(
                rows.now(connection), _told(connection), _failed(connection, topics), halted
            )
            wanted = decide(board)
            won = [item for notice, item in wanted.again if _taken_over(connection, notice, item)]
            fresh = list(wanted.fresh)
            for subject, item in wanted.over:
                if _gone(connection, subject) and item:
                    fresh.append(item)
            # In one order, so that two hosts wait for each other and never in a circle.
            fresh.sort(key=lambda item: (item.topic, item.subject))
            if wanted.noted:
                noted = sa.insert(notices).values(since=clock(), told_at=clock())
                connection.execute(noted, _values(wanted.noted))
            if fresh:
                connection.execute(sa.insert(notices).values(since=clock()), _values(fresh))
        return (*won, *fresh)

    def told(self, items: Sequence[Item]) -> None:
        """Record that these have been told; of a recovery nothing needs to be known any longer."""
        with self._transaction() as connection:
            for item in items:
                mine = _row(item.topic, item.subject)
                if item.topic is Topic.RECOVERY:
                    connection.execute(sa.delete(notices).where(*mine))
                else:
                    connection.execute(sa.update(notices).where(*mine).values(told_at=clock()))

    def release(self, items: Sequence[Item]) -> None:
        """Let the next run tell these: they could not be sent."""
        expired = clock(-CLAIM.total_seconds())
        with self._transaction() as connection:
            for item in items:
                connection.execute(
                    sa.update(notices)
                    .where(*_row(item.topic, item.subject), notices.c.told_at.is_(None))
                    .values(since=expired)
                )


def _row(topic: str, subject: str) -> tuple[sa.ColumnElement[bool], ...]:
    return notices.c.kind == str(topic), notices.c.subject == subject


def _values(items: Sequence[Item]) -> list[dict[str, Any]]:
    return [{"kind": i.topic.value, "subject": i.subject, "detail": i.mark} for i in items]


def _told(connection: sa.Connection) -> tuple[Notice, ...]:
    statement = sa.select(notices, branches.c.code, states.c.status).select_from(
        notices.outerjoin(
            branches, sa.and_(branches.c.id == notices.c.subject, branches.c.is_active)
        ).outerjoin(states, states.c.branch_id == branches.c.id)
    )
    return tuple(
        Notice(
            Topic(row.kind), row.subject, row.detail, row.since, row.told_at,
            row.code, MigrationStatus(row.status) if row.status else None,
        )
        for row in connection.execute(statement)
    )  # fmt: skip


def _failed(
    connection: sa.Connection, topics: Collection[str]
) -> tuple[tuple[str, str, MigrationStatus, str], ...]:
    wanted = [MigrationStatus.MANUAL.value] if {Topic.MANUAL, Topic.FAILURE} & set(topics) else []
    if Topic.FAILURE in topics:
        wanted.append(MigrationStatus.FAILED.value)
    if not wanted:
        return ()
    statement = (
        sa.select(branches.c.id, branches.c.code, states.c.status, states.c.error)
        .join_from(branches, states, branches.c.id == states.c.branch_id)
        .where(branches.c.is_active, states.c.status.in_(wanted))
        .order_by(branches.c.code_key)
    )
    return tuple(
        (row.id, row.code, MigrationStatus(row.status), row.error or "")
        for row in connection.execute(statement)
    )


def _taken_over(connection: sa.Connection, notice: Notice, item: Item) -> bool:
    """Whether an existing row is ours to tell now: nobody else was quicker."""
    if notice.told_at is None:
        unchanged = sa.and_(
            notices.c.told_at.is_(None), notices.c.since <= clock(-CLAIM.total_seconds())
        )
    else:
        unchanged = sa.and_(notices.c.told_at.is_not(None), notices.c.detail == notice.detail)
    done = connection.execute(
        sa.update(notices)
        .where(*_row(notice.topic, notice.subject), unchanged)
        .values(since=clock(), told_at=None, detail=item.mark)
    )
    return done.rowcount == 1


def _gone(connection: sa.Connection, subject: str) -> bool:
    """Whether rows about a trouble were there, and this has taken them away."""
    done = connection.execute(
        sa.delete(notices).where(notices.c.subject == subject, notices.c.kind.in_(_LASTING))
    )
    return done.rowcount > 0
