"""A kill at any instant is put right by the next run; nothing is ever called done that is not."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

import pytest
from office import Office
from processes import Family, until

REVISIONS = ("l1_open", "l2_book", "l3_rebuild", "l4_balance")
LEASE_SECONDS = "1"


def test_what_a_few_kills_leave_is_put_right_by_the_next_runs(
    office: Office, family: Family, record_property: Callable[[str, object], None]
) -> None:
    _survives(Siege(office, family), 5, record_property)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_what_hundreds_of_kills_leave_is_put_right_by_the_next_runs(
    office: Office, family: Family, record_property: Callable[[str, object], None]
) -> None:
    _survives(Siege(office, family), int(os.environ.get("TEST_KILLS", "200")), record_property)


def _survives(siege: Siege, kills: int, record: Callable[[str, object], None]) -> None:
    seed = int(os.environ.get("TEST_SEED") or random.randrange(2**32))
    record("seed", seed)
    _say(f"TEST_SEED={seed}")
    try:
        siege.begin()
        siege.kill_often(kills, random.Random(seed))
        siege.settle()
    except BaseException as error:
        error.add_note(f"TEST_SEED={seed} after {dict(siege.figures)}")
        raise
    siege.prove_whole()
    record("figures", dict(siege.figures))
    _say(f"{dict(siege.figures)}")


def _say(text: str) -> None:
    """Shown with a failure, and with -rP."""
    sys.stdout.write(f"{text}\n")


@dataclass
class Siege:
    """An office whose runs are killed again and again."""

    office: Office
    family: Family
    figures: Counter[str] = field(default_factory=Counter)
    checked: set[str] = field(default_factory=set)
    hot: set[str] = field(default_factory=set)
    start_up: float = 0

    def begin(self) -> None:
        self.office.environ |= {
            "BRANCHMIG_RUN_LEASE_SECONDS": LEASE_SECONDS,
            "BRANCHMIG_RETRY_BACKOFF_SECONDS": "0",
            "BRANCHMIG_RUN_WORKERS": "3",
        }
        self.office.use_history("ledger")
        self.add(1)
        started = time.monotonic()
        self.office.run("apply-all")
        self.start_up = time.monotonic() - started

    def add(self, count: int) -> None:
        known = self.figures["branches"]
        self.office.add(*(f"BR{known + i:05}" for i in range(count)))
        self.figures["branches"] += count

    def retire(self) -> None:
        """Take what is done out of the runs: looking at it would leave no time for the work."""
        self.check()
        self.office.headoffice(
            "UPDATE branchmig_branches SET is_active = 0 WHERE id IN "
            "(SELECT branch_id FROM branchmig_migration_states WHERE status = 'Completed')"
        )

    # The kills --------------------------------------------------------------------------------

    def kill_often(self, kills: int, rng: random.Random) -> None:
        """Until so many have landed: a run may end, or have no worker yet, before its moment."""
        for number in range(2 * kills):
            if self.landed() >= kills:
                return
            if self.figures["branches"] - len(self.checked) < 40:
                self.add(40)
                self.retire()
            moment = rng.uniform(0.7 * self.start_up, 1.7 * self.start_up)
            # A worker's death costs its branch an attempt, so it is rare and counted apart.
            if number % 10 == 9:
                self.kill_worker(moment)
            else:
                self.kill_run(moment, group=number % 2 == 0)
            self.check()
        assert self.landed() >= kills, "too few kills have landed"

    def landed(self) -> int:
        return sum(self.figures[f"kills of the {who}"] for who in ("group", "parent", "worker"))

    def start(self) -> subprocess.Popen[str]:
        nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return self.office.start("apply-all", start_new_session=True, **nowhere)

    def kill_run(self, moment: float, *, group: bool) -> None:
        with self.start() as process:
            self.watch(process, moment)
            ended = process.poll() is not None
            if not ended:
                (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
        self.figures["runs ended by themselves"] += ended
        self.figures["kills of the group" if group else "kills of the parent"] += not ended
        # The workers of a dead parent end by themselves.
        self.family.gone()
        self.hot |= self.journals()
        self.figures["branches left with a hot journal"] = len(self.hot)
        self.figures["kills that left a branch in hand"] += bool(self.look("InProgress"))

    def kill_worker(self, moment: float) -> None:
        with self.start() as process:
            self.watch(process, moment)
            for pid in self.family.workers(process.pid):
                os.kill(pid, signal.SIGKILL)
                self.figures["kills of the worker"] += 1
            assert process.wait(timeout=120) in (0, 1)

    def watch(self, process: subprocess.Popen[str], moment: float) -> None:
        """Let the run go on until `moment`, looking at what it records."""
        deadline = time.monotonic() + moment
        while time.monotonic() < deadline and process.poll() is None:
            self.check()
            time.sleep(min(0.02, max(0, deadline - time.monotonic())))

    def journals(self) -> set[str]:
        """Files that somebody has to roll back: a journal's header is written last."""
        found = self.office.folder.glob("branches/*-journal")
        return {path.name for path in found if path.read_bytes()[:1] not in (b"", b"\0")}

    # What must hold ---------------------------------------------------------------------------

    def check(self) -> None:
        """Whatever HeadOffice calls Completed is at head: HeadOffice is read first."""
        for code in sorted(self.look("Completed") - self.checked):
            (head,) = self.office.query(code, "SELECT version_num FROM alembic_version")[0]
            assert head == REVISIONS[-1], f"{code} is recorded Completed and stands at {head}"
            self.checked.add(code)

    def look(self, status: str) -> set[str]:
        """The branches of a status, as read by one who recovers nothing: that is the program's."""
        uri = f"file:{self.office.folder / 'headoffice.db'}?mode=ro"
        try:
            with closing(sqlite3.connect(uri, uri=True)) as connection:
                rows = connection.execute(
                    "SELECT code FROM branchmig_branches JOIN branchmig_migration_states "
                    "ON branch_id = id WHERE status = ?",
                    (status,),
                ).fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_READONLY_ROLLBACK":
                raise
            self.figures["looks at HeadOffice with a hot journal"] += 1
            return set()
        return {code for (code,) in rows}

    def settle(self) -> None:
        """Run until nothing is left to do. Three killed workers call for a person."""
        self.office.run("apply-all", code=None)
        self.figures["failed attempts to forget"] = self.office.json("retry", "--all")["count"]
        until(self._all_done, "every branch Completed", 120)

    def _all_done(self) -> bool:
        self.office.run("apply-all")
        self.figures["runs to settle"] += 1
        self.check()
        return len(self.checked) == self.figures["branches"]

    def prove_whole(self) -> None:
        states = self.office.headoffice(
            "SELECT status, retry_count, lock_owner, error FROM branchmig_migration_states"
        )
        assert states == [("Completed", 0, None, None)] * self.figures["branches"]
        for code in sorted(self.checked):
            ran = self.office.query(code, "SELECT revision FROM ledger ORDER BY rowid")
            assert ran == [(revision,) for revision in REVISIONS], f"{code}: {ran}"
            assert self.office.query(code, "SELECT version_num FROM alembic_version") == [
                (REVISIONS[-1],)
            ]
            counts = "SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM entries)"
            assert self.office.query(code, counts) == [(50, 10000)]
            assert self.office.query(code, "SELECT sum(balance) FROM accounts") == [(990000,)]
            assert self.office.query(code, "PRAGMA integrity_check") == [("ok",)]
        assert self.journals() == set()
