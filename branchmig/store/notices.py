"""What people have been told, kept so that each trouble is told once by any number of hosts.

A row is a claim before anything is sent, and becomes a record once it was; a claim whose owner died
expires by HeadOffice's clock. So a kill may have something told twice, and never not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from ..model import MigrationStatus, Rollout
from ..notices import CLAIM, LASTING, Board, Claims, Item, Notice, Topic
from . import rows
from .rows import Transaction
from .tables import branches, clock, notices, states

_TRIES = 5
"""How often what stands is read anew where another host has claimed some of it meanwhile."""

_CHUNK = 500
"""Subjects in one statement; SQL Server takes two thousand parameters and no more."""


class _Overtaken(Exception):
    """Another host has changed a row since it was read."""


class Notices:
    """Every statement on what has been told. `latest`: gives the rollout that was begun last."""

    def __init__(self, transaction: Transaction, latest: Callable[[], Rollout | None]) -> None:
        self._transaction = transaction
        self._latest = latest

    def claim(self, topics: Collection[str], decide: Callable[[Board], Claims]) -> tuple[Item, ...]:
        """Read what stands, and claim what `decide` says is to be told; gives what is ours to tell.

        All of it or nothing: where another host has claimed any of it in the same moment, the rest
        is decided anew. `topics`: those that may be told.
        """
        for _ in range(_TRIES):
            try:
                return self._claimed(topics, decide)
            except (sa.exc.IntegrityError, _Overtaken):
                continue
        return ()  # others are at it

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
            _take_over(connection, wanted.again)
            over = {subject for subject, _ in wanted.over}
            ended = [n for n in board.notices if n.subject in over and n.topic in LASTING]
            _take_away(connection, [*ended, *wanted.void])
            fresh = [*wanted.fresh, *(item for _, item in wanted.over if item)]
            if wanted.noted:
                noted = sa.insert(notices).values(since=clock(), told_at=clock())
                connection.execute(noted, _values(wanted.noted))
            if fresh:
                connection.execute(sa.insert(notices).values(since=clock()), _values(fresh))
        return (*(item for _, item in wanted.again), *fresh)

    def told(self, items: Sequence[Item]) -> None:
        """Record that these have been told; of a recovery nothing needs to be known any longer."""
        with self._transaction() as connection:
            for topic, mine in _where(items):
                if topic is Topic.RECOVERY:
                    connection.execute(sa.delete(notices).where(mine))
                else:
                    connection.execute(sa.update(notices).where(mine).values(told_at=clock()))

    def release(self, items: Sequence[Item]) -> None:
        """Let the next run tell these: they could not be sent."""
        expired = clock(-CLAIM.total_seconds())
        with self._transaction() as connection:
            for _, mine in _where(items):
                connection.execute(
                    sa.update(notices)
                    .where(mine, notices.c.told_at.is_(None))
                    .values(since=expired)
                )


def _where(
    items: Iterable[Item | Notice],
) -> Iterator[tuple[Topic, sa.ColumnElement[bool]]]:
    """The rows of these, so many at a time; in one order, so that two hosts that want the same ones
    wait for each other and never in a circle."""
    ordered = sorted(items, key=lambda item: (item.topic, item.subject))
    for topic, group in groupby(ordered, key=lambda item: item.topic):
        subjects = [item.subject for item in group]
        for start in range(0, len(subjects), _CHUNK):
            some = notices.c.subject.in_(subjects[start : start + _CHUNK])
            yield topic, sa.and_(notices.c.kind == topic.value, some)


def _values(items: Iterable[Item]) -> list[dict[str, Any]]:
    ordered = sorted(items, key=lambda item: (item.topic, item.subject))
    return [{"kind": i.topic.value, "subject": i.subject, "detail": i.mark} for i in ordered]


def _told(connection: sa.Connection) -> tuple[Notice, ...]:
    statement = (
        sa.select(notices, branches.c.code, states.c.status)
        .select_from(
            notices.outerjoin(
                branches, sa.and_(branches.c.id == notices.c.subject, branches.c.is_active)
            ).outerjoin(states, states.c.branch_id == branches.c.id)
        )
        .where(notices.c.kind.in_([topic.value for topic in Topic]))
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


def _take_over(connection: sa.Connection, again: Sequence[tuple[Notice, Item]]) -> None:
    """Claim rows that are there. Raises _Overtaken where somebody else was quicker."""
    taken = 0
    for _, mine in _where(notice for notice, _ in again if notice.told_at is None):
        done = connection.execute(
            sa.update(notices)
            .where(mine, notices.c.told_at.is_(None), _expired())
            .values(since=clock())
        )
        taken += done.rowcount
    for notice, item in again:
        if notice.told_at is not None:
            # Told of what was before: a halt, a digest.
            done = connection.execute(
                sa.update(notices)
                .where(
                    notices.c.kind == notice.topic.value,
                    notices.c.subject == notice.subject,
                    notices.c.told_at.is_not(None),
                    notices.c.detail == notice.detail,
                )
                .values(since=clock(), told_at=None, detail=item.mark)
            )
            taken += done.rowcount
    if taken != len(again):
        raise _Overtaken


def _expired() -> sa.ColumnElement[bool]:
    """As `Notice.in_hand` has it, at this moment."""
    seconds = CLAIM.total_seconds()
    return sa.or_(notices.c.since <= clock(-seconds), notices.c.since > clock(seconds))


def _take_away(connection: sa.Connection, gone: Sequence[Notice]) -> None:
    """Delete rows that have nothing more to say. Raises _Overtaken."""
    deleted = sum(
        connection.execute(sa.delete(notices).where(mine)).rowcount for _, mine in _where(gone)
    )
    if deleted != len(gone):
        raise _Overtaken
