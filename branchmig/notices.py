"""What people are told of, and how it reads: pure functions from what stands to what is to be said.

Floor 2. The same trouble is told once while it lasts: that is a branch that failed or needs a
person, until it is Completed again, and a rollout that is halted. What has been told is a row in
HeadOffice, since any host may be the next to look.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from .model import BranchStatus, MigrationStatus, Rollout, Run

CLAIM = timedelta(minutes=10)
"""After this, by HeadOffice's clock, what somebody was about to tell is told by another."""

_FLEET = "fleet"
_ERRORS = 10
_CODES = 5
_LONGEST = 500
"""So many errors, branches of each, and letters of one, are in a message; `status` has them all."""


class Topic(StrEnum):
    """What may be told, as `[notify] on` and the rows of HeadOffice spell it."""

    FAILURE = "failure"
    MANUAL = "manual"
    HALT = "halt"
    RECOVERY = "recovery"
    DIGEST = "digest"


LASTING = (Topic.FAILURE, Topic.MANUAL, Topic.HALT)
"""Of these an end is told; the others are over with their telling."""


@dataclass(frozen=True, slots=True)
class Item:
    """Something to be told. `subject`: a branch's or rollout's id, `name`: how people call it.

    `mark` tells one occurrence from another on the same subject.
    """

    topic: Topic
    subject: str
    name: str
    text: str
    mark: str | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """A row of what has been told; `told_at` None: claimed at `since` by somebody who may have
    died. `code` and `status` are those of the branch that it is about, None where there is none.
    """

    topic: Topic
    subject: str
    detail: str | None
    since: datetime
    told_at: datetime | None
    code: str | None = None
    status: MigrationStatus | None = None

    def in_hand(self, now: datetime) -> bool:
        """Whether somebody may be telling it at this moment. A claim from the future is nobody's:
        HeadOffice's clock has been set back."""
        return self.told_at is None and now - CLAIM < self.since <= now + CLAIM


@dataclass(frozen=True, slots=True)
class Board:
    """All that stands at one moment, by HeadOffice's clock. `failed`: id, code, status and error of
    each active branch that is not well; `halted`: the latest rollout, if it is."""

    now: datetime
    notices: tuple[Notice, ...]
    failed: tuple[tuple[str, str, MigrationStatus, str], ...] = ()
    halted: Rollout | None = None


@dataclass(frozen=True, slots=True)
class Claims:
    """What is to be told now. `fresh` has no row yet; `again` has one that may be taken over, and
    `over` rows that are to go, each with what is to be said of that, if anything; `void` go without
    a word. `noted` is written down as told, and told to nobody."""

    fresh: tuple[Item, ...] = ()
    again: tuple[tuple[Notice, Item], ...] = ()
    over: tuple[tuple[str, Item | None], ...] = ()
    noted: tuple[Item, ...] = ()
    void: tuple[Notice, ...] = ()


# What is to be told -------------------------------------------------------------------------------


def claims(
    board: Board, topics: Collection[str], due: Callable[[datetime], datetime | None]
) -> Claims:
    """`due`: when a digest is, after the one at this moment."""
    rows = {(notice.topic, notice.subject): notice for notice in board.notices}
    fresh: list[Item] = []
    again: list[tuple[Notice, Item]] = []
    noted: list[Item] = []
    for item in (*_troubles(board, topics), *_recovering(board), *_digest(board, topics, due)):
        notice = rows.get((item.topic, item.subject))
        if notice is None:
            # Of what was before the first look nobody expects a digest.
            (noted if item.topic is Topic.DIGEST else fresh).append(item)
        elif not notice.in_hand(board.now) and (
            notice.told_at is None or (item.mark and item.mark != notice.detail)
        ):
            again.append((notice, item))
    over, void = tuple(_over(board, topics)), tuple(_void(board))
    return Claims(tuple(fresh), tuple(again), over, tuple(noted), void)


def _troubles(board: Board, topics: Collection[str]) -> Iterable[Item]:
    for subject, code, status, error in board.failed:
        manual = status is MigrationStatus.MANUAL and Topic.MANUAL in topics
        topic = Topic.MANUAL if manual else Topic.FAILURE
        if topic in topics:
            yield Item(topic, subject, code, error or "no error is recorded")
    if board.halted and Topic.HALT in topics:
        rollout = board.halted
        mark = f"{rollout.target}, halted at {rollout.halted_at:%Y-%m-%d %H:%M:%S} UTC"
        reason = rollout.halt_reason or "no reason is recorded"
        yield Item(Topic.HALT, rollout.id, rollout.target, reason, mark)


def _recovering(board: Board) -> Iterable[Item]:
    """Recoveries that somebody was about to tell."""
    for notice in board.notices:
        if notice.topic is Topic.RECOVERY and not _ails(notice):
            yield Item(Topic.RECOVERY, notice.subject, "", notice.detail or "", notice.detail)


def _ails(notice: Notice) -> bool:
    return notice.status in (MigrationStatus.FAILED, MigrationStatus.MANUAL)


def _void(board: Board) -> Iterable[Notice]:
    """Recoveries that could not be told, and are none any more: the branch has failed anew."""
    for notice in board.notices:
        if notice.topic is Topic.RECOVERY and _ails(notice) and not notice.in_hand(board.now):
            yield notice


def _digest(
    board: Board, topics: Collection[str], due: Callable[[datetime], datetime | None]
) -> Iterable[Item]:
    if Topic.DIGEST not in topics:
        return
    row = next((notice for notice in board.notices if notice.topic is Topic.DIGEST), None)
    moment = due(row.since) if row and row.told_at else board.now
    if moment and moment <= board.now:
        yield Item(Topic.DIGEST, _FLEET, "", "", board.now.isoformat())


def _over(board: Board, topics: Collection[str]) -> Iterable[tuple[str, Item | None]]:
    ended: dict[str, list[Notice]] = {}
    lasting = [notice for notice in board.notices if notice.topic in LASTING]
    if Topic.HALT not in topics:
        # What other hosts tell of; nobody has looked here whether it still stands.
        lasting = [notice for notice in lasting if notice.topic is not Topic.HALT]
    in_hand = {notice.subject for notice in lasting if notice.in_hand(board.now)}
    for notice in lasting:
        if _has_ended(notice, board) and notice.subject not in in_hand:
            ended.setdefault(notice.subject, []).append(notice)
    recovering = {n.subject for n in board.notices if n.topic is Topic.RECOVERY}
    for subject, notices in ended.items():
        line = _end(notices[0])
        silent = Topic.RECOVERY not in topics or line is None or subject in recovering
        item = None if silent else Item(Topic.RECOVERY, subject, "", line or "", line)
        yield subject, item


def _has_ended(notice: Notice, board: Board) -> bool:
    if notice.topic is Topic.HALT:
        return board.halted is None or board.halted.id != notice.subject
    # A branch that was removed or is inactive now is nobody's trouble any more.
    return notice.status is None or notice.status is MigrationStatus.COMPLETED


def _end(notice: Notice) -> str | None:
    """A sentence; None: of this end there is nothing to be told."""
    if notice.topic is Topic.HALT:
        return f"the rollout of {notice.detail}, is halted no longer"
    return f"{notice.code} is Completed again" if notice.code else None


# How it reads -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """One message, about all that a run tells of one topic."""

    topic: Topic
    title: str
    body: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one message at one address, both by number. `error`: a sentence, None where it
    was taken."""

    address: int
    letter: int
    error: str | None


def messages(items: Sequence[Item], run: Run, digest: str) -> tuple[Message, ...]:
    """`digest`: what a digest says, should there be one among the items."""
    told = []
    for topic in Topic:
        mine = sorted((i for i in items if i.topic is topic), key=lambda i: (i.name, i.text))
        if mine:
            title, body = _TEXTS[topic](mine) if topic in _TEXTS else ("the digest", digest)
            foot = f"{run.command} on {run.host}, run {run.id}"
            told.append(Message(topic, f"branchmig: {title}", f"{body}\n\n{foot}"))
    return tuple(told)


def digest(rows: Sequence[BranchStatus]) -> str:
    """How the fleet stands, from what HeadOffice knows of its active branches."""
    counts = [(s.value, sum(r.status is s for r in rows)) for s in MigrationStatus]
    told = [f"{count} {name}" for name, count in counts if count]
    lines = [f"{len(rows)} branches: {', '.join(told)}" if rows else "no branches"]
    for what, count in (
        ("behind", sum(row.behind for row in rows)),
        ("pinned", sum(row.state.pinned for row in rows)),
        ("locked by a run", sum(row.is_locked for row in rows)),
    ):
        if count:
            lines.append(f"{count} {what}")
    lines += sorted({f"the rollout is halted: {row.halted}" for row in rows if row.halted})
    for status in (MigrationStatus.MANUAL, MigrationStatus.FAILED):
        of_it = [(r.branch.code, r.state.error or "no error") for r in rows if r.status is status]
        if of_it:
            lines += ["", f"{status.value}:", errors_text(of_it)]
    return "\n".join(lines)


def trial(host: str) -> Message:
    """What `branchmig notify` sends."""
    return Message(
        Topic.DIGEST, "branchmig: a test", f"`branchmig notify` on {host}: you will be told here."
    )


def _failures(items: Sequence[Item]) -> tuple[str, str]:
    body = f"{errors_text([(i.name, i.text) for i in items])}\n\nThey are attempted again when due."
    return f"{_branches(items)} failed", body


def _manual(items: Sequence[Item]) -> tuple[str, str]:
    verb = "needs" if len(items) == 1 else "need"
    body = (
        f"{errors_text([(i.name, i.text) for i in items])}\n\n"
        "No run attempts them any more: mend the cause, then `branchmig retry BRANCH`."
    )
    return f"{_branches(items)} {verb} a person", body


def _halts(items: Sequence[Item]) -> tuple[str, str]:
    body = "\n".join(item.text for item in items)
    after = "Mend the scripts, or let it go on with `branchmig resume`."
    return f"the rollout of {items[0].name} is halted", f"{body}\n\n{after}"


def _recoveries(items: Sequence[Item]) -> tuple[str, str]:
    lines = [item.text for item in items]
    more = len(lines) - _ERRORS * _CODES
    body = "\n".join(lines[: _ERRORS * _CODES]) + (f"\nand {more} more" if more > 0 else "")
    return lines[0] if len(lines) == 1 else f"{len(lines)} troubles are over", body


_TEXTS: dict[Topic, Callable[[Sequence[Item]], tuple[str, str]]] = {
    Topic.FAILURE: _failures,
    Topic.MANUAL: _manual,
    Topic.HALT: _halts,
    Topic.RECOVERY: _recoveries,
}


def _branches(items: Sequence[Item]) -> str:
    return items[0].name if len(items) == 1 else f"{len(items)} branches"


def errors_text(failed: Iterable[tuple[str, str]]) -> str:
    """Codes and their errors: each error once, with how many branches have it and the first ones,
    the commonest first. Errors are alike that differ in the branch's code or in numbers alone."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for code, error in failed:
        kind = re.sub(r"\d+", "0", re.sub(re.escape(code), "", error, flags=re.IGNORECASE))
        alike.setdefault(kind, []).append((code, error))
    ordered = sorted(alike.values(), key=len, reverse=True)
    lines = [
        f"{_named([c for c, _ in those])}: {_short(those[0][1])}" for those in ordered[:_ERRORS]
    ]
    if len(ordered) > _ERRORS:
        lines.append(f"and {len(ordered) - _ERRORS} more errors")
    return "\n".join(lines)


def _short(error: str) -> str:
    return error if len(error) <= _LONGEST else f"{error[:_LONGEST]}..."


def _named(codes: Sequence[str]) -> str:
    first = ", ".join(codes[:_CODES])
    return f"{first} and {len(codes) - _CODES} more" if len(codes) > _CODES else first
