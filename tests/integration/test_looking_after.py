"""Who did what, how the fleet is, and what is wrong with this host."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import slow
from office import Office
from servers import Mariadb, Postgresql, Server
from sqlalchemy import make_url

# The audit trail ----------------------------------------------------------------------------------


@pytest.fixture
def trail(office: Office) -> Office:
    """An office with some past: two branches, one of which failed and was mended by hand."""
    office.use_history("fails_midway")
    office.add("BR001", "BR002")
    office.run("apply-all", code=1)
    office.run("retry", "BR001")
    office.run("pin", "BR002")
    return office


def commands(office: Office, *arguments: str) -> list[str]:
    return [run["command"] for run in office.json("audit", *arguments)]


def test_every_run_that_changed_something_is_told_the_latest_first(trail: Office) -> None:
    runs = trail.json("audit")
    assert [run["command"] for run in runs] == [
        "pin", "retry", "apply-all", "branch import", "init",
    ] or [run["command"] for run in runs][:3] == ["pin", "retry", "apply-all"]  # fmt: skip
    run = next(run for run in runs if run["command"] == "apply-all")
    assert (run["exitCode"], run["actor"]) == (1, pwd.getpwuid(os.geteuid()).pw_name)
    assert run["host"] == os.uname().nodename
    assert run["startedAt"] <= run["finishedAt"]
    assert [row["branchCode"] for row in run["branches"]] == ["BR001", "BR002"]
    assert all(row["verdict"] == "failed" and row["errorMessage"] for row in run["branches"])


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("--branch", "br001"), ["apply-all"]),
        (("--branch", "nowhere"), []),
        (("--command", "retry"), ["retry"]),
        (("--failed",), ["apply-all"]),
        (("--host", "elsewhere"), []),
        (("--actor", "nobody-here"), []),
        (("--since", "1h", "--command", "pin"), ["pin"]),
        (("--until", "1h"), []),
        (("--since", "2000-01-01", "--until", "2000-01-02T10:00:00+02:00"), []),
        (("--until", "2999-01-01", "--command", "pin"), ["pin"]),
        (("--until", f"{datetime.now(UTC):%Y-%m-%d}", "--command", "pin"), ["pin"]),
        (("--limit", "1"), ["pin"]),
    ],
)
def test_runs_are_filtered(trail: Office, arguments: tuple[str, ...], wanted: list[str]) -> None:
    assert commands(trail, *arguments) == wanted


def test_a_run_is_found_by_how_its_id_begins(trail: Office) -> None:
    (run,) = trail.json("audit", "--command", "apply-all")
    (found,) = trail.json("audit", "--run", run["runId"][:8].upper())
    assert found == run
    assert trail.json("audit", "--run", "%") == []


@pytest.mark.parametrize(
    "when",
    ["yesterday", "7x", "2026-13-01", "99999999999999d", "", "0001-01-01T00:00+14:00"],
)
def test_a_time_that_is_none_is_wrong_usage(office: Office, when: str) -> None:
    assert office.run("audit", "--since", when, code=2).stderr


def test_a_long_trail_is_exported_a_line_a_run_and_a_reader_may_leave(office: Office) -> None:
    office.run("pin", code=2)
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(250):
        office.headoffice(
            "INSERT INTO branchmig_runs (id, command, trigger_kind, actor, host, pid, program,"
            " started_at, finished_at, exit_code) VALUES (?, 'apply-all', 'timer', 'a', ?, 1, '1',"
            " ?, NULL, NULL)",
            (str(uuid.UUID(int=number)), f"h{number % 16}",
             (moment + timedelta(minutes=number)).strftime("%Y-%m-%d %H:%M:%S.%f")),
        )  # fmt: skip
    lines = office.run("audit", "--jsonl", "--limit", "0").stdout.splitlines()
    ids = [json.loads(line)["runId"] for line in lines if '"apply-all"' in line]
    assert ids == [str(uuid.UUID(int=number)) for number in reversed(range(250))]
    assert len(office.run("audit", "--jsonl", "--limit", "120").stdout.splitlines()) == 120
    assert len(commands(office, "--host", "h3")) == len(range(3, 250, 16))
    pipe = f"{' '.join(office.command('audit', '--jsonl', '--limit', '0'))} | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", pipe], cwd=office.folder, env=office.environment(),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_who_had_logged_in_is_the_kernels_word_and_no_variables(office: Office) -> None:
    office.add("BR001")
    script = '{ echo 54321 > /proc/self/loginuid; } 2>/dev/null; SUDO_USER=mallory exec "$@"'
    logged_in = ("sh", "-c", script, "sh")
    known = subprocess.run(
        [*logged_in, "cat", "/proc/self/loginuid"], capture_output=True, text=True, check=True
    ).stdout
    Office(office.folder, office.environ, logged_in).run("pin", "BR001")
    (run,) = office.json("audit", "--command", "pin")
    uid = int(known)
    try:
        name = None if uid == 2**32 - 1 else pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    assert run["login"] == name
    assert "mallory" not in json.dumps(run)


def test_the_page_names_what_a_run_did_in_one_line_a_run(trail: Office) -> None:
    page = trail.run("audit", "--command", "apply-all").stdout.splitlines()
    assert page[-1] == "1 run"
    assert "Did: BR001 failed" in page[1]
    assert "; BR002 failed" in page[1]


# Health -------------------------------------------------------------------------------------------


def health(office: Office, code: int, *arguments: str) -> str:
    return office.run("health", *arguments, code=code).stdout


def test_a_fleet_that_no_timer_has_seen_is_a_warning_and_a_migrated_one_is_ok(
    office: Office,
) -> None:
    office.add("BR001")
    assert "no run yet" in health(office, 1)
    office.run("apply-all")
    assert health(office, 0).startswith("BRANCHMIG OK - 1 of 1 at head | at_head=100.00%")


def test_a_branch_that_needs_a_person_is_critical(office: Office) -> None:
    office.use_history("fails_midway")
    office.configure(office.settings.read_text() + "\n[retry]\nmax_attempts = 1\n")
    office.add("BR001")
    office.run("apply-all", code=1)
    assert health(office, 2).startswith("BRANCHMIG CRITICAL - 1 need a person | ")
    document = office.json("health", code=2)
    assert (document["level"], document["needPerson"]) == ("CRITICAL", 1)


def test_the_oldest_lag_counts_from_when_the_first_branch_had_what_others_lack(
    office: Office,
) -> None:
    slow.prepare(office, "BR001", "BR002", "BR003")
    office.run("pin", "BR003")
    office.run("apply", "BR001")
    office.headoffice(
        "UPDATE branchmig_outcomes SET finished_at = strftime('%Y-%m-%d %H:%M:%f', 'now', "
        "'-2 days') || '000'"
    )
    # It was added only now, so nobody has waited for it.
    assert office.json("health", code=1)["lagSeconds"] < 3600
    office.headoffice("UPDATE branchmig_branches SET created_at = '2020-01-01 00:00:00.000000'")
    document = office.json("health", code=1)
    assert document["behind"] == 1
    assert document["lagSeconds"] == pytest.approx(2 * 86_400, abs=120)
    assert any(
        "1 behind, since 48 h" in reason or "2 d" in reason for reason in document["reasons"]
    )
    assert health(office, 1, "--warning-lag", "3d").startswith("BRANCHMIG WARNING - no run yet")


def test_without_headoffice_health_is_critical_and_with_wrong_settings_unknown(
    office: Office,
) -> None:
    office.configure('[headoffice]\nurl = "postgresql://u@127.0.0.1:1/x"\n')
    assert health(office, 2).startswith("BRANCHMIG CRITICAL - HeadOffice: ")
    office.configure("[headofice]\n")
    assert health(office, 3).startswith("BRANCHMIG UNKNOWN - ")
    office.configure("")
    assert health(office, 3, "--critical-lag", "soon").startswith("BRANCHMIG UNKNOWN - ")
    assert health(office, 3, "--nix|x=1") == "BRANCHMIG UNKNOWN - No such option: --nix/x\n"


# The doctor ---------------------------------------------------------------------------------------


def diagnoses(office: Office, code: int = 0, *arguments: str) -> list[dict[str, Any]]:
    return list(office.json("doctor", *arguments, code=code))


def found(rows: list[dict[str, Any]], check: str, severity: str) -> list[str]:
    return [
        f"{row['subject']}: {row['message']}"
        for row in rows
        if (row["check"], row["severity"]) == (check, severity)
    ]


def test_the_doctor_finds_nothing_wrong_with_a_fleet_on_three_engines_and_changes_nothing(
    office: Office, postgresql: Postgresql, mariadb: Mariadb
) -> None:
    name = f"d_{uuid.uuid4().hex}"
    urls = [f"sqlite:///branches/{name}.db", postgresql.url(name), mariadb.url(name)]
    lines = [f"BR{number},{url}" for number, url in enumerate(urls)]
    office.run("branch", "import", "-", stdin="\n".join(["code,url", *lines, ""]))
    office.run("apply-all")
    before = office.files()
    rows = diagnoses(office)
    assert office.files() == before
    assert {row["severity"] for row in rows} <= {"ok", "note"}, rows
    assert [row["subject"] for row in rows if row["check"] == "branch"] == ["BR0", "BR1", "BR2"]
    assert len(found(rows, "history", "ok")) == 3


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_rights_that_an_account_lacks_are_named(
    office: Office, request: pytest.FixtureRequest, engine: str
) -> None:
    server: Server = request.getfixturevalue(engine)
    name, user = f"d_{uuid.uuid4().hex}", f"u{uuid.uuid4().hex[:8]}"
    office.run("branch", "add", "BR001", "--url", server.url(name))
    office.run("apply", "BR001")
    server.add_user(user, "pass-of-the-till")
    if engine == "mariadb":
        server.query(f"GRANT SELECT, INSERT ON {name}.* TO '{user}'@'%'")
    else:
        server.query(f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{user}"', name)
    url = make_url(server.url(name)).set(username=user, password="pass-of-the-till")
    text = url.render_as_string(hide_password=False)
    office.run("branch", "update", "BR001", "--url", "-", stdin=f"{text}\n")
    lacking = found(diagnoses(office), "branch", "warning")
    wanted = "ALTER on the database" if engine == "mariadb" else "CREATE on the schema public"
    assert len(lacking) == 1
    assert wanted in lacking[0]
    assert "pass-of-the-till" not in json.dumps(diagnoses(office))


def test_what_a_tick_would_fail_for_is_an_error_and_the_rest_is_looked_at_all_the_same(
    office: Office,
) -> None:
    slow.prepare(office, "BR001", "BR002", "BR003")
    office.run("apply-all")
    office.database("BR001").unlink()
    office.database("BR002").write_bytes(b"no database" * 100)
    rows = diagnoses(office, 1, "--all")
    vanished, corrupt = found(rows, "branch", "error")
    assert vanished == "BR001: its database has vanished"
    assert "not a SQLite database" in corrupt
    assert len(found(rows, "branch", "ok")) == 1


def test_without_headoffice_the_doctor_says_so_and_looks_at_the_rest(office: Office) -> None:
    (office.folder / "headoffice.db").unlink()
    rows = diagnoses(office, 1)
    assert found(rows, "headoffice", "error") == ["HeadOffice: HeadOffice does not exist yet; "
        f"this program needs {rows[1]['message'].rpartition(' ')[2]}"]  # fmt: skip
    assert found(rows, "settings", "ok")
    assert any(row["check"] == "units" for row in rows)


def test_where_people_and_metrics_cannot_be_reached_is_a_warning(office: Office) -> None:
    office.configure(
        '[notify]\nurls = ["json://127.0.0.1:1/T0kenOfMine"]\n[metrics]\ntextfile = "no/x.prom"\n'
    )
    rows = diagnoses(office)
    assert found(rows, "notify", "ok") == ["people: 1 address to be told at"]
    assert found(rows, "metrics", "warning") == [f"{office.folder}/no: there is no such folder"]
    assert "T0ken" not in json.dumps(rows)
    (office.folder / "no").mkdir()
    assert found(diagnoses(office), "metrics", "ok")


def test_expired_leases_are_named(office: Office) -> None:
    office.add("BR001")
    office.headoffice(
        "UPDATE branchmig_migration_states SET lock_owner = 'x', lock_expires_at = '2020-01-01'"
    )
    assert found(diagnoses(office), "leases", "warning") == ["HeadOffice: 1 expired: BR001"]


# A page that is watched ---------------------------------------------------------------------------


def test_the_worst_branches_are_at_the_top_of_the_page(office: Office) -> None:
    office.use_history("fails_midway")
    office.configure(office.settings.read_text() + "\n[retry]\nmax_attempts = 1\n")
    office.add("BR001", "BR002", "BR003")
    office.run("apply", "BR003", code=1)
    page = office.run("status").stdout.splitlines()
    assert [line.split()[0] for line in page[1:4]] == ["BR003", "BR001", "BR002"]
    assert [row["branchCode"] for row in office.json("status")] == ["BR001", "BR002", "BR003"]


def test_watching_needs_a_terminal(office: Office) -> None:
    assert "needs a terminal" in office.run("status", "--watch", code=2).stderr


def test_a_watched_page_follows_what_happens_and_survives_headoffice(office: Office) -> None:
    import pexpect

    office.add("BR001")
    program, *arguments = office.command("status", "--watch", "--interval", "0.2")
    watched = pexpect.spawn(
        program, arguments, cwd=office.folder, env=office.environment(), encoding="utf-8",
        dimensions=(24, 100), timeout=30,
    )  # fmt: skip
    try:
        watched.expect("1 Pending")
        office.run("apply-all")
        watched.expect("1 Completed")
        hidden = office.folder / "hidden.db"
        (office.folder / "headoffice.db").rename(hidden)
        watched.expect("does not exist yet")
        hidden.rename(office.folder / "headoffice.db")
        office.run("pin", "BR001")
        watched.expect("pinned")
        watched.sendintr()
        watched.expect(pexpect.EOF)
    finally:
        watched.close(force=True)
    assert watched.exitstatus == 130
