from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from branchmig import masking
from branchmig.errors import MigrationFailed, UnknownBranch
from branchmig.model import (
    Branch,
    BranchState,
    BranchStatus,
    Direction,
    Failure,
    HistoryReport,
    MigrationHistory,
    MigrationStatus,
    Outcome,
    PendingRevisions,
    Plan,
    Provider,
    Report,
    Run,
    SkipReason,
    Step,
    ValidationResult,
    Verdict,
)
from branchmig.render import documents, tables
from branchmig.render.page import Column, Line, Page, Table
from branchmig.render.progress import ProgressSink
from branchmig.render.text import duration_text, time_text
from branchmig.sinks import BranchFinished, BranchStarted, RunStarted

FIRST, SECOND = "20251206_InitialCreate", "20251206_AddCustomerFields"
AT = datetime(2026, 1, 1, 12, 30, 5, 999_000, tzinfo=UTC)

BRANCH = Branch(
    "6f1c", "BR001", "North", Provider.POSTGRESQL, "postgresql://app:s3cret@db/br001", "db", ("eu",)
)
OTHER = replace(BRANCH, id="7a2d", code="BR002", name="South")
MIGRATED = Outcome(
    BRANCH,
    Verdict.MIGRATED,
    MigrationStatus.COMPLETED,
    to_heads=(SECOND,),
    applied=(FIRST, SECOND),
    duration=timedelta(seconds=2.345),
)
FAILED = Outcome(
    OTHER,
    Verdict.FAILED,
    MigrationStatus.FAILED,
    applied=(FIRST,),
    failure=Failure("MigrationFailed", "no such table: Users", "restore the table"),
    warnings=("env.py writes a file",),
)
LEASED = Outcome(
    BRANCH,
    Verdict.SKIPPED,
    MigrationStatus.PENDING,
    reason=SkipReason.LEASED,
    detail="leased by run-9 until 12:40",
)
UNCHANGED = replace(MIGRATED, verdict=Verdict.UNCHANGED, applied=())
COMPLETED = BranchState(MigrationStatus.COMPLETED, (SECOND,), last_attempt_at=AT)
STEPS = (
    Step(FIRST, Direction.UPGRADE, (), (FIRST,), "first tables"),
    Step(SECOND, Direction.UPGRADE, (FIRST,), (SECOND,), "more about customers"),
)
PLAN = Plan(BRANCH, (), (SECOND,), STEPS)

BOXES = re.compile(r"[\u2500-\u257f]")


class Terminal(io.StringIO):
    """A text file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that knows colours, whatever the tests themselves run on."""
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def piped(page: Page) -> str:
    file = io.StringIO()
    tables.print_table(page, file)
    return file.getvalue()


def painted(page: Page, width: int = 80) -> str:
    file = Terminal()
    tables.print_table(page, file, width)
    return file.getvalue()


def read(page: Page, width: int = 80) -> str:
    """What a person reads on a terminal: the page without its colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", painted(page, width))


def row(
    code: str, status: MigrationStatus, state: BranchState = COMPLETED, *, behind: bool = False
) -> BranchStatus:
    branch = replace(BRANCH, code=code, name=f"Branch {code}")
    return BranchStatus(branch, state, status, behind, SECOND, is_locked=False)


BROKEN = row(
    "BR003",
    MigrationStatus.MANUAL,
    BranchState(
        MigrationStatus.MANUAL,
        (FIRST,),
        retry_count=3,
        last_attempt_at=AT,
        error="revision 20251206_AddCustomerFields failed: no such table: Users, and a long story "
        "about how it came to be dropped by somebody on a Friday afternoon",
    ),
)
FLEET = [
    row("BR001", MigrationStatus.COMPLETED),
    row("BR002", MigrationStatus.PENDING, COMPLETED._replace(heads=(FIRST,)), behind=True),
    BROKEN,
]


# Texts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(), "00:00:00.000"),
        (timedelta(seconds=2.345), "00:00:02.345"),
        (timedelta(microseconds=999_600), "00:00:01.000"),
        (timedelta(hours=100, minutes=1, seconds=1), "100:01:01.000"),
        (timedelta(seconds=-1), "00:00:00.000"),
    ],
)
def test_a_duration_is_hours_to_milliseconds(duration: timedelta, text: str) -> None:
    assert duration_text(duration) == text


def test_a_time_is_in_utc_whatever_zone_it_came_in() -> None:
    assert time_text(AT) == "2026-01-01T12:30:05Z"
    assert time_text(AT.astimezone(timezone(timedelta(hours=5)))) == "2026-01-01T12:30:05Z"
    assert time_text(None) is None


# Documents ----------------------------------------------------------------------------------------


def test_an_apply_that_succeeds_has_every_key_of_the_contract() -> None:
    report = Report("run-1", (MIGRATED,), timedelta(seconds=2.345))
    assert documents.report(report, prefixed=False) == {
        "success": True,
        "appliedMigrations": [FIRST, SECOND],
        "errorMessage": None,
        "duration": "00:00:02.345",
        "branchesProcessed": 1,
        "branchesSucceeded": 1,
        "branchesFailed": 0,
        "branchesSkipped": 0,
        "runId": "run-1",
        "rollout": None,
        "branches": [
            {
                "branchId": "6f1c",
                "branchCode": "BR001",
                "verdict": "migrated",
                "reason": None,
                "status": "Completed",
                "appliedMigrations": [FIRST, SECOND],
                "errorMessage": None,
                "errorType": None,
                "hint": None,
                "warnings": [],
                "duration": "00:00:02.345",
            }
        ],
    }


def test_an_apply_that_fails_tells_the_sentence_and_what_landed() -> None:
    document = documents.report(Report("run-1", (FAILED,)), prefixed=False)
    assert document["success"] is False
    assert document["errorMessage"] == "no such table: Users"
    assert document["appliedMigrations"] == [FIRST]
    assert (document["branchesProcessed"], document["branchesFailed"]) == (1, 1)


def test_an_apply_that_finds_a_lease_names_its_holder_and_is_no_success() -> None:
    document = documents.report(Report("run-1", (LEASED,)), prefixed=False)
    assert document["success"] is False
    assert document["errorMessage"] == "leased by run-9 until 12:40"
    assert (document["branchesProcessed"], document["branchesSkipped"]) == (0, 1)


def test_apply_all_prefixes_migrations_and_counts_the_unchanged_as_succeeded() -> None:
    outcomes = (MIGRATED, FAILED, replace(UNCHANGED, branch=OTHER), LEASED)
    document = documents.report(Report("run-1", outcomes), prefixed=True)
    assert document["appliedMigrations"] == [
        f"[BR001] {FIRST}",
        f"[BR001] {SECOND}",
        f"[BR002] {FIRST}",
    ]
    counts = ("branchesProcessed", "branchesSucceeded", "branchesFailed", "branchesSkipped")
    assert [document[key] for key in counts] == [3, 2, 1, 1]
    assert document["errorMessage"] == "1 of 3 failed: BR002: no such table: Users"
    assert document["success"] is False


def test_apply_all_that_only_skips_is_a_success_without_a_message() -> None:
    document = documents.report(Report("run-1", (LEASED,)), prefixed=True)
    assert (document["success"], document["errorMessage"]) == (True, None)


def test_apply_all_over_no_branch_is_a_success() -> None:
    document = documents.report(Report("run-1", ()), prefixed=True)
    assert (document["success"], document["branches"]) == (True, [])


def test_the_message_of_many_failures_stays_short() -> None:
    failures = tuple(replace(FAILED, branch=replace(OTHER, code=f"BR{i}")) for i in range(9))
    message = documents.report(Report("run-1", failures), prefixed=True)["errorMessage"]
    assert str(message).startswith("9 of 9 failed: BR0: no such table: Users; BR1: ")
    assert str(message).endswith("; and 6 more")


def test_pending_is_counted() -> None:
    assert documents.pending(PendingRevisions(BRANCH, (FIRST, SECOND))) == {
        "branchId": "6f1c",
        "branchCode": "BR001",
        "pendingMigrations": [FIRST, SECOND],
        "count": 2,
    }


def test_the_history_of_a_branch_that_was_never_migrated_is_empty_lists_and_nulls() -> None:
    assert documents.history(MigrationHistory(BRANCH, (), (), None, BranchState())) == {
        "branchId": "6f1c",
        "branchCode": "BR001",
        "appliedMigrations": [],
        "pendingMigrations": [],
        "lastMigrationDate": None,
        "status": "Pending",
        "retryCount": 0,
        "errorDetails": None,
    }


def test_a_branch_that_is_behind_is_invalid_with_a_reason() -> None:
    result = ValidationResult(BRANCH, ("Users",), (SECOND,), "1 revision is pending")
    assert documents.validation(result) == {
        "branchId": "6f1c",
        "branchCode": "BR001",
        "isValid": False,
        "status": "Invalid",
        "missingTables": ["Users"],
        "pendingMigrations": [SECOND],
        "reason": "1 revision is pending",
    }
    assert documents.validation(ValidationResult(BRANCH))["status"] == "Valid"


@pytest.mark.parametrize(
    ("reason", "findings", "valid"),
    [(None, (), True), ("behind", (), False), (None, ("two heads",), False)],
)
def test_everything_is_valid_only_if_branches_and_history_are(
    reason: str | None, findings: tuple[str, ...], valid: bool
) -> None:
    results = [ValidationResult(BRANCH), ValidationResult(OTHER, reason=reason)]
    document = documents.validation_all(results, HistoryReport((SECOND,), findings))
    assert document == {
        "isValid": valid,
        "branches": [documents.validation(result) for result in results],
        "migrations": {"isValid": not findings, "heads": [SECOND], "findings": list(findings)},
    }


def test_a_status_row_has_every_key_of_the_contract() -> None:
    state = COMPLETED._replace(heads=("b", "a"), lock_expires_at=AT, pinned=True, error="oops")
    shown = BranchStatus(BRANCH, state, MigrationStatus.PENDING, True, SECOND, is_locked=True)
    assert documents.status([shown]) == [
        {
            "branchId": "6f1c",
            "branchCode": "BR001",
            "branchName": "North",
            "lastMigrationApplied": "a, b",
            "status": "Pending",
            "lastAttemptAt": "2026-01-01T12:30:05Z",
            "retryCount": 0,
            "errorDetails": "oops",
            "isLocked": True,
            "lockExpiresAt": "2026-01-01T12:30:05Z",
            "provider": "postgresql",
            "behind": True,
            "targetMigration": SECOND,
            "pinned": True,
            "tags": ["eu"],
            "halted": False,
            "haltReason": None,
        }
    ]


def test_the_status_of_a_branch_nobody_touched_is_null_where_there_is_nothing() -> None:
    fresh = BranchStatus(BRANCH, BranchState(), MigrationStatus.PENDING, True, None, False)
    [document] = documents.status([fresh])
    absent = ("lastMigrationApplied", "lastAttemptAt", "errorDetails", "lockExpiresAt")
    assert [document[key] for key in (*absent, "targetMigration")] == [None] * 5
    assert documents.status([]) == []


def test_a_plan_lists_its_steps_and_sql_only_when_asked() -> None:
    document = documents.plan(PLAN, {FIRST: "CREATE TABLE x (id INT)"})
    assert document == {
        "branchId": "6f1c",
        "branchCode": "BR001",
        "current": None,
        "target": SECOND,
        "steps": [
            {
                "revision": FIRST,
                "direction": "upgrade",
                "fromHeads": [],
                "toHeads": [FIRST],
                "description": "first tables",
                "sql": "CREATE TABLE x (id INT)",
            },
            {
                "revision": SECOND,
                "direction": "upgrade",
                "fromHeads": [FIRST],
                "toHeads": [SECOND],
                "description": "more about customers",
            },
        ],
    }
    assert "sql" not in documents.dumps(documents.plan(PLAN))


def test_a_branch_is_shown_without_its_password() -> None:
    assert documents.branch(BRANCH) == {
        "branchId": "6f1c",
        "branchCode": "BR001",
        "branchName": "North",
        "provider": "postgresql",
        "url": "postgresql://app:***@db/br001",
        "server": "db",
        "tags": ["eu"],
        "isActive": True,
    }


def test_an_error_is_its_class_sentence_and_hint() -> None:
    assert documents.error(UnknownBranch("no branch BR9")) == {
        "success": False,
        "error": {"type": "UnknownBranch", "message": "no branch BR9", "hint": None},
    }


def test_secrets_in_what_a_driver_said_are_masked_everywhere() -> None:
    masking.remember("s3cret")
    said = "password s3cret was refused"
    failed = replace(FAILED, failure=Failure("X", said, said), warnings=(said,))
    state = COMPLETED._replace(error=said)
    shown = [
        documents.report(Report("r", (failed,)), prefixed=False),
        documents.report(Report("r", (failed,)), prefixed=True),
        documents.history(MigrationHistory(BRANCH, (), (), None, state)),
        documents.validation_all(
            [ValidationResult(BRANCH, reason=said)], HistoryReport((), (said,))
        ),
        documents.status([row("BR1", MigrationStatus.FAILED, state)]),
        documents.error(MigrationFailed(said, said)),
    ]
    pages = [
        tables.report(Report("r", (failed,))),
        tables.history(MigrationHistory(BRANCH, (), (), None, state)),
        tables.validations([ValidationResult(BRANCH, reason=said)], HistoryReport((), (said,))),
        tables.status([row("BR1", MigrationStatus.FAILED, state)]),
        tables.error(MigrationFailed(said, said)),
        tables.branch(BRANCH),
        tables.branches([BRANCH]),
    ]
    wide = (read(page, 200) for page in pages)
    for text in (documents.dumps(shown), *map(piped, pages), *wide):
        assert "s3cret" not in text
        assert "***" in text


def test_json_keeps_letters_and_escapes_what_a_terminal_would_obey() -> None:
    document = {"name": "Zürich 支店", "x": "\x1b[31m\x7f\x9b\u202e\n[bold]\udcff"}
    text = documents.dumps(document)
    assert '"name": "Zürich 支店"' in text
    assert r"\u001b[31m\u007f\u009b\u202e\n[bold]\udcff" in text
    assert text.startswith('{\n  "name"')
    assert json.loads(text) == document


# Pages in a pipe ----------------------------------------------------------------------------------

PAGES = {
    "report": tables.report(Report("run-1", (MIGRATED, FAILED, LEASED))),
    "pending": tables.pending([PendingRevisions(BRANCH, (FIRST, SECOND))]),
    "history": tables.history(MigrationHistory(BRANCH, (FIRST,), (SECOND,), AT, BROKEN.state)),
    "validations": tables.validations(
        [ValidationResult(BRANCH), ValidationResult(OTHER, ("Users",), (SECOND,), "behind")],
        HistoryReport(("a", "b"), ("two heads",)),
    ),
    "status": tables.status(FLEET),
    "plan": tables.plan(PLAN),
    "script": tables.plan(PLAN, {FIRST: "CREATE TABLE x (id INT);"}),
    "plans": tables.plans([PLAN, Plan(OTHER, (SECOND,), (SECOND,), ())]),
    "branches": tables.branches([BRANCH, OTHER]),
    "branch": tables.branch(BRANCH),
    "error": tables.error(UnknownBranch("no branch BR9", "see branch list")),
}

every_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)


@every_page
def test_a_pipe_gets_neither_colour_nor_boxes_nor_trailing_blanks(page: Page) -> None:
    text = piped(page)
    assert "\x1b" not in text
    assert not BOXES.search(text)
    assert all(line == line.rstrip() and line for line in text.splitlines())


def test_grep_finds_a_branch_together_with_its_whole_error() -> None:
    [line] = [line for line in piped(tables.status(FLEET)).splitlines() if "BR003" in line]
    assert "RequiresManualIntervention" in line
    assert line.endswith("Error: " + str(BROKEN.state.error))


def test_columns_in_a_pipe_are_aligned_also_under_wide_letters() -> None:
    rows = [("支店", "x"), ("e\u0301", "y"), ("plain", None)]
    text = piped(Page(Table((Column("A"), Column("B")), rows)))
    assert text == "A      B\n支店   x\ne\u0301      y\nplain  -\n"


def test_what_the_encoding_of_a_pipe_lacks_is_escaped() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    tables.print_table(Page(Line("Zürich")), file)
    file.flush()
    assert raw.getvalue() == b"Z\\xfcrich\n"


def test_a_pipe_and_json_do_not_pay_for_rich() -> None:
    code = (
        "import sys, branchmig.render.documents, branchmig.render.tables as t, branchmig.sinks\n"
        "t.print_table(t.status([]), sys.stdout)\n"
        "print('rich' in sys.modules, 'pythonjsonlogger' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "no branches\nFalse False\n"


# Pages on a terminal ------------------------------------------------------------------------------


@every_page
@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(page: Page, width: int) -> None:
    assert max(map(len, read(page, width).splitlines())) <= width


@every_page
def test_on_a_narrow_terminal_nothing_is_cut_off(page: Page) -> None:
    assert "…" not in read(page, 40)


def test_a_terminal_shows_boxes_and_statuses_in_colour() -> None:
    text = painted(PAGES["status"], 120)
    assert BOXES.search(text)
    assert "\x1b[32mCompleted" in text
    assert "\x1b[33mPending" in text
    assert "\x1b[1;31mRequiresManualIntervention" in text


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in painted(PAGES["status"])


def test_at_80_columns_statuses_and_migrations_are_whole_and_errors_stand_below() -> None:
    text = read(PAGES["status"], 80)
    table, _, below = text.partition("╰")
    assert re.search(rf"BR003 .* RequiresManualIntervention │ {FIRST}", table)
    assert re.search(rf"BR002 .* {FIRST} .* behind", table)
    assert "Error" not in table
    assert below.count("BR003") == 1
    assert " ".join(str(BROKEN.state.error).split()) in " ".join(below.split())


def test_a_terminal_too_narrow_for_a_table_shows_lists_with_every_fact() -> None:
    text = read(PAGES["status"], 40)
    assert not BOXES.search(text)
    assert "BR003\n" in text
    assert "  Status: RequiresManualIntervention\n" in text
    assert f"  Migration: {FIRST}\n" in text


def test_a_script_is_never_broken_at_the_edge_of_the_terminal() -> None:
    statement = "CREATE TABLE customers (" + ", ".join(f"c{i} INT" for i in range(30)) + ")"
    assert statement in read(tables.plan(PLAN, {FIRST: statement}), 40).splitlines()


def test_strangers_text_is_shown_and_never_obeyed() -> None:
    nasty = "[bold]x[/bold] \x1b[31mred\nBR999 :smile: [/]"
    state = COMPLETED._replace(error=nasty)
    shown = replace(FLEET[0], branch=replace(BRANCH, name=nasty), state=state)
    failed = replace(FAILED, failure=Failure("X", nasty, nasty), warnings=(nasty,))
    script = tables.plan(replace(PLAN, steps=(replace(STEPS[0], description=nasty),)), {})
    for page in (tables.status([shown]), tables.report(Report("r", (failed,))), script):
        for text in (piped(page), read(page, 200)):
            assert r"[bold]x[/bold] \x1b[31mred\nBR999 :smile: [/]" in text
            assert "\x1b" not in text


# What the pages say -------------------------------------------------------------------------------


def test_status_ends_with_a_summary_in_a_fixed_order() -> None:
    fleet = [row(f"C{i}", MigrationStatus.COMPLETED) for i in range(10)]
    fleet += [*FLEET[1:2], row("F1", MigrationStatus.FAILED)]
    last = piped(tables.status(fleet)).splitlines()[-1]
    assert last == "12 branches: 10 Completed, 1 Pending (1 behind), 1 Failed"
    assert piped(tables.status([])) == "no branches\n"


def test_status_flags_what_is_behind_locked_or_pinned() -> None:
    state = COMPLETED._replace(pinned=True)
    flagged = replace(FLEET[1], state=state, is_locked=True)
    assert "behind, locked, pinned" in piped(tables.status([flagged]))


def test_a_failure_shows_the_sentence_the_hint_and_what_landed() -> None:
    [line] = [line for line in piped(PAGES["report"]).splitlines() if "BR002" in line]
    assert re.search(rf"failed .*{FIRST}", line)
    assert "Error: no such table: Users  Hint: restore the table" in line
    assert line.endswith("Warning: env.py writes a file")
    text = read(PAGES["report"])
    assert "BR002\n  Error: no such table: Users\n  Hint: restore the table\n" in text


def test_a_skip_shows_its_reason_and_note() -> None:
    lines = piped(PAGES["report"]).splitlines()
    assert any(re.search(r"skipped +leased .*Note: leased by run-9 until 12:40", x) for x in lines)


def test_a_report_ends_with_its_counts() -> None:
    counts = "3 branches: 1 migrated, 1 skipped, 1 failed in 00:00:00.000"
    assert piped(PAGES["report"]).splitlines()[-1] == counts


def test_a_large_run_lists_only_the_branches_with_news() -> None:
    quiet = tuple(replace(UNCHANGED, branch=replace(BRANCH, code=f"Q{i}")) for i in range(60))
    warned = replace(UNCHANGED, warnings=("look",))
    lines = piped(tables.report(Report("r", (*quiet, FAILED, warned)))).splitlines()
    assert len(lines) == 4
    assert "61 unchanged, 1 failed" in lines[-1]
    assert len(piped(tables.report(Report("r", (UNCHANGED,)))).splitlines()) == 3


def test_a_history_tells_applied_from_pending() -> None:
    lines = piped(PAGES["history"]).splitlines()
    assert lines[0] == "BR001 (North): RequiresManualIntervention"
    assert re.fullmatch(rf"{FIRST} +applied", lines[2])
    assert re.fullmatch(rf"{SECOND} +pending", lines[3])
    assert "1 pending, 3 retries, last migrated 2026-01-01T12:30:05Z" in lines[4]


def test_a_plan_without_steps_says_so() -> None:
    text = piped(tables.plan(Plan(BRANCH, (SECOND,), (SECOND,), ())))
    assert text == f"BR001: nothing to do at {SECOND}\n"


def test_a_plan_with_sql_is_a_script_whose_prose_is_comments() -> None:
    page = tables.plan(PLAN, {FIRST: "CREATE TABLE x (\n\tid INT\n);\n", SECOND: ""})
    assert piped(page).splitlines() == [
        f"-- BR001: no revision -> {SECOND}",
        f"-- upgrade {FIRST}: first tables",
        "CREATE TABLE x (",
        "        id INT",
        ");",
        f"-- upgrade {SECOND}: more about customers",
    ]


def test_validation_names_missing_tables_and_findings() -> None:
    text = piped(PAGES["validations"])
    assert "Reason: behind  Missing tables: Users  Pending: " + SECOND in text
    assert "2 branches: 1 Valid, 1 Invalid\n" in text
    assert text.endswith("migrations: Invalid, heads: a, b\n  two heads\n")


# Progress -----------------------------------------------------------------------------------------


def test_progress_tells_done_failed_left_and_the_branch_in_hand() -> None:
    file = Terminal()
    run = Run("run-1", "apply-all", "cli", "me", "hq", 1)
    with ProgressSink(file) as progress:
        progress(RunStarted(run, 3))
        progress(BranchStarted(OTHER))
        progress(BranchFinished(FAILED))
        progress(BranchStarted(BRANCH))
    assert "1 done, 1 failed, 2 left  BR001 for 0 s" in file.getvalue()


def test_progress_names_the_branch_that_has_been_in_hand_the_longest() -> None:
    file = Terminal()
    with ProgressSink(file) as progress:
        progress(RunStarted(Run("run-1", "apply-all", "cli", "me", "hq", 1), 3))
        progress(BranchStarted(BRANCH))
        progress(BranchStarted(OTHER))
    assert "3 left  BR001 for" in file.getvalue()
    assert "3 left  BR002 for" not in file.getvalue()


def test_progress_leaves_a_file_that_is_no_terminal_untouched() -> None:
    file = io.StringIO()
    with ProgressSink(file) as progress:
        progress(RunStarted(Run("run-1", "apply-all", "cli", "me", "hq", 1), 3))
        progress(BranchStarted(BRANCH))
    assert file.getvalue() == ""


def test_log_lines_go_above_the_bar_and_standard_output_stays_ours() -> None:
    before, out = sys.stderr, sys.stdout
    with ProgressSink(Terminal()):
        assert sys.stderr is not before
        assert sys.stdout is out
    assert sys.stderr is before
