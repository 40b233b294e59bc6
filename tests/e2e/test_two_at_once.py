"""Never two migrators on one branch: several runs at once, frozen ones, and busy databases."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import slow
from office import Office, freeze
from processes import Family, until

LEDGER = ["l1_open", "l2_book", "l3_rebuild", "l4_balance"]


def state(office: Office, code: str) -> dict[str, Any]:
    """A branch's state and the fencing token with it."""
    columns = "status, heads, retry_count, lock_owner, lock_token, error"
    rows = office.headoffice(
        f"SELECT {columns} FROM branchmig_migration_states JOIN branchmig_branches "
        "ON id = branch_id WHERE code = ?",
        (code,),
    )
    return dict(zip(columns.split(", "), rows[0], strict=True))


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@contextmanager
def locked(database: Path, mode: str = "IMMEDIATE") -> Iterator[None]:
    """Another program's connection holds a lock on a file."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute(f"BEGIN {mode}")
        yield
        connection.execute("ROLLBACK")


# Two runs -----------------------------------------------------------------------------------------


def test_of_two_that_apply_one_branch_one_migrates_and_the_other_names_it(
    office: Office, family: Family
) -> None:
    slow.prepare(office, "BR001")
    slow.hold(office, "BR001")
    first = office.start("apply", "BR001", "--json")
    slow.begun(office, "BR001", "s2_many")
    second = office.json("apply", "BR001", code=75)
    assert (second["success"], second["branchesProcessed"]) == (False, 0)
    assert second["branchesSkipped"] == 1
    assert second["branches"][0]["reason"] == "leased"
    assert f"(pid {first.pid})" in second["errorMessage"]
    slow.release(office, "BR001")
    code, out, err = ended(first)
    assert code == 0, err
    assert json.loads(out)["appliedMigrations"] == list(slow.REVISIONS)
    after = state(office, "BR001")
    assert (after["status"], after["retry_count"], after["error"]) == ("Completed", 0, None)
    assert office.headoffice("SELECT DISTINCT run_id FROM branchmig_outcomes") == [
        (json.loads(out)["runId"],)
    ]


def test_apply_all_passes_by_a_branch_that_another_migrates(office: Office, family: Family) -> None:
    slow.prepare(office, "BR001", "BR002")
    slow.hold(office, "BR001")
    first = office.start("apply", "BR001", "--json")
    slow.begun(office, "BR001", "s2_many")
    report = office.json("apply-all")
    assert {row["branchCode"]: row["reason"] for row in report["branches"]} == {
        "BR001": "leased",
        "BR002": None,
    }
    slow.release(office, "BR001")
    assert ended(first)[0] == 0
    assert state(office, "BR001")["status"] == state(office, "BR002")["status"] == "Completed"


def test_runs_over_thirty_branches_at_once_apply_every_revision_once(
    office: Office, family: Family
) -> None:
    office.use_history("ledger")
    codes = [f"BR{number:03}" for number in range(30)]
    office.add(*codes)
    runs = [office.start("apply-all", "--json") for _ in range(3)]
    # All three are read from while they run: none may stop at a pipe that nobody empties.
    results: list[tuple[int, str, str]] = []
    readers = [threading.Thread(target=lambda run=run: results.append(ended(run))) for run in runs]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert [code for code, _, _ in results] == [0, 0, 0], results
    landed = [m for _, out, _ in results for m in json.loads(out)["appliedMigrations"]]
    assert sorted(landed) == sorted(f"[{code}] {name}" for code in codes for name in LEDGER)
    for code in codes:
        ran = [row[0] for row in office.query(code, "SELECT revision FROM ledger ORDER BY rowid")]
        assert ran == LEDGER
        after = state(office, code)
        assert (after["status"], after["retry_count"]) == ("Completed", 0)
        assert after["lock_owner"] is None


def test_any_number_may_init_at_once(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.configure()
    runs = [office.start("init") for _ in range(4)]
    results = [ended(run) for run in runs]
    assert [code for code, _, _ in results] == [0] * 4, results
    assert office.headoffice("SELECT count(*) FROM branchmig_version") == [(1,)]
    office.add("BR001")
    assert office.status("BR001")["status"] == "Pending"


# A holder that is gone, or frozen -----------------------------------------------------------------


def test_an_expired_lease_is_taken_over(office: Office, family: Family) -> None:
    slow.prepare(office, "BR001")
    office.environ["BRANCHMIG_RUN_LEASE_SECONDS"] = "1"
    slow.hold(office, "BR001")
    first = office.start("apply", "BR001")
    slow.begun(office, "BR001", "s2_many")
    first.kill()
    ended(first)
    dead = state(office, "BR001")
    assert dead["status"] == "InProgress"
    slow.release(office, "BR001")
    until(lambda: office.run("apply", "BR001", code=None).returncode == 0, "the takeover")
    after = state(office, "BR001")
    assert (after["status"], after["retry_count"], after["lock_owner"]) == ("Completed", 0, None)
    assert after["lock_token"] > dead["lock_token"]
    assert office.query("BR001", "SELECT DISTINCT revision FROM rows ORDER BY 1") == [
        ("s2_many",),
        ("s3_long",),
        ("s4",),
    ]


@pytest.mark.parametrize("command", [("apply", "BR001"), ("apply-all",)])
def test_who_was_frozen_and_lost_the_lease_stops_and_writes_nothing_more(
    office: Office, family: Family, command: tuple[str, ...]
) -> None:
    slow.prepare(office, "BR001")
    office.environ["BRANCHMIG_RUN_LEASE_SECONDS"] = "1"
    slow.hold(office, "BR001")
    frozen = office.start(*command, "--json", start_new_session=True)
    slow.begun(office, "BR001", "s2_many")
    freeze(office, *family.members())
    taken = state(office, "BR001")
    until(lambda: _expired(office), "the end of the lease")
    # The lease may be taken now; the branch may not: its lock says who can.
    report = office.json("apply", "BR001", code=75, BRANCHMIG_RUN_LOCK_TIMEOUT="0.2")
    assert report["branches"][0]["reason"] == "busy"
    assert state(office, "BR001")["lock_token"] == taken["lock_token"] + 1
    before = office.headoffice("SELECT * FROM branchmig_migration_states")
    for pid in family.members():
        os.kill(pid, signal.SIGCONT)
    code, out, err = ended(frozen)
    # Its revision was still held up: it stopped before its next statement.
    assert slow.mark(office, "BR001", "hold").exists()
    report = json.loads(out)
    first = report["branches"][0]
    assert (first["reason"], first["appliedMigrations"]) == ("leased", ["s1"]), err
    assert code == (75 if command[0] == "apply" else 0)
    assert office.headoffice("SELECT * FROM branchmig_migration_states") == before
    assert slow.head(office, "BR001") == "s1"
    slow.release(office, "BR001")
    office.run("apply", "BR001")
    assert slow.head(office, "BR001") == "s4"
    assert state(office, "BR001")["retry_count"] == 0


def test_a_worker_whose_parent_is_frozen_stops_when_the_lease_ends(
    office: Office, family: Family
) -> None:
    slow.prepare(office, "BR001")
    office.environ["BRANCHMIG_RUN_LEASE_SECONDS"] = "1"
    slow.hold(office, "BR001")
    run = office.start("apply-all", "--json")
    slow.begun(office, "BR001", "s2_many")
    freeze(office, run.pid)
    # Nobody renews the lease and nobody tells the worker: it knows the deadline itself.
    until(lambda: _unlocked(office.database("BR001")), "the rollback of the revision")
    until(lambda: _expired(office), "the end of the lease")
    slow.release(office, "BR001")
    heir = office.json("apply", "BR001")
    assert heir["appliedMigrations"] == ["s2_many", "s3_long", "s4"]
    before = office.headoffice("SELECT * FROM branchmig_migration_states")
    run.send_signal(signal.SIGCONT)
    code, out, err = ended(run)
    assert (code, json.loads(out)["branches"][0]["reason"]) == (0, "leased"), err
    assert office.headoffice("SELECT * FROM branchmig_migration_states") == before


def _expired(office: Office) -> bool:
    return office.headoffice(
        "SELECT lock_expires_at < strftime('%Y-%m-%d %H:%M:%f', 'now') "
        "FROM branchmig_migration_states"
    ) == [(1,)]


# Busy databases -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_busy_branch_is_tried_again_later_and_nothing_is_counted(
    office: Office, family: Family, mode: str
) -> None:
    office.use_history("linear")
    office.environ["BRANCHMIG_RUN_LOCK_TIMEOUT"] = "0.2"
    office.add("BR001", "BR002")
    office.run("apply", "BR001", "--to", "a1")
    before = state(office, "BR001")
    with locked(office.database("BR001"), mode):
        report = office.json("apply", "BR001", code=75)
        assert report["branches"][0]["reason"] == "busy"
        assert "is locked by another program" in report["errorMessage"]
        report = office.json("apply-all")
        assert {row["branchCode"]: row["verdict"] for row in report["branches"]} == {
            "BR001": "skipped",
            "BR002": "migrated",
        }
        assert report["branches"][0]["reason"] == "busy"
    after = state(office, "BR001")
    assert {**after, "lock_token": 0} == {**before, "lock_token": 0}
    assert office.json("apply-all")["success"] is True
    assert slow.head(office, "BR001") == "a3"


def test_a_reader_that_keeps_a_revision_from_committing_makes_the_branch_busy(
    office: Office, family: Family
) -> None:
    office.use_history("linear")
    office.environ["BRANCHMIG_RUN_LOCK_TIMEOUT"] = "0.2"
    office.add("BR001")
    office.run("apply", "BR001", "--to", "a1")
    reader = sqlite3.connect(office.database("BR001"), isolation_level=None)
    with closing(reader):
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM shops").fetchall()
        report = office.json("apply", "BR001", code=75)
        assert report["branches"][0]["reason"] == "busy"
        assert report["appliedMigrations"] == []
        assert office.json("apply-all")["branches"][0]["reason"] == "busy"
    after = state(office, "BR001")
    assert (after["status"], after["heads"], after["retry_count"]) == ("Completed", '["a1"]', 0)
    assert slow.head(office, "BR001") == "a1"
    office.run("apply", "BR001")


def test_a_headoffice_that_is_locked_at_the_start_is_for_later(
    office: Office, family: Family
) -> None:
    office.add("BR001")
    with locked(office.folder / "headoffice.db", "EXCLUSIVE"):
        error = office.json("apply-all", code=75)["error"]
    assert error["type"] == "HeadOfficeLocked"
    assert not office.database("BR001").exists()


def test_a_headoffice_locked_in_the_middle_of_a_run_is_put_right_by_the_next(
    office: Office, family: Family
) -> None:
    slow.prepare(office, "BR001", "BR002")
    office.environ["BRANCHMIG_RUN_LEASE_SECONDS"] = "15"
    slow.hold(office, "BR001")
    run = office.start("apply-all", "--json")
    slow.begun(office, "BR001", "s2_many")
    with locked(office.folder / "headoffice.db", "EXCLUSIVE"):
        slow.release(office, "BR001")
        code, out, err = ended(run)
    assert code == 75, err
    assert json.loads(out)["error"]["type"] == "HeadOfficeLocked"
    # What was done could not be recorded, and is not called done.
    assert slow.head(office, "BR001") == "s4"
    assert state(office, "BR001")["status"] == "InProgress"
    office.run("unlock", "BR001", "--force", "--yes")
    assert office.json("apply-all")["success"] is True
    after = state(office, "BR001")
    assert (after["status"], after["retry_count"]) == ("Completed", 0)


def test_a_lease_that_cannot_be_renewed_stops_the_work_in_time(
    office: Office, family: Family
) -> None:
    slow.prepare(office, "BR001")
    office.environ["BRANCHMIG_RUN_LEASE_SECONDS"] = "1"
    slow.hold(office, "BR001")
    run = office.start("apply", "BR001", "--json")
    slow.begun(office, "BR001", "s2_many")
    with locked(office.folder / "headoffice.db", "EXCLUSIVE"):
        # Only the end of the lease can end it: the revision is still held up.
        until(lambda: _unlocked(office.database("BR001")), "the rollback of the revision")
    code, out, err = ended(run)
    assert code == 75, err
    assert json.loads(out)["branches"][0]["reason"] == "leased"
    assert slow.head(office, "BR001") == "s1"
    after = state(office, "BR001")
    assert (after["status"], after["retry_count"], after["lock_owner"]) == ("Pending", 0, None)


def _unlocked(database: Path) -> bool:
    with closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
        return True
