"""What befalls operators: links, swaps, kills at a bad moment, mended branches, foreign output."""

from __future__ import annotations

import json
import os
import sqlite3
import time

from office import Office, query

HEAD = "20251206_UpdateSalesTable"


def spoil(office: Office, code: str) -> None:
    office.database(code).parent.mkdir(exist_ok=True)
    office.database(code).write_text("some text of a person, and no database at all, not even near")


def test_a_backup_by_hard_link_changes_nothing_of_a_branch(office: Office) -> None:
    office.add("BR1", "BR2")
    office.run("apply-all")
    os.link(office.database("BR1"), office.folder / "backup.db")
    rows = "code,url\nBR1,sqlite:///branches/br1.db\nBR2,sqlite:///branches/br2.db\n"
    counts = office.json("branch", "import", "-", stdin=rows)
    assert (counts["updated"], counts["unchanged"]) == (0, 2)
    assert office.status("BR1")["status"] == "Completed"


def test_branches_may_swap_their_databases_in_one_import(office: Office) -> None:
    office.add("BR1", "BR2")
    rows = "code,url\nBR1,sqlite:///branches/br2.db\nBR2,sqlite:///branches/br1.db\n"
    assert office.json("branch", "import", "-", stdin=rows)["updated"] == 2
    assert office.json("branch", "show", "BR1")["url"] == "sqlite:///branches/br2.db"


def test_a_branch_that_points_elsewhere_starts_with_its_failures_forgotten(office: Office) -> None:
    office.configure("[retry]\nbackoff_seconds = 0\n")
    office.add("BR1")
    spoil(office, "BR1")
    for _ in range(3):
        office.run("apply-all", code=1)
    office.run("branch", "update", "BR1", "--url", "sqlite:///branches/mended.db")
    row = office.status("BR1")
    assert (row["status"], row["retryCount"], row["errorDetails"]) == ("Pending", 0, None)
    assert office.json("apply-all")["branchesSucceeded"] == 1


def test_a_kill_of_a_last_attempt_leaves_a_branch_that_is_shown_to_need_a_person(
    office: Office,
) -> None:
    office.add("BR1")
    office.headoffice(
        "UPDATE branchmig_migration_states SET status = 'InProgress', retry_count = 3, "
        "lock_owner = 'x', lock_token = 4, lock_expires_at = '2020-01-01 00:00:00.000000'"
    )
    assert office.status("BR1")["status"] == "RequiresManualIntervention"
    (branch,) = office.json("apply-all")["branches"]
    assert (branch["verdict"], branch["reason"]) == ("skipped", "manual")
    office.run("apply", "BR1")
    assert office.status("BR1")["status"] == "Completed"


def test_a_result_waits_for_a_headoffice_that_is_locked_for_a_while(office: Office) -> None:
    office.add("BR1")
    office.database("BR1").parent.mkdir()
    headoffice = sqlite3.connect(office.folder / "headoffice.db", isolation_level=None)
    program = office.start("apply", "BR1", "--json")
    deadline = time.monotonic() + 60
    leased = "SELECT count(*) FROM branchmig_migration_states WHERE lock_owner IS NOT NULL"
    while headoffice.execute(leased).fetchone() == (0,) and time.monotonic() < deadline:
        pass
    headoffice.execute("BEGIN IMMEDIATE")
    assert program.poll() is None
    # Longer than one try to record: the program has to come back.
    end = time.monotonic() + 7
    while time.monotonic() < end and program.poll() is None:
        time.sleep(0.05)
    headoffice.execute("ROLLBACK")
    headoffice.close()
    out, err = program.communicate(timeout=60)
    assert program.returncode == 0, err
    assert json.loads(out)["success"] is True
    assert office.status("BR1")["status"] == "Completed"


def test_a_url_is_taken_as_it_is_written(office: Office) -> None:
    office.run("branch", "add", "BR1", "--url", "sqlite:///branches/a%41 b.db")
    office.run("apply", "BR1")
    assert (office.folder / "branches" / "a%41 b.db").is_file()
    refused = office.run("branch", "add", "BR2", "--url", "sqlite:///branches/a?b.db", code=2)
    assert "takes no options" in refused.stderr


def test_an_unpinned_branch_is_what_a_successful_apply_leaves(office: Office) -> None:
    office.add("BR1")
    spoil(office, "BR1")
    office.run("pin", "BR1")
    office.run("apply", "BR1", code=1)
    assert office.status("BR1")["pinned"] is True
    office.database("BR1").unlink()
    office.run("apply", "BR1")
    assert office.status("BR1")["pinned"] is False


def test_retry_all_does_what_it_can_and_names_what_it_cannot(office: Office) -> None:
    office.add("BR1", "BR2")
    spoil(office, "BR1")
    spoil(office, "BR2")
    office.run("apply-all", code=1)
    office.headoffice(
        "UPDATE branchmig_migration_states SET lock_owner = 'x', "
        "lock_expires_at = '2999-01-01 00:00:00.000000' WHERE branch_id = "
        "(SELECT id FROM branchmig_branches WHERE code = 'BR1')"
    )
    done = office.run("retry", "--all", code=75)
    assert "BR1 is leased" in done.stderr
    assert "1 to be attempted again: BR2" in done.stdout


def test_a_share_that_is_not_mounted_is_waited_for(office: Office) -> None:
    office.configure('[retry]\nbackoff_seconds = 0\nunreachable = "wait"\n')
    office.add("BR1")
    office.run("apply-all")
    (office.folder / "branches").rename(office.folder / "unmounted")
    for _ in range(4):
        office.run("apply-all", code=1)
    assert office.status("BR1")["status"] == "Failed"
    (office.folder / "unmounted").rename(office.folder / "branches")
    office.run("apply-all")
    assert office.status("BR1")["status"] == "Completed"


def test_what_a_revisions_child_prints_is_not_in_the_document(office: Office) -> None:
    folder = office.use_history("linear")
    first = folder / "versions" / "a1.py"
    first.write_text(
        first.read_text().replace(
            "def upgrade():", "def upgrade():\n    import os\n\n    os.system('echo polluted')"
        )
    )
    office.add("BR1")
    done = office.run("apply", "BR1", "--json")
    assert json.loads(done.stdout)["success"] is True
    assert "polluted" in done.stderr


def test_a_statement_ends_at_its_time_limit(office: Office) -> None:
    folder = office.use_history("linear")
    first = folder / "versions" / "a1.py"
    endless = (
        "op.execute('WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT count(*) FROM n')"
    )
    first.write_text(first.read_text().replace("def upgrade():", f"def upgrade():\n    {endless}"))
    office.add("BR1")
    failed = office.json("apply", "BR1", code=1, BRANCHMIG_RUN_STATEMENT_TIMEOUT="0.5")
    assert "statement_timeout" in failed["errorMessage"]
    assert query(office.database("BR1"), "SELECT name FROM sqlite_master") == []


def test_the_statements_of_every_plan_are_shown(office: Office) -> None:
    office.add("BR1", "BR2")
    shown = office.run("plan", "--all", "--sql").stdout
    assert shown.count('CREATE TABLE "Users"') == 2
