"""The fence: a stop, an interruption and a lost lease, from any thread, asked before all else."""

from __future__ import annotations

import pickle
import random
import signal
import threading
import time

import pytest

from branchmig.errors import LeaseLost, Stopped, WindowClosed
from branchmig.fence import Fence, Fencing, clock


def test_an_open_fence_lets_everything_pass() -> None:
    fence = Fence()
    fence.check_statement()
    fence.check_step()
    fence.extend(clock() + 60)
    fence.check_step()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_lets_the_revision_in_hand_end_and_no_other_begin(
    signum: int, code: int
) -> None:
    fence = Fence()
    fence.stop(signum)
    fence.check_statement()
    with pytest.raises(Stopped, match="no further revision was begun") as raised:
        fence.check_step()
    assert raised.value.exit_code == code


def test_the_second_signal_stops_at_once_and_the_first_names_the_exit() -> None:
    fence = Fence()
    fence.stop(signal.SIGTERM)
    fence.stop(signal.SIGINT)
    with pytest.raises(Stopped, match="SIGTERM: the revision in hand was rolled back") as raised:
        fence.check_statement()
    assert raised.value.exit_code == 143


def test_a_lost_lease_stops_before_the_next_statement_and_outranks_a_signal() -> None:
    fence = Fence()
    fence.stop(signal.SIGINT)
    fence.stop(signal.SIGINT)
    fence.lose("gone to another")
    for check in (fence.check_statement, fence.check_step):
        with pytest.raises(LeaseLost, match="gone to another"):
            check()


def test_the_first_reason_of_a_loss_is_kept() -> None:
    fence = Fence()
    fence.lose("first")
    fence.lose("second")
    assert fence.state.lost == "first"


def test_a_lease_that_could_not_be_renewed_is_lost_at_its_deadline() -> None:
    fence = Fence()
    fence.extend(clock() - 0.001)
    with pytest.raises(LeaseLost, match="expired before it could be renewed"):
        fence.check_statement()


def test_a_renewal_moves_the_deadline() -> None:
    fence = Fence()
    fence.extend(clock() - 1)
    fence.extend(clock() + 60)
    fence.check_statement()


def test_the_next_branch_begins_with_a_whole_fence_but_a_stop_is_for_all_of_them() -> None:
    fence = Fence()
    fence.extend(clock() - 1)
    fence.lose("gone")
    fence.clear()
    fence.check_step()
    fence.stop(signal.SIGINT)
    fence.clear()
    with pytest.raises(Stopped):
        fence.check_step()


def test_the_clock_only_rises_and_tells_seconds() -> None:
    before, wall = clock(), time.monotonic()
    threading.Event().wait(0.05)
    assert clock() - before == pytest.approx(time.monotonic() - wall, abs=0.02)


# Watching -----------------------------------------------------------------------------------------


def test_a_watcher_is_told_of_the_state_it_finds_and_of_every_change_until_it_leaves() -> None:
    fence, seen = Fence(), []
    fence.stop(signal.SIGINT)
    with fence.watched(seen.append):
        fence.extend(1.0)
        fence.lose("gone")
    fence.clear()
    assert [(s.signum, s.deadline, s.lost) for s in seen] == [
        (signal.SIGINT, None, None),
        (signal.SIGINT, 1.0, None),
        (signal.SIGINT, 1.0, "gone"),
    ]


def test_a_watcher_may_change_the_fence_itself() -> None:
    fence = Fence()

    def lose_once(state: Fencing) -> None:
        if state.signum is not None and state.lost is None:
            fence.lose("because it was stopped")

    with fence.watched(lose_once):
        fence.stop(signal.SIGINT)
    assert fence.state.lost == "because it was stopped"


def test_a_watcher_leaves_even_when_its_block_fails() -> None:
    fence, seen = Fence(), []
    with pytest.raises(ZeroDivisionError), fence.watched(seen.append):
        _ = 1 / 0
    fence.lose("gone")
    assert len(seen) == 1


# Crossing to a worker -----------------------------------------------------------------------------


def test_a_state_crosses_to_another_process_whole() -> None:
    fence = Fence()
    fence.stop(signal.SIGTERM)
    fence.extend(clock() + 60)
    fence.lose("gone")
    other = Fence()
    other.become(pickle.loads(pickle.dumps(fence.state)))
    assert other.state == fence.state


def test_messages_that_were_overtaken_do_no_harm() -> None:
    """The last branch's loss, arriving late, must not stop this branch; whatever the order."""
    parent, sent = Fence(), []
    with parent.watched(sent.append):
        parent.extend(clock() + 60)
        parent.lose("the last branch's lease is gone")
        parent.clear()
        parent.extend(clock() + 60)
    seed = random.randrange(2**32)
    shuffled = sent * 3
    random.Random(seed).shuffle(shuffled)
    worker = Fence()
    for state in shuffled:
        worker.become(state)
    assert worker.state == parent.state, f"seed {seed}"
    worker.check_step()


def test_changes_from_many_threads_are_all_told_in_order() -> None:
    fence, seen = Fence(), []

    def change() -> None:
        for number in range(200):
            fence.extend(float(number))

    threads = [threading.Thread(target=change) for _ in range(8)]
    with fence.watched(seen.append):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [state.serial for state in seen] == list(range(1601))


# The window ---------------------------------------------------------------------------------------


def test_no_revision_is_begun_after_the_window_has_closed() -> None:
    fence = Fence()
    fence.close_at(clock() - 1)
    with pytest.raises(WindowClosed, match="its window has closed"):
        fence.check_step()


def test_no_revision_is_begun_that_would_not_be_done_before_the_window_closes() -> None:
    fence = Fence()
    fence.close_at(clock() + 100)
    fence.check_step(50)
    with pytest.raises(WindowClosed, match="taken up to 200 s elsewhere"):
        fence.check_step(200)


def test_a_statement_of_a_revision_in_hand_is_sent_whatever_the_window_says() -> None:
    fence = Fence()
    fence.close_at(clock() - 1)
    fence.check_statement()
