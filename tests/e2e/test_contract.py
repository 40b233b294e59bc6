"""What scripts and people rely on: documents, exit codes, streams, filters, states."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

import pexpect
import pytest
from office import Office
from typer.core import TyperGroup
from typer.main import get_command

from branchmig.cli.app import app

HISTORY = (
    "20251206_InitialCreate",
    "20251206_AddCustomerFields",
    "20251206_AddProductIndex",
    "20251206_UpdateSalesTable",
)
BASE, HEAD = HISTORY[0], HISTORY[-1]


# Shapes -------------------------------------------------------------------------------------------


class Matching(str):
    """A text of this form."""

    def __new__(cls, pattern: str) -> Matching:
        return super().__new__(cls, pattern)


ID = Matching(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = Matching(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
DURATION = Matching(r"\d\d:\d\d:\d\d\.\d{3}")
TEXT_OR_NULL = (str, NoneType)

BRANCH = {"branchId": ID, "branchCode": str}
OUTCOME = BRANCH | {
    "verdict": Matching("migrated|unchanged|skipped|failed"),
    "reason": TEXT_OR_NULL,
    "status": Matching("Pending|InProgress|Completed|Failed|RequiresManualIntervention"),
    "appliedMigrations": [str],
    "errorMessage": TEXT_OR_NULL,
    "errorType": TEXT_OR_NULL,
    "hint": TEXT_OR_NULL,
    "warnings": [str],
    "duration": DURATION,
}
REPORT = {
    "success": bool,
    "appliedMigrations": [str],
    "errorMessage": TEXT_OR_NULL,
    "duration": DURATION,
    "branchesProcessed": int,
    "branchesSucceeded": int,
    "branchesFailed": int,
    "branchesSkipped": int,
    "runId": ID,
    "rollout": NoneType,
    "branches": [OUTCOME],
}
ERROR = {"type": str, "message": str, "hint": str}
PENDING = BRANCH | {"pendingMigrations": [str], "count": int}
# Of a branch that cannot be read every key is there, and says nothing.
PENDING_UNREAD = {
    **PENDING,
    **dict.fromkeys(("pendingMigrations", "count"), NoneType),
    "error": ERROR,
}
MIGRATIONS = BRANCH | {
    "appliedMigrations": [str],
    "pendingMigrations": [str],
    "lastMigrationDate": (TIME, NoneType),
    "status": str,
    "retryCount": int,
    "errorDetails": TEXT_OR_NULL,
}
VALIDATION = BRANCH | {
    "isValid": bool,
    "status": Matching("Valid|Invalid"),
    "missingTables": [str],
    "pendingMigrations": [str],
    "reason": TEXT_OR_NULL,
}
VALIDATIONS = {
    "isValid": bool,
    "branches": [VALIDATION],
    "migrations": {"isValid": bool, "heads": [str], "findings": [str]},
}
STATUS = BRANCH | {
    "branchName": str,
    "lastMigrationApplied": TEXT_OR_NULL,
    "status": str,
    "lastAttemptAt": (TIME, NoneType),
    "retryCount": int,
    "errorDetails": TEXT_OR_NULL,
    "isLocked": bool,
    "lockExpiresAt": (TIME, NoneType),
    "provider": str,
    "behind": bool,
    "targetMigration": TEXT_OR_NULL,
    "pinned": bool,
    "tags": [str],
    "halted": bool,
    "haltReason": TEXT_OR_NULL,
}
STEP = {
    "revision": str,
    "direction": Matching("upgrade|downgrade"),
    "fromHeads": [str],
    "toHeads": [str],
    "description": str,
}
PLAN = BRANCH | {"current": TEXT_OR_NULL, "target": TEXT_OR_NULL, "steps": [STEP]}
PLAN_UNREAD = {**PLAN, **dict.fromkeys(("current", "target", "steps"), NoneType), "error": ERROR}
PLAN_SQL = PLAN | {"steps": [STEP | {"sql": str}]}
LISTED = BRANCH | {
    "branchName": str,
    "provider": Matching("sqlite|sqlserver|postgresql|mysql"),
    "url": str,
    "server": TEXT_OR_NULL,
    "tags": [str],
    "isActive": bool,
}


def fits(value: Any, shape: Any) -> bool:
    """Whether a document has exactly this shape: these keys and no other, these types."""
    match shape:
        case dict():
            return (
                isinstance(value, dict)
                and value.keys() == shape.keys()
                and all(fits(value[key], wanted) for key, wanted in shape.items())
            )
        case [wanted]:
            return isinstance(value, list) and all(fits(item, wanted) for item in value)
        case tuple():
            return any(fits(value, wanted) for wanted in shape)
        case Matching():
            return isinstance(value, str) and re.fullmatch(shape, value) is not None
        case _:
            return type(value) is shape


# Offices ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an office with BR001, which has no database yet."""
    office = Office(tmp_path_factory.mktemp("founded"))
    office.configure()
    office.init()
    office.add("BR001")
    return office.folder


@pytest.fixture
def office(founded: Path, tmp_path: Path) -> Office:
    """A copy of it."""
    folder = tmp_path / "office"
    shutil.copytree(founded, folder)
    return Office(folder)


@pytest.fixture(scope="module")
def fleet(founded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """A fleet to be looked at: BR001 at head, BR002 behind, BR003 without a database, BR004 that
    cannot be read. Nothing that is asked of it may change it."""
    folder = tmp_path_factory.mktemp("fleet") / "office"
    shutil.copytree(founded, folder)
    office = Office(folder)
    office.add("BR002", "BR003", "BR004")
    office.run("branch", "update", "BR002", "--tag", "north", "--name", "Zweite")
    office.run("apply", "BR001")
    office.run("apply", "BR002", "--to", BASE)
    office.database("BR004").write_text("a text")
    before = office.files()
    yield office
    assert office.files() == before


@pytest.fixture(scope="module")
def asked(fleet: Office) -> Callable[..., Any]:
    """The document that the fleet gives for a command with an exit code; each is run once."""
    return cache(lambda command, code=0: fleet.json(*command.split(" "), code=code))


# Documents ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code", "shape"),
    [
        ("pending BR002", 0, PENDING),
        ("pending --tag north", 0, [PENDING]),
        ("pending --all", 1, [(PENDING, PENDING_UNREAD)]),
        ("history BR001", 0, MIGRATIONS),
        ("history BR003", 0, MIGRATIONS),
        ("validate BR001", 0, VALIDATION),
        ("validate BR002", 1, VALIDATION),
        ("validate BR003", 1, VALIDATION),
        ("validate", 1, VALIDATIONS),
        ("validate --no-branches", 0, VALIDATIONS),
        ("status", 0, [STATUS]),
        ("status br002 BR001", 0, [STATUS]),
        ("plan BR002", 0, PLAN),
        ("plan BR003 --sql", 0, PLAN_SQL),
        ("plan --all", 1, [(PLAN, PLAN_UNREAD)]),
        ("branch list", 0, [LISTED]),
        ("branch show BR002", 0, LISTED),
        ("pending BR004", 1, {"success": bool, "error": ERROR}),
        ("status NOPE", 2, {"success": bool, "error": ERROR}),
    ],
)
def test_a_document_has_its_keys_and_its_types(
    asked: Callable[..., Any], command: str, code: int, shape: Any
) -> None:
    document = asked(command, code)
    assert document, "an empty document proves nothing"
    assert fits(document, shape), json.dumps(document, indent=2)


def named(rows: list[dict[str, Any]], code: str) -> dict[str, Any]:
    (row,) = (row for row in rows if row["branchCode"] == code)
    return row


def test_documents_say_what_is_true_of_a_branch_at_head(asked: Callable[..., Any]) -> None:
    history = asked("history BR001")
    assert history["appliedMigrations"] == list(HISTORY)
    assert (history["pendingMigrations"], history["status"]) == ([], "Completed")
    assert history["lastMigrationDate"]


def test_documents_say_what_is_true_of_a_branch_behind(asked: Callable[..., Any]) -> None:
    lacking = list(HISTORY[1:])
    assert asked("pending BR002")["pendingMigrations"] == lacking
    plan = asked("plan BR002")
    assert (plan["current"], plan["target"]) == (BASE, HEAD)
    assert [step["revision"] for step in plan["steps"]] == lacking
    assert (plan["steps"][0]["fromHeads"], plan["steps"][-1]["toHeads"]) == ([BASE], [HEAD])
    validation = asked("validate BR002", 1)
    assert (validation["status"], validation["pendingMigrations"]) == ("Invalid", lacking)
    assert validation["reason"] == "behind by 3 revisions"
    status = named(asked("status"), "BR002")
    assert (status["status"], status["behind"]) == ("Pending", True)
    assert (status["lastMigrationApplied"], status["targetMigration"]) == (BASE, HEAD)
    assert (status["branchName"], status["tags"]) == ("Zweite", ["north"])


def test_documents_say_what_is_true_of_a_branch_without_a_database(
    asked: Callable[..., Any],
) -> None:
    assert asked("pending BR003")["count"] == len(HISTORY)
    assert asked("plan BR003")["current"] is None
    validation = asked("validate BR003", 1)
    assert len(validation["missingTables"]) == 14
    status = named(asked("status"), "BR003")
    assert (status["lastMigrationApplied"], status["lastAttemptAt"]) == (None, None)


def test_what_a_branch_that_cannot_be_read_lacks_is_null_in_a_list(
    asked: Callable[..., Any],
) -> None:
    rows = {row["branchCode"]: row for row in asked("pending --all", 1)}
    assert list(rows) == ["BR001", "BR002", "BR003", "BR004"]
    assert rows["BR004"]["pendingMigrations"] is None
    assert "not a SQLite database" in rows["BR004"]["error"]["message"]


def test_the_sql_of_a_plan_is_a_script_in_which_each_revision_is_recorded(fleet: Office) -> None:
    script = fleet.run("plan", "BR003", "--sql").stdout
    with closing(sqlite3.connect(":memory:")) as scratch:
        scratch.executescript(script)
        assert scratch.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]


def test_apply_gives_a_report_base_first(office: Office) -> None:
    report = office.json("apply", "br001")
    assert fits(report, REPORT), report
    assert report["appliedMigrations"] == list(HISTORY)
    assert (report["success"], report["errorMessage"]) == (True, None)
    counts = ("branchesProcessed", "branchesSucceeded", "branchesFailed", "branchesSkipped")
    assert [report[count] for count in counts] == [1, 1, 0, 0]
    (outcome,) = report["branches"]
    assert (outcome["branchCode"], outcome["verdict"]) == ("BR001", "migrated")
    again = office.json("apply", outcome["branchId"].upper())
    assert (again["appliedMigrations"], again["branches"][0]["verdict"]) == ([], "unchanged")
    assert again["runId"] != report["runId"]


def test_apply_all_prefixes_what_landed_and_counts_what_failed(office: Office) -> None:
    office.add("BR002", "BR003")
    office.database("BR002").parent.mkdir()
    office.database("BR002").write_text("a text")
    office.run("pin", "BR003")
    report = office.json("apply-all", code=1)
    assert fits(report, REPORT), report
    assert report["appliedMigrations"] == [f"[BR001] {revision}" for revision in HISTORY]
    assert report["errorMessage"].startswith("1 of 2 failed: BR002: ")
    assert report["success"] is False
    counts = ("branchesProcessed", "branchesSucceeded", "branchesFailed", "branchesSkipped")
    assert [report[count] for count in counts] == [2, 1, 1, 1]


def test_what_landed_before_a_failure_is_told(office: Office) -> None:
    office.use_history("fails_midway")
    report = office.json("apply", "BR001", code=1)
    assert fits(report, REPORT), report
    assert report["appliedMigrations"] == ["f1"]
    assert "the revision f2 failed and was rolled back" in report["errorMessage"]
    assert office.status("BR001")["lastMigrationApplied"] == "f1"


def test_several_heads_are_sorted_and_joined(office: Office) -> None:
    office.use_history("two_heads", target="heads")
    office.run("apply", "BR001")
    status = office.status("BR001")
    assert status["lastMigrationApplied"] == status["targetMigration"] == "b2_left, b2_right"
    assert office.json("plan", "BR001")["current"] == "b2_left, b2_right"


# Exit codes of looking ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("pending BR001 --check", 0),
        ("pending BR002 --check", 1),
        ("pending --tag north --check", 1),
        ("status --check", 1),
        ("status BR001 --check", 0),
        ("status BR002 --check", 1),
    ],
)
def test_check_turns_what_is_amiss_into_an_exit_code(
    fleet: Office, command: str, code: int
) -> None:
    fleet.run(*command.split(" "), code=code)


def test_a_history_that_cannot_be_trusted_is_a_finding_of_validate(office: Office) -> None:
    office.use_history("two_heads")
    document = office.json("validate", "--no-branches", code=1)
    assert fits(document, VALIDATIONS)
    assert document["migrations"]["heads"] == ["b2_left", "b2_right"]
    assert document["migrations"]["findings"] == [
        "the history has 2 heads and one is wanted: b2_left, b2_right"
    ]


# Options, help, streams ---------------------------------------------------------------------------


def test_json_and_debug_are_taken_before_and_after_the_command(fleet: Office) -> None:
    after = fleet.run("status", "--json", "--debug")
    assert json.loads(after.stdout) == json.loads(fleet.run("--json", "--debug", "status").stdout)


def test_the_version_is_told_without_settings(office: Office) -> None:
    office.settings.unlink()
    assert re.fullmatch(r"branchmig \d+\.\d+\.\d+\S*\n", office.run("--version").stdout)


def commands() -> list[tuple[str, Any]]:
    """Every command with its path, groups left out."""

    def below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(command, TyperGroup):
            for name, inner in command.commands.items():
                yield from below(f"{path} {name}", inner)
        else:
            yield path, command

    return list(below("branchmig", get_command(app)))


@pytest.mark.parametrize(("path", "command"), commands(), ids=str)
def test_the_help_of_every_command_has_an_example_and_explains_every_option(
    path: str, command: Any
) -> None:
    assert re.search(rf"^Example: {path}\b", command.help or "", re.MULTILINE)
    unexplained = [p.name for p in command.params if not getattr(p, "help", None)]
    assert unexplained == []


def test_help_is_printed_for_a_command_and_for_none(office: Office) -> None:
    assert "Example: branchmig branch add BR001" in office.run("branch", "add", "-h").stdout
    alone = office.run(code=2)
    assert "apply-all" in alone.stdout
    assert alone.stderr == ""


def test_completion_is_a_script_and_completes(office: Office) -> None:
    script = office.run(_BRANCHMIG_COMPLETE="source_bash").stdout
    assert "complete -o default -F _branchmig_completion branchmig" in script
    done = office.run(
        _BRANCHMIG_COMPLETE="complete_bash", COMP_WORDS="branchmig appl", COMP_CWORD="1"
    )
    assert done.stdout.split() == ["apply", "apply-all"]


BOXES_AND_COLOURS = re.compile("[\u2500-\u257f\u2580-\u259f\x1b]")


@pytest.mark.parametrize("json_too", [False, True])
def test_a_pipe_gets_the_result_alone_and_the_log_is_plain(office: Office, json_too: bool) -> None:
    office.add("BR002")
    done = office.run("apply-all", *(["--json"] if json_too else []))
    if json_too:
        json.loads(done.stdout)
    assert not BOXES_AND_COLOURS.search(done.stdout + done.stderr)
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    assert all(re.match(rf"{TIME} INFO ", line) for line in lines)
    assert "BR001 migrated: " in done.stderr
    assert "BR001" in done.stdout


def test_the_log_is_json_where_that_is_asked_for(office: Office) -> None:
    done = office.run("--log-format", "json", "apply-all")
    records = [json.loads(line) for line in done.stderr.splitlines()]
    assert [record["branch"] for record in records] == [None, "BR001", None]
    assert {record["level"] for record in records} == {"INFO"}


@pytest.mark.parametrize("command", ["plan BR003 --sql", "branch list --json"])
def test_a_reader_that_has_gone_is_no_error(fleet: Office, command: str) -> None:
    with fleet.start(*command.split(" ")) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert (process.wait(60), said) == (0, "")


@pytest.mark.parametrize(("closed", "code"), [(">&-", 0), (">&- 2>&- <&-", 0), (">/dev/full", 1)])
def test_standard_streams_may_be_closed_or_full(office: Office, closed: str, code: int) -> None:
    office.wrapper = ("sh", "-c", f'exec "$@" {closed}', "sh")
    done = office.run("apply-all", code=code)
    assert "Traceback" not in done.stderr
    assert ("Error: the result cannot be written" in done.stderr) is (code == 1)
    assert office.query("BR001", "SELECT version_num FROM alembic_version") == [(HEAD,)]


@pytest.mark.parametrize(
    ("command", "code"),
    [("audit --jsonl", 1), ("health", 3), ("health --critical-lag x", 3), ("apply-all -h", 1)],
)
def test_what_cannot_be_printed_is_no_fault_of_the_program(
    office: Office, command: str, code: int
) -> None:
    office.run("apply-all")
    office.wrapper = ("sh", "-c", 'exec "$@" >/dev/full', "sh")
    done = office.run(*command.split(), code=code)
    assert "fault in branchmig" not in done.stderr


# Terminals ----------------------------------------------------------------------------------------


def terminal(office: Office, *arguments: str, columns: int = 80) -> pexpect.spawn:
    """The program on a terminal of its own."""
    command, *rest = office.command(*arguments)
    environ = office.environment(TERM="xterm")
    environ.pop("COLUMNS", None)
    return pexpect.spawn(
        command, rest, env=environ, cwd=str(office.folder), dimensions=(24, columns),
        encoding="utf-8", timeout=60,
    )  # fmt: skip


def screen(process: pexpect.spawn) -> list[str]:
    """The lines that it printed to its end, without colours."""
    process.expect(pexpect.EOF)
    process.close()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", process.before).splitlines()


@pytest.mark.parametrize(
    ("command", "columns"),
    [("status", 40), ("status", 80), ("branch list", 40), ("pending --all", 40), ("validate", 80)],
)
def test_a_narrow_terminal_stays_readable(fleet: Office, command: str, columns: int) -> None:
    process = terminal(fleet, *command.split(" "), columns=columns)
    lines = screen(process)
    told = "\n".join(lines)
    assert "BR001" in told
    assert "BR003" in told
    # A log line of `pending --all` is as long as it is: the terminal folds it.
    assert max(len(line) for line in lines if " ERROR " not in line) <= columns, told


def test_a_run_on_a_narrow_terminal_ends_with_a_table(office: Office) -> None:
    office.add("BR002")
    process = terminal(office, "apply-all", columns=40)
    lines = screen(process)
    assert process.exitstatus == 0
    assert max(map(len, lines)) <= 40, lines
    assert lines[-1].startswith("2 branches: 2 migrated")


def asks(office: Office) -> pexpect.spawn:
    process = terminal(office, "branch", "remove", "BR001")
    process.expect_exact("Forget the branch BR001? [y/N]: ")
    return process


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x03"])
def test_a_question_that_is_not_answered_with_yes_changes_nothing(
    fleet: Office, answer: str
) -> None:
    before = fleet.files()
    process = asks(fleet)
    process.send(answer)
    assert screen(process)[-1].endswith("stopped")
    assert process.exitstatus == 130
    assert fleet.files() == before


def test_a_question_that_is_answered_with_yes_has_its_way(office: Office) -> None:
    process = asks(office)
    process.send("y\n")
    assert screen(process)[-1] == "BR001 is forgotten."
    assert process.exitstatus == 0
    assert office.json("branch", "list") == []


# Branches -----------------------------------------------------------------------------------------


def test_add_show_update_and_remove(office: Office) -> None:
    identity = str(uuid.uuid4())
    added = office.json(
        *("branch", "add", "BR002", "--url", "-", "--name", "Nord", "--id", identity),
        *("--server", "h1", "--tag", "b", "--tag", "a"),
        stdin="sqlite:///branches/br002.db\nnot this line\n",
    )
    assert fits(added, LISTED)
    assert added == office.json("branch", "show", identity)
    assert added == {
        "branchId": identity,
        "branchCode": "BR002",
        "branchName": "Nord",
        "provider": "sqlite",
        "url": "sqlite:///branches/br002.db",
        "server": "h1",
        "tags": ["b", "a"],
        "isActive": True,
    }
    updated = office.json("branch", "update", "br002", "--inactive", "--no-tags")
    assert updated == added | {"isActive": False, "tags": []}
    assert codes(office.json("status")) == {"BR001"}
    removed = office.json("branch", "remove", "BR002", "--yes")
    assert fits(removed, LISTED)
    assert codes(office.json("branch", "list")) == {"BR001"}


def test_a_branch_can_be_added_and_migrated_at_once(office: Office) -> None:
    report = office.json("branch", "add", "BR002", "--url", "sqlite:///br002.db", "--apply")
    assert fits(report, REPORT)
    assert report["appliedMigrations"] == list(HISTORY)


CSV = "code,url,tags,name\nA,sqlite:///a.db,n;s,Köln\nB,sqlite:///b.db,,\n"
JSON = json.dumps(
    [
        {"code": "A", "url": "sqlite:///a.db", "tags": ["n", "s"], "name": "Köln"},
        {"code": "B", "url": "sqlite:///b.db"},
    ]
)


@pytest.mark.parametrize("text", [CSV, JSON], ids=["csv", "json"])
def test_an_import_says_what_it_did_and_done_again_changes_nothing(
    office: Office, text: str
) -> None:
    file = office.folder / "branches.list"
    file.write_text(text, encoding="utf-8-sig")
    first = office.json("branch", "import", "branches.list")
    assert first == {"success": True, "added": 2, "updated": 0, "unchanged": 0}
    rows = "SELECT * FROM branchmig_branches ORDER BY code"
    before = office.headoffice(rows)
    again = office.json("branch", "import", "-", stdin=text)
    assert again == {"success": True, "added": 0, "updated": 0, "unchanged": 2}
    assert office.headoffice(rows) == before
    cologne = office.json("branch", "show", "A")
    assert (cologne["branchName"], cologne["tags"]) == ("Köln", ["n", "s"])


def test_an_import_changes_what_it_names_and_keeps_the_rest(office: Office) -> None:
    office.run("branch", "import", "-", stdin=CSV)
    counts = office.json("branch", "import", "-", stdin="url,code,server\n,a,h9\n")
    assert counts == {"success": True, "added": 0, "updated": 1, "unchanged": 0}
    shown = office.json("branch", "show", "A")
    assert (shown["branchName"], shown["url"], shown["server"]) == ("Köln", "sqlite:///a.db", "h9")


def test_a_password_in_a_url_that_is_refused_is_not_shown(office: Office) -> None:
    done = office.run(
        *("branch", "add", "X", "--url", "-"), stdin="sqlite://u:hunter2@/x.db\n", code=2
    )
    assert "hunter2" not in done.stdout + done.stderr


# Filters ------------------------------------------------------------------------------------------


def codes(rows: list[dict[str, Any]]) -> set[str]:
    return {row["branchCode"] for row in rows}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ("--tag north --tag south --provider sqlite", {"BR002"}),
        ("--provider mysql", set()),
        ("--status Completed", {"BR001"}),
        ("--status pending --tag north", {"BR002"}),
        ("--behind", {"BR002", "BR003", "BR004"}),
    ],
)
def test_filters_leave_the_branches_they_name(
    asked: Callable[..., Any], filters: str, expected: set[str]
) -> None:
    assert codes(asked(f"status {filters}")) == expected


def test_shards_are_a_partition_of_the_fleet(office: Office) -> None:
    fleet = {f"BR{number:03}" for number in range(1, 24)}
    office.add(*fleet - {"BR001"})
    shards = [codes(office.json("status", "--shard", f"{i}/3")) for i in (1, 2, 3)]
    assert set.union(*shards) == fleet
    assert sum(map(len, shards)) == len(fleet)
    assert all(shards)


def test_a_run_touches_what_the_filters_leave_and_nothing_else(office: Office) -> None:
    office.run("branch", "import", "-", stdin=CSV)
    report = office.json("apply-all", "--tag", "n")
    assert codes(report["branches"]) == {"A"}
    assert not (office.folder / "b.db").exists()


# States -------------------------------------------------------------------------------------------


def outcome(report: dict[str, Any]) -> tuple[str, str | None, str]:
    """Verdict, reason and status of the only branch of a run."""
    (only,) = report["branches"]
    return only["verdict"], only["reason"], only["status"]


def test_three_failures_need_a_person_who_brings_the_branch_back(office: Office) -> None:
    office.environ["BRANCHMIG_RETRY_BACKOFF_SECONDS"] = "0"
    office.database("BR001").parent.mkdir()
    office.database("BR001").write_text("a text")
    ends = [outcome(office.json("apply-all", code=1)) for _ in range(3)]
    assert ends == [
        ("failed", None, "Failed"),
        ("failed", None, "Failed"),
        ("failed", None, "RequiresManualIntervention"),
    ]
    left_alone = office.json("apply-all")
    assert outcome(left_alone) == ("skipped", "manual", "RequiresManualIntervention")
    assert (left_alone["success"], left_alone["branchesProcessed"]) == (True, 0)
    by_hand = office.json("apply", "BR001", code=1)
    assert outcome(by_hand) == ("failed", None, "RequiresManualIntervention")
    assert office.status("BR001")["retryCount"] == 4
    assert office.json("retry", "BR001") == {"success": True, "count": 1, "branches": ["BR001"]}
    status = office.status("BR001")
    assert (status["status"], status["retryCount"], status["errorDetails"]) == ("Pending", 0, None)
    office.database("BR001").unlink()
    assert outcome(office.json("apply-all")) == ("migrated", None, "Completed")


def test_a_person_may_attempt_what_is_left_alone(office: Office) -> None:
    office.environ["BRANCHMIG_RETRY_MAX_ATTEMPTS"] = "1"
    office.database("BR001").parent.mkdir()
    office.database("BR001").write_text("a text")
    office.run("apply-all", code=1)
    office.database("BR001").unlink()
    assert outcome(office.json("apply-all")) == ("skipped", "manual", "RequiresManualIntervention")
    assert outcome(office.json("apply", "BR001")) == ("migrated", None, "Completed")
    assert office.status("BR001")["retryCount"] == 0


def test_a_failed_branch_waits_before_its_next_attempt(office: Office) -> None:
    office.database("BR001").parent.mkdir()
    office.database("BR001").write_text("a text")
    office.run("apply-all", code=1)
    waiting = office.json("apply-all")
    assert outcome(waiting) == ("skipped", "backoff", "Failed")
    assert re.search(r"next attempt at \d\d:\d\d:\d\dZ", waiting["branches"][0]["errorMessage"])


def test_a_pinned_branch_is_left_alone_until_it_is_let_go(office: Office) -> None:
    office.run("pin", "BR001")
    assert office.status("BR001")["pinned"] is True
    assert outcome(office.json("apply-all")) == ("skipped", "pinned", "Pending")
    office.run("unpin", "BR001")
    assert outcome(office.json("apply-all")) == ("migrated", None, "Completed")


LEASE = """
UPDATE branchmig_migration_states SET lock_owner = 'another', lock_token = lock_token + 1,
lock_expires_at = strftime('%Y-%m-%d %H:%M:%f', 'now', ?) || '000'
"""


def test_a_live_lease_keeps_others_away_until_it_is_cleared_by_force(office: Office) -> None:
    office.headoffice(LEASE, ("+600 seconds",))
    held = office.json("apply", "BR001", code=75)
    assert fits(held, REPORT)
    assert (held["success"], held["branchesProcessed"], held["branchesSkipped"]) == (False, 0, 1)
    assert "BR001 is leased by run another until 20" in held["errorMessage"]
    assert outcome(office.json("apply-all"))[:2] == ("skipped", "leased")
    status = office.status("BR001")
    assert (status["isLocked"], status["retryCount"]) == (True, 0)
    assert status["lockExpiresAt"]
    token = "SELECT lock_token FROM branchmig_migration_states"
    before = office.headoffice(token)
    refused = office.json("unlock", "BR001", code=75)
    assert "unlock BR001 --force" in refused["error"]["hint"]
    assert office.json("unlock", "--all")["count"] == 0
    assert office.json("unlock", "BR001", "--force", "--yes")["branches"] == ["BR001"]
    assert office.headoffice(token) > before
    assert outcome(office.json("apply", "BR001")) == ("migrated", None, "Completed")


def test_an_expired_lease_is_cleared_without_force_and_stops_nobody(office: Office) -> None:
    office.add("BR002")
    office.headoffice(LEASE, ("-1 seconds",))
    assert office.status("BR001")["isLocked"] is False
    assert office.json("unlock", "BR001")["branches"] == ["BR001"]
    assert office.json("apply-all")["branchesSucceeded"] == 2


# Databases that another tool made -----------------------------------------------------------------


def another_tool_made(office: Office, code: str, upto: str) -> None:
    """A database at `upto` without a version table."""
    office.run("apply", code, "--to", upto)
    office.query(code, "DROP TABLE alembic_version")
    office.headoffice("UPDATE branchmig_migration_states SET status = 'Pending', heads = '[]'")


def test_a_database_of_another_tool_is_refused_and_taken_over_by_a_baseline(
    office: Office,
) -> None:
    another_tool_made(office, "BR001", BASE)
    refused = office.json("apply", "BR001", code=1)
    assert "tables but no version table: another tool made it" in refused["errorMessage"]
    assert "`branchmig baseline BR001 --revision REV`" in refused["branches"][0]["hint"]

    too_far = office.json("baseline", "BR001", "--revision", HEAD, code=1)["error"]
    assert too_far["type"] == "DriftDetected"
    assert f"BR001 is not at {HEAD}, it lacks " in too_far["message"]
    assert office.query("BR001", "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'") == []

    taken = office.json("baseline", "BR001", "--revision", BASE)
    assert taken == {
        "success": True,
        "branchId": office.status("BR001")["branchId"],
        "branchCode": "BR001",
        "lastMigrationApplied": BASE,
    }
    assert office.json("apply", "BR001")["appliedMigrations"] == list(HISTORY[1:])
    again = office.json("baseline", "BR001", "--revision", BASE, code=1)["error"]
    assert again["type"] == "NotAdopted"


def test_a_branch_without_a_database_needs_no_baseline(office: Office) -> None:
    error = office.json("baseline", "BR001", "--revision", BASE, code=1)["error"]
    assert error["type"] == "NotAdopted"
    assert "`branchmig apply` makes it" in error["hint"]
    assert not office.database("BR001").exists()
