"""When a branch may be migrated: windows, freezes, and the two nights on which clocks change."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from clocks import first_at_or_after

from branchmig.model import Branch, Provider
from branchmig.windows import Closed, Freeze, Opening, Schedule, Window

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = Window("0 2 * * *", timedelta(hours=3), "Europe/Berlin")


def branch(code: str = "BR001", *tags: str) -> Branch:
    return Branch("id", code, code, Provider.SQLITE, f"sqlite:///{code}.db", tags=tags)


def berlin(text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def at(now: datetime, *windows: Window, freezes: tuple[Freeze, ...] = ()) -> Opening | Closed:
    return Schedule(windows or (NIGHT,), freezes).at(branch(), now)


def test_without_windows_and_freezes_a_branch_is_always_open() -> None:
    assert Schedule().at(branch(), utc("2026-01-01 12:00")) == Opening()


@pytest.mark.parametrize(
    ("now", "found"),
    [
        ("2026-06-01 01:59:59", Closed(utc("2026-06-01 00:00"))),
        ("2026-06-01 02:00:00", Opening(utc("2026-06-01 03:00"))),
        ("2026-06-01 04:59:59", Opening(utc("2026-06-01 03:00"))),
        ("2026-06-01 05:00:00", Closed(utc("2026-06-02 00:00"))),
    ],
)
def test_a_window_is_open_from_its_start_until_its_hours_are_over(
    now: str, found: Opening | Closed
) -> None:
    assert at(berlin(now)) == found


def test_what_is_closed_says_when_it_opens() -> None:
    assert str(at(berlin("2026-06-01 12:00"))) == (
        "outside its window; it may be migrated from 2026-06-02T00:00:00Z"
    )


# The two nights -----------------------------------------------------------------------------------


def test_a_start_in_the_hour_left_out_comes_at_the_end_of_it() -> None:
    # On 2026-03-29 the clocks of Berlin go from 02:00 to 03:00, which is 01:00 UTC.
    window = Window("30 2 * * *", timedelta(hours=1), "Europe/Berlin")
    assert at(utc("2026-03-29 00:59:59"), window) == Closed(utc("2026-03-29 01:00"))
    assert at(utc("2026-03-29 01:00"), window) == Opening(utc("2026-03-29 02:00"))
    assert at(utc("2026-03-29 02:00"), window) == Closed(utc("2026-03-30 00:30"))


def test_a_start_in_the_hour_that_comes_twice_comes_once() -> None:
    # On 2026-10-25 they go from 03:00 back to 02:00, which is 01:00 UTC.
    window = Window("30 2 * * *", timedelta(minutes=20), "Europe/Berlin")
    assert at(utc("2026-10-25 00:30"), window) == Opening(utc("2026-10-25 00:50"))
    assert at(utc("2026-10-25 01:30"), window) == Closed(utc("2026-10-26 01:30"))
    assert at(berlin("2026-10-25 02:30", fold=1), window) == Closed(utc("2026-10-26 01:30"))


@pytest.mark.parametrize("night", ["2026-03-29", "2026-10-25"])
def test_the_hours_of_a_window_are_elapsed_time_on_both_nights(night: str) -> None:
    window = Window("0 1 * * *", timedelta(hours=4), "Europe/Berlin")
    start = berlin(f"{night} 01:00").astimezone(UTC)
    assert at(start, window) == Opening(start + timedelta(hours=4))
    assert isinstance(at(start + timedelta(hours=4), window), Closed)


def test_a_window_for_every_hour_follows_the_clock() -> None:
    window = Window("0 * * * *", timedelta(minutes=10), "Europe/Berlin")
    for hour in range(24):
        start = utc("2026-10-24 22:00") + timedelta(hours=hour)
        assert at(start, window) == Opening(start + timedelta(minutes=10))


ZONES = (
    "Europe/Berlin", "America/New_York", "America/St_Johns", "Africa/Cairo", "America/Havana",
    "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kolkata", "UTC",
)  # fmt: skip
CHANGES = (
    date(2026, 3, 29), date(2026, 10, 25), date(2026, 3, 8), date(2026, 11, 1), date(2026, 4, 24),
    date(2026, 10, 30), date(2026, 4, 5), date(2026, 10, 4), date(2026, 7, 1),
)  # fmt: skip


def test_a_daily_window_opens_when_the_clock_on_the_wall_first_shows_its_time() -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    for _ in range(60):
        zone, change = chance.choice(ZONES), chance.choice(CHANGES)
        hour, minute = chance.randrange(24), chance.choice((0, 15, 30, 45))
        length = timedelta(hours=chance.choice((0.5, 1, 3, 23)))
        window = Window(f"{minute} {hour} * * *", length, zone)
        days = [change + timedelta(days=number) for number in range(-3, 5)]
        starts = [first_at_or_after(day, hour, minute, zone) for day in days]
        begin = datetime(change.year, change.month, change.day, tzinfo=UTC) - timedelta(days=1)
        for _ in range(50):
            now = begin + timedelta(minutes=chance.randrange(3 * 24 * 60))
            wanted = any(start <= now < start + length for start in starts)
            found = at(now, window)
            assert isinstance(found, Opening) == wanted, (seed, window, now)
            if isinstance(found, Closed):
                assert found.opens == min(start for start in starts if start > now), (
                    seed,
                    window,
                    now,
                )


# Several windows ----------------------------------------------------------------------------------


def test_openings_without_a_gap_between_them_are_one() -> None:
    window = Window("0,30 2 * * *", timedelta(hours=1), "UTC")
    assert at(utc("2026-06-01 02:10"), window) == Opening(utc("2026-06-01 03:30"))


def test_windows_that_follow_each_other_without_a_gap_are_one_opening() -> None:
    late = Window("0 22 * * *", timedelta(hours=3), "UTC")
    early = Window("0 1 * * *", timedelta(hours=3), "UTC")
    assert at(utc("2026-06-01 00:30"), late, early) == Opening(utc("2026-06-01 04:00"))
    gap = Window("1 1 * * *", timedelta(hours=3), "UTC")
    assert at(utc("2026-06-01 00:30"), late, gap) == Opening(utc("2026-06-01 01:00"))


def test_windows_that_take_turns_for_ever_are_open() -> None:
    turns = [Window(f"0 {h}-23/2 * * *", timedelta(hours=1), "UTC") for h in (0, 1)]
    found = at(utc("2026-06-01 02:10"), *turns)
    assert isinstance(found, Opening)
    assert found.closes
    assert found.closes > utc("2026-06-01 12:00")


def test_a_window_that_never_closes_is_open() -> None:
    window = Window("* * * * *", timedelta(hours=1), "UTC")
    found = at(utc("2026-06-01 02:10"), window)
    assert isinstance(found, Opening)
    assert found.closes
    assert found.closes > utc("2026-06-01 12:00")


def test_windows_for_a_branch_replace_those_for_its_tags_and_these_those_for_all() -> None:
    hour = timedelta(hours=1)
    schedule = Schedule(
        (
            Window("0 1 * * *", hour),
            Window("0 2 * * *", hour, tag="north"),
            Window("0 4 * * *", hour, tag="big"),
            Window("0 3 * * *", hour, branch="br001"),
        )
    )

    def opens(of: Branch) -> list[int]:
        day = utc("2026-06-01 00:30")
        moments = [day + timedelta(hours=number) for number in range(24)]
        return [m.hour for m in moments if isinstance(schedule.at(of, m), Opening)]

    assert opens(branch("BR002")) == [1]
    assert opens(branch("BR002", "north")) == [2]
    assert opens(branch("BR002", "north", "big")) == [2, 4]
    assert opens(branch("BR001", "north")) == [3]


# Freezes ------------------------------------------------------------------------------------------


def test_a_freeze_closes_an_open_window_and_the_next_window_after_it_is_told() -> None:
    freeze = Freeze(berlin("2026-06-01 03:00"), berlin("2026-06-03 03:00"))
    assert at(berlin("2026-06-01 02:30"), freezes=(freeze,)) == Opening(utc("2026-06-01 01:00"))
    closed = Closed(utc("2026-06-03 01:00"), frozen=True)
    assert at(berlin("2026-06-01 03:00"), freezes=(freeze,)) == closed
    assert str(closed) == "frozen; it may be migrated from 2026-06-03T01:00:00Z"
    assert at(berlin("2026-06-03 03:00"), freezes=(freeze,)) == Opening(utc("2026-06-03 03:00"))


def test_a_window_that_a_freeze_covers_is_not_told_as_the_next() -> None:
    freeze = Freeze(berlin("2026-06-02 00:00"), berlin("2026-06-05 00:00"))
    assert at(berlin("2026-06-01 12:00"), freezes=(freeze,)) == Closed(utc("2026-06-05 00:00"))


def test_freezes_that_overlap_are_left_behind_together() -> None:
    freezes = (
        Freeze(berlin("2026-06-02 00:00"), berlin("2026-06-05 03:00")),
        Freeze(berlin("2026-06-05 00:00"), berlin("2026-06-08 00:00")),
        Freeze(berlin("2026-06-08 01:00"), berlin("2026-06-09 04:30")),
    )
    assert at(berlin("2026-06-02 02:00"), freezes=freezes) == Closed(
        utc("2026-06-09 02:30"), frozen=True
    )


def test_a_freeze_without_windows_leaves_the_rest_of_the_time_open() -> None:
    schedule = Schedule(freezes=(Freeze(utc("2026-06-02"), utc("2026-06-03"), tag="north"),))
    assert schedule.at(branch("A"), utc("2026-06-02")) == Opening()
    assert schedule.at(branch("A", "north"), utc("2026-06-01")) == Opening(utc("2026-06-02"))
    assert schedule.at(branch("A", "north"), utc("2026-06-02")) == Closed(
        utc("2026-06-03"), frozen=True
    )
    assert schedule.at(branch("A", "north"), utc("2026-06-03")) == Opening()
