"""Worker processes and what revisions may do to them: a bad branch costs its neighbours nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
import slow
from office import Office
from processes import Family, until

# Every one of these is followed by a good neighbour in the same worker.
HARMLESS = ["prints", "closes", "wanders", "silences", "listens", "lingers"]
FATAL = ["dies", "kills"]
FAILING = [
    "exits", "interrupts", "cancels", "ends", "stops", "holds", "speechless", "rambles",
]  # fmt: skip


def _codes(misbehaviour: str, number: int) -> tuple[str, str]:
    return f"BR{number:02}a-{misbehaviour}", f"BR{number:02}b-good"


def _run(office: Office, misbehaviours: list[str], code: int) -> dict[str, dict[str, Any]]:
    """Apply to a branch of each kind, each beside a good one. What became of them, by code."""
    office.use_history("misbehaves")
    for number, name in enumerate(misbehaviours):
        office.add(*_codes(name, number))
    report = office.json("apply-all", code=code)
    return {row["branchCode"]: row for row in report["branches"]}


def test_revisions_that_behave_oddly_do_no_harm(office: Office, family: Family) -> None:
    rows = _run(office, HARMLESS, 0)
    assert {row["verdict"] for row in rows.values()} == {"migrated"}
    assert {row["status"] for row in office.json("status")} == {"Completed"}


def test_revisions_that_raise_anything_at_all_fail_alone(office: Office, family: Family) -> None:
    rows = _run(office, FAILING, 1)
    for code, row in rows.items():
        bad = not code.endswith("good")
        assert row["verdict"] == ("failed" if bad else "migrated"), row
        assert row["appliedMigrations"] == (["m1"] if bad else ["m1", "m2"])
        assert bool(row["errorMessage"]) == bad
        assert office.query(code, "SELECT count(*) FROM rows") == [(0 if bad else 1,)]
    for status in office.json("status"):
        bad = not status["branchCode"].endswith("good")
        assert (status["status"], status["retryCount"], status["isLocked"]) == (
            "Failed" if bad else "Completed",
            int(bad),
            False,
        )


def test_a_worker_that_dies_costs_its_branch_one_attempt_and_is_replaced(
    office: Office, family: Family
) -> None:
    rows = _run(office, FATAL, 1)
    for code, row in rows.items():
        bad = not code.endswith("good")
        assert row["verdict"] == ("failed" if bad else "migrated")
        if bad:
            assert "the process that migrated the branch was killed" in row["errorMessage"]
    family.gone()
    for status in office.json("status"):
        bad = not status["branchCode"].endswith("good")
        assert (status["status"], status["retryCount"]) == (
            ("Failed", 1) if bad else ("Completed", 0)
        )
        # What the dead worker had in hand was rolled back; what had landed stays.
        count = office.query(status["branchCode"], "SELECT count(*) FROM rows")
        assert count == [(0 if bad else 1,)]


def test_a_worker_killed_from_outside_costs_its_branch_one_attempt(
    office: Office, family: Family
) -> None:
    slow.prepare(office, "BR001", "BR002")
    slow.hold(office, "BR001")
    run = office.start("apply-all", "--json")
    slow.begun(office, "BR001", "s2_many")
    (worker,) = family.workers(run.pid)
    os.kill(worker, signal.SIGKILL)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 1, err
    assert [row["verdict"] for row in json.loads(out)["branches"]] == ["failed", "migrated"]
    slow.release(office, "BR001")
    office.run("apply", "BR001")
    assert office.status("BR001")["retryCount"] == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_only_the_parent_obeys_signals(office: Office, family: Family, signum: int) -> None:
    slow.prepare(office, "BR001", "BR002")
    slow.hold(office, "BR001")
    run = office.start("apply-all", "--json")
    slow.begun(office, "BR001", "s2_many")
    others = [pid for pid in family.members() if pid != run.pid]
    assert len(others) >= 2, "the fork server and a worker"
    for pid in others:
        os.kill(pid, signum)
    slow.release(office, "BR001")
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert [row["verdict"] for row in json.loads(out)["branches"]] == ["migrated"] * 2


def test_the_workers_of_a_parent_that_is_killed_die_within_a_revision(
    office: Office, family: Family
) -> None:
    slow.prepare(office, "BR001")
    slow.lengthen(office, "BR001")
    run = office.start("apply-all")
    slow.begun(office, "BR001", "s3_long")
    assert len(family.workers(run.pid)) == 1
    run.kill()
    run.communicate()
    family.gone(seconds=5)
    assert slow.head(office, "BR001") == "s2_many"


def test_the_next_run_says_what_a_killed_one_had_done_and_could_not_record(
    office: Office, family: Family
) -> None:
    slow.prepare(office, "BR001")
    slow.lengthen(office, "BR001")
    run = office.start("apply-all")
    slow.begun(office, "BR001", "s3_long")
    run.kill()
    run.communicate()
    slow.shorten(office, "BR001")
    office.run("unlock", "BR001", "--force", "--yes")
    (branch,) = office.json("apply-all")["branches"]
    assert branch["warnings"] == [
        "a run that ended without a word had brought it from base to s2_many"
    ]
    assert branch["appliedMigrations"] == ["s3_long", "s4"]


def test_a_lease_lost_on_one_branch_does_not_stop_the_next(office: Office, family: Family) -> None:
    slow.prepare(office, "BR001", "BR002", "BR003")
    office.environ["BRANCHMIG_RUN_LEASE_SECONDS"] = "1"
    slow.hold(office, "BR001")
    run = office.start("apply-all", "--json")
    slow.begun(office, "BR001", "s2_many")
    office.run("unlock", "BR001", "--force", "--yes")
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    rows = json.loads(out)["branches"]
    assert [(row["verdict"], row["reason"]) for row in rows] == [
        ("skipped", "leased"),
        ("migrated", None),
        ("migrated", None),
    ]
    assert rows[0]["appliedMigrations"] == ["s1"]
    assert slow.head(office, "BR001") == "s1"


def test_a_branch_removed_or_changed_while_others_migrate_costs_them_nothing(
    office: Office, family: Family
) -> None:
    slow.prepare(office, "BR001", "BR002", "BR003", "BR004")
    slow.hold(office, "BR001")
    run = office.start("apply-all", "--json")
    slow.begun(office, "BR001", "s2_many")
    office.run("branch", "remove", "BR002", "--yes")
    office.run("branch", "update", "BR003", "--url", "sqlite:///branches/elsewhere.db")
    slow.release(office, "BR001")
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    rows = {row["branchCode"]: row["verdict"] for row in json.loads(out)["branches"]}
    assert rows == {"BR001": "migrated", "BR003": "skipped", "BR004": "migrated"}
    assert not office.database("BR003").exists()
    assert office.json("apply-all")["appliedMigrations"] == [
        f"[BR003] {revision}" for revision in slow.REVISIONS
    ]


IDLE = """
import json, os, signal, sys
from pathlib import Path
from branchmig import config
from branchmig.fence import Fence
from branchmig.fleet.worker import Worker
from branchmig.model import Branch, Provider, Task

settings, _ = config.load(Path(sys.argv[1]))
worker, attempts = Worker(settings), []
for number in range(3):
    branch = Branch(str(number), f"BR{number}", "", Provider.SQLITE, f"sqlite:///br{number}.db")
    attempts.append(worker.attempt(Task(branch, "head"), Fence()))
    print("attempted", flush=True)
    sys.stdin.readline()
worker.close()
print(json.dumps([[a.applied, a.failure and a.failure.message] for a in attempts]))
"""


def test_a_worker_that_dies_while_idle_costs_nobody_anything(
    office: Office, family: Family
) -> None:
    office.use_history("linear")
    parent = subprocess.Popen(
        [sys.executable, "-c", IDLE, str(office.settings)],
        env=office.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    dead: list[int] = []
    for _ in range(3):
        assert parent.stdout.readline() == "attempted\n"
        (worker,) = until(lambda: family.workers(parent.pid), "a worker")
        assert worker not in dead
        os.kill(worker, signal.SIGKILL)
        dead.append(worker)
        parent.stdin.write("\n")
        parent.stdin.flush()
    out, _ = parent.communicate(timeout=60)
    assert json.loads(out) == [[["a1", "a2", "a3"], None]] * 3


def test_a_branch_that_was_abandoned_after_too_many_failures_is_recorded_as_needing_a_person(
    office: Office,
) -> None:
    slow.prepare(office, "BR001", "BR002")
    office.headoffice(
        "UPDATE branchmig_migration_states SET status = 'InProgress', retry_count = 3, "
        "lock_owner = 'dead', lock_expires_at = '2026-01-01 00:00:00.000000' WHERE branch_id = "
        "(SELECT id FROM branchmig_branches WHERE code = 'BR001')"
    )
    first, second = office.json("apply-all")["branches"]
    assert (first["verdict"], first["reason"], second["verdict"]) == (
        "skipped",
        "manual",
        "migrated",
    )
    assert office.headoffice(
        "SELECT status, retry_count FROM branchmig_migration_states ORDER BY retry_count DESC"
    ) == [("RequiresManualIntervention", 3), ("Completed", 0)]
