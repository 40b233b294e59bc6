"""One branch's own database, without HeadOffice: look, plan, validate, migrate, adopt."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from scene import Scene

from branchmig.errors import (
    BranchBusy,
    BranchUnusable,
    DatabaseMissing,
    DriftDetected,
    HistoryError,
    MultipleHeads,
    NotAdopted,
    UnknownRevision,
)
from branchmig.fence import Fence, clock
from branchmig.model import FailureKind, Provider, SkipReason

SHOPS = 'op.execute("CREATE TABLE shops (id INTEGER PRIMARY KEY)")'
TILLS = 'op.execute("CREATE TABLE tills (id INTEGER PRIMARY KEY, name TEXT)")'


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A branch that is not there yet, and a history of two revisions."""
    scene = Scene(tmp_path)
    scene.revision("r1", SHOPS)
    scene.revision("r2", TILLS)
    return scene


# Looking


def test_a_branch_without_a_database_has_everything_before_it(scene: Scene) -> None:
    plan = scene.migrator.plan(scene.branch, "head")
    assert [step.revision for step in plan.steps] == ["r1", "r2"]
    assert (plan.current, plan.target) == ((), ("r2",))
    assert scene.beside() == set()


def test_a_plan_is_what_then_happens(scene: Scene) -> None:
    plan = scene.migrator.plan(scene.branch, "head")
    done = scene.attempt()
    assert done.plan == plan
    assert done.applied == tuple(step.revision for step in plan.steps)
    assert scene.migrator.plan(scene.branch, "head").steps == ()


def test_a_plan_can_be_shown_as_statements(scene: Scene) -> None:
    migrator = scene.migrator
    texts = migrator.sql(migrator.plan(scene.branch, "head"))
    assert "CREATE TABLE tills" in texts["r2"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "there is no database: never migrated, or gone"),
        ("CREATE TABLE other (id)", "never migrated: there is no version table"),
    ],
)
def test_a_branch_that_was_never_migrated_is_invalid(
    scene: Scene, script: str | None, reason: str
) -> None:
    scene.required = ("shops", "tills")
    if script:
        scene.script(script)
    found = scene.migrator.validate(scene.branch)
    assert (found.is_valid, found.reason) == (False, reason)
    assert found.missing_tables == ("shops", "tills")
    assert found.pending == ("r1", "r2")


def test_a_branch_that_is_behind_says_by_how_much(scene: Scene) -> None:
    assert scene.attempt(target="r1").failure is None
    found = scene.migrator.validate(scene.branch)
    assert (found.reason, found.pending) == ("behind by 1 revision", ("r2",))
    scene.revision("r3", "pass")
    assert scene.migrator.validate(scene.branch).reason == "behind by 2 revisions"


def test_a_branch_at_its_target_with_every_table_is_valid(scene: Scene) -> None:
    scene.required = ("Shops", "tills")
    assert scene.attempt().failure is None
    assert scene.migrator.validate(scene.branch).is_valid


def test_what_cannot_be_read_is_invalid_and_says_why(scene: Scene) -> None:
    scene.file.write_text("Dear Sir or Madam, " * 10)
    found = scene.migrator.validate(scene.branch)
    assert "not a SQLite database" in str(found.reason)


def test_a_row_that_this_history_does_not_know_is_invalid(scene: Scene) -> None:
    assert scene.attempt().failure is None
    scene.script("UPDATE alembic_version SET version_num = 'newer'")
    assert "this history does not know" in str(scene.migrator.validate(scene.branch).reason)


# Migrating


def test_a_branch_at_its_target_is_looked_at_and_not_written(scene: Scene) -> None:
    assert scene.attempt().applied == ("r1", "r2")
    before = scene.file.read_bytes()
    again = scene.attempt()
    assert (again.failure, again.applied, again.heads) == (None, (), ("r2",))
    assert scene.file.read_bytes() == before


def test_another_tools_tables_are_not_built_upon(scene: Scene) -> None:
    scene.script("CREATE TABLE one (id); CREATE TABLE two (id)")
    before = scene.file.read_bytes()
    failed = scene.attempt().failure
    assert failed is not None
    assert (failed.type, failed.kind) == ("NotAdopted", FailureKind.PERMANENT)
    assert "BR001 has 2 tables but no version table" in failed.message
    assert "branchmig baseline BR001 --revision" in str(failed.hint)
    assert scene.file.read_bytes() == before


def test_a_branch_at_revisions_that_are_newer_than_the_scripts_is_left_alone(
    scene: Scene,
) -> None:
    assert scene.attempt().failure is None
    scene.script("UPDATE alembic_version SET version_num = 'newer'")
    failed = scene.attempt()
    assert failed.failure is not None
    assert failed.failure.type == "UnknownHeads"
    assert failed.heads == ("newer",)


@pytest.mark.parametrize("left", [None, b""])
def test_a_database_that_had_heads_and_is_gone_is_not_made_anew(
    scene: Scene, left: bytes | None
) -> None:
    if left is not None:
        scene.file.write_bytes(left)
    vanished = scene.attempt(recorded=("r1",)).failure
    assert vanished is not None
    assert vanished.type == "DatabaseVanished"
    assert "was at r1 and is gone" in vanished.message
    assert "--create" in str(vanished.hint)
    assert not scene.file.exists() or scene.file.stat().st_size == 0
    assert scene.attempt(recorded=("r1",), create=True).heads == ("r2",)


def test_databases_are_not_created_where_the_settings_forbid_it(scene: Scene) -> None:
    scene.run["create_databases"] = False
    refused = scene.attempt().failure
    assert refused is not None
    assert refused.type == "DatabaseMissing"
    assert "create_databases" in str(refused.hint)
    assert scene.beside() == set()
    assert scene.attempt(create=True).heads == ("r2",)


def test_a_driver_that_is_not_there_is_a_failure_of_its_branch_alone(scene: Scene) -> None:
    url = "mssql://h/d?driver=nowhere"
    scene.branch = replace(scene.branch, provider=Provider.SQLSERVER, url=url)
    failed = scene.attempt().failure
    assert failed is not None
    assert failed.type == "DriverMissing"


def test_a_history_that_does_not_load_is_no_branchs_failure(scene: Scene) -> None:
    (scene.versions / "r3.py").write_text("raise SystemExit")
    with pytest.raises(HistoryError):
        scene.attempt()
    assert scene.beside() == set()


def test_what_landed_before_a_failure_is_told(scene: Scene) -> None:
    scene.revision("r3", "op.execute('nonsense')")
    failed = scene.attempt()
    assert failed.failure is not None
    assert (failed.applied, failed.heads) == (("r1", "r2"), ("r2",))
    assert failed.plan is not None
    assert failed.plan.target == ("r3",)


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit", "BaseException"])
def test_whatever_a_revision_raises_is_its_failure(scene: Scene, error: str) -> None:
    scene.revision("r3", f"raise {error}")
    failed = scene.attempt()
    assert failed.failure is not None
    assert "the revision r3 failed and was rolled back" in failed.failure.message
    assert failed.heads == ("r2",)


# Looking at what came of it


def test_required_tables_are_wanted_at_the_configured_target_alone(scene: Scene) -> None:
    scene.required = ("shops", "tills", "sales")
    halfway = scene.attempt(target="r1")
    assert (halfway.failure, halfway.heads) == (None, ("r1",))
    failed = scene.attempt()
    assert failed.failure is not None
    assert failed.failure.type == "ValidationFailed"
    assert "BR001 does not validate: missing tables: sales" in failed.failure.message
    assert (failed.applied, failed.heads) == (("r2",), ("r2",))


def test_a_retry_after_a_failed_validation_validates_only(scene: Scene) -> None:
    scene.required = ("sales",)
    assert scene.attempt().applied == ("r1", "r2")
    again = scene.attempt()
    assert again.failure is not None
    assert (again.failure.type, again.applied, again.heads) == ("ValidationFailed", (), ("r2",))
    scene.script("CREATE TABLE sales (id)")
    mended = scene.attempt()
    assert (mended.failure, mended.applied) == (None, ())


def test_a_configured_target_that_is_ambiguous_does_not_spoil_one_named_by_hand(
    scene: Scene,
) -> None:
    scene.parent = "r1"
    scene.revision("r2_other", "pass")
    scene.required = ("sales",)
    scene.migrations["target"] = "heads"
    done = scene.attempt(target="r2")
    assert (done.failure, done.heads) == (None, ("r2",))


def test_a_revision_that_moves_the_version_row_itself_does_not_validate(scene: Scene) -> None:
    scene.revision("r3", 'op.execute("CREATE TRIGGER t AFTER UPDATE ON alembic_version BEGIN '
                   "UPDATE alembic_version SET version_num = 'r1' "
                   "WHERE version_num = 'r3'; END\")")  # fmt: skip
    failed = scene.attempt().failure
    assert failed is not None
    assert "the version table holds r1 instead of r3" in failed.message


# Stopping


def test_a_stop_that_was_asked_for_begins_nothing(scene: Scene) -> None:
    fence = Fence()
    fence.stop(signal.SIGTERM)
    stopped = scene.attempt(fence)
    assert (stopped.failure, stopped.skip, stopped.applied) == (None, SkipReason.STOPPED, ())
    assert "stopped by SIGTERM" in str(stopped.reason)
    assert scene.tables() == set()


class StopsBefore(Fence):
    """Does something as the nth revision is about to begin."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def check_step(self, seconds: float = 0) -> None:
        self.number -= 1
        if self.number == 0:
            self.happen()
        super().check_step(seconds)

    def happen(self) -> None:
        self.stop(signal.SIGINT)


def test_a_stop_lets_what_landed_stand(scene: Scene) -> None:
    stopped = scene.attempt(StopsBefore(2))
    assert (stopped.skip, stopped.applied, stopped.heads) == (SkipReason.STOPPED, ("r1",), ("r1",))
    assert scene.attempt().applied == ("r2",)


class Expires(StopsBefore):
    def happen(self) -> None:
        self.extend(clock() - 1)


def test_a_lease_that_ran_out_stops_before_the_next_statement(scene: Scene) -> None:
    lost = scene.attempt(Expires(2))
    assert (lost.failure, lost.skip, lost.applied) == (None, SkipReason.LEASED, ("r1",))
    assert "expired" in str(lost.reason)
    assert scene.versions_now() == {"r1"}


class Interrupts(Fence):
    """Interrupted from another thread's side while the first revision's statement runs."""

    def check_statement(self) -> None:
        super().check_statement()
        if not self.state.signum:
            self.stop(signal.SIGTERM)
            self.stop(signal.SIGTERM)


def test_a_second_stop_rolls_back_the_revision_in_hand(scene: Scene) -> None:
    stopped = scene.attempt(Interrupts())
    assert (stopped.failure, stopped.skip, stopped.applied) == (None, SkipReason.STOPPED, ())
    assert scene.tables() == set()


# Adopting


@pytest.fixture
def foreign(scene: Scene) -> Scene:
    """The branch as another tool made it, at what r1 leaves."""
    scene.script("CREATE TABLE Shops (id INTEGER PRIMARY KEY, extra TEXT)")
    return scene


def test_a_database_of_another_tool_is_adopted_at_what_it_is(foreign: Scene) -> None:
    assert foreign.migrator.baseline(foreign.branch, "r1", Fence()) == ("r1",)
    assert foreign.versions_now() == {"r1"}
    done = foreign.attempt()
    assert (done.failure, done.applied) == (None, ("r2",))


def test_base_adopts_a_database_on_which_the_whole_history_is_still_to_run(
    foreign: Scene,
) -> None:
    foreign.script("ALTER TABLE Shops RENAME TO relics")
    assert foreign.migrator.baseline(foreign.branch, "base", Fence()) == ()
    assert foreign.versions_now() == set()
    assert foreign.attempt().applied == ("r1", "r2")


def test_what_is_missing_is_drift_and_nothing_is_stamped(foreign: Scene) -> None:
    before = foreign.file.read_bytes()
    with pytest.raises(DriftDetected, match="not at r2, it lacks the table tills"):
        foreign.migrator.baseline(foreign.branch, "r2", Fence())
    assert foreign.file.read_bytes() == before
    foreign.script("CREATE TABLE tills (id)")
    with pytest.raises(DriftDetected, match=r"it lacks tills\.name"):
        foreign.migrator.baseline(foreign.branch, "r2", Fence())
    assert foreign.tables() == {"Shops", "tills"}


def test_a_database_that_has_a_version_is_not_adopted_again(scene: Scene) -> None:
    assert scene.attempt(target="r1").failure is None
    for revision in ("base", "r1", "r2"):
        with pytest.raises(NotAdopted, match="version table already, at r1"):
            scene.migrator.baseline(scene.branch, revision, Fence())
    assert scene.versions_now() == {"r1"}


@pytest.mark.parametrize("revision", ["nowhere", "+1", "", "-1"])
def test_what_names_no_revision_is_no_baseline(foreign: Scene, revision: str) -> None:
    with pytest.raises(UnknownRevision):
        foreign.migrator.baseline(foreign.branch, revision, Fence())
    assert foreign.tables() == {"Shops"}


def test_head_is_no_baseline_where_there_are_two(foreign: Scene) -> None:
    foreign.parent = "r1"
    foreign.revision("r2_other", "pass")
    foreign.migrations["target"] = "heads"
    with pytest.raises(MultipleHeads):
        foreign.migrator.baseline(foreign.branch, "head", Fence())


@pytest.fixture
def held(foreign: Scene) -> Iterator[Scene]:
    with closing(sqlite3.connect(foreign.file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield foreign


def test_a_database_that_is_held_is_busy_for_a_baseline_too(held: Scene) -> None:
    with pytest.raises(BranchBusy, match="locked by another program"):
        held.migrator.baseline(held.branch, "r1", Fence())


def test_a_baseline_of_what_is_no_database_says_so(scene: Scene) -> None:
    with pytest.raises(DatabaseMissing):
        scene.migrator.baseline(scene.branch, "r1", Fence())
    scene.file.write_text("Dear Sir or Madam, " * 10)
    with pytest.raises(BranchUnusable, match="not a SQLite database"):
        scene.migrator.baseline(scene.branch, "r1", Fence())


def test_a_history_that_fails_on_the_scratch_database_is_told_with_its_place(
    foreign: Scene,
) -> None:
    foreign.revision("r3", "op.execute('nonsense')")
    with pytest.raises(Exception, match=r"r3\.py, line 10") as failed:
        foreign.migrator.baseline(foreign.branch, "head", Fence())
    assert "syntax error" in str(failed.value)
    assert foreign.tables() == {"Shops"}


def test_an_attempt_that_is_stopped_before_it_begins_leaves_no_new_database(scene: Scene) -> None:
    fence = Fence()
    fence.stop(signal.SIGTERM)
    assert scene.attempt(fence).skip is SkipReason.STOPPED
    assert scene.beside() == set()


def test_a_revision_that_failed_behind_a_commit_of_its_own_is_left_to_a_person(
    scene: Scene,
) -> None:
    """Another attempt would do again what stays, and nothing has written down what that is."""
    statements = (
        "INSERT INTO tills (name) VALUES (1)",
        "COMMIT",
        "INSERT INTO not_there VALUES (1)",
    )
    scene.revision("r3", "; ".join(f"op.execute({statement!r})" for statement in statements))
    failure = scene.attempt().failure
    assert failure is not None
    assert failure.kind is FailureKind.MANUAL
    assert "half way, and what it had committed stays" in failure.message
