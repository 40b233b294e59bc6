"""Rollouts in HeadOffice: whose waves no crowd of hosts overfills, and which halt once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from clients import OpenStore, a_branch, at_once, begin, state

from branchmig import transitions
from branchmig.errors import BranchmigError
from branchmig.model import (
    Branch,
    BranchState,
    Failure,
    Heads,
    Lease,
    MigrationStatus,
    Rollout,
    Run,
    SkipReason,
    Tally,
)
from branchmig.store import Store
from branchmig.store.leases import Conclusion, Wanted
from branchmig.store.rows import Transition
from branchmig.transitions import HeldBack, RetryPolicy
from branchmig.waves import Gate, cohorts

RUN = Run("run-1", "apply-all", "timer", "ada", "hopper", 42, "head")
FLEET = 30
CANARY = 6


@pytest.fixture
def branches(store: Store) -> list[Branch]:
    found = [a_branch(number) for number in range(FLEET)]
    store.put([(branch, branch.url) for branch in found])
    store.begin_run(RUN, "1.0")
    return found


@pytest.fixture
def rollout(store: Store, branches: list[Branch]) -> Rollout:
    return store.rollouts.join(RUN, "a2", ("a2",), "hash-1")


@pytest.fixture
def gate(rollout: Rollout) -> Gate:
    """A canary of six, then up to half of them, then all; a wave bears one failure in six."""
    return gate_of(rollout)


def gate_of(
    rollout: Rollout, max_failures: int | str = "17%", canaries: Iterable[Branch] | None = None
) -> Gate:
    def applied(heads: Heads) -> tuple[str, ...]:
        return ("a1", "a2")[: 2 if "a2" in heads else len(heads)]

    chosen = None if canaries is None else frozenset(branch.id for branch in canaries)
    first = CANARY if chosen is None else len(chosen)
    waves = cohorts(first, [50], max_failures, FLEET)
    return Gate(rollout.id, waves, timedelta(), chosen, applied)


def enter(
    store: Store, gate: Gate, branches: Sequence[Branch], owner: str = RUN.id, seconds: float = 600
) -> list[Lease | BranchmigError]:
    wanted = [Wanted(branch, begin, in_wave=True) for branch in branches]
    return list(store.leases.acquire(wanted, owner, seconds, gate))


def entered(
    store: Store, gate: Gate, branches: Sequence[Branch], owner: str = RUN.id
) -> list[Lease]:
    """The leases of those that were let in."""
    return [lease for lease in enter(store, gate, branches, owner) if isinstance(lease, Lease)]


def refusals(given: Iterable[Lease | BranchmigError]) -> list[SkipReason]:
    return [found.reason for found in given if isinstance(found, HeldBack)]


def pass_(before: BranchState, now: datetime) -> BranchState:
    return transitions.succeed(before, ("a2",), now)


def failing(revision: str | None = "a2", error: str = "broken") -> Transition:
    """A failure within a revision, or before any was begun."""

    def fail(before: BranchState, now: datetime) -> BranchState:
        failure = Failure("MigrationFailed", error, revision=revision)
        policy = RetryPolicy(backoff=timedelta())
        return transitions.fail(before, failure, ("a1",), now, policy, previous=BranchState())

    return fail


def skip(before: BranchState, now: datetime) -> BranchState:
    return transitions.restore(before, BranchState(), None)


def conclude(store: Store, leases: Iterable[Lease], *ends: Transition) -> None:
    """Give leases back: each with the end of its place, the last one with all that are left."""
    given = [
        Conclusion(lease, ends[min(number, len(ends) - 1)], None)
        for number, lease in enumerate(leases)
    ]
    store.leases.conclude(given, RUN)


def waves(store: Store) -> dict[int | None, int]:
    """How many branches bear the mark of each wave."""
    found: dict[int | None, int] = {}
    for record in store.records():
        found[record.state.wave] = found.get(record.state.wave, 0) + 1
    return found


def passed_canary(store: Store, gate: Gate, branches: Sequence[Branch]) -> None:
    conclude(store, entered(store, gate, branches), pass_)
    assert waves(store) == {0: CANARY, None: FLEET - CANARY}


# Joining ------------------------------------------------------------------------------------------


def test_of_many_that_begin_a_rollout_all_join_the_same_one(
    store: Store, another_store: OpenStore, branches: list[Branch]
) -> None:
    def join(client: Store, number: int) -> str:
        run = replace(RUN, id=f"run-of-{number}")
        client.begin_run(run, "1.0")
        return client.rollouts.join(run, "a2", ("a2",), "hash-1").id

    (found,) = set(at_once(another_store, join, 8))
    latest = store.rollouts.latest()
    assert latest is not None
    assert (latest.id, latest.target, latest.heads) == (found, "a2", ("a2",))


def test_other_scripts_or_another_target_are_another_rollout(
    store: Store, rollout: Rollout
) -> None:
    mended = store.rollouts.join(RUN, "a2", ("a2",), "hash-2")
    further = store.rollouts.join(RUN, "a3", ("a3",), "hash-2")
    assert len({rollout.id, mended.id, further.id}) == 3
    assert store.rollouts.join(RUN, "a2", ("a2",), "hash-1") == rollout
    assert store.rollouts.latest() == further


def test_there_is_no_latest_rollout_before_the_first(store: Store) -> None:
    assert store.rollouts.latest() is None


# The turnstile ------------------------------------------------------------------------------------


def test_the_canary_takes_its_number_and_sends_the_others_away(
    store: Store, gate: Gate, branches: list[Branch]
) -> None:
    given = enter(store, gate, branches)
    assert [isinstance(found, Lease) for found in given] == [n < CANARY for n in range(FLEET)]
    assert refusals(given) == [SkipReason.WAVE] * (FLEET - CANARY)
    refused = state(store, branches[-1])
    assert (refused.lock_owner, refused.status) == (None, MigrationStatus.PENDING)
    assert refusals(enter(store, gate, branches[CANARY:], "another")) == [SkipReason.WAVE] * 24


def test_what_has_no_revisions_to_run_passes_by_the_turnstile(
    store: Store, gate: Gate, branches: list[Branch]
) -> None:
    given = store.leases.acquire([Wanted(branch, begin) for branch in branches], "x", 600, gate)
    assert all(isinstance(found, Lease) for found in given)
    assert waves(store) == {None: FLEET}


def test_wave_follows_wave_until_all_are_through(
    store: Store, gate: Gate, branches: list[Branch]
) -> None:
    sizes = []
    for wave in range(3):
        leases = entered(store, gate, [b for b in branches if state(store, b).wave is None])
        sizes.append(len(leases))
        latest = store.rollouts.latest()
        assert latest is not None
        assert latest.wave == wave
        conclude(store, leases, pass_)
    assert sizes == [6, 9, 15]
    assert waves(store) == {0: 6, 1: 9, 2: 15}


@pytest.mark.parametrize(
    "end", [skip, failing(None)], ids=["skipped", "failed before any revision"]
)
def test_what_was_not_attempted_frees_its_place(
    store: Store, gate: Gate, branches: list[Branch], end: Transition
) -> None:
    first = entered(store, gate, branches)
    conclude(store, first, end, end, pass_)
    assert waves(store) == {0: 4, None: FLEET - 4}
    assert len(entered(store, gate, branches[CANARY:])) == 2
    assert waves(store) == {0: CANARY, None: FLEET - CANARY}


def test_a_failure_within_a_revision_keeps_its_place_and_is_tried_in_it_again(
    store: Store, gate: Gate, branches: list[Branch]
) -> None:
    conclude(store, entered(store, gate, branches), failing(), pass_)
    (again,) = entered(store, gate, branches[:1])
    assert again.state.wave == 0
    assert entered(store, gate, branches[CANARY:]) == [], "the canary is in hand once more"
    conclude(store, [again], pass_)
    assert store.rollouts.standing(gate.rollout).tally(0).passed == CANARY
    assert len(entered(store, gate, branches[CANARY:])) == 9


def test_a_wave_that_was_begun_stays_begun_when_its_forerunner_is_tried_again(
    store: Store, gate: Gate, branches: list[Branch]
) -> None:
    conclude(store, entered(store, gate, branches), failing(), pass_)
    entered(store, gate, branches[CANARY : CANARY + 1])
    entered(store, gate, branches[:1])
    assert len(entered(store, gate, branches[CANARY + 1 :])) == 8


def test_who_was_killed_in_the_canary_keeps_its_place(
    store: Store, gate: Gate, branches: list[Branch]
) -> None:
    given = enter(store, gate, branches, "killed", -1)
    assert sum(isinstance(found, Lease) for found in given) == CANARY
    assert entered(store, gate, branches[CANARY:]) == []
    heirs = entered(store, gate, branches)
    assert [lease.branch_id for lease in heirs] == [branch.id for branch in branches[:CANARY]]
    assert waves(store) == {0: CANARY, None: FLEET - CANARY}


@pytest.mark.parametrize("how", ["pinned", "inactive"])
def test_who_was_killed_and_then_taken_out_by_a_person_holds_nobody_up(
    store: Store, gate: Gate, branches: list[Branch], how: str
) -> None:
    conclude(store, entered(store, gate, branches[: CANARY - 1]), pass_)
    enter(store, gate, branches[CANARY - 1 : CANARY], "killed", -1)
    assert entered(store, gate, branches[CANARY:]) == []
    left = branches[CANARY - 1]
    if how == "pinned":
        store.set_pinned(left, True)
    else:
        store.update(replace(left, is_active=False), left.url)
    (other,) = entered(store, gate, branches[CANARY:])
    conclude(store, [other], pass_)
    assert len(entered(store, gate, branches[CANARY + 1 :])) == 9


def test_a_pin_set_on_a_canary_at_work_does_not_end_its_wave(
    store: Store, gate: Gate, branches: list[Branch]
) -> None:
    entered(store, gate, branches)
    store.set_pinned(branches[0], True)
    assert entered(store, gate, branches[CANARY:]) == []


def test_over_many_hosts_the_canary_is_no_larger(
    store: Store, another_store: OpenStore, gate: Gate, branches: list[Branch]
) -> None:
    """Some are skipped and make room for others; no more than the canary are ever attempted."""

    def work(client: Store, number: int) -> int:
        chance = random.Random(number)
        attempted = 0
        for _ in range(6):
            batch = chance.sample(branches, 5)
            leases = entered(client, gate, batch, f"client-{number}")
            assert waves(client).get(0, 0) <= CANARY
            skipped = leases[: chance.randint(0, len(leases))]
            conclude(client, skipped, skip)
            attempted += len(leases) - len(skipped)
        return attempted

    attempted = sum(at_once(another_store, work, 8))
    in_canary = waves(store)
    assert in_canary.get(0, 0) == attempted <= CANARY
    assert set(in_canary) <= {0, None}


def test_over_many_hosts_every_branch_comes_through_once_and_no_wave_is_overfull(
    store: Store, another_store: OpenStore, gate: Gate, branches: list[Branch]
) -> None:
    def work(client: Store, number: int) -> list[str]:
        chance = random.Random(number)
        mine: list[str] = []
        while left := [r.branch for r in client.records() if r.state.heads != ("a2",)]:
            leases = entered(client, gate, chance.sample(left, min(4, len(left))), f"host-{number}")
            conclude(client, leases, pass_)
            mine += [lease.branch_id for lease in leases]
        return mine

    migrated = [branch for mine in at_once(another_store, work, 8) for branch in mine]
    assert sorted(set(migrated)) == [branch.id for branch in branches]
    assert waves(store) == {0: 6, 1: 9, 2: 15}


# A tag as canary ----------------------------------------------------------------------------------


def test_only_the_tagged_are_let_into_their_canary(
    store: Store, rollout: Rollout, branches: list[Branch]
) -> None:
    gate = gate_of(rollout, canaries=branches[10:12])
    given = enter(store, gate, branches)
    assert [n for n, found in enumerate(given) if isinstance(found, Lease)] == [10, 11]
    untagged = str(next(found for found in given if isinstance(found, HeldBack)))
    assert untagged == "the canary goes first"
    conclude(store, [found for found in given if isinstance(found, Lease)], pass_)
    assert len(entered(store, gate, branches[:10] + branches[12:])) == 13


def test_a_tag_that_nobody_has_holds_nobody_up(
    store: Store, rollout: Rollout, branches: list[Branch]
) -> None:
    assert len(entered(store, gate_of(rollout, canaries=[]), branches)) == FLEET // 2


# Soaking ------------------------------------------------------------------------------------------


def test_the_next_wave_begins_when_the_soak_is_over(
    store: Store, gate: Gate, branches: list[Branch]
) -> None:
    passed_canary(store, gate, branches)
    soaking = replace(gate, soak=timedelta(hours=1))
    given = enter(store, soaking, branches[CANARY:])
    assert refusals(given) == [SkipReason.WAVE] * 24
    assert "the canary passed; the next begins at" in str(given[0])
    assert len(entered(store, gate, branches[CANARY:])) == 9


# The halt -----------------------------------------------------------------------------------------


def judged(store: Store, gate: Gate, run: Run = RUN) -> str | None:
    """Why the rollout is halted once it has been judged, if it is."""
    found = store.rollouts.judge(gate, run)
    return found.halt_reason if found.is_halted else None


def halted(store: Store, gate: Gate, branches: list[Branch]) -> None:
    conclude(store, entered(store, gate, branches), failing(), failing(), pass_)
    assert judged(store, gate) == "2 branches of the canary failed, of which 1 may"


def test_a_rollout_is_halted_once_its_wave_has_failed_too_often(
    store: Store, gate: Gate, branches: list[Branch]
) -> None:
    conclude(store, entered(store, gate, branches), failing(), pass_)
    assert judged(store, gate) is None
    leases = entered(store, gate, branches[CANARY:])
    conclude(store, leases, failing(), failing(), pass_)
    assert judged(store, gate) == "2 branches of wave 1 failed, of which 1 may"
    latest = store.rollouts.latest()
    assert latest is not None
    assert (latest.is_halted, latest.halted_by) == (True, RUN.id)
    assert latest.halt_reason == "2 branches of wave 1 failed, of which 1 may"
    assert latest.halted_at is not None


def test_a_halted_rollout_lets_nobody_in(store: Store, gate: Gate, branches: list[Branch]) -> None:
    halted(store, gate, branches)
    before = store.records()
    given = enter(store, gate, branches, "another")
    assert refusals(given) == [SkipReason.HALTED] * FLEET
    assert "2 branches of the canary failed" in str(given[0])
    assert store.records() == before
    by_others = store.leases.acquire([Wanted(branches[-1], begin)], "validation", 600, gate)
    assert isinstance(by_others[0], Lease), "what runs no revision is held back by no halt"


def test_of_many_that_judge_one_halts_and_all_are_told_so(
    store: Store, another_store: OpenStore, gate: Gate, branches: list[Branch]
) -> None:
    conclude(store, entered(store, gate, branches), failing(), failing(), pass_)

    def judge(client: Store, number: int) -> str | None:
        return client.rollouts.judge(gate, replace(RUN, id=f"run-of-{number}")).halted_by

    (winner,) = set(at_once(another_store, judge, 8))
    latest = store.rollouts.latest()
    assert latest is not None
    assert latest.is_halted
    assert latest.halted_by == winner


def test_three_with_one_error_halt_whatever_the_budget(
    store: Store, rollout: Rollout, branches: list[Branch]
) -> None:
    gate = gate_of(rollout, max_failures="100%")
    leases = entered(store, gate, branches)
    conclude(store, leases[:2], failing(error="no such column"))
    conclude(store, leases[2:4], failing(error="too long"))
    assert judged(store, gate) is None
    conclude(store, leases[4:5], failing(error="too long"))
    assert str(judged(store, gate)).startswith("a2 failed with the same error in 3")


def test_three_with_one_error_halt_nothing_once_a_branch_has_passed(
    store: Store, rollout: Rollout, branches: list[Branch]
) -> None:
    gate = gate_of(rollout, max_failures="100%")
    conclude(store, entered(store, gate, branches), pass_, failing())
    assert judged(store, gate) is None


def test_failures_before_any_revision_halt_nothing(
    store: Store, rollout: Rollout, branches: list[Branch]
) -> None:
    gate = gate_of(rollout, max_failures=0)
    conclude(store, entered(store, gate, branches), failing(None))
    assert judged(store, gate) is None
    assert len(entered(store, gate, branches)) == CANARY


# Going on -----------------------------------------------------------------------------------------


def test_resume_lets_the_rollout_go_on_and_forgets_what_had_failed(
    store: Store, gate: Gate, branches: list[Branch]
) -> None:
    halted(store, gate, branches)
    resumed = store.rollouts.resume("ada")
    assert resumed is not None
    assert resumed.id == gate.rollout
    latest = store.rollouts.latest()
    assert latest is not None
    assert (latest.is_halted, latest.resumed_by) == (False, "ada")
    assert latest.halted_by == RUN.id, "what had happened can be read on"
    assert judged(store, gate) is None
    # Two places of the canary are free again, for the two that had failed or for others.
    assert len(entered(store, gate, branches[CANARY:])) == 2
    found = state(store, branches[0])
    assert (found.status, found.retry_count) == (MigrationStatus.FAILED, 1)


def test_a_rollout_that_was_resumed_can_halt_again(
    store: Store, gate: Gate, branches: list[Branch]
) -> None:
    halted(store, gate, branches)
    store.rollouts.resume("ada")
    again = replace(RUN, id="run-2")
    conclude(store, entered(store, gate, branches[:2]), failing())
    assert judged(store, gate, again)
    latest = store.rollouts.latest()
    assert latest is not None
    assert (latest.is_halted, latest.halted_by) == (True, "run-2")
    assert (latest.resumed_at, latest.resumed_by) == (None, None)


def test_where_none_is_halted_resume_changes_nothing(
    store: Store, gate: Gate, branches: list[Branch]
) -> None:
    conclude(store, entered(store, gate, branches), failing(), pass_)
    before = (store.records(), store.rollouts.latest())
    assert store.rollouts.resume("ada") is None
    assert (store.records(), store.rollouts.latest()) == before


def test_the_failures_of_a_former_rollout_do_not_count_in_the_next(
    store: Store, gate: Gate, branches: list[Branch]
) -> None:
    halted(store, gate, branches)
    mended = gate_of(store.rollouts.join(RUN, "a2", ("a2",), "hash-2"))
    assert judged(store, mended) is None
    assert len(entered(store, mended, branches)) == CANARY


# How far it is ------------------------------------------------------------------------------------


def test_a_standing_counts_each_wave_and_the_whole(
    store: Store, gate: Gate, branches: list[Branch]
) -> None:
    conclude(store, entered(store, gate, branches), failing(), pass_)
    second = entered(store, gate, branches[CANARY:])
    conclude(store, second[:5], failing(None), skip, pass_)
    found = store.rollouts.standing(gate.rollout)
    canary, wave = found.tally(0), found.tally(1)
    assert (canary.in_hand, canary.passed, canary.failed) == (0, 5, 1)
    assert (wave.in_hand, wave.passed, wave.failed) == (4, 3, 0)
    assert canary.last == max(state(store, b).last_attempt_at or store.now() for b in branches[:6])
    assert found.whole == Tally(4, 8, 1)
    assert (found.rollout.wave, found.rollout.is_halted) == (1, False)


@pytest.mark.parametrize("ask", ["standing", "judge"])
def test_the_counts_stand_on_the_row_for_others_to_read(
    store: Store, gate: Gate, branches: list[Branch], ask: str
) -> None:
    conclude(store, entered(store, gate, branches)[:4], failing(), pass_)
    look: Callable[[], object] = {
        "standing": lambda: store.rollouts.standing(gate.rollout),
        "judge": lambda: judged(store, gate),
    }[ask]
    look()
    with store._transaction() as connection:
        row = connection.exec_driver_sql("SELECT * FROM branchmig_rollouts").one()
    assert (row.attempted, row.passed, row.failed) == (6, 3, 1)


def test_a_rollout_is_finished_once(store: Store, rollout: Rollout, branches: list[Branch]) -> None:
    for branch in branches:
        store.remove(branch)
    store.rollouts.finish(rollout)
    first = store.rollouts.latest()
    assert first is not None
    assert first.finished_at is not None
    store.rollouts.finish(rollout)
    assert store.rollouts.latest() == first


def test_a_rollout_is_not_finished_while_an_active_branch_is_elsewhere(
    store: Store, gate: Gate, rollout: Rollout, branches: list[Branch]
) -> None:
    conclude(store, entered(store, gate, branches), pass_)
    store.rollouts.finish(rollout)
    latest = store.rollouts.latest()
    assert latest is not None
    assert latest.finished_at is None
    for branch in branches[CANARY:]:
        store.update(replace(branch, is_active=False), branch.url)
    store.rollouts.finish(rollout)
    latest = store.rollouts.latest()
    assert latest is not None
    assert latest.finished_at is not None


def test_resume_leaves_a_rollout_halted_whose_scripts_were_replaced(
    store: Store, gate: Gate, branches: list[Branch]
) -> None:
    halted(store, gate, branches)
    mended = gate_of(store.rollouts.join(RUN, "a2", ("a2",), "hash-2"))
    assert store.rollouts.resume("ada") is None
    assert refusals(enter(store, gate, branches, "outdated")) == [SkipReason.HALTED] * FLEET
    assert len(entered(store, mended, branches)) == CANARY
