"""What every HeadOffice must hold to: conditional writes, one clock, a token that only rises."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from clients import (
    CLIENTS,
    RUN,
    OpenStore,
    a_branch,
    add,
    at_once,
    begin,
    outcome,
    state,
    succeed,
)

from branchmig import transitions
from branchmig.errors import (
    LeaseHeld,
    LeaseLost,
    StateConflict,
    UnknownBranch,
    UsageError,
)
from branchmig.model import (
    Branch,
    BranchState,
    Lease,
    MigrationStatus,
)
from branchmig.store import Store


def acquire(store: Store, branch: Branch, owner: str = RUN.id, seconds: float = 600) -> Lease:
    return store.acquire(branch, owner, seconds, begin)


def expired(store: Store, branch: Branch, owner: str = RUN.id) -> Lease:
    """A lease that has run out already."""
    return store.acquire(branch, owner, -1, begin)


@pytest.fixture
def branch(store: Store) -> Branch:
    branch = a_branch()
    add(store, branch)
    store.begin_run(RUN, "1.0")
    return branch


# Branches -----------------------------------------------------------------------------------------


def test_a_branch_comes_back_as_it_was_given(store: Store) -> None:
    given = a_branch(name="Größe 漢字 🐘", server="db-1", tags=("nord", "ä"), is_active=False)
    add(store, given)
    record = store.record(given.code)
    assert record.branch == given
    assert record.state == BranchState()
    assert store.records() == (record,)


def test_a_branch_is_found_by_its_code_in_any_case_and_by_its_id(store: Store) -> None:
    branch = a_branch()
    add(store, branch)
    for name in ("BR001", "br001", branch.id, branch.id.upper()):
        assert store.record(name).branch == branch
    with pytest.raises(UnknownBranch, match="BR002"):
        store.record("BR002")


def test_branches_are_listed_by_code_whatever_their_case(store: Store) -> None:
    add(store, a_branch(1, code="b"), a_branch(2, code="C"), a_branch(3, code="A"))
    assert [record.branch.code for record in store.records()] == ["A", "b", "C"]


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        (a_branch(2, code="br001"), "there is a branch BR001 already"),
        (a_branch(2, url=a_branch(1).url), "BR001 is on the same database"),
        (a_branch(2, id=a_branch(1).id), "already belongs to a branch"),
    ],
)
def test_neither_a_code_nor_a_database_nor_an_id_is_taken_twice(
    store: Store, second: Branch, complaint: str
) -> None:
    add(store, a_branch(1))
    with pytest.raises(UsageError, match=complaint):
        add(store, second)
    assert [record.branch for record in store.records()] == [a_branch(1)]


def test_many_are_put_or_none(store: Store) -> None:
    add(store, a_branch(1))
    changed, clashing = a_branch(1, name="changed"), a_branch(3, url=a_branch(2).url)
    with pytest.raises(UsageError, match="BR003"):
        store.put([(b, b.url) for b in (changed, a_branch(2), clashing)])
    assert [record.branch for record in store.records()] == [a_branch(1)]
    assert store.put([(b, b.url) for b in (changed, a_branch(2), a_branch(3))]) == (2, 1)
    assert [r.branch for r in store.records()] == [changed, a_branch(2), a_branch(3)]
    assert store.put([(b, b.url) for b in (changed, a_branch(2), a_branch(3))]) == (0, 0)


def test_a_branch_that_points_elsewhere_is_looked_at_again_and_keeps_its_heads(
    store: Store, branch: Branch
) -> None:
    store.conclude(acquire(store, branch), succeed, RUN, None)
    assert store.update(replace(branch, name="other"), branch.url)
    assert state(store, branch).status is MigrationStatus.COMPLETED
    assert store.update(replace(branch, url="sqlite:///elsewhere.db"), "elsewhere")
    after = state(store, branch)
    assert (after.status, after.heads) == (MigrationStatus.PENDING, ("a1",))
    assert not store.update(replace(branch, url="sqlite:///elsewhere.db"), "elsewhere")


def test_what_was_found_in_the_former_database_is_no_news_of_the_new_one(
    store: Store, branch: Branch
) -> None:
    lease = acquire(store, branch)
    store.update(replace(branch, url="sqlite:///elsewhere.db"), "elsewhere")
    with pytest.raises(LeaseLost):
        store.conclude(lease, succeed, RUN, outcome(branch))
    assert state(store, branch).status is MigrationStatus.PENDING


@pytest.mark.parametrize("fields", [{"url": "sqlite:///elsewhere.db"}, {"is_active": False}])
def test_a_branch_that_was_changed_since_it_was_read_is_not_leased(
    store: Store, branch: Branch, fields: dict[str, Any]
) -> None:
    changed = replace(branch, **fields)
    store.update(changed, changed.url)
    with pytest.raises(StateConflict, match="BR001 was changed"):
        acquire(store, branch)
    assert acquire(store, changed).previous.status is MigrationStatus.PENDING


def test_a_branch_is_not_removed_while_it_is_leased(store: Store, branch: Branch) -> None:
    lease = acquire(store, branch)
    with pytest.raises(LeaseHeld):
        store.remove(branch)
    store.conclude(lease, succeed, RUN, outcome(branch))
    store.remove(branch)
    assert store.records() == ()
    assert store.last_migration(branch) is not None, "its outcomes stay"


def test_a_branch_that_was_removed_is_unknown_and_its_lease_is_lost(
    store: Store, branch: Branch
) -> None:
    lease = expired(store, branch)
    store.remove(branch)
    with pytest.raises(LeaseLost):
        store.conclude(lease, succeed, RUN, outcome(branch))
    assert not store.renew(lease, 600)
    with pytest.raises(UnknownBranch):
        acquire(store, branch)
    with pytest.raises(UnknownBranch):
        store.change(branch, lambda found, _: found)
    with pytest.raises(UnknownBranch):
        store.set_pinned(branch, True)
    assert store.last_migration(branch) is None


# The clock ----------------------------------------------------------------------------------------


def test_headoffice_has_one_clock_and_it_speaks_utc(store: Store, branch: Branch) -> None:
    before = store.now()
    assert before.tzinfo is UTC
    assert abs(before - datetime.now(UTC)) < timedelta(minutes=5)
    acquire(store, branch, seconds=600)
    after, expires = store.now(), state(store, branch).lock_expires_at
    assert expires is not None
    milli = timedelta(milliseconds=1)
    assert before - milli <= expires - timedelta(seconds=600) <= after + milli


def test_the_time_of_a_transition_is_headoffices(store: Store, branch: Branch) -> None:
    before, seen = store.now(), []
    store.change(branch, lambda found, now: seen.append(now) or found)
    assert before <= seen[0] <= store.now()


# Leases -------------------------------------------------------------------------------------------


def test_a_lease_carries_the_state_found_and_writes_the_one_that_begins(
    store: Store, branch: Branch
) -> None:
    store.conclude(acquire(store, branch), succeed, RUN, None)
    found = state(store, branch)
    lease = acquire(store, branch, "run-2")
    assert lease.previous == found
    written = state(store, branch)
    assert written.status is MigrationStatus.IN_PROGRESS
    assert (written.lock_owner, written.lock_token) == ("run-2", lease.token)


def test_a_lease_that_is_held_names_its_holder(store: Store, branch: Branch) -> None:
    acquire(store, branch)
    before = state(store, branch)
    with pytest.raises(LeaseHeld, match=r"BR001 is leased by apply of ada on hopper \(pid 42\)"):
        acquire(store, branch, "run-2")
    assert state(store, branch) == before


def test_the_token_rises_with_every_lease(store: Store, branch: Branch) -> None:
    tokens = []
    for number in range(5):
        lease = acquire(store, branch, f"run-{number}")
        tokens.append(lease.token)
        if number % 2:
            store.conclude(lease, succeed, RUN, None)
        else:
            store.unlock(branch, live=True)
    assert tokens == sorted(set(tokens))


def test_an_expired_lease_is_taken_over(store: Store, branch: Branch) -> None:
    dead = expired(store, branch, "dead")
    lease = acquire(store, branch, "heir")
    assert lease.token > dead.token
    assert lease.previous.lock_owner == "dead"
    assert state(store, branch).lock_owner == "heir"


def test_a_lease_is_renewed_as_long_as_nobody_has_taken_it(store: Store, branch: Branch) -> None:
    lease = expired(store, branch)
    assert store.renew(lease, 600)
    with pytest.raises(LeaseHeld):
        acquire(store, branch, "heir")
    assert store.renew(lease, -1)
    acquire(store, branch, "heir")
    before = state(store, branch)
    assert not store.renew(lease, 600)
    assert state(store, branch) == before


def test_a_conclusion_gives_the_lease_back_and_leaves_a_line(store: Store, branch: Branch) -> None:
    lease = acquire(store, branch)
    store.conclude(lease, succeed, RUN, outcome(branch))
    after = state(store, branch)
    assert (after.status, after.heads) == (MigrationStatus.COMPLETED, ("a1",))
    assert (after.lock_owner, after.lock_expires_at) == (None, None)
    assert after.lock_token == lease.token
    assert store.last_migration(branch) == after.last_attempt_at


def test_who_was_taken_over_writes_nothing(store: Store, branch: Branch) -> None:
    lease = expired(store, branch)
    acquire(store, branch, "heir")
    before = state(store, branch)
    with pytest.raises(LeaseLost):
        store.conclude(lease, succeed, RUN, outcome(branch))
    assert state(store, branch) == before
    assert store.last_migration(branch) is None


def test_an_owner_is_not_enough_the_token_must_be_the_present_one(
    store: Store, branch: Branch
) -> None:
    lease = expired(store, branch)
    again = acquire(store, branch)
    assert again.owner == lease.owner
    assert not store.renew(lease, 600)
    with pytest.raises(LeaseLost):
        store.conclude(lease, succeed, RUN, None)
    assert state(store, branch).lock_token == again.token


def test_a_lease_is_concluded_once(store: Store, branch: Branch) -> None:
    lease = acquire(store, branch)
    store.conclude(lease, succeed, RUN, None)
    with pytest.raises(LeaseLost):
        store.conclude(lease, succeed, RUN, None)


def test_a_conclusion_whose_answer_was_lost_is_known_and_not_written_again(
    store: Store, branch: Branch
) -> None:
    lease = acquire(store, branch)
    store.conclude(lease, succeed, RUN, outcome(branch))
    before = state(store, branch)
    again = store.conclude(lease, succeed, RUN, outcome(branch))
    assert again.status is MigrationStatus.COMPLETED
    assert state(store, branch) == before


def test_a_transition_that_fails_writes_nothing(store: Store, branch: Branch) -> None:
    def broken(found: BranchState, now: datetime) -> BranchState:
        raise ZeroDivisionError

    before = state(store, branch)
    with pytest.raises(ZeroDivisionError):
        store.acquire(branch, RUN.id, 600, broken)
    with pytest.raises(ZeroDivisionError):
        store.change(branch, broken)
    assert state(store, branch) == before
    lease = acquire(store, branch)
    before = state(store, branch)
    with pytest.raises(ZeroDivisionError):
        store.conclude(lease, broken, RUN, outcome(branch))
    assert state(store, branch) == before


# Unlocking ----------------------------------------------------------------------------------------


def test_unlock_clears_only_expired_leases_unless_it_is_forced(
    store: Store, branch: Branch
) -> None:
    assert not store.unlock(branch, live=False)
    assert not store.unlock(branch, live=True)
    acquire(store, branch)
    assert not store.unlock(branch, live=False)
    assert store.unlock(branch, live=True)
    expired(store, branch)
    assert store.unlock(branch, live=False)
    assert state(store, branch).lock_owner is None


def test_unlock_raises_the_token_so_that_the_holder_writes_nothing_more(
    store: Store, branch: Branch
) -> None:
    lease = acquire(store, branch)
    store.unlock(branch, live=True)
    before = state(store, branch)
    assert before.lock_token > lease.token
    assert not store.renew(lease, 600)
    with pytest.raises(LeaseLost):
        store.conclude(lease, succeed, RUN, outcome(branch))
    assert state(store, branch) == before


# Other moves --------------------------------------------------------------------------------------


def test_a_state_is_not_changed_under_somebody_who_migrates(store: Store, branch: Branch) -> None:
    acquire(store, branch)
    with pytest.raises(LeaseHeld):
        store.change(branch, lambda found, _: transitions.reset(found))
    assert state(store, branch).status is MigrationStatus.IN_PROGRESS


def test_a_pin_set_while_the_branch_is_migrated_outlives_the_conclusion(
    store: Store, branch: Branch
) -> None:
    lease = acquire(store, branch)
    store.set_pinned(branch, True)
    store.conclude(lease, succeed, RUN, None)
    assert state(store, branch).pinned


# Many at once -------------------------------------------------------------------------------------


def test_of_many_at_once_one_gets_the_lease(
    store: Store, another_store: OpenStore, branch: Branch
) -> None:
    def take(client: Store, number: int) -> Lease | None:
        try:
            return acquire(client, branch, f"client-{number}")
        except (LeaseHeld, StateConflict):
            return None

    for first in (True, False):
        (winner,) = filter(None, at_once(another_store, take))
        assert state(store, branch).lock_owner == winner.owner
        assert winner.previous.lock_owner is None
        if first:
            store.conclude(winner, succeed, RUN, None)


def test_of_many_heirs_one_takes_an_expired_lease_over(
    store: Store, another_store: OpenStore, branch: Branch
) -> None:
    dead = expired(store, branch, "dead")

    def take(client: Store, number: int) -> int | None:
        try:
            return acquire(client, branch, f"client-{number}").token
        except (LeaseHeld, StateConflict):
            return None

    assert [t for t in at_once(another_store, take) if t] == [dead.token + 1]


def test_no_update_under_a_lease_is_lost(
    store: Store, another_store: OpenStore, branch: Branch
) -> None:
    """Each client counts to five in the same row, under leases that it has to wait for."""

    def count(client: Store, number: int) -> list[int]:
        tokens: list[int] = []
        while len(tokens) < 5:
            try:
                lease = acquire(client, branch, f"client-{number}")
            except (LeaseHeld, StateConflict):
                continue
            tokens.append(lease.token)
            counted = lease.previous._replace(retry_count=lease.previous.retry_count + 1)
            client.conclude(lease, lambda _, __, after=counted: after, RUN, None)
        return tokens

    tokens = [token for client in at_once(another_store, count) for token in client]
    assert sorted(tokens) == list(range(1, 5 * CLIENTS + 1))
    assert state(store, branch).retry_count == 5 * CLIENTS


def test_no_change_is_lost(store: Store, another_store: OpenStore, branch: Branch) -> None:
    """A change is repeated where it met another, and each is there in the end."""

    def count(client: Store, number: int) -> None:
        for _ in range(5):
            lease = None
            while lease is None:
                try:
                    lease = acquire(client, branch, f"client-{number}")
                except (LeaseHeld, StateConflict):
                    continue
            client.set_pinned(branch, True)
            client.conclude(
                lease, lambda s, _: s._replace(retry_count=s.retry_count + 1), RUN, None
            )

    at_once(another_store, count)
    after = state(store, branch)
    assert (after.retry_count, after.pinned) == (5 * CLIENTS, True)


def test_of_many_that_add_the_same_branch_one_succeeds(
    store: Store, another_store: OpenStore
) -> None:
    def try_to_add(client: Store, number: int) -> bool:
        try:
            add(client, a_branch(number, code="BR-same", url=f"sqlite:///{number % 4}.db"))
        except UsageError:
            return False
        return True

    assert sum(at_once(another_store, try_to_add)) == 1
    assert len(store.records()) == 1


def test_leases_of_many_branches_do_not_meet(store: Store, another_store: OpenStore) -> None:
    branches = [a_branch(number) for number in range(CLIENTS)]
    add(store, *branches)
    store.begin_run(RUN, "1.0")

    def migrate(client: Store, number: int) -> None:
        for _ in range(5):
            lease = acquire(client, branches[number], f"client-{number}")
            assert client.renew(lease, 600)
            client.conclude(lease, succeed, RUN, None)

    at_once(another_store, migrate)
    assert {(r.state.status, r.state.lock_token) for r in store.records()} == {
        (MigrationStatus.COMPLETED, 5)
    }


# Runs ---------------------------------------------------------------------------------------------


def test_a_run_has_one_outcome_a_branch_and_all_or_nothing_is_written(
    store: Store, branch: Branch
) -> None:
    store.conclude(acquire(store, branch), succeed, RUN, outcome(branch))
    lease = acquire(store, branch)
    before = state(store, branch)
    # A second line of the same run breaks the table's key: the state must not move without it.
    with pytest.raises(Exception, match="branchmig_outcomes"):
        store.conclude(lease, succeed, RUN, outcome(branch))
    assert state(store, branch) == before


def test_a_run_is_at_work_while_it_has_no_end_and_holds_a_lease(
    store: Store, branch: Branch
) -> None:
    def at_work() -> bool:
        run = store.past.run(RUN.id[:8])
        assert (run.id, run.command) == (RUN.id, RUN.command)
        return run.at_work

    assert not at_work()
    expired(store, branch)
    assert not at_work()
    lease = acquire(store, branch, "another")
    assert not at_work()
    store.conclude(lease, succeed, RUN, None)
    acquire(store, branch)
    assert at_work()
    store.finish_run(RUN, 0)
    assert not at_work()
