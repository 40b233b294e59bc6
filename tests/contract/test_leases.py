"""Leases of many branches in one call: each is given or refused for itself, on every HeadOffice."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import pytest
from clients import (
    RUN,
    OpenStore,
    a_branch,
    add,
    at_once,
    begin,
    outcome,
    state,
    succeed,
    trail,
)

from branchmig import transitions
from branchmig.errors import BranchmigError, LeaseHeld, LeaseLost, StateConflict, UnknownBranch
from branchmig.model import Branch, BranchState, Failure, Lease, MigrationStatus, SkipReason
from branchmig.store import Store
from branchmig.store.leases import Conclusion, Wanted
from branchmig.transitions import HeldBack, RetryPolicy

MANY = 8


@pytest.fixture
def branches(store: Store) -> list[Branch]:
    found = [a_branch(number) for number in range(MANY)]
    add(store, *found)
    store.begin_run(RUN, "1.0")
    return found


def take(
    store: Store, branches: Sequence[Branch], owner: str = RUN.id, seconds: float = 600
) -> list[Lease | BranchmigError]:
    return list(
        store.leases.acquire([Wanted(branch, begin) for branch in branches], owner, seconds)
    )


def taken(store: Store, branches: Sequence[Branch], owner: str = RUN.id) -> list[Lease]:
    """The leases of branches that nobody else wants."""
    given = take(store, branches, owner)
    leases = [lease for lease in given if isinstance(lease, Lease)]
    assert leases == given
    return leases


def fail(before: BranchState, now: datetime) -> BranchState:
    failure = Failure("MigrationFailed", "broken", revision="a1")
    return transitions.fail(before, failure, ("a0",), now, RetryPolicy(), previous=BranchState())


# Taking -------------------------------------------------------------------------------------------


def test_many_leases_are_taken_in_the_order_asked_for(store: Store, branches: list[Branch]) -> None:
    asked = branches[::-1]
    leases = taken(store, asked)
    assert [lease.branch_id for lease in leases] == [branch.id for branch in asked]
    for branch, lease in zip(asked, leases, strict=True):
        found = state(store, branch)
        assert (found.lock_owner, found.lock_token) == (RUN.id, lease.token)
        assert found.status is MigrationStatus.IN_PROGRESS
        assert transitions.is_locked(found, store.now())
        assert (lease.previous.status, lease.state.target) == (MigrationStatus.PENDING, "head")


def test_more_leases_than_one_statement_may_name_go_together_all_the_same(
    store: Store, branches: list[Branch]
) -> None:
    more = [a_branch(number) for number in range(MANY, 2100)]
    store.put([(branch, branch.url) for branch in more])
    everyone = branches + more
    leases = taken(store, everyone)
    assert [lease.branch_id for lease in leases] == [branch.id for branch in everyone]
    assert store.leases.renew(leases, 600) == ()
    results = [
        Conclusion(lease, succeed, outcome(branch))
        for lease, branch in zip(leases, everyone, strict=True)
    ]
    for _ in range(2):  # of the second it is known that the first had written it
        assert all(isinstance(s, BranchState) for s in store.leases.conclude(results, RUN))
    assert {record.state.status for record in store.records()} == {MigrationStatus.COMPLETED}
    assert len(trail(store)) == len(everyone)


def test_nothing_wanted_is_nothing_given(store: Store) -> None:
    assert take(store, []) == []
    assert store.leases.renew([], 600) == ()
    assert store.leases.conclude([], RUN) == ()


def test_each_branch_is_given_or_refused_for_itself(store: Store, branches: list[Branch]) -> None:
    free, held, expired, removed, moved, inactive, refused, _ = branches
    take(store, [held], "another")
    (dead,) = take(store, [expired], "dead", -1)
    store.remove(removed)
    store.update(replace(moved, url="sqlite:///elsewhere.db"), "sqlite:///elsewhere.db")
    store.update(replace(inactive, is_active=False), inactive.url)

    def refuse(before: BranchState, now: datetime) -> BranchState:
        raise HeldBack(SkipReason.BACKOFF, "not yet")

    wanted = [Wanted(branch, begin) for branch in branches[:6]] + [Wanted(refused, refuse)]
    given = store.leases.acquire(wanted, "run-2", 600)
    kinds = [Lease, LeaseHeld, Lease, UnknownBranch, StateConflict, StateConflict, HeldBack]
    assert [type(found) for found in given] == kinds
    assert "another" in str(given[1])
    assert isinstance(dead, Lease)
    assert isinstance(given[2], Lease)
    assert (given[2].previous.lock_owner, given[2].token) == ("dead", dead.token + 1)
    owners = {record.branch.code: record.state.lock_owner for record in store.records()}
    assert owners == {
        free.code: "run-2",
        held.code: "another",
        expired.code: "run-2",
        **dict.fromkeys([branch.code for branch in (moved, inactive, refused, branches[7])]),
    }
    assert state(store, refused) == BranchState()


def test_what_differs_is_written_for_each_branch(store: Store, branches: list[Branch]) -> None:
    """Branches with the same change share a statement: none may get what another one is to have."""
    for branch in branches[:3]:
        store.change(branch, lambda before, _: before._replace(pinned=True, retry_count=2))

    def from_heads(number: int) -> Wanted:
        heads = (f"a{number // 2}",)
        return Wanted(
            branches[number],
            lambda before, now: transitions.begin(before, heads, f"t{number}", now),
        )

    given = store.leases.acquire([from_heads(number) for number in range(MANY)], RUN.id, 600)
    for number, branch in enumerate(branches):
        found = state(store, branch)
        assert (found.heads, found.target) == ((f"a{number // 2}",), f"t{number}")
        assert (found.pinned, found.retry_count) == ((True, 2) if number < 3 else (False, 0))
        lease = given[number]
        assert isinstance(lease, Lease)
        assert lease.state.heads == found.heads


def test_tokens_rise_each_from_where_it_was(store: Store, branches: list[Branch]) -> None:
    for times, branch in enumerate(branches):
        for _ in range(times):
            (lease,) = taken(store, [branch])
            store.conclude(lease, succeed, RUN, None)
    assert [lease.token for lease in taken(store, branches)] == list(range(1, MANY + 1))


# Renewing -----------------------------------------------------------------------------------------


def test_a_renewal_of_many_tells_exactly_those_that_are_lost(
    store: Store, branches: list[Branch]
) -> None:
    leases = taken(store, branches)
    store.unlock(branches[1], live=True)
    store.unlock(branches[3], live=True)
    take(store, [branches[3]], "heir")
    store.conclude(leases[5], succeed, RUN, None)
    store.leases.conclude([Conclusion(leases[6], succeed, None)], RUN)
    store.remove(branches[6])
    before = {record.branch.id: record.state.lock_expires_at for record in store.records()}
    lost = store.leases.renew(leases, 6000)
    assert [leases.index(lease) for lease in lost] == [1, 3, 5, 6]
    for record in store.records():
        moved = record.state.lock_expires_at != before[record.branch.id]
        assert moved == (record.branch in [branches[number] for number in (0, 2, 4, 7)])


def test_leases_of_several_owners_are_renewed_each_for_its_own(
    store: Store, branches: list[Branch]
) -> None:
    mine, theirs = taken(store, branches[:4]), taken(store, branches[4:], "another")
    stolen = replace(theirs[0], owner=RUN.id)
    assert store.leases.renew([*mine, *theirs, stolen], 600) == (stolen,)


def test_an_expired_lease_that_nobody_has_taken_is_renewed(
    store: Store, branches: list[Branch]
) -> None:
    given = take(store, branches, RUN.id, -1)
    assert store.leases.renew([lease for lease in given if isinstance(lease, Lease)], 600) == ()
    assert all(isinstance(refusal, LeaseHeld) for refusal in take(store, branches, "another"))


# Giving back --------------------------------------------------------------------------------------


def test_a_conclusion_of_many_writes_each_its_own_result(
    store: Store, branches: list[Branch]
) -> None:
    leases = taken(store, branches)
    given = store.leases.conclude(
        [
            Conclusion(lease, succeed if number % 2 else fail, outcome(branches[number]))
            for number, lease in enumerate(leases)
        ],
        RUN,
    )
    for number, branch in enumerate(branches):
        found, told = state(store, branch), given[number]
        assert isinstance(told, BranchState)
        assert (found.status, found.heads, found.error) == (told.status, told.heads, told.error)
        wanted = (MigrationStatus.COMPLETED, ("a1",), None)
        assert (found.status, found.heads, found.error) == (
            wanted if number % 2 else (MigrationStatus.FAILED, ("a0",), "broken")
        )
        assert (found.lock_owner, found.lock_expires_at) == (None, None)
    assert {row.branch_code: row.status for row in trail(store)} == {
        branch.code: MigrationStatus.COMPLETED if number % 2 else MigrationStatus.FAILED
        for number, branch in enumerate(branches)
    }


def test_a_lost_lease_among_many_costs_the_others_nothing(
    store: Store, branches: list[Branch]
) -> None:
    leases = taken(store, branches)
    store.unlock(branches[2], live=True)
    (heir,) = taken(store, [branches[2]], "heir")
    store.unlock(branches[4], live=True)
    store.remove(branches[4])
    given = store.leases.conclude(
        [
            Conclusion(lease, succeed, outcome(branch))
            for lease, branch in zip(leases, branches, strict=True)
        ],
        RUN,
    )
    assert [isinstance(told, LeaseLost) for told in given] == [n in (2, 4) for n in range(MANY)]
    found = state(store, branches[2])
    assert (found.lock_owner, found.lock_token) == ("heir", heir.token)
    assert found.status is MigrationStatus.IN_PROGRESS
    kept = {branch.code for number, branch in enumerate(branches) if number not in (2, 4)}
    assert {row.branch_code for row in trail(store)} == kept
    for branch in branches:
        if branch.code in kept:
            assert state(store, branch).status is MigrationStatus.COMPLETED


def test_one_lease_is_concluded_once_even_within_one_call(
    store: Store, branches: list[Branch]
) -> None:
    (lease,) = taken(store, branches[:1])
    twice = [Conclusion(lease, succeed, None), Conclusion(lease, fail, None)]
    first, second = store.leases.conclude(twice, RUN)
    assert isinstance(first, BranchState)
    assert isinstance(second, LeaseLost)
    assert state(store, branches[0]).status is MigrationStatus.COMPLETED


def test_a_pin_that_was_set_meanwhile_outlives_a_conclusion_of_many(
    store: Store, branches: list[Branch]
) -> None:
    leases = taken(store, branches)
    store.set_pinned(branches[3], True)
    store.leases.conclude([Conclusion(lease, succeed, None) for lease in leases], RUN)
    assert [state(store, branch).pinned for branch in branches] == [n == 3 for n in range(MANY)]


def test_a_line_of_the_trail_that_cannot_be_written_leaves_everything_as_it_was(
    store: Store, branches: list[Branch]
) -> None:
    leases = taken(store, branches)
    store.leases.conclude([Conclusion(leases[0], succeed, outcome(branches[0]))], RUN)
    again = taken(store, branches[:1])
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        store.leases.conclude(
            [
                Conclusion(lease, succeed, outcome(branch))
                for lease, branch in zip([*again, *leases[1:]], branches, strict=True)
            ],
            RUN,
        )
    assert all(state(store, branch).lock_owner == RUN.id for branch in branches)


# Many at once -------------------------------------------------------------------------------------


def test_of_clients_that_want_the_same_branches_each_branch_has_one(
    store: Store, another_store: OpenStore, branches: list[Branch]
) -> None:
    more = [a_branch(number) for number in range(MANY, 5 * MANY)]
    add(store, *more)
    everyone = [*branches, *more]

    def take_all(client: Store, number: int) -> list[Lease]:
        chance = random.Random(number)
        mine: list[Lease] = []
        left = everyone[:]
        chance.shuffle(left)
        while left:
            batch = [left.pop() for _ in range(min(len(left), chance.randint(1, 9)))]
            given = take(client, batch, f"client-{number}")
            refusals = [found for found in given if not isinstance(found, Lease)]
            assert all(isinstance(refusal, LeaseHeld) for refusal in refusals), refusals
            mine += [found for found in given if isinstance(found, Lease)]
        return mine

    leases = [lease for mine in at_once(another_store, take_all, 8) for lease in mine]
    assert sorted(lease.branch_id for lease in leases) == [branch.id for branch in everyone]
    assert {lease.token for lease in leases} == {1}
    owners = {record.branch.id: record.state.lock_owner for record in store.records()}
    assert owners == {lease.branch_id: lease.owner for lease in leases}


def test_leases_are_taken_renewed_and_concluded_beside_each_other(
    store: Store, another_store: OpenStore, branches: list[Branch]
) -> None:
    """In any order and in any company: nobody waits in a circle, and no work is lost."""

    def work(client: Store, number: int) -> int:
        chance = random.Random(number)
        ended = 0
        for _ in range(6):
            batch = chance.sample(branches, chance.randint(1, MANY))
            given = take(client, batch, f"client-{number}")
            mine = [found for found in given if isinstance(found, Lease)]
            chance.shuffle(mine)
            assert client.leases.renew(mine, 600) == ()
            ends = [Conclusion(lease, chance.choice([succeed, fail]), None) for lease in mine]
            assert all(isinstance(t, BranchState) for t in client.leases.conclude(ends, RUN))
            ended += len(mine)
        return ended

    ended = sum(at_once(another_store, work, 8))
    found = [record.state for record in store.records()]
    assert sum(each.lock_token for each in found) == ended
    assert {each.lock_owner for each in found} == {None}
