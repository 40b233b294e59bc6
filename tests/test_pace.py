"""How many looks a server gets at once."""

from __future__ import annotations

from branchmig.fleet.pace import Pace


def begun(pace: Pace) -> int:
    """How many looks may begin now; they are begun."""
    count = 0
    while pace.has_room:
        pace.begin()
        count += 1
    return count


def test_a_server_gets_so_many_looks_at_once_and_no_more() -> None:
    pace = Pace(4)
    assert begun(pace) == 4
    pace.end()
    assert begun(pace) == 1


def test_a_server_that_refuses_gets_half_as_many_and_at_least_one() -> None:
    pace = Pace(8)
    assert begun(pace) == 8
    for left in (4, 2, 1, 1):
        pace.refused(0)
        for _ in range(8):
            pace.end()
        assert begun(pace) == left
        for _ in range(8 - left):
            pace.begin()


def test_a_server_that_answers_again_gets_more_one_by_one_up_to_what_it_had() -> None:
    pace = Pace(3)
    pace.refused(0)
    rooms = []
    for _ in range(8):
        pace.answered()
        rooms.append(begun(pace))
        for _ in range(rooms[-1]):
            pace.end()
    assert rooms == [2, 2, 3, 3, 3, 3, 3, 3]


def test_a_server_that_refuses_everything_for_long_is_left_alone() -> None:
    pace = Pace(2)
    assert not pace.refused(100)
    assert not pace.refused(130)
    assert pace.refused(131)


def test_an_answer_between_refusals_begins_the_wait_anew() -> None:
    pace = Pace(2)
    pace.refused(100)
    pace.answered()
    assert not pace.refused(131)


def test_three_time_outs_in_a_row_make_a_server_silent() -> None:
    pace = Pace(2)
    pace.waited()
    pace.waited()
    pace.answered()
    pace.waited()
    pace.waited()
    assert not pace.is_silent
    pace.waited()
    assert pace.is_silent
    assert pace.timed_out == 3
