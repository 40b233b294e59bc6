"""Whoever is killed in the middle of an attempt on PostgreSQL leaves nothing half done."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from lab import Lab
from processes import until
from servers import Postgresql

REVISIONS = ("r0", "r1", "r2", "r3", "r4")

COMMITS_BEFORE_ITS_END = """
op.execute("INSERT INTO ledger (what) VALUES ('4 begins')")
op.add_column("u1", sa.Column("more", sa.Integer))
with op.get_context().autocommit_block():
    op.create_index("ix4", "u1", ["count"], postgresql_concurrently=True)
    op.execute("INSERT INTO ledger (what) VALUES ('4 goes on')")
    op.execute("UPDATE u1 SET count = count + 1")
    op.drop_index("ix1", "u1", postgresql_concurrently=True)
op.execute("UPDATE u1 SET count = count + 1")
op.execute("INSERT INTO ledger (what) VALUES ('4 ends')")
"""


def test_killed_at_any_of_ten_moments_every_statement_lands_exactly_once(
    tmp_path: Path, postgresql: Postgresql
) -> None:
    _survives(tmp_path, postgresql, 10)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_killed_at_any_of_a_hundred_moments_every_statement_lands_exactly_once(
    tmp_path: Path, postgresql: Postgresql
) -> None:
    _survives(tmp_path, postgresql, int(os.environ.get("TEST_KILLS", "100")))


def _survives(folder: Path, server: Postgresql, kills: int) -> None:
    seed = int(os.environ.get("TEST_SEED") or random.randrange(2**32))
    sys.stdout.write(f"TEST_SEED={seed}\n")
    chance = random.Random(seed)
    first = _lab(folder / "first", server, made=True)
    seconds, reference = first.seconds(), first.contents()
    landed, number, left = 0, 0, Counter[str]()
    while landed < kills:
        number += 1
        assert number <= 2 * kills, f"TEST_SEED={seed}: only {landed} kills have landed"
        # Making a database takes as long as filling it: mostly it is there.
        lab = _lab(folder / str(number), server, made=number % 5 > 0)
        revisions = chance.randrange(len(REVISIONS))
        landed += _killed(lab, revisions, chance.uniform(0, seconds / len(REVISIONS)))
        half_done = lab.database in server.databases() and lab.has_journal()
        attempt = lab.attempt()
        assert attempt.failure is None, f"TEST_SEED={seed}: {attempt.failure.message}"
        assert attempt.skip is None, f"TEST_SEED={seed}: {attempt.reason}"
        assert lab.contents() == reference, f"TEST_SEED={seed}"
        left["half of one" if half_done else str(len(attempt.applied))] += 1
    sys.stdout.write(f"revisions left to the next attempt, and how often: {dict(left)}\n")


def _killed(lab: Lab, revisions: int, moment: float) -> bool:
    """Kill an attempt so long after so many of its revisions; whether it had not ended by itself.

    How fast it is depends on what else the machine does: from its begin alone, most kills would
    come before its work or after it.
    """
    process = lab.start()
    if revisions:
        until(lambda: process.poll() is not None or _has(lab, revisions), "a revision")
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def _has(lab: Lab, count: int) -> bool:
    """Whether that many revisions have landed, or more."""
    try:
        (head,) = lab.query("SELECT version_num FROM alembic_version")
    except (psycopg.Error, ValueError):
        return False
    return REVISIONS.index(head[0]) >= count - 1


def _lab(folder: Path, server: Postgresql, *, made: bool) -> Lab:
    lab = Lab(folder, server, f"k_{uuid.uuid4().hex}")
    lab.eventful()
    lab.revision("r4", COMMITS_BEFORE_ITS_END)
    if made:
        server.query(f"CREATE DATABASE {lab.database}")
    return lab
