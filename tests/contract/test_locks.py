"""A table that is in use: an ALTER waits for a bounded time, gives way, and comes back."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lab import Lab
from processes import until
from servers import Mariadb, Postgresql, Server

from branchmig.model import FailureKind

SECONDS = 1
ALTERS = """
op.execute("INSERT INTO ledger (what) VALUES ('before')")
op.add_column("ledger", sa.Column("more", sa.Integer))
op.execute("INSERT INTO ledger (what) VALUES ('after')")
"""


@pytest.fixture(params=[Postgresql, Mariadb], ids=["postgresql", "mariadb"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Lab:
    """A branch with a table `ledger` that the next revision alters."""
    server: Server = request.getfixturevalue(request.param.__name__.lower())
    lab = Lab(tmp_path, server, f"l_{uuid.uuid4().hex}")
    lab.configure(lock_timeout=SECONDS)
    lab.revision(
        "r1",
        'op.create_table("ledger", sa.Column("id", sa.Integer, primary_key=True), '
        'sa.Column("what", sa.String(20)))',
    )
    assert lab.attempt().failure is None
    lab.revision("r2", ALTERS)
    return lab


@contextmanager
def in_use(lab: Lab) -> Iterator[Any]:
    """Another session has read the table and has not ended its transaction."""
    with lab.server.connect(lab.database) as other, other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT * FROM ledger")
        yield cursor
        cursor.execute("ROLLBACK")


def waits(lab: Lab) -> bool:
    return bool(lab.sessions("ALTER TABLE ledger"))


def test_a_lock_that_is_given_back_in_time_costs_the_branch_nothing(lab: Lab) -> None:
    """The first try gave up, and the run came back."""

    def reader() -> None:
        with in_use(lab):
            held.set()
            until(lambda: waits(lab), "the ALTER that waits")
            until(lambda: not waits(lab), "the end of its patience")

    held = threading.Event()
    thread = threading.Thread(target=reader)
    thread.start()
    assert held.wait(30)
    attempt = lab.attempt()
    thread.join()
    assert (attempt.failure, attempt.applied) == (None, ("r2",))
    assert [row[0] for row in lab.query("SELECT what FROM ledger ORDER BY id")] == [
        "before",
        "after",
    ]


def test_a_lock_that_is_never_given_back_is_transient_after_a_few_tries(lab: Lab) -> None:
    with in_use(lab):
        attempt = lab.attempt()
    assert attempt.failure is not None
    assert attempt.failure.kind is FailureKind.TRANSIENT
    assert attempt.failure.message.endswith("(tried 3 times)")
    assert attempt.heads == ("r1",)
    assert lab.attempt().failure is None


def test_readers_behind_the_alter_wait_no_longer_than_the_lock_time_out(lab: Lab) -> None:
    """They queue behind it, and get through between its tries."""
    longest = 0.0
    with in_use(lab):
        thread = threading.Thread(target=lab.attempt)
        thread.start()
        until(lambda: waits(lab), "the ALTER that waits")
        while thread.is_alive():
            began = time.monotonic()
            lab.query("SELECT count(*) FROM ledger")
            longest = max(longest, time.monotonic() - began)
        thread.join()
    assert longest < 3 * SECONDS
