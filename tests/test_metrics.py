"""The figures that a run leaves for Prometheus: what they say, and that no reader finds half."""

from __future__ import annotations

import io
import os
import resource
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from clients import a_branch
from office import Office
from prometheus_client.parser import text_string_to_metric_families

from branchmig.model import (
    BranchState,
    Failure,
    Heads,
    MigrationStatus,
    Outcome,
    Provider,
    Record,
    Report,
    Rollout,
    Run,
    SkipReason,
    Standing,
    Verdict,
)
from branchmig.sinks import RunFinished, RunStarted, Sinks, configure_logging, logger
from branchmig.sinks.metrics import MetricsSink, census

RUN = Run("run-1", "apply-all", "timer", "root", "hq", 4711, "head")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DONE = BranchState(MigrationStatus.COMPLETED, ("a2",))

Figures = dict[tuple[str, tuple[str, ...]], float]


def behind(provider: Provider, heads: Heads) -> bool:
    return heads != ("a2",)


def record(number: int, state: BranchState = DONE, *, active: bool = True) -> Record:
    return Record(a_branch(number, is_active=active), state)


def outcome(of: Record, verdict: Verdict, **fields: object) -> Outcome:
    heads = of.state.heads
    return replace(Outcome(of.branch, verdict, of.state.status, heads, heads), **fields)  # type: ignore[arg-type]


def figures(text: str) -> Figures:
    """Every sample by its name and the values of its labels."""
    return {
        (sample.name.removeprefix("branchmig_"), tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "branchmig.prom"


def write(file: Path, report: Report, *records: Record, **labels: str) -> None:
    MetricsSink(file, labels, records, behind)(RunFinished(RUN, report))


def test_branches_are_counted_as_the_run_has_left_them() -> None:
    held = DONE._replace(lock_owner="x", lock_expires_at=NOW + timedelta(minutes=1))
    migrated, failed, away, pinned, leased = (
        record(1, BranchState(heads=("a1",))),
        record(2, BranchState(heads=("a1",))),
        record(3, BranchState(MigrationStatus.COMPLETED, ("a1",))),
        record(4, DONE._replace(pinned=True)),
        record(5, held),
    )
    outcomes = [
        outcome(migrated, Verdict.MIGRATED, status=MigrationStatus.COMPLETED, to_heads=("a2",)),
        outcome(failed, Verdict.FAILED, status=MigrationStatus.FAILED),
    ]
    everyone = [migrated, failed, away, pinned, leased, record(6, active=False)]
    found = census(everyone, outcomes, behind, NOW)
    assert found.statuses == {
        MigrationStatus.COMPLETED: 3,
        MigrationStatus.FAILED: 1,
        MigrationStatus.PENDING: 1,  # recorded Completed, and behind
    }
    assert found.heads == {("a2",): 3, ("a1",): 2}
    assert (found.behind, found.pinned, found.locked) == (2, 1, 1)


def test_a_branch_that_another_run_has_leased_counts_as_locked_and_an_expired_lease_does_not() -> (
    None
):
    expired = DONE._replace(lock_owner="x", lock_expires_at=NOW - timedelta(minutes=1))
    skipped = outcome(record(1), Verdict.SKIPPED, reason=SkipReason.LEASED)
    assert census([record(1), record(2, expired)], [skipped], behind, NOW).locked == 1


def test_the_file_is_what_prometheus_parses_and_the_exporter_may_read(file: Path) -> None:
    before = os.umask(0o077)
    try:
        report = Report("run-1", (outcome(record(1), Verdict.UNCHANGED),), timedelta(seconds=1.5))
        write(file, report, record(1), record(2, BranchState()), office='no"r\\th\n')
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    found = figures(file.read_text())
    label = 'no"r\\th\n'
    assert found["branches", (label, "Completed")] == 1
    assert found["branches", (label, "RequiresManualIntervention")] == 0
    assert found["branches_at", (label, "none")] == 1
    assert found["branches_behind", (label,)] == 1
    assert found["last_run_branches", (label, "unchanged")] == 1
    assert found["last_run_duration_seconds", (label,)] == 1.5
    assert found["rollout_halted", (label,)] == 0


def test_the_last_success_stays_through_runs_that_fail_or_are_stopped(file: Path) -> None:
    one = record(1)
    failed = outcome(one, Verdict.FAILED, failure=Failure("X", "no"))
    stopped = outcome(one, Verdict.SKIPPED, reason=SkipReason.STOPPED)
    key = "last_success_timestamp_seconds", ()
    write(file, Report("run-1", (failed,)), one)
    assert figures(file.read_text())[key] == 0, "never"
    write(file, Report("run-1", (outcome(one, Verdict.UNCHANGED),)), one)
    success = figures(file.read_text())[key]
    assert success > 0
    for bad in (failed, stopped):
        write(file, Report("run-1", (bad,)), one)
        found = figures(file.read_text())
        assert found[key] == success
        assert found["last_run_timestamp_seconds", ()] > success


def test_a_halted_rollout_is_a_figure(file: Path) -> None:
    rollout = Rollout("r", "a2", ("a2",), NOW, halted_at=NOW, halted_by="run-1")
    write(file, Report("run-1", (), rollout=Standing(rollout, {})), record(1))
    assert figures(file.read_text())["rollout_halted", ()] == 1


def test_a_reader_finds_whole_files_only(file: Path) -> None:
    report = Report("run-1", ())
    records = [record(n, DONE._replace(heads=(f"a{n}",))) for n in range(200)]
    write(file, report, *records)
    over, sizes = threading.Event(), set()

    def read() -> None:
        while not over.is_set():
            found = figures(file.read_text())
            sizes.add(sum(name == "branches_at" for name, _ in found))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(30):
        write(file, report, *records)
    over.set()
    reader.join()
    assert sizes == {200}
    assert list(file.parent.iterdir()) == [file]


@contextmanager
def full() -> Iterator[None]:
    """Within, no file takes more than a hundred bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    before = logger.handlers[:], logger.level, logger.propagate
    stream = io.StringIO()
    configure_logging("human", False, stream)
    yield stream
    logger.handlers[:], logger.level, logger.propagate = before


def test_a_disk_without_room_is_warned_of_and_leaves_the_old_file(
    file: Path, log: io.StringIO
) -> None:
    write(file, Report("run-1", ()), record(1))
    old = file.read_text()
    with full():
        sinks = Sinks(MetricsSink(file, {}, [record(1)], behind))
        sinks.emit(RunStarted(RUN, 1))
        sinks.emit(RunFinished(RUN, Report("run-1", ())))
    assert "the metrics cannot be written to" in log.getvalue()
    assert file.read_text() == old
    assert list(file.parent.iterdir()) == [file]


def test_something_else_in_the_files_place_is_replaced_and_no_reason_to_fail(file: Path) -> None:
    file.write_bytes(b"\xff not metrics {")
    write(file, Report("run-1", ()), record(1))
    assert figures(file.read_text())["branches", ("Completed",)] == 1


# By the program -----------------------------------------------------------------------------------


def test_every_apply_all_leaves_figures_beside_the_settings(office: Office) -> None:
    office.configure('[metrics]\ntextfile = "x.prom"\nlabels = {office = "north"}\n')
    office.add("BR001", "BR002")
    office.run("apply-all", "--tag", "nobody")
    first = figures((office.folder / "x.prom").read_text())
    assert first["branches", ("north", "Pending")] == 2
    assert first["branches_behind", ("north",)] == 2
    office.run("apply-all")
    second = figures((office.folder / "x.prom").read_text())
    assert second["branches", ("north", "Completed")] == 2
    assert second["branches_behind", ("north",)] == 0
    assert second["last_run_branches", ("north", "migrated")] == 2


def test_a_file_that_cannot_be_written_is_warned_of_and_changes_no_exit_code(
    office: Office,
) -> None:
    office.configure('[metrics]\ntextfile = "nowhere/x.prom"\n')
    done = office.run("apply-all")
    assert "the metrics cannot be written to" in done.stderr
    assert "No such file or directory" in done.stderr


def test_a_run_without_headoffice_leaves_the_figures_to_grow_old(office: Office) -> None:
    office.configure('[metrics]\ntextfile = "x.prom"\n')
    office.run("apply-all")
    before = (office.folder / "x.prom").read_bytes()
    office.run("apply-all", code=69, BRANCHMIG_HEADOFFICE_URL="sqlite:////dev/null/x.db")
    assert (office.folder / "x.prom").read_bytes() == before
