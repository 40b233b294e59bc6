"""A page that is watched, and how it ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pexpect
import pytest
from office import Office

GIVEN_BACK = "\x1b[?25h\x1b[?1049l"
"""The cursor, and what the terminal had shown before."""


@pytest.fixture
def watched(office: Office) -> Iterator[pexpect.spawn]:
    """On a terminal too small for its fleet."""
    office.add(*(f"BR{number:03}" for number in range(300)))
    program, *arguments = office.command("status", "--watch", "--interval", "0.2")
    child = pexpect.spawn(
        program, arguments, cwd=office.folder, env=office.environment(), encoding="utf-8",
        dimensions=(12, 40), timeout=30,
    )  # fmt: skip
    yield child
    child.close(force=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_watch_gives_the_terminal_back(
    watched: pexpect.spawn, number: int, code: int
) -> None:
    watched.expect("BR001")
    watched.kill(number)
    watched.expect_exact(GIVEN_BACK)
    watched.expect(pexpect.EOF)
    watched.close()
    assert watched.exitstatus == code


def test_what_does_not_fit_is_cut_below_the_figures(watched: pexpect.spawn) -> None:
    watched.expect("every 0.2 s")
    watched.expect("300 branches: 300 Pending")
    watched.expect("every 0.2 s")
    assert "BR000" in watched.before
    assert "BR020" not in watched.before
