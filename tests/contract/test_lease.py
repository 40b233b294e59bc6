"""A lease in hand: renewed in the background, lost, given back; whatever HeadOffice lives on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime

import pytest
from processes import until

from branchmig import transitions
from branchmig.errors import LeaseHeld, LeaseLost
from branchmig.fence import Fence, clock
from branchmig.lease import hold
from branchmig.model import Branch, BranchState, Lease, Provider, Run
from branchmig.store import Store

OpenStore = Callable[[], Store]

BRANCH = Branch(
    "00000000-0000-4000-8000-000000000001", "BR001", "One", Provider.SQLITE, "sqlite:///br1.db"
)
RUN = Run("run-1", "apply", "operator", "ada", "hopper", 42, "head")


@pytest.fixture
def store(store: Store) -> Store:
    store.add(BRANCH, BRANCH.url)
    store.begin_run(RUN, "1.0")
    return store


def begin(state: BranchState, now: datetime) -> BranchState:
    return transitions.begin(state, None, "head", now)


def held(
    store: Store, fence: Fence, seconds: float = 600, owner: str = RUN.id
) -> AbstractContextManager[Lease]:
    return hold(store, BRANCH, owner, seconds, fence, begin)


def conclude(store: Store, lease: Lease) -> None:
    store.conclude(lease, lambda s, now: transitions.succeed(s, ("a1",), now), RUN, None)


def expiry(store: Store) -> datetime | None:
    return store.record(BRANCH.code).state.lock_expires_at


def renewals() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "lease-renewal"]


def test_a_lease_is_renewed_for_as_long_as_the_work_lasts(store: Store) -> None:
    fence = Fence()
    with held(store, fence, seconds=0.6) as lease:
        first, deadline = expiry(store), fence.state.deadline
        assert first is not None
        assert deadline is not None
        until(lambda: expiry(store) > first, "a renewal in HeadOffice")  # type: ignore[operator]
        until(lambda: (fence.state.deadline or 0) > deadline + 1, "renewals past the first end")
        fence.check_statement()
        conclude(store, lease)
    assert expiry(store) is None


def test_the_work_stops_no_later_than_headoffice_lets_another_begin(store: Store) -> None:
    """Counted from before the request: the deadline here is earlier than the expiry there."""
    fence = Fence()
    with held(store, fence, seconds=600) as lease:
        left_there = ((expiry(store) or store.now()) - store.now()).total_seconds()
        left_here = (fence.state.deadline or 0) - clock()
        assert left_here <= left_there + 0.001
        conclude(store, lease)


def test_a_lease_that_was_taken_away_stops_the_work(store: Store, another_store: OpenStore) -> None:
    fence = Fence()
    with held(store, fence, seconds=0.6) as lease:
        assert another_store().unlock(BRANCH, live=True)
        until(lambda: fence.state.lost, "the loss of the lease")
        with pytest.raises(LeaseLost, match="took the lease"):
            fence.check_statement()
        with pytest.raises(LeaseLost):
            conclude(store, lease)


def test_a_lost_lease_is_not_renewed_again(store: Store, another_store: OpenStore) -> None:
    fence, other = Fence(), another_store()
    with held(store, fence, seconds=0.6):
        other.unlock(BRANCH, live=True)
        heir = other.acquire(BRANCH, "heir", 600, begin)
        until(lambda: fence.state.lost, "the loss of the lease")
        until(lambda: not renewals(), "the end of the renewals")
    found = store.record(BRANCH.code).state
    assert (found.lock_owner, found.lock_token) == ("heir", heir.token)


def test_after_the_work_the_fence_is_whole_and_nothing_renews(store: Store) -> None:
    fence = Fence()
    with held(store, fence) as lease:
        assert len(renewals()) == 1
        conclude(store, lease)
    assert renewals() == []
    assert (fence.state.lost, fence.state.deadline) == (None, None)
    fence.check_step()


def test_work_that_fails_unconcluded_leaves_the_lease_to_run_out(store: Store) -> None:
    fence = Fence()
    with pytest.raises(ZeroDivisionError), held(store, fence, seconds=0.6):
        raise ZeroDivisionError
    assert renewals() == []
    with pytest.raises(LeaseHeld):
        store.acquire(BRANCH, "heir", 600, begin)

    def taken_over() -> Lease | None:
        try:
            return store.acquire(BRANCH, "heir", 600, begin)
        except LeaseHeld:
            return None

    assert until(taken_over, "the end of the lease", 5).previous.lock_owner == RUN.id


def test_a_lease_that_another_holds_leaves_the_fence_alone(store: Store) -> None:
    store.acquire(BRANCH, "another", 600, begin)
    fence = Fence()
    with pytest.raises(LeaseHeld), held(store, fence):
        pytest.fail("two hold one lease")
    assert fence.state.deadline is None
    assert renewals() == []


def test_one_fence_serves_one_branch_after_another(store: Store) -> None:
    fence = Fence()
    for number in range(3):
        with held(store, fence, owner=f"run-{number}") as lease:
            fence.check_step()
            if number == 1:
                fence.lose("this one alone")
            conclude(store, lease)
        fence.check_step()
