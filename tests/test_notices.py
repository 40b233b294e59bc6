"""How messages to people read, and when a digest is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from clients import a_branch

from branchmig.config import NotifySettings
from branchmig.model import BranchState, BranchStatus, MigrationStatus, Run
from branchmig.notices import (
    Board,
    Item,
    Notice,
    Topic,
    digest,
    errors_text,
    messages,
)
from branchmig.telling import decision

RUN = Run("run-1", "apply-all", "timer", "root", "hq", 4711, "head")


def item(topic: Topic, name: str, text: str = "no such table: Users") -> Item:
    return Item(topic, name, name, text)


def test_there_is_one_message_for_each_topic_and_the_gravest_are_not_mixed_in() -> None:
    items = [
        item(Topic.RECOVERY, "", "BR9 is Completed again"),
        item(Topic.MANUAL, "BR2"),
        item(Topic.FAILURE, "BR1", "unreachable"),
        item(Topic.MANUAL, "BR3"),
    ]
    told = messages(items, RUN, "")
    assert [(message.topic.value, message.title) for message in told] == [
        ("failure", "branchmig: BR1 failed"),
        ("manual", "branchmig: 2 branches need a person"),
        ("recovery", "branchmig: BR9 is Completed again"),
    ]
    assert all(message.body.endswith("apply-all on hq, run run-1") for message in told)
    assert told[1].body.startswith("BR2, BR3: no such table: Users\n")


def test_three_hundred_branches_with_one_error_are_one_line() -> None:
    failed = [(f"BR{n:03}", f"/srv/br{n:03}.db is not a database") for n in range(300)]
    text = errors_text([*failed, ("HQ", "another")])
    assert text.splitlines() == [
        "BR000, BR001, BR002, BR003, BR004 and 295 more: /srv/br000.db is not a database",
        "HQ: another",
    ]


def test_a_message_ends_somewhere_however_many_errors_there_are_and_however_long() -> None:
    errors = [(f"BR{n:03}", chr(ord("a") + n % 26) * (1000 + n)) for n in range(200)]
    text = errors_text(errors)
    assert len(text) < 7000
    assert text.endswith("and 190 more errors")


def test_the_digest_counts_and_names_what_needs_somebody() -> None:
    def row(number: int, status: MigrationStatus, **fields: object) -> BranchStatus:
        state = BranchState(status, error="no such table" if fields else None)
        return BranchStatus(a_branch(number), state, status, bool(fields), None, False, **fields)  # type: ignore[arg-type]

    rows = [
        row(1, MigrationStatus.COMPLETED),
        row(2, MigrationStatus.MANUAL, halted="three failed alike"),
    ]
    assert digest(rows).splitlines() == [
        "2 branches: 1 Completed, 1 RequiresManualIntervention",
        "1 behind",
        "the rollout is halted: three failed alike",
        "",
        "RequiresManualIntervention:",
        "BR002: no such table",
    ]
    assert digest([]) == "no branches"


@pytest.mark.parametrize(
    ("last", "due"),
    [
        # Berlin: half past two is skipped on 29 March 2026 and comes twice on 25 October.
        ("2026-03-28T12:00", "2026-03-29T01:00"),
        ("2026-03-29T12:00", "2026-03-30T00:30"),
        ("2026-10-24T12:00", "2026-10-25T00:30"),
        ("2026-10-25T00:31", "2026-10-26T01:30"),
    ],
)
def test_a_digest_is_due_once_a_day_whatever_the_clocks_do(last: str, due: str) -> None:
    decide = decision(NotifySettings(on=("digest",), digest="30 2 * * *", tz="Europe/Berlin"))
    before = datetime.fromisoformat(last).replace(tzinfo=UTC)
    moment = datetime.fromisoformat(due).replace(tzinfo=UTC)
    row = Notice(Topic.DIGEST, "fleet", "", before, before)

    def told(now: datetime) -> bool:
        return bool(decide(Board(now, (row,))).again)

    assert not told(moment - timedelta(seconds=1))
    assert told(moment)
