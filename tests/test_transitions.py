"""Every move of a branch's state: at every point where a run may be interrupted."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from branchmig import transitions
from branchmig.masking import remember_url
from branchmig.model import (
    BranchState,
    Failure,
    FailureKind,
    Heads,
    MigrationStatus,
    SkipReason,
)
from branchmig.transitions import RetryPolicy

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
POLICY = RetryPolicy()

PENDING = BranchState()
COMPLETED = BranchState(MigrationStatus.COMPLETED, ("a2",), "head", last_attempt_at=NOW)
FAILED = BranchState(
    MigrationStatus.FAILED, ("a1",), "head", 1, NOW + timedelta(seconds=300), NOW, error="x"
)
MANUAL = BranchState(MigrationStatus.MANUAL, ("a1",), "head", 3, last_attempt_at=NOW, error="x")
LEFT = BranchState(MigrationStatus.IN_PROGRESS, ("a1",), "head", 1, None, NOW, "dead", 7, NOW, "x")
PINNED = COMPLETED._replace(pinned=True)
EVERY_STATE = [PENDING, COMPLETED, FAILED, MANUAL, LEFT, PINNED]

LEASE_FIELDS = ("lock_owner", "lock_token", "lock_expires_at")


def _failed(
    state: BranchState,
    previous: BranchState,
    kind: FailureKind = FailureKind.PERMANENT,
    heads: Heads | None = None,
    policy: RetryPolicy = POLICY,
    revision: str | None = None,
) -> BranchState:
    failure = Failure("MigrationFailed", "broken", kind=kind, revision=revision)
    return transitions.fail(state, failure, heads, LATER, policy, previous=previous)


def _events(previous: BranchState) -> Iterator[Callable[[BranchState], BranchState]]:
    """Everything that can become of an attempt."""
    yield lambda state: transitions.succeed(state, ("a3",), LATER)
    yield lambda state: transitions.restore(state, previous, None)
    yield lambda state: transitions.restore(state, previous, ("a3",))
    yield lambda state: _failed(state, previous)
    yield lambda state: transitions.adopt(state, ("a3",), LATER)


# Beginning ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", EVERY_STATE)
def test_an_attempt_begins_from_the_heads_that_were_read(state: BranchState) -> None:
    begun = transitions.begin(state, ("z",), "a3", LATER)
    assert begun == state._replace(
        status=MigrationStatus.IN_PROGRESS,
        heads=("z",),
        target="a3",
        last_attempt_at=LATER,
    )


@pytest.mark.parametrize("state", EVERY_STATE)
def test_heads_that_could_not_be_read_stay_as_they_were_recorded(state: BranchState) -> None:
    assert transitions.begin(state, None, "head", LATER).heads == state.heads


def test_an_empty_database_is_no_unread_one() -> None:
    assert transitions.begin(COMPLETED, (), "head", LATER).heads == ()


@pytest.mark.parametrize("state", EVERY_STATE)
def test_no_event_touches_the_lease_which_is_the_stores_to_change(state: BranchState) -> None:
    begun = transitions.begin(state, None, "head", LATER)
    reached = [begun, transitions.reset(state), *(event(begun) for event in _events(state))]
    for after in reached:
        assert [getattr(after, name) for name in LEASE_FIELDS] == [
            getattr(state, name) for name in LEASE_FIELDS
        ]


# Succeeding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", EVERY_STATE)
def test_a_success_forgets_every_failure(state: BranchState) -> None:
    after = transitions.succeed(transitions.begin(state, None, "head", NOW), ("a3",), LATER)
    assert (after.status, after.heads) == (MigrationStatus.COMPLETED, ("a3",))
    assert (after.retry_count, after.next_attempt_at, after.error) == (0, None, None)
    assert after.pinned == state.pinned


# Failing ------------------------------------------------------------------------------------------


def test_three_failures_call_for_a_person_and_the_time_between_them_doubles() -> None:
    state, seen = PENDING, []
    for _ in range(3):
        previous = state
        state = _failed(transitions.begin(state, None, "head", LATER), previous)
        wait = state.next_attempt_at and state.next_attempt_at - LATER
        seen.append((state.status, state.retry_count, wait))
    assert seen == [
        (MigrationStatus.FAILED, 1, timedelta(seconds=300)),
        (MigrationStatus.FAILED, 2, timedelta(seconds=600)),
        (MigrationStatus.MANUAL, 3, None),
    ]


@pytest.mark.parametrize(
    ("attempt", "seconds"),
    [(1, 300), (2, 600), (3, 1200), (4, 2400), (5, 3600), (6, 3600), (40, 3600), (10**6, 3600)],
)
def test_the_back_off_doubles_up_to_an_hour(attempt: int, seconds: int) -> None:
    assert POLICY.delay(attempt) == timedelta(seconds=seconds)


def test_a_back_off_of_zero_is_due_at_the_next_run() -> None:
    policy = RetryPolicy(backoff=timedelta())
    state = _failed(transitions.begin(PENDING, None, "head", NOW), PENDING, policy=policy)
    assert transitions.held_back(state, LATER, policy) is None


def test_one_attempt_allowed_means_a_person_after_the_first_failure() -> None:
    policy = RetryPolicy(max_attempts=1)
    state = _failed(transitions.begin(PENDING, None, "head", NOW), PENDING, policy=policy)
    assert state.status is MigrationStatus.MANUAL


@pytest.mark.parametrize("kind", [kind for kind in FailureKind if kind is not FailureKind.MANUAL])
def test_every_failed_attempt_counts_whatever_its_class(kind: FailureKind) -> None:
    state = _failed(transitions.begin(PENDING, None, "head", NOW), PENDING, kind=kind)
    assert (state.status, state.retry_count) == (MigrationStatus.FAILED, 1)


def test_what_only_a_person_can_decide_goes_to_a_person_at_once() -> None:
    begun = transitions.begin(PENDING, None, "head", NOW)
    state = _failed(begun, PENDING, kind=FailureKind.MANUAL)
    assert (state.status, state.retry_count) == (MigrationStatus.MANUAL, 1)


def test_an_unreachable_branch_that_is_waited_for_stays_failed_for_ever() -> None:
    policy = RetryPolicy(wait_for_unreachable=True)
    state = PENDING
    for _ in range(10):
        begun = transitions.begin(state, None, "head", NOW)
        state = _failed(begun, state, kind=FailureKind.UNREACHABLE, policy=policy)
        assert (state.status, state.retry_count) == (MigrationStatus.FAILED, 0)
    assert state.next_attempt_at == LATER + timedelta(seconds=300)


@pytest.mark.parametrize("kind", [k for k in FailureKind if k is not FailureKind.UNREACHABLE])
def test_waiting_for_the_unreachable_excuses_nothing_else(kind: FailureKind) -> None:
    policy = RetryPolicy(wait_for_unreachable=True)
    begun = transitions.begin(FAILED, None, "head", NOW)
    assert _failed(begun, FAILED, kind=kind, policy=policy).retry_count == 2


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("kind", list(FailureKind))
def test_what_needs_a_person_goes_on_needing_one_and_counts_on(
    kind: FailureKind, waits: bool
) -> None:
    policy = RetryPolicy(wait_for_unreachable=waits)
    begun = transitions.begin(MANUAL, None, "head", NOW)
    after = _failed(begun, MANUAL, kind=kind, policy=policy)
    assert (after.status, after.next_attempt_at) == (MigrationStatus.MANUAL, None)
    counted = 3 if waits and kind is FailureKind.UNREACHABLE else 4
    assert after.retry_count == counted


@pytest.mark.parametrize("heads", [None, (), ("a2",)])
def test_a_failure_says_where_the_branch_was_left(heads: tuple[str, ...] | None) -> None:
    begun = transitions.begin(COMPLETED, ("a1",), "head", NOW)
    after = _failed(begun, COMPLETED, heads=heads)
    assert after.heads == (("a1",) if heads is None else heads)
    assert (after.error, after.last_attempt_at) == ("broken", LATER)


def test_a_failure_holds_no_password() -> None:
    remember_url("postgresql://u:s3cret-word@db/x")
    failure = Failure("MigrationFailed", "dsn=s3cret-word")
    after = transitions.fail(PENDING, failure, None, NOW, POLICY, previous=PENDING)
    assert "s3cret-word" not in (after.error or "")


@pytest.mark.parametrize("revision", [None, "a2"])
def test_only_a_failure_within_a_revision_counts_in_the_wave(revision: str | None) -> None:
    before = COMPLETED._replace(rollout="former", wave=2)
    begun = transitions.begin(before, None, "head", NOW)._replace(rollout="this", wave=0)
    after = _failed(begun, before, revision=revision)
    assert (after.rollout, after.wave) == (("this", 0) if revision else ("former", 2))
    assert after.failed_revision == revision


def test_what_was_skipped_or_stopped_is_in_no_wave() -> None:
    begun = transitions.begin(PENDING, None, "head", NOW)._replace(rollout="this", wave=0)
    assert transitions.restore(begun, PENDING, None).rollout is None


def test_a_success_stays_in_its_wave_and_forgets_what_failed() -> None:
    begun = FAILED._replace(rollout="this", wave=1, failed_revision="a2")
    after = transitions.succeed(begun, ("a3",), NOW)
    assert (after.rollout, after.wave, after.failed_revision) == ("this", 1, None)


# Ending without a result --------------------------------------------------------------------------


@pytest.mark.parametrize("heads_read", [None, ("a1",), ("a2",), ()])
@pytest.mark.parametrize("previous", [s for s in EVERY_STATE if s is not LEFT])
def test_an_attempt_without_a_result_leaves_everything_as_it_was(
    previous: BranchState, heads_read: tuple[str, ...] | None
) -> None:
    begun = transitions.begin(previous, heads_read, "a3", LATER)
    assert transitions.restore(begun, previous, None) == previous
    assert transitions.restore(begun, previous, previous.heads) == previous


@pytest.mark.parametrize("previous", EVERY_STATE)
def test_an_attempt_stopped_half_way_keeps_what_landed_and_counts_nothing(
    previous: BranchState,
) -> None:
    begun = transitions.begin(previous, None, "a3", LATER)
    after = transitions.restore(begun, previous, ("a9",))
    assert after.heads == ("a9",)
    assert after.retry_count == previous.retry_count
    assert after.status is not MigrationStatus.COMPLETED
    assert after.status is not MigrationStatus.IN_PROGRESS


@pytest.mark.parametrize(
    ("retries", "status", "reason"),
    [
        (0, MigrationStatus.PENDING, None),
        (1, MigrationStatus.FAILED, None),
        (3, MigrationStatus.FAILED, SkipReason.MANUAL),
    ],
)
def test_what_a_killed_run_left_is_restored_to_what_its_failures_say(
    retries: int, status: MigrationStatus, reason: SkipReason | None
) -> None:
    left = LEFT._replace(retry_count=retries)
    after = transitions.restore(transitions.begin(left, None, "head", LATER), left, None)
    assert (after.status, after.retry_count) == (status, retries)
    assert transitions.held_back(after, LATER, POLICY) is reason


def test_a_pin_set_while_the_branch_was_in_hand_stays() -> None:
    begun = transitions.begin(COMPLETED, None, "head", LATER)._replace(pinned=True)
    assert transitions.restore(begun, COMPLETED, None).pinned
    assert transitions.succeed(begun, ("a3",), LATER).pinned
    assert _failed(begun, COMPLETED).pinned


# A person's moves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("state", EVERY_STATE)
def test_a_retry_forgets_failures_and_nothing_else(state: BranchState) -> None:
    after = transitions.reset(state)
    assert after == state._replace(
        status=MigrationStatus.PENDING,
        retry_count=0,
        next_attempt_at=None,
        error=None,
    )


@pytest.mark.parametrize("state", EVERY_STATE)
def test_a_baseline_is_for_the_next_run_to_go_on_from(state: BranchState) -> None:
    after = transitions.adopt(transitions.begin(state, None, "a2", NOW), ("a2",), LATER)
    assert (after.status, after.heads, after.retry_count) == (MigrationStatus.PENDING, ("a2",), 0)
    assert (
        transitions.held_back(after._replace(pinned=False, lock_owner=None), LATER, POLICY) is None
    )


# What a tick leaves alone -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (PENDING, None),
        (COMPLETED, None),
        (FAILED, SkipReason.BACKOFF),
        (MANUAL, SkipReason.MANUAL),
        (LEFT, None),
        (PINNED, SkipReason.PINNED),
        (LEFT._replace(retry_count=3), SkipReason.MANUAL),
        (FAILED._replace(retry_count=3, next_attempt_at=None), SkipReason.MANUAL),
        (LEFT._replace(lock_expires_at=NOW + timedelta(seconds=1)), SkipReason.LEASED),
        (COMPLETED._replace(lock_owner="x", lock_expires_at=LATER), SkipReason.LEASED),
        (MANUAL._replace(pinned=True), SkipReason.PINNED),
        (COMPLETED._replace(lock_owner="x", lock_expires_at=NOW), None),
    ],
)
def test_a_tick_leaves_alone_what_it_should(state: BranchState, reason: SkipReason | None) -> None:
    assert transitions.held_back(state, NOW, POLICY) is reason


@pytest.mark.parametrize(
    ("wait", "reason"),
    [(31, SkipReason.BACKOFF), (30, None), (29, None), (0, None), (-1, None)],
)
def test_what_is_due_within_thirty_seconds_counts_as_due(
    wait: int, reason: SkipReason | None
) -> None:
    state = FAILED._replace(next_attempt_at=NOW + timedelta(seconds=wait))
    assert transitions.held_back(state, NOW, POLICY) is reason


# Interrupted at every point -----------------------------------------------------------------------


@pytest.mark.parametrize("start", EVERY_STATE)
def test_a_kill_at_any_point_of_any_sequence_leaves_a_state_that_goes_on(
    start: BranchState,
) -> None:
    """Up to three attempts in a row, each ending in any way or in none (killed): after the lease
    has expired, a tick either attempts the branch or has a reason that a person can see."""
    endings = [*range(5), None]
    for sequence in itertools.product(endings, repeat=3):
        state = start
        for ending in sequence:
            previous = state
            state = transitions.begin(state, None, "head", NOW)
            if ending is not None:
                state = list(_events(previous))[ending](state)
        state = state._replace(lock_owner="dead", lock_expires_at=NOW)
        reason = transitions.held_back(state, LATER, POLICY)
        visible = {
            None: True,
            SkipReason.MANUAL: state.retry_count >= 3 or state.status is MigrationStatus.MANUAL,
            SkipReason.BACKOFF: state.next_attempt_at is not None,
            SkipReason.PINNED: state.pinned,
        }
        assert visible[reason], sequence
        if state.status is MigrationStatus.IN_PROGRESS:
            assert sequence[-1] is None


def test_the_fields_of_a_state_are_those_that_these_rules_speak_of() -> None:
    assert set(BranchState._fields) == {
        "status", "heads", "target", "retry_count", "next_attempt_at", "last_attempt_at",
        "lock_owner", "lock_token", "lock_expires_at", "error", "pinned", "rollout", "wave",
        "failed_revision",
    }  # fmt: skip
