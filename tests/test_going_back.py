"""The way down of a history, what statements do to data, how a state moves: without a branch."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from branchmig import transitions
from branchmig.config import Settings
from branchmig.deeds import Deed, Effect
from branchmig.errors import UnknownHeads, UnknownRevision
from branchmig.manager import withdrawal
from branchmig.model import (
    Attempt,
    BranchState,
    Direction,
    Failure,
    FailureKind,
    Heads,
    MigrationStatus,
    Reversal,
    SkipReason,
    Step,
)
from branchmig.providers.sql_deeds import deeds
from branchmig.reversal import settle
from branchmig.revisions.history import History
from branchmig.revisions.source import Source

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
POLICY = transitions.RetryPolicy()
DONE = BranchState(
    MigrationStatus.COMPLETED, ("r3",), "head", last_attempt_at=NOW, rollout="one", wave=0
)

# The way


@pytest.fixture(scope="module")
def branching() -> History:
    settings = Settings(
        file=Path(__file__).parent / "histories" / "branchmig.toml",
        migrations={"script_location": "branching", "probe": False},
    )
    return History.load(Source.of(settings), "sqlite://")


def test_from_every_place_there_is_a_way_back_to_every_earlier_one(branching: History) -> None:
    places = [(), *(step.to_heads for step in branching.steps((), "heads"))]
    for (i, lower), (j, upper) in itertools.combinations(enumerate(places), 2):
        steps = branching.descent_to(upper, lower)
        assert (len(steps), steps[0].from_heads, steps[-1].to_heads) == (j - i, upper, lower)
        for one, other in itertools.pairwise(steps):
            assert one.to_heads == other.from_heads
        assert branching.is_between(upper, lower, upper)
        assert not branching.is_between(upper, lower, lower)
        with pytest.raises(UnknownRevision, match="is not below"):
            branching.descent_to(lower, upper)


@pytest.mark.parametrize(
    ("target", "undone", "left"),
    [
        ("trunk", ["middle", "till3", "merged", "left", "right"], ("till2", "trunk")),
        ("till2", ["till3"], ("merged", "middle")),
        ("till@base", ["middle", "till3", "till2", "till1"], ("merged",)),
        ("till3", [], None),
    ],
)
def test_targets_below_mean_what_they_mean_to_alembic(
    branching: History, target: str, undone: list[str], left: Heads | None
) -> None:
    steps = branching.descent(("middle", "till3"), target)
    assert [step.revision for step in steps] == undone
    assert {step.direction for step in steps} <= {Direction.DOWNGRADE}
    assert (steps[-1].to_heads if steps else None) == left


@pytest.mark.parametrize("target", ["middle", "nowhere", "+1", "", "-7", "-1", "@"])
def test_what_is_no_place_below_is_refused(branching: History, target: str) -> None:
    with pytest.raises(UnknownRevision):
        branching.descent(("left", "right", "till2"), target)


def test_a_row_that_no_revision_explains_is_not_undone(branching: History) -> None:
    with pytest.raises(UnknownHeads):
        branching.descent(("elsewhere",), "base")


def test_of_a_way_that_was_agreed_to_only_the_rest_is_taken() -> None:
    three, two, one = (("r3",), ("r2",), ("r1",))
    steps = (Step("r3", Direction.DOWNGRADE, three, two), Step("r2", Direction.DOWNGRADE, two, one))
    back = Reversal(one, steps)
    assert back.left(three) == steps
    assert back.left(two) == steps[1:]
    assert back.left(one) == ()
    assert back.left(("r4",)) is None


# Deeds


def _deeds(text: str, dialect: str) -> list[tuple[str, str, str | None]]:
    return [(effect.deed.value, effect.table, effect.column) for effect in deeds(text, dialect)]


EVERYWHERE = ("sqlite", "postgresql", "mysql", "mssql")


@pytest.mark.parametrize("dialect", EVERYWHERE)
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("DROP TABLE a; DROP TABLE IF EXISTS b", [("drops", "a", None), ("drops", "b", None)]),
        ("ALTER TABLE a DROP COLUMN b", [("drops", "a", "b")]),
        ("DELETE FROM a WHERE b = 1", [("drops", "a", None)]),
        ("TRUNCATE TABLE a", [("drops", "a", None)]),
        ("UPDATE a SET b = 1", [("changes", "a", None)]),
        ("INSERT INTO a (b) SELECT b FROM c", [("rows", "", None)]),
        ("CREATE TABLE a (b INT)", [("adds", "a", None)]),
        ("CREATE INDEX i ON a (b)", [("shapes", "", None)]),
        ("DROP VIEW v", [("shapes", "", None)]),
        ("ALTER TABLE a ADD CONSTRAINT c UNIQUE (b)", [("shapes", "", None)]),
        ("SELECT 1", []),
        ("-- nothing", []),
    ],
)
def test_what_a_statement_does_to_data_is_read_from_it(
    text: str, found: list[object], dialect: str
) -> None:
    assert _deeds(text, dialect) == found


@pytest.mark.parametrize(
    ("dialect", "text", "found"),
    [
        ("postgresql", 'DROP TABLE Orders, "Lines"', [("drops", "orders", None),
                                                     ("drops", "Lines", None)]),
        ("postgresql", "ALTER TABLE a ALTER COLUMN b TYPE varchar(3)", [("changes", "a", "b")]),
        ("postgresql", "ALTER TABLE a RENAME COLUMN b TO c", [("renames", "a", "b")]),
        ("postgresql", "DROP TYPE mood", [("shapes", "", None)]),
        ("mysql", "ALTER TABLE `a` MODIFY `b` VARCHAR(3)", [("changes", "a", "b")]),
        ("mysql", "ALTER TABLE a CHANGE b c INT", [("changes", "a", "b")]),
        ("mssql", "ALTER TABLE [a] DROP COLUMN [b], [c]", [("drops", "a", "b"),
                                                           ("drops", "a", "c")]),
        ("sqlite", "CREATE TABLE IF NOT EXISTS a (b INT)", [("shapes", "", None)]),
        ("postgresql", "ALTER TABLE a RENAME b TO c", [("renames", "a", "b")]),
        ("postgresql", 'ALTER TABLE IF EXISTS ONLY a RENAME "B" TO c', [("renames", "a", "B")]),
        ("sqlite", "ALTER TABLE a RENAME b TO c", [("renames", "a", "b")]),
        ("postgresql", "ALTER TABLE a RENAME TO c", [("renames", "a", None)]),
        ("sqlite", "ALTER TABLE a RENAME TO c", [("renames", "a", None)]),
        ("mysql", "ALTER TABLE a RENAME TO c", [("renames", "a", None)]),
        ("mysql", "ALTER TABLE a RENAME c", [("renames", "a", None)]),
        ("mysql", "ALTER TABLE a ADD COLUMN IF NOT EXISTS b INT", [("shapes", "", None)]),
        ("mysql", "ALTER TABLE a RENAME TO c, ADD b INT, RENAME COLUMN d TO e, DROP COLUMN b",
         [("drops", "a", "b"), ("renames", "a", "d"), ("adds", "a", "b"), ("renames", "a", None)]),
        ("mssql", "UPDATE a SET b = 1 FROM a JOIN c ON c.d = a.d", [("changes", "a", None)]),
    ],
)  # fmt: skip
def test_dialects_are_read_as_their_engines_do(
    dialect: str, text: str, found: list[object]
) -> None:
    assert _deeds(text, dialect) == found


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        ("postgresql", "DO $$ BEGIN DELETE FROM a; END $$"),
        ("postgresql", "WITH gone AS (DELETE FROM a RETURNING *) SELECT * FROM gone"),
        ("postgresql", "INSERT INTO a VALUES (1) ON CONFLICT (b) DO UPDATE SET b = 2"),
        ("postgresql", "SELECT undo()"),
        ("postgresql", "SET search_path TO elsewhere"),
        ("postgresql", "TRUNCATE a CASCADE"),
        ("postgresql", "DROP TYPE mood CASCADE"),
        ("postgresql", "DROP SCHEMA s"),
        ("mysql", "UPDATE a JOIN b ON a.c = b.c SET b.d = 1"),
        ("mysql", "DELETE a FROM a JOIN b ON a.c = b.c"),
        ("mysql", "REPLACE INTO a VALUES (1)"),
        ("mysql", "INSERT INTO a VALUES (1) ON DUPLICATE KEY UPDATE b = 1"),
        ("mysql", "RENAME TABLE a TO b"),
        ("mysql", "CREATE OR REPLACE TABLE a (b INT)"),
        ("mssql", "EXEC sp_rename 'a', 'b'"),
        ("mssql", "SELECT * INTO a FROM b"),
        ("mssql", "UPDATE x SET b = 1 FROM a x"),
        ("mssql", "WITH x AS (SELECT * FROM a) DELETE FROM x"),
        ("mssql", "ALTER TABLE a RENAME b TO c"),
        ("mssql", "CREATE TABLE #a (b INT)"),
        ("mssql", "DROP TABLE elsewhere.dbo.a"),
        ("mysql", "ALTER TABLE a RENAME b TO c"),
        ("mysql", "ALTER TABLE a RENAME elsewhere.a"),
        ("mysql", "ALTER TABLE a RENAME COLUMN b TO c, RENAME COLUMN c TO b"),
        ("mysql", "/*!40000 DROP TABLE a */"),
        ("mariadb", "SELECT 1; /*M! DROP TABLE a */"),
        ("postgresql", "CREATE TEMPORARY TABLE a (b INT)"),
        ("postgresql", "SET SCHEMA 'elsewhere'"),
        ("sqlite", "what is this"),
        ("sqlite", "'"),
    ],
)
def test_what_cannot_be_told_is_said_to_be_unknown(dialect: str, text: str) -> None:
    (found,) = deeds(text, dialect)
    assert found.deed is Deed.UNKNOWN
    assert text[:10] in found.what


def test_names_are_followed_through_what_the_steps_do_themselves() -> None:
    found = settle(
        [
            Effect(Deed.RENAMES, "shops", new="houses"),
            Effect(Deed.RENAMES, "houses", "name", new="title"),
            Effect(Deed.DROPS, "houses", "title"),
            Effect(Deed.ADDS, "shops"),
            Effect(Deed.DROPS, "shops"),
            Effect(Deed.ADDS, "tills", "note"),
            Effect(Deed.DROPS, "tills", "note"),
            Effect(Deed.DROPS, "houses"),
            Effect(Deed.UNKNOWN, what="who knows"),
        ]
    )
    assert found == (
        Effect(Deed.DROPS, "shops", "name", followed=True),
        Effect(Deed.DROPS, "shops", followed=True),
        Effect(Deed.UNKNOWN, what="who knows"),
    )


def test_a_column_that_is_added_in_one_schema_is_not_one_of_that_name_in_another() -> None:
    taken = Effect(Deed.DROPS, "shops", "note", "there")
    assert settle([Effect(Deed.ADDS, "shops", "note", "here"), taken]) == (taken,)


def test_what_a_revision_that_broke_half_way_drops_may_be_gone_but_not_what_it_renames() -> None:
    found = settle(
        [
            Effect(Deed.DROPS, "tills", revision="r3"),
            Effect(Deed.RENAMES, "shops", new="houses", revision="r3"),
            Effect(Deed.DROPS, "houses", revision="r3"),
            Effect(Deed.DROPS, "ledger", revision="r2"),
        ],
        begun="r3",
    )
    assert [(e.table, e.may_be_gone) for e in found] == [
        ("tills", True),
        ("shops", False),
        ("ledger", False),
    ]


# States


def withdrawn(previous: BranchState) -> BranchState:
    return transitions.withdraw(previous, "r1", NOW)


def ended(previous: BranchState, attempt: Attempt) -> BranchState:
    return withdrawal(previous, attempt, POLICY)(withdrawn(previous), NOW)


def test_a_branch_is_pinned_and_out_of_its_wave_before_the_first_step() -> None:
    begun = withdrawn(DONE)
    assert (begun.status, begun.pinned, begun.rollout) == (MigrationStatus.IN_PROGRESS, True, None)
    assert begun.heads == DONE.heads
    assert "has not ended" in str(begun.error)


@pytest.mark.parametrize(
    ("attempt", "status"),
    [
        (Attempt(heads=("r1",), applied=("r3", "r2")), MigrationStatus.COMPLETED),
        (Attempt(heads=("r1",)), MigrationStatus.COMPLETED),
        (Attempt(heads=("r2",), failure=Failure("x", "x", revision="r2")), MigrationStatus.FAILED),
        (Attempt(failure=Failure("x", "x")), MigrationStatus.FAILED),
        (Attempt(heads=("r2",), skip=SkipReason.STOPPED), MigrationStatus.PENDING),
    ],
)
def test_however_a_rollback_ends_the_branch_is_pinned_and_counts_in_no_wave(
    attempt: Attempt, status: MigrationStatus
) -> None:
    after = ended(DONE, attempt)
    assert (after.status, after.pinned, after.rollout, after.wave) == (status, True, None, None)
    assert after.target == "r1"


@pytest.mark.parametrize(
    "attempt",
    [
        Attempt(skip=SkipReason.BUSY),
        Attempt(heads=("r3",), failure=Failure("RollbackRefused", "new rows")),
    ],
)
def test_where_nothing_was_begun_nothing_but_the_pin_is_new(attempt: Attempt) -> None:
    assert ended(DONE, attempt) == DONE._replace(pinned=True)


def test_a_failed_rollback_that_was_needed_after_a_failure_is_one_more_of_them() -> None:
    failed = DONE._replace(status=MigrationStatus.FAILED, retry_count=2, failed_revision="r4")
    after = ended(failed, Attempt(heads=("r3",), failure=Failure("x", "x", revision="r3")))
    assert (after.status, after.retry_count) == (MigrationStatus.MANUAL, 3)


def test_what_a_killed_rollback_leaves_needs_a_person_once_its_lease_has_run_out() -> None:
    left = withdrawn(DONE)._replace(lock_owner="dead", lock_expires_at=NOW)
    assert not transitions.abandoned(left, NOW - timedelta(seconds=1), POLICY)
    assert transitions.abandoned(left, NOW, POLICY)
    assert transitions.held_back(left, NOW, POLICY) is SkipReason.PINNED
    again = ended(left, Attempt(heads=("r1",), applied=("r2",)))
    assert (again.status, again.error, again.pinned) == (MigrationStatus.COMPLETED, None, True)


def test_a_rollback_that_a_host_cannot_even_begin_counts_against_no_branch() -> None:
    before = BranchState(status=MigrationStatus.COMPLETED, heads=("r2",))
    missing = Failure("SecretMissing", "it is not there", kind=FailureKind.HOST)
    change = withdrawal(before, Attempt(failure=missing), transitions.RetryPolicy())
    after = change(transitions.withdraw(before, "r1", NOW), NOW)
    assert (after.status, after.retry_count, after.pinned) == (MigrationStatus.COMPLETED, 0, True)
