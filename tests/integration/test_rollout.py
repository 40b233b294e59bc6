"""Rollouts by the command line: a bad revision stops at the canary, a mended one goes to all."""

from __future__ import annotations

import json
import re
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import slow
from office import Office
from processes import Family
from servers import Postgresql, free_port

WORKERS = 2
IN_HAND = 2 * WORKERS
"""A worker has one branch at work and, where they are quick, one more waiting."""

MANY = [120, pytest.param(1000, marks=pytest.mark.soak)]


def codes(count: int, first: int = 1) -> list[str]:
    return [f"BR{number:04}" for number in range(first, first + count)]


def write(office: Office, failing: Iterable[int] = (), pause: float = 0) -> None:
    """Have the second revision fail on the branches of these numbers."""
    script = office.folder / "fails_in_part" / "versions" / "p2.py"
    text = re.sub(r"(?m)^FAILING = .*$", f"FAILING = {sorted(failing)}", script.read_text())
    script.write_text(re.sub(r"(?m)^PAUSE = .*$", f"PAUSE = {pause}", text))


def prepare(
    office: Office, branches: Iterable[str], failing: Iterable[int] = (), **rollout: Any
) -> None:
    """New branches that are to be brought on in waves, failed ones to be tried at the next tick."""
    office.use_history("fails_in_part")
    configure(office, **rollout)
    write(office, failing)
    (office.folder / "branches").mkdir()
    office.add(*branches)
    office.environ["BRANCHMIG_RUN_WORKERS"] = str(WORKERS)


def configure(office: Office, headoffice: str = "sqlite:///headoffice.db", **rollout: Any) -> None:
    keys = "\n".join(f"{key} = {json.dumps(value)}" for key, value in rollout.items())
    history = "slow" if (office.folder / "slow").is_dir() else "fails_in_part"
    office.configure(
        f'[headoffice]\nurl = "{headoffice}"\n[migrations]\nscript_location = "{history}"\n'
        f"[retry]\nbackoff_seconds = 0\n" + (f"[rollout]\n{keys}\n" if rollout else "")
    )


def thirty_percent(count: int) -> list[int]:
    return [number for number in range(1, count + 1) if number % 10 in (3, 6, 9)]


def touched(office: Office) -> int:
    """Branches that were begun: their files were not there before."""
    return len(list((office.folder / "branches").glob("*.db")))


def tally(report: dict[str, Any]) -> Counter[str]:
    """How many branches came to what, by verdict and reason."""
    return Counter(
        row["verdict"] + (f" {row['reason']}" if row["reason"] else "")
        for row in report["branches"]
    )


def told(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    out, err = process.communicate(timeout=120)
    assert out, err
    return process.returncode, json.loads(out)


# A revision that fails on 30 % of the branches ----------------------------------------------------


@pytest.mark.parametrize("count", MANY)
def test_a_bad_revision_stops_at_the_canary_and_a_mended_one_reaches_all(
    office: Office, count: int
) -> None:
    prepare(office, codes(count), thirty_percent(count), canary=10, max_failures="10%")
    report = office.json("apply-all", code=1)
    assert 2 <= touched(office) <= 10
    found = tally(report)
    assert found["failed"] >= 2
    assert found["failed"] + found["migrated"] == touched(office)
    assert found["skipped halted"] == count - touched(office)
    rollout = report["rollout"]
    assert rollout["isHalted"]
    assert re.fullmatch(
        r"[23] branches of the canary failed, of which 1 may", rollout["haltReason"]
    )
    assert (rollout["attempted"], rollout["wave"]) == (touched(office), 0)

    # Later ticks hold everything back, touch nothing and are no failure.
    before = office.files()
    report = office.json("apply-all")
    assert tally(report) == {
        "unchanged": found["migrated"],
        "skipped halted": count - found["migrated"],
    }
    assert report["rollout"]["isHalted"]
    after = office.files()
    assert {name for name in after if before.get(name) != after[name]} == {"headoffice.db"}
    status = office.json("status")
    assert Counter(row["halted"] for row in status) == {
        True: count - found["migrated"], False: found["migrated"],
    }  # fmt: skip
    assert {row["haltReason"] for row in status} == {None, rollout["haltReason"]}
    assert "branchmig resume" in office.run("apply-all").stdout
    # A halt uses up nobody's attempts.
    assert sum(row["retryCount"] for row in status) == found["failed"]

    write(office)
    report = office.json("apply-all")
    assert tally(report) == {"migrated": count - found["migrated"], "unchanged": found["migrated"]}
    assert not report["rollout"]["isHalted"]
    assert report["rollout"]["finishedAt"]
    assert {row["status"] for row in office.json("status")} == {"Completed"}


@pytest.mark.parametrize("count", MANY)
def test_from_two_hosts_at_once_no_more_than_the_canary_is_touched(
    office: Office, family: Family, postgresql: Postgresql, count: int
) -> None:
    prepare(office, [])
    configure(office, postgresql.url(f"h_{uuid.uuid4().hex}"), canary=10, max_failures="10%")
    office.init()
    write(office, thirty_percent(count))
    office.add(*codes(count))
    runs = [office.start("apply-all", "--json") for _ in range(2)]
    ends = [told(run) for run in runs]
    reports = [report for _, report in ends]
    assert 2 <= touched(office) <= 10
    assert sum(report["branchesFailed"] for report in reports) >= 2
    assert 1 in [code for code, _ in ends]
    assert office.json("apply-all")["rollout"]["isHalted"]
    write(office)
    runs = [office.start("apply-all", "--json") for _ in range(2)]
    assert [told(run)[0] for run in runs] == [0, 0]
    # Whoever was sent away by a wave in the other's hands leaves the rest to the next tick.
    office.run("apply-all")
    assert {row["status"] for row in office.json("status")} == {"Completed"}


@pytest.mark.parametrize("pause", [0, 0.3], ids=["quick", "slow"])
def test_beyond_the_canary_no_more_than_the_budget_and_what_is_in_hand_fail(
    office: Office, pause: float
) -> None:
    prepare(office, codes(60), canary=4, max_failures=3)
    write(office, range(5, 61), pause)
    report = office.json("apply-all", code=1)
    found = tally(report)
    assert found["migrated"] == 4
    assert 4 <= found["failed"] <= 4 + IN_HAND
    assert touched(office) == 4 + found["failed"]
    assert found["skipped halted"] == 60 - touched(office)
    assert re.fullmatch(r"\d branches of wave 1 failed, of which 3 may",
                        report["rollout"]["haltReason"])  # fmt: skip
    assert not any(row["isLocked"] for row in office.json("status"))


def test_one_error_everywhere_halts_after_three_branches(office: Office) -> None:
    prepare(office, codes(60), range(1, 61), canary=30, max_failures="100%")
    report = office.json("apply-all", code=1)
    assert report["rollout"]["haltReason"].startswith("p2 failed with the same error in")
    assert 3 <= touched(office) <= 3 + IN_HAND


# What halts nothing -------------------------------------------------------------------------------


def test_three_corrupt_branches_halt_nothing_not_even_as_the_first(office: Office) -> None:
    prepare(office, codes(300), canary=10, max_failures="10%")
    bad = set(codes(3))
    for code in bad:
        office.database(code).write_bytes(b"this is no database, whatever its name says " * 100)
    report = office.json("apply-all", code=1)
    assert tally(report) == {"migrated": 297, "failed": 3}
    assert {r["branchCode"] for r in report["branches"] if r["verdict"] == "failed"} == bad
    rollout = report["rollout"]
    assert (rollout["isHalted"], rollout["failed"], rollout["passed"]) == (False, 0, 297)


def test_without_the_section_there_are_no_waves_and_no_halt(office: Office) -> None:
    prepare(office, codes(30), range(1, 31))
    report = office.json("apply-all", code=1)
    assert tally(report) == {"failed": 30}
    assert report["rollout"] is None
    assert {row["halted"] for row in office.json("status")} == {False}
    assert office.headoffice("SELECT count(*) FROM branchmig_rollouts") == [(0,)]


# Resuming -----------------------------------------------------------------------------------------


def test_a_person_lets_a_halted_rollout_go_on(office: Office) -> None:
    prepare(office, codes(40), [3, 6], canary=10, max_failures="10%")
    office.run("apply-all", code=1)
    # One of the two branches is put right by hand.
    resumed = office.json("resume")
    assert resumed["target"] == "p2"
    assert resumed["haltReason"].endswith("branches of the canary failed, of which 1 may")
    assert {row["halted"] for row in office.json("status")} == {False}
    office.run("pin", "BR0003")
    report = office.json("apply-all", code=1)
    assert tally(report)["failed"] == 1
    assert {row["branchCode"] for row in report["branches"] if row["verdict"] == "failed"} == {
        "BR0006"
    }
    assert not report["rollout"]["isHalted"]
    assert report["rollout"]["resumedBy"]
    assert (report["rollout"]["passed"], report["rollout"]["wave"]) == (38, 1)


def test_where_nothing_is_halted_resume_says_so(office: Office) -> None:
    assert office.json("resume") == {
        "success": True, "rolloutId": None, "target": None, "haltReason": None,
    }  # fmt: skip
    assert office.run("resume").stdout == "No rollout is halted.\n"


# Waves over several ticks -------------------------------------------------------------------------


def test_the_next_wave_waits_for_a_tick_after_the_soak(office: Office) -> None:
    prepare(office, codes(30), canary=5, soak_seconds=3600)
    report = office.json("apply-all")
    assert tally(report) == {"migrated": 5, "skipped wave": 25}
    waiting = next(row for row in report["branches"] if row["reason"] == "wave")
    assert waiting["errorMessage"].startswith("the canary passed; the next begins at")
    assert tally(office.json("apply-all")) == {"unchanged": 5, "skipped wave": 25}
    configure(office, canary=5)
    assert tally(office.json("apply-all")) == {"unchanged": 5, "migrated": 25}


def test_unreachable_branches_pass_no_wave(office: Office) -> None:
    prepare(office, codes(20), canary="pilot")
    url = f"postgresql://u@127.0.0.1:{free_port()}/one"
    office.run("branch", "add", "AWAY", "--url", url, "--tag", "pilot")
    report = office.json("apply-all", code=1)
    assert tally(report) == {"failed": 1, "skipped wave": 20}
    assert touched(office) == 0


def test_in_place_of_an_unreachable_branch_another_is_a_canary(office: Office) -> None:
    prepare(office, codes(20), canary=3, soak_seconds=3600)
    url = f"postgresql://u@127.0.0.1:{free_port()}/one"
    office.run("branch", "add", "AWAY", "--url", url)
    assert tally(office.json("apply-all", code=1)) == {
        "failed": 1,
        "migrated": 3,
        "skipped wave": 17,
    }


def test_the_tagged_are_the_canary(office: Office) -> None:
    prepare(office, codes(20), canary="pilot", soak_seconds=3600)
    for code in ("BR0007", "BR0012"):
        office.run("branch", "update", code, "--tag", "pilot")
    report = office.json("apply-all")
    migrated = [row["branchCode"] for row in report["branches"] if row["verdict"] == "migrated"]
    assert migrated == ["BR0007", "BR0012"]


def test_a_killed_canary_keeps_its_place(office: Office, family: Family) -> None:
    slow.prepare(office, *codes(4))
    configure(office, canary=2)
    slow.hold(office, "BR0001")
    run = office.start("apply-all")
    slow.begun(office, "BR0001", "s2_many")
    run.kill()
    run.communicate()
    family.gone()
    # While its lease lasts, its wave is not over.
    report = office.json("apply-all")
    assert tally(report) == {"skipped leased": 1, "migrated": 1, "skipped wave": 2}
    slow.release(office, "BR0001")
    office.run("unlock", "--all", "--force", "--yes")
    assert tally(office.json("apply-all")) == {"migrated": 3, "unchanged": 1}
    marks = "SELECT wave, count(*) FROM branchmig_migration_states GROUP BY wave ORDER BY wave"
    assert office.headoffice(marks) == [(0, 2), (1, 2)]


def test_a_killed_canary_is_finished_before_any_other_branch_is_begun(
    office: Office, family: Family
) -> None:
    slow.prepare(office, *codes(3))
    configure(office, canary=2)
    slow.hold(office, "BR0002")
    run = office.start("apply-all")
    slow.begun(office, "BR0002", "s2_many")
    run.kill()
    run.communicate()
    family.gone()
    slow.release(office, "BR0002")
    office.run("unlock", "--all", "--force", "--yes")
    office.add("AA")  # by code it comes before those that it has to wait for
    assert tally(office.json("apply-all")) == {"migrated": 3, "unchanged": 1}
    marks = "SELECT wave, count(*) FROM branchmig_migration_states GROUP BY wave ORDER BY wave"
    assert office.headoffice(marks) == [(0, 2), (1, 2)]


def test_a_canary_that_needs_a_person_holds_nobody_up(office: Office) -> None:
    prepare(office, codes(12), canary="pilot", max_failures="100%")
    office.run("branch", "update", "BR0004", "--tag", "pilot")
    office.database("BR0004").write_bytes(b"this is no database, whatever its name says " * 100)
    for _ in range(3):
        assert tally(office.json("apply-all", code=1)) == {"failed": 1, "skipped wave": 11}
    assert tally(office.json("apply-all")) == {"skipped manual": 1, "migrated": 11}


def test_the_failures_of_a_killed_run_halt_the_next(office: Office) -> None:
    """It had recorded them and died before it could judge."""
    prepare(office, codes(20), [1, 2], canary=10, max_failures="10%")
    office.run("apply-all", code=1)
    office.headoffice("UPDATE branchmig_rollouts SET halted_at = NULL, halted_by = NULL")
    report = office.json("apply-all", code=1)
    assert tally(report)["migrated"] == tally(report)["failed"] == 0
    assert report["rollout"]["isHalted"]


# Several hosts with different scripts -------------------------------------------------------------


def test_a_host_with_older_scripts_holds_no_rollout_up(office: Office, tmp_path: Path) -> None:
    prepare(office, codes(8), canary=2, soak_seconds=3600)
    office.run("apply-all")
    stale = Office(tmp_path / "stale", dict(office.environ))
    stale.folder.mkdir()
    stale.use_history("fails_in_part")
    (stale.folder / "fails_in_part" / "versions" / "p2.py").unlink()
    configure(stale, f"sqlite:///{office.folder / 'headoffice.db'}", canary=2)
    before = office.json("status")
    error = stale.json("apply-all", code=78)["error"]
    assert "the rollout of p2 is under way" in error["message"]
    assert error["hint"] == "bring the scripts of this host up to date"
    assert office.json("status") == before


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("max_failures", "101%", "[rollout] max_failures"),
        ("max_failures", "many", "[rollout] max_failures"),
        ("max_failures", -1, "[rollout] max_failures"),
        ("canary", -1, "[rollout] canary"),
        ("canary", 0, "[rollout] canary"),
        ("canary", "150%", "[rollout] canary"),
        ("canary", "x%", "[rollout] canary"),
        ("canary", "", "[rollout] canary"),
        ("waves", ["0%"], "[rollout] waves"),
        ("waves", ["120%"], "[rollout] waves"),
        ("waves", ["half"], "[rollout] waves"),
        ("waves", "25%", "[rollout] waves"),
        ("soak_seconds", -1, "[rollout] soak_seconds"),
        ("soak", 1, "did you mean 'soak_seconds'?"),
    ],
)
def test_a_wrong_setting_is_named(office: Office, key: str, value: Any, told: str) -> None:
    office.use_history("fails_in_part")
    configure(office, **{key: value})
    done = office.run("apply-all", code=78)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
