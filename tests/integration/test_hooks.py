"""The operator's own commands and SQL scripts around the work on branches."""

from __future__ import annotations

import json
import re
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import slow
from office import Office
from processes import Family, until
from servers import Mariadb, Postgresql

WRITES_DOWN = f"""#!{sys.executable}
import json, sys
document = json.load(sys.stdin)
with open("told", "a") as told:
    told.write(json.dumps(document) + "\\n")
"""
"""Keeps what it is told, one document a line."""


def program(office: Office, name: str, text: str) -> str:
    path = office.folder / name
    path.write_text(text)
    path.chmod(0o755)
    return f"./{name}"


def hooks(office: Office, **settings: Any) -> None:
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    office.configure("\n".join([office.settings.read_text(), "[hooks]", *lines, ""]))


def told(office: Office) -> list[dict[str, Any]]:
    path = office.folder / "told"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


EVENTS = ("before_run", "after_run", "before_branch", "after_branch", "on_failure", "on_halt")


@pytest.fixture
def told_all(office: Office) -> Office:
    """An office in which every hook writes down what it is told."""
    slow.prepare(office, "BR001")
    hooks(office, **dict.fromkeys(EVENTS, program(office, "writes", WRITES_DOWN)))
    return office


@pytest.mark.parametrize("command", [("apply", "BR001"), ("apply-all",)], ids=lambda c: c[0])
def test_hooks_are_told_of_a_run_and_of_its_branch_in_order(
    told_all: Office, command: tuple[str, ...]
) -> None:
    run = told_all.json(*command)["runId"]
    before, branch, after_branch, after = told(told_all)
    assert (before["event"], before["run"]["runId"], before["branches"]) == ("before_run", run, 1)
    assert before["run"]["command"] == command[0]
    assert branch["event"] == "before_branch"
    assert branch["branch"]["branchCode"] == "BR001"
    assert branch["pendingMigrations"] == list(slow.REVISIONS)
    assert (after_branch["event"], after_branch["succeeded"]) == ("after_branch", True)
    assert after_branch["appliedMigrations"] == list(slow.REVISIONS)
    assert (after["event"], after["exitCode"], after["failed"]) == ("after_run", 0, [])


def test_where_nothing_is_to_be_done_no_branch_is_told_of(told_all: Office) -> None:
    told_all.run("apply-all")
    (told_all.folder / "told").unlink()
    told_all.run("apply-all")
    told_all.run("apply", "BR001")
    assert [document["event"] for document in told(told_all)] == ["before_run", "after_run"] * 2


def test_a_branch_that_failed_is_told_of_with_its_error(told_all: Office) -> None:
    bad = told_all.folder / "branches" / "bad.db"
    bad.write_bytes(b"no database at all" * 100)
    told_all.add("BAD")
    told_all.run("apply-all", code=1)
    failures = [document for document in told(told_all) if document["event"] == "on_failure"]
    assert [found["branch"]["branchCode"] for found in failures] == ["BAD"]
    assert failures[0]["status"] == "Failed"
    assert "not a SQLite database" in failures[0]["errorMessage"]
    assert told(told_all)[-1]["event"] == "after_run"
    assert told(told_all)[-1]["failed"] == ["BAD"]


def test_a_failing_hook_before_a_branch_stops_that_branch_alone(office: Office) -> None:
    slow.prepare(office, "BR001", "BR002")
    refusing = program(
        office, "refuses", "#!/bin/sh\ngrep -q BR001 && { echo no backup >&2; exit 3; } || true\n"
    )
    hooks(office, before_branch=refusing)
    report = office.json("apply-all", code=1)
    first, second = report["branches"]
    assert (first["verdict"], second["verdict"]) == ("failed", "migrated")
    assert "[hooks] before_branch" in first["errorMessage"]
    assert first["errorMessage"].endswith("failed with exit code 3: no backup")
    assert not office.database("BR001").exists()
    assert office.status("BR001")["retryCount"] == 1


def test_a_failing_hook_before_a_run_stops_it_before_anything_is_touched(office: Office) -> None:
    slow.prepare(office, "BR001")
    hooks(office, before_run="false")
    document = office.json("apply-all", code=1)
    assert document["error"]["type"] == "HookFailed"
    assert not office.database("BR001").exists()
    assert office.status("BR001")["status"] == "Pending"


@pytest.mark.parametrize("event", ["after_branch", "after_run"])
def test_a_failing_hook_afterwards_is_a_warning(office: Office, event: str) -> None:
    slow.prepare(office, "BR001")
    hooks(office, **{event: ["sh", "-c", "echo broken; exit 4"]})
    done = office.run("apply-all")
    assert f"[hooks] {event} (sh) failed with exit code 4: broken" in done.stderr
    assert office.status("BR001")["status"] == "Completed"


def test_the_error_of_a_branch_wins_over_that_of_the_hooks_after_it(office: Office) -> None:
    office.use_history("fails_midway")
    office.add("BR001")
    hooks(office, after_branch="false", on_failure="false", after_run="false")
    (row,) = office.json("apply-all", code=1)["branches"]
    assert row["verdict"] == "failed"
    assert "hooks" not in row["errorMessage"]


def test_a_command_that_is_not_there_says_so(office: Office) -> None:
    slow.prepare(office, "BR001")
    hooks(office, before_branch="./nowhere")
    (row,) = office.json("apply-all", code=1)["branches"]
    assert "cannot be started: No such file or directory" in row["errorMessage"]


def test_a_hook_that_takes_too_long_is_killed_with_its_children(
    office: Office, family: Family
) -> None:
    slow.prepare(office, "BR001")
    hooks(office, before_branch=["sh", "-c", "trap '' TERM; sleep 600 & sleep 600"], timeout=0.5)
    (row,) = office.json("apply-all", code=1)["branches"]
    assert "was killed after 0.5 seconds" in row["errorMessage"]
    family.gone()


def test_a_child_that_a_hook_leaves_behind_is_ended_with_it(office: Office, family: Family) -> None:
    slow.prepare(office, "BR001")
    hooks(office, after_branch=["sh", "-c", "sleep 600 & exit 0"])
    office.run("apply-all")
    family.gone()


def test_the_second_signal_of_a_stop_ends_a_hook_at_once(office: Office, family: Family) -> None:
    slow.prepare(office, "BR001")
    hooks(office, before_branch=["sh", "-c", "touch begun; exec sleep 600"], timeout=600)
    log = office.folder / "log"
    with log.open("w") as err:
        run = office.start("apply-all", "--json", stderr=err)
        until((office.folder / "begun").exists, "the begin of the hook")
        run.send_signal(signal.SIGTERM)
        until(lambda: "again" in log.read_text(), "that the first signal is obeyed")
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
    assert run.returncode == 143, log.read_text()
    family.gone()
    assert office.status("BR001")["retryCount"] == 0


def test_what_a_hook_closed_before_a_branch_is_opened_again_whatever_stops_the_work(
    office: Office, family: Family
) -> None:
    slow.prepare(office, "BR001")
    slow.hold(office, "BR001")
    hooks(office, before_branch=["touch", "closed"], after_branch=["sh", "-c", "rm closed"])
    log = office.folder / "log"
    with log.open("w") as err:
        run = office.start("apply-all", "--json", stderr=err)
        slow.begun(office, "BR001", "s2_many")
        assert (office.folder / "closed").exists()
        run.send_signal(signal.SIGTERM)
        until(lambda: "again" in log.read_text(), "that the first signal is obeyed")
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
    assert run.returncode == 143, log.read_text()
    assert not (office.folder / "closed").exists()


def test_commands_for_many_failed_branches_hold_the_run_no_longer_than_one(
    office: Office, family: Family
) -> None:
    slow.prepare(office, *(codes := [f"BR{number:02}" for number in range(60)]))
    for code in codes:
        office.database(code).write_bytes(b"no database" * 100)
    hooks(office, on_failure=["sleep", "600"], timeout=2)
    done = office.run("apply-all", code=1)
    assert re.search(r"on_failure was not called for \d+ of the branches that failed", done.stderr)
    family.gone()


def test_a_hook_dies_with_the_worker_that_called_it(office: Office, family: Family) -> None:
    slow.prepare(office, "BR001")
    hooks(office, before_branch=["sh", "-c", "touch begun; exec sleep 600"], timeout=600)
    run = office.start("apply-all", "--json")
    until((office.folder / "begun").exists, "the begin of the hook")
    run.kill()
    run.communicate(timeout=60)
    family.gone()


def test_secrets_that_a_hook_prints_are_masked(office: Office) -> None:
    slow.prepare(office, "BR001")
    office.run("branch", "update", "BR001", "--url", "-", stdin="sqlite:///branches/br001.db\n")
    hooks(office, before_branch=["sh", "-c", "echo password=hunter2secret; exit 1"])
    done = office.run("apply-all", code=1)
    assert "hunter2secret" not in done.stdout + done.stderr
    assert "password=***" in done.stderr


def test_a_hook_ignores_none_of_the_signals_that_python_does(office: Office) -> None:
    slow.prepare(office, "BR001")
    hooks(office, before_branch=["sh", "-c", "grep SigIgn /proc/self/status; exit 1"])
    (row,) = office.json("apply-all", code=1)["branches"]
    ignored = int(row["errorMessage"].rpartition("SigIgn: ")[2], base=16)
    assert not [one for one in (signal.SIGPIPE, signal.SIGXFSZ) if ignored & 1 << one - 1]


def test_where_a_hook_cannot_even_be_started_what_landed_is_recorded(office: Office) -> None:
    slow.prepare(office, "BR001")
    (office.folder / "tmp").mkdir()
    office.environ["TMPDIR"] = str(office.folder / "tmp")
    hooks(office, before_branch=["rmdir", "tmp"], after_branch=["true"])
    done = office.run("apply", "BR001")
    assert "[hooks] after_branch (true) cannot be started" in done.stdout
    assert office.status("BR001")["status"] == "Completed"


def test_a_flood_of_output_is_cut(office: Office) -> None:
    slow.prepare(office, "BR001")
    hooks(office, before_branch=["sh", "-c", "yes flood | head -c 10000000; exit 1"])
    (row,) = office.json("apply-all", code=1)["branches"]
    assert len(row["errorMessage"]) < 800
    assert row["errorMessage"].endswith("flood floo")


# SQL scripts --------------------------------------------------------------------------------------


def script(office: Office, path: str, text: str) -> None:
    file = office.folder / "scripts" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_files_that_an_editor_hides_are_no_scripts(office: Office) -> None:
    slow.prepare(office, "BR001")
    hooks(office, scripts="scripts")
    script(office, "before/a.sql", "CREATE TABLE ran (n INT);")
    script(office, "before/._a.sql", "nonsense")
    (office.folder / "scripts/before/.#a.sql").symlink_to("somebody@host.4711")
    office.run("apply-all")
    assert office.query("BR001", "SELECT count(*) FROM ran") == [(0,)]


@pytest.fixture
def three(office: Office, postgresql: Postgresql, mariadb: Mariadb) -> tuple[Office, str]:
    """An office with a branch on each of three engines, and the name of its databases."""
    name = f"s_{uuid.uuid4().hex}"
    urls = {
        "SQLITE": f"sqlite:///branches/{name}.db",
        "POSTGRESQL": postgresql.url(name),
        "MARIADB": mariadb.url(name),
    }
    lines = [f"{code},{url}" for code, url in urls.items()]
    office.run("branch", "import", "-", stdin="\n".join(["code,url", *lines, ""]))
    hooks(office, scripts="scripts")
    return office, name


def everywhere(office: Office, name: str, query: str, servers: tuple[Any, Any]) -> list[Any]:
    postgresql, mariadb = servers
    return [
        [tuple(row) for row in rows]
        for rows in (
            office.query(name, query),
            postgresql.query(query, name),
            mariadb.query(query, name),
        )
    ]


def test_scripts_run_before_and_after_the_revisions_on_each_engine_by_name(
    three: tuple[Office, str], postgresql: Postgresql, mariadb: Mariadb
) -> None:
    office, name = three
    script(
        office,
        "before/10_log.sql",
        "-- a comment; with a semicolon\n"
        "CREATE TABLE ran (what VARCHAR(40));\nINSERT INTO ran VALUES ('10; 100%');;\n",
    )
    script(office, "before/sqlite/05_first.sql", "CREATE TABLE early (n INT);")
    script(
        office,
        "before/postgresql/20_body.sql",
        "CREATE FUNCTION twice(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN\n"
        "RETURN n * 2; END $$;\nINSERT INTO ran VALUES ('pg ' || twice(2));\n",
    )
    script(
        office,
        "before/mysql/20_body.sql",
        "CREATE TRIGGER loud BEFORE INSERT ON ran FOR EACH ROW BEGIN\n"
        "SET NEW.what = CONCAT(NEW.what, '!'); END;\n",
    )
    script(office, "after/90_seen.sql", 'INSERT INTO ran SELECT count(*) FROM "Users";')
    script(office, "after/mysql/95_seen.sql", "INSERT INTO ran SELECT count(*) FROM Users;")
    done = office.run("apply-all", "--json")
    rows = json.loads(done.stdout)["branches"]
    assert {row["verdict"] for row in rows} == {"migrated"}, rows
    found = everywhere(office, name, "SELECT what FROM ran", (postgresql, mariadb))
    assert found == [
        [("10; 100%",), ("0",)],
        [("10; 100%",), ("pg 4",), ("0",)],
        [("10; 100%",), ("0!",)],
    ]
    # MariaDB takes double quotes for a text: a warning, and the branch is done all the same.
    assert "the script after/90_seen.sql failed at its statement 1" in done.stderr


def test_a_failing_script_before_stops_the_branch_and_is_rolled_back(
    three: tuple[Office, str], postgresql: Postgresql, mariadb: Mariadb
) -> None:
    office, name = three
    script(office, "before/10.sql", "CREATE TABLE ran (n INT); INSERT INTO nowhere VALUES (1);")
    rows = office.json("apply-all", code=1)["branches"]
    for row in rows:
        assert row["verdict"] == "failed"
        assert "the script before/10.sql failed at its statement 2" in row["errorMessage"]
        assert "nowhere" in row["errorMessage"]
        assert row["appliedMigrations"] == []
    assert office.query(name, "SELECT name FROM sqlite_master WHERE name = 'ran'") == []
    select = "SELECT table_name FROM information_schema.tables WHERE table_name = 'ran'"
    assert postgresql.query(select, name) == []
    script(office, "before/10.sql", "CREATE TABLE IF NOT EXISTS ran (n INT);")
    office.run("retry", "--all")
    assert office.json("apply-all")["branchesSucceeded"] == 3


def test_what_a_server_says_of_a_script_with_a_password_is_left_out(
    three: tuple[Office, str],
) -> None:
    office, _ = three
    script(office, "before/10.sql", "CREATE USER till IDENTIFIED WRONGLY BY 'canary-hunter2'")
    done = office.run("apply-all", "--json", code=1)
    assert "canary" not in done.stdout + done.stderr
    assert "the script before/10.sql failed at its statement 1" in done.stdout


def test_a_folder_of_scripts_that_is_missing_is_a_fault_of_the_settings(office: Office) -> None:
    slow.prepare(office, "BR001")
    hooks(office, scripts="nowhere")
    for command in (("apply", "BR001"), ("apply-all",)):
        document = office.json(*command, code=78)
        assert "[hooks] scripts: there is no folder" in document["error"]["message"]
    assert office.status("BR001")["retryCount"] == 0


def test_hooks_and_scripts_that_others_can_write_are_refused_for_root(office: Office) -> None:
    slow.prepare(office, "BR001")
    hooks(office, before_run=program(office, "writes", WRITES_DOWN), scripts="scripts")
    script(office, "before/10.sql", "SELECT 1")
    for path in ("writes", "scripts/before/10.sql"):
        Path(office.folder / path).chmod(0o777)
        done = office.run("apply-all", code=None)
        assert f"{path} is code that" in done.stderr
        assert "everybody can write it" in done.stderr
        Path(office.folder / path).chmod(0o755)


@pytest.mark.parametrize(
    "shows", ["echo $BACKUP_TOKEN", 'cat "$CREDENTIALS_DIRECTORY"/till', "cat secrets/till", "env"]
)
def test_a_command_that_fails_tells_no_secret_that_it_was_given(office: Office, shows: str) -> None:
    secret = "correct horse'-battery"
    office.add("BR001")
    for folder in ("secrets", "credentials"):
        (office.folder / folder).mkdir()
        (office.folder / folder / "till").write_text(f"first line\n{secret}\n")
    hooks(office, before_run=program(office, "hook", f"#!/bin/sh\n{shows}\nexit 3\n"))
    office.settings.write_text(office.settings.read_text() + '[secrets]\ndirectory = "secrets"\n')
    done = office.run(
        "apply-all",
        code=1,
        BACKUP_TOKEN=secret,
        CREDENTIALS_DIRECTORY=str(office.folder / "credentials"),
    )
    assert "failed with exit code 3" in done.stderr
    assert "horse" not in done.stderr
