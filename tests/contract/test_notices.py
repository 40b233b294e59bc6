"""What people are told, over many hosts: each trouble once and its end once, whoever dies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from clients import RUN, OpenStore, a_branch, at_once

from branchmig.model import Branch, MigrationStatus
from branchmig.notices import CLAIM, Item, Topic, claims
from branchmig.store import Store
from branchmig.store.tables import notices, rollouts, states

TOPICS = ("failure", "manual", "halt", "recovery", "digest")


@pytest.fixture
def branches(store: Store) -> list[Branch]:
    found = [a_branch(number) for number in range(4)]
    store.put([(branch, branch.url) for branch in found])
    return found


def become(store: Store, branch: Branch, status: MigrationStatus, error: str | None = None) -> None:
    store.change(branch, lambda state, now: state._replace(status=status, error=error))


def fail(store: Store, branch: Branch) -> None:
    become(store, branch, MigrationStatus.MANUAL, "no such table: Users")


def claim(
    store: Store, digest_after: timedelta | None = None, topics: Sequence[str] = TOPICS
) -> list[tuple[str, str]]:
    """Topic and name of what is ours to tell now."""
    return [
        (item.topic.value, item.name or item.text) for item in items(store, digest_after, topics)
    ]


def items(
    store: Store, digest_after: timedelta | None = None, topics: Sequence[str] = TOPICS
) -> tuple[Item, ...]:
    def due(since: datetime) -> datetime | None:
        return None if digest_after is None else since + digest_after

    return store.notices.claim(topics, lambda board: claims(board, topics, due))


def told(store: Store) -> list[tuple[str, str]]:
    """As `claim`, and it is told."""
    found = items(store)
    store.notices.told(found)
    return [(item.topic.value, item.name or item.text) for item in found]


def age(store: Store, by: timedelta = CLAIM + timedelta(seconds=1)) -> None:
    """Whoever has claimed anything did it so long ago."""
    with store._transaction() as connection:
        for row in connection.execute(sa.select(notices)).all():
            connection.execute(
                sa.update(notices)
                .where(notices.c.kind == row.kind, notices.c.subject == row.subject)
                .values(since=row.since - by)
            )


def test_a_trouble_is_told_once_while_it_lasts_and_its_end_once(
    store: Store, branches: list[Branch]
) -> None:
    assert told(store) == []
    fail(store, branches[0])
    assert told(store) == [("manual", "BR000")]
    assert told(store) == []
    become(store, branches[0], MigrationStatus.PENDING)
    assert told(store) == [], "a person has said retry: that is no end yet"
    fail(store, branches[0])
    assert told(store) == []
    become(store, branches[0], MigrationStatus.COMPLETED)
    assert told(store) == [("recovery", "BR000 is Completed again")]
    assert told(store) == []
    fail(store, branches[0])
    assert told(store) == [("manual", "BR000")], "another trouble of the same branch"


def test_of_many_hosts_that_look_at_once_one_tells_each_trouble_and_one_its_end(
    store: Store, another_store: OpenStore, branches: list[Branch]
) -> None:
    for branch in branches:
        fail(store, branch)

    def work(client: Store, number: int) -> list[tuple[str, str]]:
        return claim(client)

    found = sorted(name for mine in at_once(another_store, work, 6) for _, name in mine)
    assert found == ["BR000", "BR001", "BR002", "BR003"]
    age(store)
    for branch in branches:
        become(store, branch, MigrationStatus.COMPLETED)
    ends = [name for mine in at_once(another_store, work, 6) for _, name in mine]
    assert sorted(ends) == [f"BR00{n} is Completed again" for n in range(4)]


def test_what_a_host_that_died_was_about_to_tell_is_told_by_one_other_when_its_claim_expires(
    store: Store, another_store: OpenStore, branches: list[Branch]
) -> None:
    fail(store, branches[0])
    assert claim(store) == [("manual", "BR000")]
    assert claim(store) == [], "the one who claimed it may still be at it"
    age(store)
    found = at_once(another_store, lambda client, number: claim(client), 6)
    assert [mine for mine in found if mine] == [[("manual", "BR000")]]


def test_the_end_of_a_trouble_waits_for_who_is_about_to_tell_its_begin(
    store: Store, branches: list[Branch]
) -> None:
    fail(store, branches[0])
    begun = items(store)
    become(store, branches[0], MigrationStatus.COMPLETED)
    assert claim(store) == []
    store.notices.told(begun)
    assert claim(store) == [("recovery", "BR000 is Completed again")]


def test_what_could_not_be_sent_is_told_by_the_next_run(
    store: Store, branches: list[Branch]
) -> None:
    fail(store, branches[0])
    for _ in range(3):
        found = items(store)
        assert [item.name for item in found] == ["BR000"]
        store.notices.release(found)
    store.notices.told(items(store))
    become(store, branches[0], MigrationStatus.COMPLETED)
    for _ in range(3):
        ends = items(store)
        assert [item.text for item in ends] == ["BR000 is Completed again"]
        store.notices.release(ends)
    store.notices.told(items(store))
    assert claim(store) == []


def test_of_a_recovery_that_could_not_be_sent_nothing_is_told_once_the_branch_has_failed_anew(
    store: Store, branches: list[Branch]
) -> None:
    fail(store, branches[0])
    told(store)
    become(store, branches[0], MigrationStatus.COMPLETED)
    store.notices.release(items(store))
    fail(store, branches[0])
    assert told(store) == [("manual", "BR000")]
    assert told(store) == []
    become(store, branches[0], MigrationStatus.COMPLETED)
    assert told(store) == [("recovery", "BR000 is Completed again")]


def test_of_a_branch_that_is_gone_or_inactive_no_end_is_told(
    store: Store, branches: list[Branch]
) -> None:
    for branch in branches[:2]:
        fail(store, branch)
    told(store)
    store.remove(branches[0])
    store.update(replace(branches[1], is_active=False), branches[1].url)
    assert claim(store) == []


def test_only_what_is_asked_for_is_told(store: Store, branches: list[Branch]) -> None:
    fail(store, branches[0])
    become(store, branches[1], MigrationStatus.FAILED, "unreachable")
    assert claim(store, topics=("halt", "recovery")) == []
    assert claim(store, topics=("manual",)) == [("manual", "BR000")]
    assert claim(store, topics=("failure",)) == [("failure", "BR000"), ("failure", "BR001")]


def test_a_branch_that_failed_is_told_of_again_when_it_needs_a_person_and_ends_once(
    store: Store, branches: list[Branch]
) -> None:
    become(store, branches[0], MigrationStatus.FAILED, "unreachable")
    assert told(store) == [("failure", "BR000")]
    fail(store, branches[0])
    assert told(store) == [("manual", "BR000")]
    become(store, branches[0], MigrationStatus.COMPLETED)
    assert told(store) == [("recovery", "BR000 is Completed again")]


def test_a_thousand_branches_are_claimed_told_and_ended_together(store: Store) -> None:
    many = [a_branch(number) for number in range(1100)]
    store.put([(branch, branch.url) for branch in many])
    everyone = sa.update(states)
    with store._transaction() as connection:
        connection.execute(everyone.values(status=MigrationStatus.MANUAL.value))
    first = items(store)
    assert len(first) == 1100
    store.notices.release(first)
    assert len(told(store)) == 1100
    with store._transaction() as connection:
        connection.execute(everyone.values(status=MigrationStatus.COMPLETED.value))
    assert len(told(store)) == 1100
    assert told(store) == []


def test_a_claim_from_the_future_is_nobodys(store: Store, branches: list[Branch]) -> None:
    fail(store, branches[0])
    assert claim(store) == [("manual", "BR000")]
    age(store, -2 * CLAIM)
    assert claim(store) == [("manual", "BR000")], "HeadOffice's clock has been set back"


def halt(store: Store, rollout: str, at: int) -> None:
    with store._transaction() as connection:
        connection.execute(
            sa.update(rollouts)
            .where(rollouts.c.id == rollout)
            .values(
                halted_at=datetime(2026, 1, 1, at, tzinfo=UTC), halted_by="x", halt_reason="why",
                resumed_at=None,
            )
        )  # fmt: skip


def test_a_halt_is_told_once_its_end_once_and_another_halt_anew(store: Store) -> None:
    store.begin_run(RUN, "1.0")
    rollout = store.rollouts.join(RUN, "a2", ("a2",), "hash-1")
    halt(store, rollout.id, 1)
    assert told(store) == [("halt", "a2")]
    assert told(store) == []
    assert claim(store, topics=("manual", "recovery")) == [], "who does not ask for halts"
    store.rollouts.resume("ada")
    halt(store, rollout.id, 2)
    assert told(store) == [("halt", "a2")], "resumed and halted again between two looks"
    store.rollouts.resume("ada")
    end = "the rollout of a2, halted at 2026-01-01 02:00:00 UTC, is halted no longer"
    assert told(store) == [("recovery", end)]
    halt(store, rollout.id, 3)
    told(store)
    store.rollouts.join(RUN, "a2", ("a2",), "hash-2")
    assert [topic for topic, _ in told(store)] == ["recovery"], "mended scripts replace it"


def test_a_digest_is_told_once_when_it_is_due_and_none_of_before_the_first_look(
    store: Store, another_store: OpenStore, branches: list[Branch]
) -> None:
    day = timedelta(days=1)
    assert claim(store, day) == []
    assert claim(store, day) == []
    found = at_once(another_store, lambda client, number: claim(client, timedelta()), 6)
    assert [topic for mine in found for topic, _ in mine] == ["digest"]
    age(store)
    again = items(store, day)
    assert [item.topic for item in again] == [Topic.DIGEST], "nobody knows whether it was told"
    store.notices.told(again)
    assert claim(store, day) == []
