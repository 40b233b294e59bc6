"""The verdict on a fleet, and the line that monitoring systems read."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any

import pytest

from branchmig.health import Condition, Level, Limits, Threshold, judge

WELL = Condition(total=1000, at_head=1000, behind=0, failed=0, manual=0, stuck=0, silence=60)
HOUR, DAY = 3600, 86_400


def level(limits: Limits | None = None, **found: Any) -> Level:
    return judge(replace(WELL, **found), limits or Limits()).level


def test_a_fleet_at_its_target_is_ok_and_says_how_many_there_are() -> None:
    health = judge(WELL, Limits())
    assert (health.level, health.reasons) == (Level.OK, ())
    assert health.line().startswith(
        "BRANCHMIG OK - 1000 of 1000 at head | at_head=100.00%;;;0;100 "
    )


def test_an_empty_fleet_is_ok_once_the_timer_runs() -> None:
    assert level(total=0, at_head=0) is Level.OK


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ({"failed": 1}, Level.WARNING),
        ({"stuck": 1}, Level.WARNING),
        ({"manual": 1}, Level.CRITICAL),
        ({"manual": 1, "failed": 1}, Level.CRITICAL),
        ({"halted": "3 of 10 failed"}, Level.CRITICAL),
        ({"silence": None}, Level.WARNING),
        ({"silence": 15 * 60}, Level.OK),
        ({"silence": 15 * 60 + 1}, Level.WARNING),
        ({"silence": HOUR + 1}, Level.CRITICAL),
        ({"behind": 900, "lag": DAY}, Level.OK),
        ({"behind": 1, "lag": DAY + 1}, Level.WARNING),
        ({"behind": 1, "lag": 3 * DAY + 1}, Level.CRITICAL),
        ({"behind": 1000}, Level.OK),
    ],
)
def test_each_trouble_has_its_level(found: dict[str, Any], wanted: Level) -> None:
    assert level(**found) is wanted
    assert bool(judge(replace(WELL, **found), Limits()).reasons) == (wanted is not Level.OK)


def test_a_share_behind_counts_where_a_limit_is_set() -> None:
    limits = Limits(behind=Threshold(5, 10))
    assert level(limits, behind=50) is Level.OK
    assert level(limits, behind=51) is Level.WARNING
    assert level(limits, behind=101) is Level.CRITICAL


def test_the_worst_reason_is_told_first() -> None:
    found = replace(WELL, failed=2, manual=1, behind=3, lag=2 * DAY)
    line = judge(found, Limits()).line()
    assert line.startswith("BRANCHMIG CRITICAL - 1 need a person; 2 failed; 3 behind, since 2 d | ")


FIGURE = re.compile(r"'?[^'=|;\s]+'?=(U|-?[\d.]+(s|%)?)(;[\d.]*){0,4}")


def test_the_figures_keep_to_the_form_of_monitoring_plugins_whatever_is_found() -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    for _ in range(200):
        found = Condition(
            *(chance.randrange(10_000) for _ in range(6)),
            lag=chance.choice((None, chance.uniform(0, 1e7))),
            silence=chance.choice((None, chance.uniform(0, 1e7))),
            halted=chance.choice((None, "a | b=1\nBRANCHMIG OK\x00 - 'c'")),
        )
        limits = Limits(lag=Threshold(chance.choice((None, 5.0)), None))
        line = judge(found, limits).line()
        assert line.count("|") == 1, seed
        assert "\n" not in line, seed
        for figure in line.partition("|")[2].split():
            assert FIGURE.fullmatch(figure), (seed, figure)
