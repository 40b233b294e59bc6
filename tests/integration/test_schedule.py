"""Windows, freezes and the time of a run: what apply-all leaves for later, and says so."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import slow
from office import Office
from processes import Family, until


def window(starts_in: timedelta, *, hours: float = 1, **whom: str) -> str:
    """A daily window that opens so long after now, or has opened so long ago."""
    start = datetime.now(UTC) + starts_in
    fields = {"cron": f"{start.minute} {start.hour} * * *", "hours": hours, **whom}
    return "{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in fields.items()) + "}"


def schedule(office: Office, *windows: str, freezes: str = "") -> None:
    text = office.settings.read_text()
    office.configure(
        f"{text}\n[schedule]\nwindows = [{', '.join(windows)}]\nfreezes = [{freezes}]\n"
    )


def outcomes(office: Office, *arguments: str) -> dict[str, dict[str, Any]]:
    report = office.json("apply-all", *arguments)
    return {row["branchCode"]: row for row in report["branches"]}


CLOSED = timedelta(hours=12)
OPEN = timedelta(minutes=-5)


def test_a_branch_outside_its_window_is_not_touched_and_its_next_window_is_told(
    office: Office,
) -> None:
    slow.prepare(office, "BR001", "BR002")
    schedule(office, window(CLOSED, branch="BR001"), window(OPEN, branch="BR002"))
    rows = outcomes(office)
    assert rows["BR002"]["verdict"] == "migrated"
    assert (rows["BR001"]["verdict"], rows["BR001"]["reason"]) == ("skipped", "window")
    opens = rows["BR001"]["errorMessage"].removeprefix(
        "outside its window; it may be migrated from "
    )
    ahead = datetime.fromisoformat(opens) - datetime.now(UTC)
    assert timedelta(hours=11) < ahead <= CLOSED
    assert not office.database("BR001").exists()
    assert office.status("BR001")["lastAttemptAt"] is None


def test_a_person_may_ignore_windows_and_freezes(office: Office) -> None:
    slow.prepare(office, "BR001")
    today = datetime.now(UTC).date()
    schedule(office, window(CLOSED), freezes=f"{{from = {today}, until = {today}}}")
    assert outcomes(office)["BR001"]["errorMessage"].startswith("frozen; ")
    assert outcomes(office, "--ignore-windows")["BR001"]["verdict"] == "migrated"


def test_apply_of_one_branch_asks_for_no_window(office: Office) -> None:
    slow.prepare(office, "BR001")
    schedule(office, window(CLOSED))
    assert office.json("apply", "BR001")["success"]


def test_a_revision_that_took_longer_elsewhere_than_the_window_lasts_is_not_begun(
    office: Office,
) -> None:
    slow.prepare(office, "BR001")
    office.headoffice(
        "INSERT INTO branchmig_durations VALUES ('sqlite', 's2_many', 7200000, '2026-01-01')"
    )
    schedule(office, window(OPEN))
    row = outcomes(office)["BR001"]
    assert (row["verdict"], row["reason"]) == ("skipped", "window")
    assert row["appliedMigrations"] == ["s1"]
    assert "the next revision has taken up to 7200 s elsewhere" in row["errorMessage"]
    assert slow.head(office, "BR001") == "s1"
    status = office.status("BR001")
    assert (status["status"], status["retryCount"], status["isLocked"]) == ("Pending", 0, False)
    # A person knows better, and what was measured now is shorter than what was known.
    assert outcomes(office, "--ignore-windows")["BR001"]["verdict"] == "migrated"


def test_how_long_revisions_took_is_remembered_at_its_longest(office: Office) -> None:
    slow.prepare(office, "BR001", "BR002")
    office.headoffice(
        "INSERT INTO branchmig_durations VALUES"
        " ('sqlite', 's1', 7200000, strftime('%Y-%m-%d %H:%M:%f', 'now') || '000'),"
        " ('sqlite', 's4', -1, '2020-01-01')"
    )
    office.run("apply", "BR001")
    office.run("apply-all")
    known = dict(office.headoffice("SELECT revision, longest_ms FROM branchmig_durations"))
    assert set(known) == set(slow.REVISIONS)
    assert known["s1"] == 7200000
    assert known["s4"] >= 0


def test_what_took_long_a_month_ago_is_forgotten_at_the_next_measurement(office: Office) -> None:
    slow.prepare(office, "BR001", "BR002")
    office.headoffice(
        "INSERT INTO branchmig_durations VALUES ('sqlite', 's1', 7200000, '2020-01-01')"
    )
    schedule(office, window(OPEN))
    done = office.run("apply-all", "--json")
    assert "longer than the whole window of BR001 (3600 s)" in done.stderr
    office.run("apply", "BR002")
    assert outcomes(office)["BR001"]["verdict"] == "migrated"


def test_a_run_begins_no_branch_after_its_minutes_and_ends_what_it_has_begun(
    office: Office, family: Family
) -> None:
    codes = [f"BR{number:03}" for number in range(1, 31)]
    slow.prepare(office, *codes)
    office.configure(office.settings.read_text() + "\n[run]\nmax_minutes = 0.03\n")
    slow.hold(office, "BR001")
    log = office.folder / "log"
    with log.open("w") as err:
        run = office.start("apply-all", "--json", stderr=err)
        slow.begun(office, "BR001", "s2_many")
        until(lambda: "skipped (max-minutes)" in log.read_text(), "the end of the run's time")
        slow.release(office, "BR001")
        out, _ = run.communicate(timeout=60)
    assert run.returncode == 0, log.read_text()
    rows = {row["branchCode"]: row for row in json.loads(out)["branches"]}
    assert rows["BR001"]["verdict"] == "migrated"
    left = [row for row in rows.values() if row["verdict"] == "skipped"]
    assert len(left) == 29
    assert {(row["reason"], row["errorMessage"]) for row in left} == {
        ("max-minutes", "the run had its 0.03 minutes")
    }
    statuses = {row["branchCode"]: row for row in office.json("status")}
    assert not any(row["isLocked"] for row in statuses.values())
    assert {row["retryCount"] for row in statuses.values()} == {0}
    office.configure(office.settings.read_text().replace("0.03", "10"))
    assert office.json("apply-all")["branchesSucceeded"] == 30
