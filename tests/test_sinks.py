from __future__ import annotations

import io
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TextIO

import pytest
from office import Office

from branchmig import masking
from branchmig.model import (
    Branch,
    Failure,
    MigrationStatus,
    Outcome,
    Provider,
    Report,
    Run,
    SkipReason,
    Verdict,
)
from branchmig.sinks import (
    BranchFinished,
    BranchStarted,
    Event,
    LogSink,
    LogStyle,
    RunFinished,
    RunStarted,
    Sinks,
    about,
    configure_logging,
    log_style,
    logger,
    of_run,
    visible,
)

RUN = Run("run-1", "apply-all", "timer", "root", "hq", 4711, "head")
BRANCH = Branch("id-1", "BR001", "North", Provider.SQLITE, "sqlite:///br001.db")
MIGRATED = Outcome(
    BRANCH,
    Verdict.MIGRATED,
    MigrationStatus.COMPLETED,
    to_heads=("20251206_AddCustomerFields",),
    applied=("20251206_InitialCreate", "20251206_AddCustomerFields"),
    duration=timedelta(milliseconds=213),
)
FAILED = Outcome(
    replace(BRANCH, code="BR002"),
    Verdict.FAILED,
    MigrationStatus.FAILED,
    failure=Failure("MigrationFailed", "no such table: Users", "restore the table"),
)
BEGUN = RunStarted(RUN, 25)


@pytest.fixture(autouse=True)
def untouched_logger() -> Iterator[None]:
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture
def log() -> io.StringIO:
    stream = io.StringIO()
    configure_logging("human", False, stream)
    return stream


def lines(stream: io.StringIO) -> list[str]:
    """What was logged, without the times."""
    return [line.partition(" ")[2] for line in stream.getvalue().splitlines()]


def told(stream: io.StringIO, *events: Event) -> list[str]:
    sink = LogSink()
    for event in events:
        sink(event)
    return lines(stream)


# Sinks that break ---------------------------------------------------------------------------------


def test_a_sink_that_raises_stops_neither_the_run_nor_the_sinks_after_it(log: io.StringIO) -> None:
    heard: list[Event] = []

    def broken(event: Event) -> None:
        raise OSError("no route to host")

    Sinks(broken, heard.append).emit(BEGUN)
    assert heard == [BEGUN]


def test_a_sink_that_keeps_raising_is_called_again_but_logged_once(log: io.StringIO) -> None:
    calls: list[Event] = []

    def broken(event: Event) -> None:
        calls.append(event)
        raise OSError("no route\nto host")

    sinks = Sinks(broken)
    sinks.emit(BEGUN)
    sinks.emit(BranchStarted(BRANCH))
    assert len(calls) == 2
    [line] = lines(log)
    assert line.startswith("WARNING the sink broken failed")
    assert r"OSError: no route\nto host" in line


def test_each_broken_sink_is_logged_under_its_own_name(log: io.StringIO) -> None:
    class Webhook:
        def __call__(self, event: Event) -> None:
            raise ValueError

    class Metrics(Webhook):
        pass

    Sinks(Webhook(), Metrics()).emit(BEGUN)
    first, second = lines(log)
    assert "the sink Webhook failed" in first
    assert "the sink Metrics failed" in second


def test_ctrl_c_within_a_sink_is_not_swallowed() -> None:
    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Sinks(interrupted).emit(BEGUN)


def test_events_can_cross_to_another_process() -> None:
    events = [BEGUN, BranchStarted(BRANCH), BranchFinished(FAILED)]
    events.append(RunFinished(RUN, Report("run-1", (MIGRATED, FAILED))))
    assert pickle.loads(pickle.dumps(events)) == events


# What is said of a branch -------------------------------------------------------------------------


def test_a_migrated_branch_is_one_line_with_what_landed_and_how_long(log: io.StringIO) -> None:
    assert told(log, BranchFinished(MIGRATED)) == [
        "INFO BR001 migrated: 20251206_InitialCreate, 20251206_AddCustomerFields in 0.213 s"
    ]


def test_a_branch_rolled_back_is_not_called_migrated(log: io.StringIO) -> None:
    begun = RunStarted(replace(RUN, command="rollback"), 1)
    assert told(log, begun, BranchFinished(MIGRATED))[1].startswith("INFO BR001 rolled back: 2025")


def test_a_failed_branch_is_an_error_with_sentence_and_hint(log: io.StringIO) -> None:
    assert told(log, BranchFinished(FAILED)) == [
        "ERROR BR002 failed: no such table: Users (hint: restore the table)"
    ]


def test_a_failed_branch_tells_what_landed_before(log: io.StringIO) -> None:
    partly = replace(FAILED, applied=("20251206_InitialCreate",))
    [line] = told(log, BranchFinished(partly))
    assert line.endswith("; landed before it: 20251206_InitialCreate")


def test_a_skipped_branch_tells_the_reason(log: io.StringIO) -> None:
    skipped = replace(MIGRATED, verdict=Verdict.SKIPPED, reason=SkipReason.LEASED, applied=())
    events = BranchFinished(skipped), BranchFinished(replace(skipped, detail="held by hq-2"))
    assert told(log, *events) == [
        "INFO BR001 skipped (leased)",
        "INFO BR001 skipped (leased): held by hq-2",
    ]


def test_an_unchanged_branch_is_told_of_only_to_who_asks_for_more() -> None:
    log = io.StringIO()
    configure_logging("human", True, log)
    unchanged = replace(MIGRATED, verdict=Verdict.UNCHANGED, applied=(), to_heads=("b", "a"))
    events = BranchFinished(unchanged), BranchFinished(replace(unchanged, to_heads=()))
    assert told(log, *events) == ["DEBUG BR001 unchanged at a, b", "DEBUG BR001 unchanged"]
    log = io.StringIO()
    configure_logging("human", False, log)
    assert told(log, *events) == []


def test_each_warning_about_a_branch_is_a_line_of_its_own(log: io.StringIO) -> None:
    warned = replace(MIGRATED, warnings=("the probe failed", "no backup"))
    assert told(log, BranchFinished(warned))[:2] == [
        "WARNING BR001: the probe failed",
        "WARNING BR001: no backup",
    ]


def test_a_run_says_when_it_starts_and_what_it_did(log: io.StringIO) -> None:
    report = Report("run-1", (MIGRATED, FAILED), timedelta(seconds=2))
    assert told(log, BEGUN, BranchStarted(BRANCH), RunFinished(RUN, report)) == [
        "INFO apply-all started: 25 branches",
        "INFO apply-all finished: 1 migrated, 1 failed in 2.000 s",
    ]


def test_a_run_over_nothing_says_so(log: io.StringIO) -> None:
    assert told(log, RunFinished(RUN, Report("run-1", ()))) == [
        "INFO apply-all finished: nothing to do in 0.000 s"
    ]


def test_a_message_cannot_forge_a_second_line_or_colour_the_terminal(log: io.StringIO) -> None:
    forged = Failure("MigrationFailed", "oops\n2026-01-01T00:00:00Z INFO BR001 migrated\x1b[31m")
    [line] = told(log, BranchFinished(replace(FAILED, failure=forged)))
    assert r"oops\n2026-01-01T00:00:00Z INFO BR001 migrated\x1b[31m" in line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain [bold]text[/] häß 支店", "plain [bold]text[/] häß 支店"),
        ("a\tb\r\n", r"a\tb\r\n"),
        ("\x00\x1b\x7f\x9b", r"\x00\x1b\x7f\x9b"),
        ("\u2028\u202e\u2066", r"\u2028\u202e\u2066"),
        ("\udcff", r"\udcff"),
        (r"C:\new", r"C:\new"),
    ],
)
def test_only_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


# The logger ---------------------------------------------------------------------------------------


def test_a_human_line_starts_with_a_utc_time_and_the_level(log: io.StringIO) -> None:
    logger.info("hello %s", "you")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO hello you\n", log.getvalue())


def test_a_json_line_holds_time_level_message_run_and_branch() -> None:
    stream = io.StringIO()
    configure_logging("json", False, stream)
    told(stream, BEGUN, BranchFinished(FAILED))
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert set(first) == set(second) == {"time", "level", "message", "runId", "branch"}
    assert (first["runId"], first["branch"]) == ("run-1", None)
    assert (second["runId"], second["branch"], second["level"]) == ("run-1", "BR002", "ERROR")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", second["time"])


def test_a_json_line_of_another_room_has_null_for_run_and_branch() -> None:
    stream = io.StringIO()
    configure_logging("json", False, stream)
    logging.getLogger("branchmig.fleet").warning("slow")
    line = json.loads(stream.getvalue())
    assert (line["message"], line["runId"], line["branch"]) == ("slow", None, None)


def test_debug_lines_are_there_only_when_asked_for() -> None:
    quiet, chatty = io.StringIO(), io.StringIO()
    configure_logging("human", False, quiet)
    logger.debug("detail")
    configure_logging("human", True, chatty)
    logger.debug("detail")
    assert (lines(quiet), lines(chatty)) == ([], ["DEBUG detail"])


def test_configuring_twice_does_not_log_twice(log: io.StringIO) -> None:
    configure_logging("human", False, log)
    logger.info("once")
    assert lines(log) == ["INFO once"]


def test_other_loggers_and_handlers_are_left_alone(log: io.StringIO) -> None:
    theirs = logging.NullHandler()
    logger.addHandler(theirs)
    root = logging.getLogger().handlers[:]
    configure_logging("json", True, log)
    logging.getLogger("alembic").warning("not ours")
    assert theirs in logger.handlers
    assert logging.getLogger().handlers == root
    assert not logger.propagate
    assert log.getvalue() == ""


def test_without_a_stream_lines_follow_sys_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    configure_logging("human", False)
    later = io.StringIO()
    monkeypatch.setattr(sys, "stderr", later)
    logger.info("here")
    assert lines(later) == ["INFO here"]


@pytest.mark.parametrize("fmt", ["human", "json"])
def test_secrets_are_masked_in_messages_and_in_tracebacks(fmt: str) -> None:
    stream = io.StringIO()
    configure_logging("json" if fmt == "json" else "human", False, stream)
    # The line that raises is part of the traceback: it must not spell the secret out itself.
    secret = 'tr"ès-' + "s3" + "cret"
    masking.remember(secret)
    try:
        raise ValueError(f"postgresql://app:hunter2@db/x and {secret}")
    except ValueError:
        logger.exception("cannot use %s", "mysql://root:hunter3@db/y")
    text = stream.getvalue()
    assert "hunter" not in text
    assert "s3cret" not in text
    assert "Traceback" in text
    assert masking.STARS in text


def test_a_traceback_is_indented_under_its_line_and_cannot_forge_another(log: io.StringIO) -> None:
    try:
        raise ValueError("x\n2026-01-01T00:00:00Z INFO forged\x1b[2J")
    except ValueError:
        logger.exception("broke")
    first, *others = log.getvalue().splitlines()
    assert first.endswith("ERROR broke")
    assert others
    assert all(line.startswith("  ") for line in others)
    assert "\x1b" not in log.getvalue()


def test_arguments_that_do_not_fit_their_format_do_not_raise(log: io.StringIO) -> None:
    logger.info("%d branches", "many")
    assert lines(log) == ["INFO %d branches ('many',)"]


# Which run, which branch --------------------------------------------------------------------------


def test_within_a_run_every_record_names_it_whichever_room_or_thread_it_comes_from() -> None:
    stream = io.StringIO()
    configure_logging("json", False, stream)
    lease = logging.getLogger("branchmig.lease")
    of_run("run-1")
    thread = threading.Thread(target=lease.warning, args=("leases could not be renewed",))
    thread.start()
    thread.join()
    with about("BR001"):
        lease.warning("a")
    lease.warning("b", extra={"branch": "BR002"})
    configure_logging("json", False, stream)
    lease.warning("the next command")
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["runId"], line["branch"]) for line in found] == [
        ("run-1", None), ("run-1", "BR001"), ("run-1", "BR002"), (None, None),
    ]  # fmt: skip


def test_a_process_can_be_told_how_to_log_as_another_does() -> None:
    configure_logging("json", True, io.StringIO())
    of_run("run-1")
    style = pickle.loads(pickle.dumps(log_style()))
    assert style == LogStyle("json", True, "run-1", None)


# The journal --------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """A stream that systemd says is the journal's."""
    with (tmp_path / "journal").open("w+") as stream:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        yield stream


def read(stream: TextIO) -> list[str]:
    stream.seek(0)
    return stream.read().splitlines()


def test_in_the_journal_a_line_has_a_priority_and_no_time_of_its_own(journal: TextIO) -> None:
    configure_logging("human", True, journal)
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logger.log(level, "x")
    assert read(journal) == ["<7>DEBUG x", "<6>INFO x", "<4>WARNING x", "<3>ERROR x"]


def test_in_the_journal_each_line_of_a_traceback_has_the_priority(journal: TextIO) -> None:
    configure_logging("human", False, journal)
    try:
        raise ValueError("<0>oops\n<0>forged")
    except ValueError:
        logger.exception("broke\n<0>forged")
    lines = read(journal)
    assert lines[0] == r"<3>ERROR broke\n<0>forged"
    assert len(lines) > 2
    assert all(line.startswith("<3>  ") for line in lines[1:])


def test_who_redirects_a_services_errors_gets_times_again(
    journal: TextIO, tmp_path: Path, log: io.StringIO
) -> None:
    logger.info("to no file at all")
    with (tmp_path / "file").open("w+") as other:
        configure_logging("human", False, other)
        logger.info("x")
        assert re.fullmatch(r"\d{4}-\S+Z INFO x", read(other)[0])
    assert lines(log) == ["INFO to no file at all"]


def test_json_lines_stay_json_in_the_journal(journal: TextIO) -> None:
    configure_logging("json", False, journal)
    logger.info("x")
    assert json.loads(read(journal)[0])["message"] == "x"


def test_an_error_that_ends_a_run_is_one_of_its_json_lines(office: Office) -> None:
    office.configure('[migrations]\nscript_location = "nowhere"\n')
    office.run("branch", "add", "BR001", "--url", "sqlite:///br001.db")
    done = office.run("--log-format", "json", "apply-all", code=78)
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["level"] for line in found} == {"ERROR"}
    assert found[0]["message"].startswith("Error: ")
    assert len({line["runId"] for line in found} - {None}) == 1


def test_the_error_that_ends_a_service_has_its_priority_too(office: Office, tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        found = os.fstat(stream.fileno())
        environ = office.environment(JOURNAL_STREAM=f"{found.st_dev}:{found.st_ino}")
        run = subprocess.run(
            office.command("apply", "nobody"), env=environ, stderr=stream, stdout=subprocess.PIPE,
            cwd=office.folder, check=False,
        )  # fmt: skip
        assert run.returncode == 2
        assert all(line.startswith(("<3>Error: ", "<3>Hint: ")) for line in read(stream))


def test_the_lines_of_worker_processes_name_run_and_branch(office: Office) -> None:
    folder = office.use_history("linear")
    first = next(folder.rglob("a1.py"))
    speaks = "import logging\n    logging.getLogger('branchmig.mine').warning('hello')"
    first.write_text(first.read_text().replace("def upgrade():", f"def upgrade():\n    {speaks}"))
    office.add("BR001", "BR002")
    done = office.run("--log-format", "json", "--json", "apply-all")
    run_id = json.loads(done.stdout)["runId"]
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["runId"] for line in found} == {run_id}
    said = {line["branch"] for line in found if line["message"] == "hello"}
    assert said == {"BR001", "BR002"}
