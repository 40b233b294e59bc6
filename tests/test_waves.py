"""The rules of a rollout, at every standing that a fleet can come to."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from branchmig.model import (
    Branch,
    BranchState,
    Heads,
    Provider,
    Record,
    Rollout,
    Standing,
    Tally,
    Trouble,
)
from branchmig.waves import Gate, Opening, Wave, cohorts, halt, name, opening, portion

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NO_SOAK = timedelta()
CANARY_OF_TEN = (Wave(10, 1), Wave(15, 1), Wave(None, 7))


def standing(*tallies: Tally, wave: int = 0) -> Standing:
    rollout = Rollout("r1", "head", ("a3",), NOW, wave=wave)
    return Standing(rollout, dict(enumerate(tallies)))


def passed(count: int, failed: int = 0, last: datetime = NOW) -> Tally:
    return Tally(passed=count, failed=failed, last=last)


def opened(*tallies: Tally, wave: int = 0, soak: timedelta = NO_SOAK) -> Opening:
    return opening(CANARY_OF_TEN, standing(*tallies, wave=wave), soak, NOW)


# How large the waves are --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "total", "expected"),
    [
        (10, 300, 10), (10, 3, 3), (0, 300, 0), ("5%", 300, 15), ("5%", 301, 16), ("1%", 1, 1),
        ("0%", 300, 0), ("100%", 7, 7), ("50%", 0, 0), (10, 0, 0),
    ],
)  # fmt: skip
def test_a_portion_is_a_number_or_a_percentage_rounded_up(
    share: int | str, total: int, expected: int
) -> None:
    assert portion(share, total) == expected


@pytest.mark.parametrize(
    ("canary", "shares", "max_failures", "total", "expected"),
    [
        (10, [], "10%", 300, [Wave(10, 1), Wave(None, 29)]),
        (10, [25, 50], "10%", 300, [Wave(10, 1), Wave(65, 6), Wave(75, 7), Wave(None, 15)]),
        (10, [25], 3, 300, [Wave(10, 3), Wave(65, 3), Wave(None, 3)]),
        (10, [25], 0, 300, [Wave(10, 0), Wave(65, 0), Wave(None, 0)]),
        (10, [100], "10%", 300, [Wave(10, 1), Wave(None, 29)]),
        # A share that ends before the canary does is no wave.
        (100, [25, 50], "10%", 300, [Wave(100, 10), Wave(50, 5), Wave(None, 15)]),
        # A fleet no larger than the canary goes at once, and its failures count all the same.
        (10, [25, 50], "10%", 10, [Wave(None, 1)]),
        (10, [25, 50], "10%", 3, [Wave(None, 0)]),
        (10, [25], "10%", 0, [Wave(None, 0)]),
        # A tag that nobody has.
        (0, [50], "10%", 100, [Wave(0, 0), Wave(50, 5), Wave(None, 5)]),
    ],
)
def test_the_waves_of_a_fleet(
    canary: int, shares: list[int], max_failures: int | str, total: int, expected: list[Wave]
) -> None:
    assert list(cohorts(canary, shares, max_failures, total)) == expected


def test_whatever_the_settings_the_waves_are_in_order_and_the_last_has_no_limit() -> None:
    for canary, total in itertools.product(range(8), repeat=2):
        for count in range(3):
            for shares in itertools.combinations((1, 20, 50, 99, 100), count):
                *limited, last = cohorts(canary, shares, "50%", total)
                assert last.size is None
                sizes = [wave.size for wave in limited]
                assert sum(size or 0 for size in sizes) < max(total, 1)
                # Only a canary can be empty: one that nobody has the tag for.
                assert all(size for size in sizes[1:])
                if limited:
                    assert sizes[0] == canary
                assert [wave.budget for wave in limited] == [(size or 0) // 2 for size in sizes]


# What may begin -----------------------------------------------------------------------------------


def test_at_the_beginning_the_canary_takes_its_number() -> None:
    assert opened() == Opening(0, 10)


@pytest.mark.parametrize("tally", [Tally(in_hand=4), passed(4), passed(0, 4), Tally(1, 2, 1, NOW)])
def test_what_is_in_hand_passed_or_failed_has_a_place(tally: Tally) -> None:
    assert opened(tally) == Opening(0, 6)


def test_a_full_wave_takes_nobody_while_any_of_it_is_in_hand() -> None:
    found = opened(Tally(1, 9, 0, NOW))
    assert (found.wave, found.room) == (0, 0)
    assert found.why == "the canary is being migrated by another run"


@pytest.mark.parametrize("tally", [passed(10), passed(9, 1), passed(12)])
def test_the_next_wave_begins_when_the_one_before_has_ended(tally: Tally) -> None:
    assert opened(tally) == Opening(1, 15)
    assert opened(tally, passed(5)) == Opening(1, 10)
    assert opened(tally, passed(15)) == Opening(2, None)


def test_the_last_wave_has_no_limit() -> None:
    for taken in range(3):
        assert opened(passed(10), passed(15), passed(taken)) == Opening(2, None)
    assert opening((Wave(None, 0),), standing(), NO_SOAK, NOW) == Opening(0, None)


def test_a_wave_that_was_begun_stays_begun() -> None:
    """A branch of the canary that is tried again must not close the wave that follows it."""
    again = Tally(1, 9, 0, NOW)
    assert opened(again, wave=1) == Opening(1, 15)
    assert opened(again, passed(15), wave=1) == Opening(2, None)
    assert opened(Tally(), Tally(), wave=2) == Opening(2, None)
    # Settings with fewer waves than there were when the rollout began.
    assert opened(wave=7) == Opening(2, None)


def test_an_empty_canary_holds_nobody_up() -> None:
    waves = cohorts(0, [50], "10%", 100)
    assert opening(waves, standing(), timedelta(hours=1), NOW) == Opening(1, 50)


@pytest.mark.parametrize(("seconds", "begins"), [(59, False), (60, True), (61, True)])
def test_the_next_wave_waits_until_the_soak_is_over(seconds: int, begins: bool) -> None:
    ended = passed(10, last=NOW - timedelta(seconds=seconds))
    found = opened(ended, soak=timedelta(seconds=60))
    if begins:
        assert found == Opening(1, 15)
    else:
        assert (found.wave, found.room) == (0, 0)
        assert found.why == "the canary passed; the next begins at 03:04:06Z"


def test_the_soak_is_over_once_for_each_wave() -> None:
    canary = passed(10, last=NOW - timedelta(seconds=90))
    soak = timedelta(seconds=60)
    found = opened(canary, passed(15), wave=1, soak=soak)
    assert (found.wave, found.room) == (1, 0)
    assert "wave 1 passed" in str(found.why)
    # Once the second has begun, a late end in the first is waited for no more.
    assert opened(passed(10), passed(3), wave=1, soak=soak) == Opening(1, 12)


@pytest.mark.parametrize("seed", range(10))
def test_a_fleet_that_never_fails_is_through_after_as_many_waves_as_there_are(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(30):
        total = chance.randint(0, 60)
        shares = chance.sample(range(1, 101), chance.randint(0, 4))
        waves = cohorts(chance.randint(0, 70), sorted(shares), "10%", total)
        left, tallies, at = total, dict[int, Tally](), 0
        while left:
            now = standing(wave=at)
            found = opening(waves, replace(now, tallies=tallies), NO_SOAK, NOW)
            assert found.wave >= at
            taken = left if found.room is None else min(found.room, left)
            assert taken > 0
            before = tallies.get(found.wave, Tally())
            tallies[found.wave] = passed(before.passed + taken)
            at, left = found.wave, left - taken
        assert len(tallies) <= len(waves)
        assert sum(tally.passed for tally in tallies.values()) == total


# When it halts ------------------------------------------------------------------------------------


def halted(*tallies: Tally, troubles: Iterable[Trouble] = (), past: Iterable[str] = ()) -> str:
    return halt(CANARY_OF_TEN, standing(*tallies), troubles, set(past).__contains__) or ""


def test_a_wave_halts_with_one_failure_more_than_its_budget() -> None:
    assert not halted(passed(9, 1))
    assert halted(passed(8, 2)) == "2 branches of the canary failed, of which 1 may"
    assert halted(passed(9, 1), passed(0, 2)) == "2 branches of wave 1 failed, of which 1 may"
    assert not halted(passed(9, 1), passed(14, 1), passed(0, 7))
    assert "wave 2" in halted(passed(9, 1), passed(14, 1), passed(0, 8))


def test_a_wave_need_not_be_over_to_halt() -> None:
    assert halted(Tally(in_hand=8, failed=2, last=NOW))


def test_without_a_budget_the_first_failure_halts() -> None:
    waves = cohorts(10, [], 0, 100)
    assert halt(waves, standing(passed(9, 1)), (), lambda _: True)
    assert not halt(waves, standing(passed(10)), (), lambda _: True)


def test_one_error_in_three_branches_halts_where_no_branch_has_passed_the_revision() -> None:
    large = (Wave(None, 100),)
    for count in range(6):
        found = halt(
            large,
            standing(passed(0, count)),
            [Trouble("a2", "no such column: x", count)],
            lambda _: False,
        )
        assert bool(found) == (count >= 3)
        if found:
            assert found == (
                f"a2 failed with the same error in {count} branches "
                "and has passed in none: no such column: x"
            )


def test_an_error_that_some_have_not_is_left_to_the_budget() -> None:
    troubles = [Trouble("a2", "no such column: x", 9)]
    assert halted(troubles=troubles)
    assert not halted(troubles=troubles, past=["a2"])
    assert halted(troubles=troubles, past=["a1", "a3"])


def test_different_errors_and_revisions_are_counted_apart() -> None:
    assert not halted(
        troubles=[Trouble("a2", "x", 2), Trouble("a2", "y", 2), Trouble("a3", "x", 2)]
    )
    found = halted(troubles=[Trouble("a2", "x", 2), Trouble("a3", "x", 3)])
    assert found.startswith("a3 failed")


def test_waves_are_called_by_the_names_that_people_use() -> None:
    assert [name(number) for number in range(3)] == ["the canary", "wave 1", "wave 2"]


# The gate -----------------------------------------------------------------------------------------


def gate(waves: tuple[Wave, ...] = CANARY_OF_TEN, canaries: Iterable[str] | None = None) -> Gate:
    chosen = None if canaries is None else frozenset(canaries)
    history = ("a1", "a2", "a3")

    def applied(heads: Heads) -> tuple[str, ...]:
        return history[: max((history.index(head) + 1 for head in heads), default=0)]

    return Gate("r1", waves, NO_SOAK, chosen, applied)


def a_branch(number: int) -> Branch:
    return Branch(str(number), f"BR{number}", "", Provider.SQLITE, f"sqlite:///{number}.db")


def test_only_the_tagged_are_canaries_and_everybody_may_follow() -> None:
    tagged = gate(canaries=["1", "2"])
    assert [tagged.admits(a_branch(number), 0) for number in range(4)] == [False, True, True, False]
    assert all(tagged.admits(a_branch(number), wave) for number in range(4) for wave in (1, 2))


def test_without_a_tag_anybody_may_be_a_canary() -> None:
    assert all(gate().admits(a_branch(number), 0) for number in range(4))


def test_where_there_is_one_wave_alone_the_tag_keeps_nobody_out() -> None:
    alone = gate(cohorts(3, [], "10%", 3), canaries=["1", "2", "3"])
    assert alone.is_last(0)
    assert all(alone.admits(a_branch(number), 0) for number in range(4))


def test_where_branches_stand_tells_which_revisions_have_passed() -> None:
    troubles = [Trouble("a2", "x", 3)]
    assert gate().halt(standing(), troubles, [(), ("a1",)])
    assert not gate().halt(standing(), troubles, [(), ("a2",)])
    assert not gate().halt(standing(), troubles, [("a3",)])
    assert gate().halt(standing(), troubles, [])


def test_the_gate_opens_by_its_own_waves_and_soak() -> None:
    soaking = replace(gate(), soak=timedelta(hours=1))
    assert soaking.opening(standing(passed(10)), NOW).room == 0
    assert gate().opening(standing(passed(10)), NOW) == Opening(1, 15)


def test_canaries_and_whoever_was_let_in_before_go_first() -> None:
    def goes_first(number: int, rollout: str | None = None) -> bool:
        return gate(canaries=["1"]).goes_first(
            Record(a_branch(number), BranchState(rollout=rollout))
        )

    assert [goes_first(1), goes_first(2), goes_first(2, "r1"), goes_first(2, "r0")] == [
        True, False, True, False,
    ]  # fmt: skip
    assert not gate().goes_first(Record(a_branch(1), BranchState()))
