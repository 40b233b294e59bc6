"""What branchmig promises, as the README has it: a few tests a promise, each against the program.

The long proofs are elsewhere: `e2e/test_kills.py`, `e2e/test_two_at_once.py`, `contract/`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import slow
from journals import leave_hot_journal
from office import Office, query
from processes import Family, until
from rights import ORDINARY

READ_ONLY = [
    ("status",),
    ("pending", "BR001"),
    ("pending", "--all"),
    ("history", "BR001"),
    ("validate",),
    ("validate", "BR002"),
    ("plan", "--all"),
    ("plan", "BR002", "--sql"),
    ("branch", "list"),
    ("branch", "show", "BR001"),
]


def traces(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a folder, with its content and when that was last written."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def records(office: Office) -> dict[str, list[Any]]:
    """All that HeadOffice holds, but for the records of the runs themselves."""
    tables = office.headoffice("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {
        name: office.headoffice(f'SELECT * FROM "{name}" ORDER BY 1, 2')
        for (name,) in tables
        if name not in ("branchmig_runs", "branchmig_version")
    }


def ledger(office: Office, code: str) -> list[str]:
    return [row[0] for row in office.query(code, "SELECT revision FROM ledger ORDER BY rowid")]


# 1. Never two migrators on one branch -------------------------------------------------------------


def test_promise_1_of_several_that_migrate_one_branch_one_does(
    office: Office, family: Family
) -> None:
    office.use_history("ledger")
    office.add("BR001")
    runs = [office.start("apply", "BR001", "--json") for _ in range(4)]
    results = [(json.loads(run.communicate(timeout=60)[0]), run.returncode) for run in runs]
    verdicts = [report["branches"][0]["verdict"] for report, _ in results]
    assert verdicts.count("migrated") == 1
    assert {code for _, code in results} <= {0, 75}
    assert ledger(office, "BR001") == ["l1_open", "l2_book", "l3_rebuild", "l4_balance"]


# 2. Never a revision applied twice, never one half applied and called done ------------------------


def test_promise_2_a_revision_that_fails_half_way_leaves_nothing_of_itself(office: Office) -> None:
    history = office.use_history("fails_midway")
    office.environ["BRANCHMIG_RETRY_BACKOFF_SECONDS"] = "0"
    office.add("BR001")
    for attempt in (1, 2, 3):
        report = office.json("apply-all", code=1)
        assert report["appliedMigrations"] == (["[BR001] f1"] if attempt == 1 else [])
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        assert office.query("BR001", tables) == [("alembic_version",), ("shops",)]
        state = office.headoffice("SELECT heads, retry_count FROM branchmig_migration_states")
        assert state == [('["f1"]', attempt)]
    assert office.status("BR001")["status"] == "RequiresManualIntervention"
    broken = history / "versions" / "f2.py"
    broken.write_text(broken.read_text().replace("nowhere (id) VALUES (1)", "half VALUES (2)"))
    office.run("retry", "BR001")
    assert office.json("apply-all")["appliedMigrations"] == ["[BR001] f2"]
    assert office.query("BR001", "SELECT id FROM half ORDER BY id") == [(1,), (2,)]


def test_promise_2_what_landed_but_was_never_recorded_is_not_applied_again(office: Office) -> None:
    office.use_history("ledger")
    office.add("BR001")
    office.run("apply-all")
    office.headoffice("UPDATE branchmig_migration_states SET status = 'Pending', heads = '[]'")
    report = office.json("apply-all")
    assert report["branches"][0]["verdict"] == "unchanged"
    assert office.status("BR001")["status"] == "Completed"
    assert len(ledger(office, "BR001")) == 4


# 3. Completed means checked on the live database --------------------------------------------------


def test_promise_3_a_branch_without_its_tables_is_not_completed(office: Office) -> None:
    office.use_history("linear")
    with office.settings.open("a") as file:
        file.write('[validation]\nrequired_tables = ["shops", "prices"]\n')
    office.add("BR001")
    report = office.json("apply-all", code=1)
    assert "missing tables: prices" in report["errorMessage"]
    status = office.status("BR001")
    assert (status["status"], status["lastMigrationApplied"]) == ("Failed", "a3")


def test_promise_3_what_headoffice_believes_is_held_against_the_branch(office: Office) -> None:
    office.use_history("linear")
    office.add("BR001")
    office.run("apply-all", "--to", "a1")
    old = office.database("BR001").read_bytes()
    office.run("apply-all")
    assert office.status("BR001")["status"] == "Completed"
    # Somebody restores a backup; HeadOffice is not told.
    office.database("BR001").write_bytes(old)
    report = office.json("apply-all")
    assert report["appliedMigrations"] == ["[BR001] a2", "[BR001] a3"]


def test_promise_3_a_database_that_vanished_is_not_replaced_by_an_empty_one(
    office: Office,
) -> None:
    office.use_history("linear")
    office.add("BR001")
    office.run("apply-all")
    office.database("BR001").unlink()
    office.run("apply-all", code=1)
    assert not office.database("BR001").exists()
    assert office.status("BR001")["status"] == "Failed"


# 4. A kill at any instant is put right by the next tick -------------------------------------------


@pytest.mark.parametrize("revision", ["s2_many", "s3_long"])
def test_promise_4_a_run_killed_within_a_revision_is_put_right(
    office: Office, family: Family, revision: str
) -> None:
    slow.prepare(office, "BR001", "BR002")
    office.environ["BRANCHMIG_RUN_LEASE_SECONDS"] = "1"
    slow.hold(office, "BR001")
    if revision == "s3_long":
        slow.release(office, "BR001")
        slow.lengthen(office, "BR001")
    run = office.start("apply-all", start_new_session=True)
    slow.begun(office, "BR001", revision)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    family.gone()
    for name in ("hold", "long"):
        slow.mark(office, "BR001", name).unlink(missing_ok=True)

    def done() -> bool:
        office.run("apply-all")
        return office.status("BR001")["status"] == "Completed"

    until(done, "the branch taken over")
    assert slow.head(office, "BR001") == slow.head(office, "BR002") == "s4"
    counts = "SELECT count(*) FROM rows WHERE revision = ?"
    assert [office.query("BR001", counts, (r,)) for r in ("s2_many", "s4")] == [[(1,)]] * 2
    assert office.status("BR001")["retryCount"] == 0


def test_promise_4_what_a_killed_writer_left_in_a_branch_is_recovered(office: Office) -> None:
    office.use_history("linear")
    office.add("BR001")
    office.run("apply", "BR001", "--to", "a1")
    journal = leave_hot_journal(office.database("BR001"))
    assert office.json("apply-all")["appliedMigrations"] == ["[BR001] a2", "[BR001] a3"]
    assert not journal.exists()
    assert office.query("BR001", "SELECT * FROM sqlite_master WHERE name = 'unfinished'") == []
    assert office.query("BR001", "PRAGMA integrity_check") == [("ok",)]


def test_promise_4_what_a_killed_writer_left_in_headoffice_is_recovered(office: Office) -> None:
    office.add("BR001")
    journal = leave_hot_journal(office.folder / "headoffice.db")
    assert office.json("status", code=69)["error"]["type"] == "HeadOfficeUnreachable"
    assert journal.exists(), "readers recover nothing"
    assert office.json("apply-all")["success"] is True
    assert not journal.exists()
    assert office.status("BR001")["status"] == "Completed"


# 5. Read-only commands write nothing, anywhere ----------------------------------------------------


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory, initialised: bytes) -> Path:
    """Branches in every condition: at head, behind, never made, in write-ahead mode."""
    office = Office(tmp_path_factory.mktemp("collection"))
    (office.folder / "headoffice.db").write_bytes(initialised)
    office.use_history("linear")
    office.add("BR001", "BR002", "BR003", "BR004")
    office.run("apply", "BR001")
    office.run("apply", "BR002", "--to", "a1")
    office.run("apply", "BR004")
    query(office.database("BR004"), "PRAGMA journal_mode = WAL")
    assert not Path(f"{office.database('BR004')}-wal").exists()
    return office.folder


@pytest.fixture
def museum(tmp_path: Path, collection: Path) -> Office:
    """A collection of a test's own."""
    shutil.copytree(collection, tmp_path, dirs_exist_ok=True)
    return Office(tmp_path)


def test_promise_5_a_command_that_only_reads_leaves_no_trace(museum: Office) -> None:
    before = traces(museum.folder)
    for command in READ_ONLY:
        done = museum.run(*command, code=None)
        assert done.returncode in (0, 1), f"{command}: {done.stderr}"
        assert done.stdout, command
        after = traces(museum.folder)
        assert sorted(after) == sorted(before), command
        assert after == before, command


def test_promise_5_a_log_in_use_is_read_and_left_as_it_is(museum: Office) -> None:
    with closing(sqlite3.connect(museum.database("BR004"), isolation_level=None)) as writer:
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        writer.execute("UPDATE alembic_version SET version_num = 'a2'")
        before = traces(museum.folder)
        assert "branches/br004.db-wal" in before
        assert museum.json("pending", "BR004")["pendingMigrations"] == ["a3"]
        assert museum.json("validate", "BR004", code=1)["pendingMigrations"] == ["a3"]
        assert traces(museum.folder) == before


def test_promise_5_a_hot_journal_is_reported_and_never_recovered(museum: Office) -> None:
    leave_hot_journal(museum.database("BR001"))
    before = traces(museum.folder)
    error = museum.json("pending", "BR001", code=1)["error"]
    assert "unfinished transaction" in error["message"]
    assert "apply" in error["hint"]
    validated = museum.json("validate", "BR001", code=1)
    assert "unfinished transaction" in validated["reason"]
    for command in (("plan", "--all"), ("pending", "--all"), ("history", "BR001"), ("validate",)):
        museum.run(*command, code=None)
    assert traces(museum.folder) == before


@pytest.fixture
def stranger(museum: Office) -> Iterator[Office]:
    """The same office in a folder that its user, who is not root, may read and not write."""
    folder = Path(tempfile.mkdtemp())
    try:
        shutil.copytree(museum.folder, folder, dirs_exist_ok=True)
        _permit(folder, 0o444, 0o555)
        yield Office(folder, {"HOME": "/nonexistent"}, ORDINARY)
    finally:
        _permit(folder, 0o644, 0o755)
        shutil.rmtree(folder)


def _permit(folder: Path, files: int, folders: int) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(folders if path.is_dir() else files)


def test_promise_5_whoever_may_only_read_can_read_everything(stranger: Office) -> None:
    before = traces(stranger.folder)
    for command in READ_ONLY:
        done = stranger.run(*command, code=None)
        assert done.returncode in (0, 1), f"{command}: {done.stderr}"
        assert done.stdout, command
        assert "Error" not in done.stderr, f"{command}: {done.stderr}"
    assert stranger.json("history", "BR004")["appliedMigrations"] == ["a1", "a2", "a3"]
    assert traces(stranger.folder) == before


def test_promise_5_whoever_may_only_read_is_told_so_when_he_writes(stranger: Office) -> None:
    before = traces(stranger.folder)
    error = stranger.json("apply-all", code=69)["error"]
    assert "read-only" in error["message"]
    assert traces(stranger.folder) == before


# 6. No secret in any output, log, error, audit row or process list --------------------------------

SECRET = "open-sesame-4711"


def test_promise_6_a_password_is_never_shown(office: Office) -> None:
    office.use_history("linear")
    office.add("BR001", "BR002")
    url = f"postgresql://clerk:{SECRET}@127.0.0.1:1/branch"
    office.headoffice(
        "UPDATE branchmig_branches SET url = ?, provider = 'postgresql' WHERE code = 'BR001'",
        (url,),
    )
    commands = [
        ("apply", "BR001"),
        ("apply-all",),
        ("status",),
        ("pending", "BR001"),
        ("validate", "BR001"),
        ("plan", "--all"),
        ("branch", "list"),
        ("branch", "show", "BR001"),
    ]
    for number, command in enumerate(commands):
        done = office.run(*command, "--debug", *(["--json"] if number % 2 else []), code=None)
        assert SECRET not in done.stdout + done.stderr, command
    kept = {name: rows for name, rows in records(office).items() if name != "branchmig_branches"}
    assert SECRET not in repr(kept)
    assert SECRET not in repr(office.headoffice("SELECT * FROM branchmig_runs"))


def test_promise_6_a_password_typed_into_the_process_list_is_refused(office: Office) -> None:
    url = f"postgresql://clerk:{SECRET}@db/branch"
    done = office.run("branch", "add", "BR001", "--url", url, code=2)
    assert "--url -" in done.stderr
    assert SECRET not in done.stdout + done.stderr


# 7. One bad branch costs its neighbours nothing ---------------------------------------------------


def test_promise_7_bad_branches_cost_their_neighbours_nothing(office: Office) -> None:
    office.use_history("linear")
    bad = ["BAD-folder", "BAD-text", "BAD-foreign", "BAD-version", "BAD-place"]
    good = ["ABLE", "BAKER", "CHARLIE"]
    office.add(*bad, *good)
    office.database("BAD-folder").mkdir(parents=True)
    office.database("BAD-text").write_text("not a database, whatever its name may say about it")
    query(office.database("BAD-foreign"), "CREATE TABLE somebody_elses (x)")
    query(office.database("BAD-version"), "CREATE TABLE alembic_version (version_num)")
    query(office.database("BAD-version"), "INSERT INTO alembic_version VALUES ('unheard-of')")
    office.run("branch", "update", "BAD-place", "--url", "sqlite:////proc/1/no/such/place.db")
    report = office.json("apply-all", code=1)
    verdicts = {row["branchCode"]: row["verdict"] for row in report["branches"]}
    assert verdicts == dict.fromkeys(bad, "failed") | dict.fromkeys(good, "migrated")
    for row in report["branches"]:
        assert (row["errorMessage"] is None) == (row["branchCode"] in good)
    statuses = {row["branchCode"]: row["status"] for row in office.json("status")}
    assert statuses == dict.fromkeys(bad, "Failed") | dict.fromkeys(good, "Completed")


# 8. The cost of a tick with nothing to do is one version read a branch ----------------------------


def test_promise_8_a_tick_with_nothing_to_do_changes_nothing(
    office: Office, family: Family
) -> None:
    office.use_history("linear")
    office.add(*(f"BR{number:03}" for number in range(200)))
    assert office.json("apply-all")["branchesSucceeded"] == 200
    branches = traces(office.folder / "branches")
    assert len(branches) == 200
    headoffice, runs = records(office), office.headoffice("SELECT id FROM branchmig_runs")
    report = office.json("apply-all")
    assert {row["verdict"] for row in report["branches"]} == {"unchanged"}
    assert traces(office.folder / "branches") == branches
    assert records(office) == headoffice
    new = "SELECT command, exit_code FROM branchmig_runs WHERE finished_at IS NOT NULL AND id = ?"
    assert office.headoffice(new, (report["runId"],)) == [("apply-all", 0)]
    assert len(office.headoffice("SELECT id FROM branchmig_runs")) == len(runs) + 1
