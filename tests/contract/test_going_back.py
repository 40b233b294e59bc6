"""The way down of one branch, on each engine: planned, weighed, taken, broken and gone on with."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab import Lab
from schemas import schema_of

from branchmig.fence import Fence
from branchmig.model import (
    Attempt,
    BranchState,
    Direction,
    Provider,
    Record,
    Reversal,
    SkipReason,
    Task,
)
from branchmig.reversal import Rollback

SHOPS = """
op.create_table("shops", sa.Column("id", sa.Integer, primary_key=True),
                sa.Column("name", sa.String(40)))
"""
NO_SHOPS = 'op.drop_table("shops")'
NOTE = 'op.add_column("shops", sa.Column("note", sa.String(80)))'
NO_NOTE = """
with op.batch_alter_table("shops") as batch:
    batch.drop_column("note")
"""
TILLS = """
op.create_table("tills", sa.Column("id", sa.Integer, primary_key=True))
op.create_index("ix_shops_name", "shops", ["name"])
"""
NO_TILLS = """
op.drop_index("ix_shops_name", table_name="shops")
op.drop_table("tills")
"""


@dataclass
class Files:
    """SQLite in the place of a server."""

    folder: Path
    provider: Provider = Provider.SQLITE

    def url(self, database: str) -> str:
        return f"sqlite:///{self.folder / database}.db"

    def query(self, statement: str, database: str) -> list[Any]:
        with closing(sqlite3.connect(self.folder / f"{database}.db")) as driver, driver:
            return driver.execute(statement).fetchall()


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Lab:
    """A branch at the last of three revisions, without a row."""
    files = request.param == "sqlite"
    server = Files(tmp_path) if files else request.getfixturevalue(request.param)
    return three_revisions(Lab(tmp_path, server, f"d_{uuid.uuid4().hex}"))


@pytest.fixture
def journaled(tmp_path: Path, mariadb: Any) -> Lab:
    """The same where DDL cannot be rolled back."""
    return three_revisions(Lab(tmp_path, mariadb, f"d_{uuid.uuid4().hex}"))


def three_revisions(lab: Lab) -> Lab:
    lab.revision("r1", SHOPS, NO_SHOPS)
    lab.revision("r2", NOTE, NO_NOTE)
    lab.revision("r3", TILLS, NO_TILLS)
    assert lab.attempt().failure is None
    return lab


def down(lab: Lab, target: str) -> Rollback:
    record = Record(lab.branch, BranchState())
    return lab.migrator().descend(record, lambda history, now: history.descent(now, target))


def take(lab: Lab, reversal: Reversal) -> Attempt:
    name = ", ".join(reversal.target) or "base"
    return lab.migrator().attempt(Task(lab.branch, name, reversal=reversal), Fence())


def named(rollback: Rollback) -> list[str]:
    return [str(loss) for loss in rollback.losses]


def refused(rollback: Rollback) -> list[str]:
    return [refusal.why for refusal in rollback.refusals]


def extend(lab: Lab, upgrade: str, downgrade: str) -> None:
    """A fourth revision, applied."""
    lab.revision("r4", upgrade, downgrade)
    assert lab.attempt().failure is None


# The way


def test_each_revision_is_undone_in_its_turn_and_the_schema_is_as_it_was(lab: Lab) -> None:
    found = down(lab, "r1")
    assert [(step.revision, step.direction) for step in found.plan.steps] == [
        ("r3", Direction.DOWNGRADE),
        ("r2", Direction.DOWNGRADE),
    ]
    assert (found.losses, found.refusals) == ((), ())
    done = take(lab, found.sparing())
    assert (done.failure, done.applied, done.heads) == (None, ("r3", "r2"), ("r1",))
    after = schema_of(lab.url)
    assert take(lab, down(lab, "base").sparing()).heads == ()
    assert "shops" not in schema_of(lab.url)
    assert lab.attempt(target="r1").failure is None
    assert schema_of(lab.url) == after


def test_a_branch_that_is_there_already_is_looked_at_and_not_written(lab: Lab) -> None:
    found = down(lab, "r3")
    assert found.plan.steps == ()
    before = schema_of(lab.url)
    done = take(lab, found.sparing())
    assert (done.failure, done.applied, done.heads) == (None, (), ("r3",))
    assert schema_of(lab.url) == before


def test_a_branch_that_has_moved_since_it_was_planned_is_left_alone(lab: Lab) -> None:
    found = down(lab, "r2")
    extend(lab, "pass", "pass")
    done = take(lab, found.sparing())
    assert (done.skip, done.applied) == (SkipReason.LEASED, ())
    assert "was moved to r4 after the rollback was planned" in str(done.reason)


def test_what_has_landed_before_a_failure_is_passed_over_when_it_is_taken_again(lab: Lab) -> None:
    found = down(lab, "base")
    file = lab.folder / "history" / "versions" / "r2.py"
    text = file.read_text()
    file.write_text(
        text.replace("    with op.batch", '    raise RuntimeError("no")\n    with op.batch')
    )
    broken = take(lab, found.sparing())
    assert broken.failure is not None
    assert "the downgrade of r2 failed" in broken.failure.message
    assert (broken.applied, broken.heads) == (("r3",), ("r2",))
    file.write_text(text)
    done = take(lab, found.sparing())
    assert (done.failure, done.applied, done.heads) == (None, ("r2", "r1"), ())


# What would be lost


def test_tables_and_columns_that_hold_something_are_named_with_their_rows(lab: Lab) -> None:
    lab.query("INSERT INTO shops (id, name, note) VALUES (1, 'a', 'x'), (2, 'b', NULL)")
    assert named(down(lab, "r2")) == []
    assert named(down(lab, "r1")) == ["shops.note (1 row) [r2]"]
    assert named(down(lab, "base")) == ["shops.note (1 row) [r2]", "shops (2 rows) [r1]"]


def test_rows_are_not_counted_to_the_end(lab: Lab) -> None:
    numbers = ", ".join(f"({n}, 'a')" for n in range(1, 1202))
    lab.query(f"INSERT INTO shops (id, name) VALUES {numbers}")
    assert named(down(lab, "base")) == ["shops (more than 1000 rows) [r1]"]


def test_data_that_comes_between_the_plan_and_its_first_step_is_not_lost(lab: Lab) -> None:
    found = down(lab, "r1")
    lab.query("INSERT INTO shops (id, note) VALUES (1, 'x')")
    before = schema_of(lab.url)
    done = take(lab, found.sparing())
    assert done.failure is not None
    assert done.failure.type == "RollbackRefused"
    assert "data that has come since the rollback was planned: shops.note (1 row) [r2]" in (
        done.failure.message
    )
    assert schema_of(lab.url) == before
    assert take(lab, found.forfeiting()).heads == ("r1",)


@pytest.mark.parametrize(
    ("upgrade", "downgrade", "loss"),
    [
        ("pass", 'op.execute("DELETE FROM shops")', "shops (1 row), rows of it are deleted"),
        ("pass", """op.execute("UPDATE shops SET name = ''")""",
         "shops (1 row), its rows are written over"),
        ("pass", 'op.execute(sa.table("shops").delete())', "shops (1 row), rows of it are"),
        ("pass", 'op.execute("ALTER TABLE shops DROP COLUMN name")', "shops.name (1 row) [r4]"),
        ("pass", 'op.execute("DROP TABLE shops")', "shops (1 row) [r4]"),
        ("pass", 'op.execute("CALL undo()")', "cannot be told from: CALL undo()"),
        ("pass", 'op.get_bind().execute(sa.text("DELETE FROM shops"))',
         "goes past Alembic's operations: DELETE FROM shops"),
        ("pass", 'op.alter_column("shops", "name", type_=sa.String(3), '
         'existing_type=sa.String(40))', "shops.name (1 row), its type changes to"),
        ('op.rename_table("shops", "houses")',
         'op.rename_table("houses", "shops")\nop.drop_table("shops")', "houses (1 row) [r4]"),
        ("pass", 'op.execute("ALTER TABLE shops RENAME COLUMN name TO title")\n'
         'op.drop_table("shops")', "shops (1 row) [r4]"),
        ("pass", 'op.drop_table("elsewhere")', "elsewhere (nothing of that name is there"),
        ("pass", 'op.execute("UPDATE shops_of_all SET name = 1")',
         "shops_of_all (nothing of that name is there"),
        ("pass", 'op.drop_column("shops", "nothing")', "shops.nothing (nothing of that name"),
    ],
    ids=["delete", "update", "construct", "drop column", "drop table", "call", "bind", "type",
         "renamed", "column renamed", "no table", "no table by SQL", "no column"],
)  # fmt: skip
def test_what_takes_data_away_another_way_is_found_out_too(
    lab: Lab, upgrade: str, downgrade: str, loss: str
) -> None:
    lab.query("INSERT INTO shops (id, name) VALUES (1, 'a')")
    extend(lab, upgrade, downgrade)
    before = schema_of(lab.url)
    (found,) = named(down(lab, "r3"))
    assert loss in found
    assert schema_of(lab.url) == before


@pytest.mark.parametrize(
    "downgrade",
    [
        'op.drop_table("tills")\nop.create_table("tills", sa.Column("id", sa.Integer))',
        'op.execute("DROP TABLE tills")',
        'op.create_table("kept", sa.Column("id", sa.Integer))\nop.drop_table("kept")',
        'if op.get_bind().dialect.name == "mssql":\n    op.drop_table("shops")',
        'if sa.inspect(op.get_bind()).has_table("nowhere"):\n    op.drop_table("shops")',
        'with op.get_context().autocommit_block():\n'
        '    op.drop_index("ix_shops_name", table_name="shops")',
        'op.alter_column("shops", "name", type_=sa.String(60), existing_type=sa.String(40))',
        """op.execute("INSERT INTO shops (id) VALUES (2)")""",
        'op.drop_table("nowhere", if_exists=True)\nop.execute("DROP TABLE IF EXISTS nowhere")',
    ],
    ids=["empty table", "empty by SQL", "made and dropped", "dialect", "asks", "autocommit",
         "widens", "insert", "if it exists"],
)  # fmt: skip
def test_what_takes_nothing_away_is_no_loss(lab: Lab, downgrade: str) -> None:
    lab.query("INSERT INTO shops (id, name) VALUES (1, 'a')")
    extend(lab, "pass", downgrade)
    found = down(lab, "r3")
    assert (named(found), refused(found)) == ([], [])


@pytest.mark.parametrize(
    ("downgrade", "loss"),
    [
        ('op.execute("ALTER TABLE shops RENAME name TO title")\n'
         'op.execute("ALTER TABLE shops DROP COLUMN title")', "shops.name (1 row) [r4]"),
        ('op.execute("ALTER TABLE shops RENAME name TO title; DROP TABLE shops")',
         "shops (1 row) [r4]"),
        ('op.execute("DROP TABLE IF EXISTS archive")', "archive (1 row) [r4]"),
        ('op.execute("ALTER TABLE archive DROP COLUMN IF EXISTS what")',
         "archive.what (1 row) [r4]"),
    ],
    ids=["column", "table", "later schema", "its column"],
)  # fmt: skip
def test_postgresql_is_read_with_its_short_words_and_its_search_path(
    tmp_path: Path, postgresql: Any, downgrade: str, loss: str
) -> None:
    lab = three_revisions(Lab(tmp_path, postgresql, f"d_{uuid.uuid4().hex}"))
    lab.query("INSERT INTO shops (id, name) VALUES (1, 'a')")
    lab.query("CREATE SCHEMA old")
    lab.query("CREATE TABLE old.archive AS SELECT 'x' AS what")
    lab.query(f'ALTER DATABASE "{lab.database}" SET search_path = public, old')
    extend(lab, "pass", downgrade)
    assert named(down(lab, "r3")) == [loss]


@pytest.mark.parametrize(
    "downgrade",
    [
        "/*!40000 DROP TABLE shops */",
        "/*M! DROP TABLE shops */",
        "ALTER TABLE shops RENAME TO houses, DROP COLUMN name",
        "ALTER TABLE shops ADD COLUMN name INT, DROP COLUMN name",
        "ALTER TABLE shops ADD COLUMN IF NOT EXISTS name INT; ALTER TABLE shops DROP COLUMN name",
    ],
)
def test_mariadb_is_read_with_its_comments_and_its_manifold_statements(
    tmp_path: Path, mariadb: Any, downgrade: str
) -> None:
    lab = three_revisions(Lab(tmp_path, mariadb, f"d_{uuid.uuid4().hex}"))
    lab.query("INSERT INTO shops (id, name) VALUES (1, 'a')")
    extend(lab, "pass", f"op.execute({downgrade!r})")
    (found,) = named(down(lab, "r3"))
    assert "DROP TABLE shops" in found or found == "shops.name (1 row) [r4]"


# What cannot be undone


@pytest.mark.parametrize(
    ("upgrade", "downgrade", "why"),
    [
        ("pass", 'raise NotImplementedError("no way back")', "NotImplementedError: no way back"),
        ("pass", 'op.drop_index("ix_shops_name", table_name="shops")\nraise RuntimeError("end")',
         "RuntimeError: end"),
        ('op.create_table("more", sa.Column("id", sa.Integer))', "pass",
         "its downgrade does nothing, while its upgrade changes the schema"),
    ],
    ids=["raises", "raises at its end", "does nothing"],
)  # fmt: skip
def test_a_revision_that_cannot_be_undone_is_named_before_anything_is_touched(
    lab: Lab, upgrade: str, downgrade: str, why: str
) -> None:
    extend(lab, upgrade, downgrade)
    before = schema_of(lab.url)
    (found,) = refused(down(lab, "r2"))
    assert why in found
    assert schema_of(lab.url) == before


def test_a_revision_without_a_downgrade_is_named(lab: Lab) -> None:
    extend(lab, "pass", "pass")
    file = lab.folder / "history" / "versions" / "r4.py"
    file.write_text(file.read_text().replace("def downgrade", "def undo"))
    assert refused(down(lab, "r2")) == ["it has no downgrade"]


def test_a_downgrade_that_does_nothing_is_right_for_an_upgrade_of_rows_alone(lab: Lab) -> None:
    extend(lab, """op.execute("INSERT INTO shops (id) VALUES (7)")""", "pass")
    found = down(lab, "r3")
    assert (named(found), refused(found)) == ([], [])
    assert take(lab, found.sparing()).heads == ("r3",)


# Half way, where DDL cannot be rolled back


def test_a_downgrade_that_breaks_half_way_is_journaled_and_gone_on_with(journaled: Lab) -> None:
    lab = journaled
    broken = 'op.drop_table("tills")\nop.execute("CREATE INDEX i ON nowhere (id)")\n'
    lab.revision("r3", TILLS, f'{broken}op.drop_index("ix_shops_name", table_name="shops")')
    found = down(lab, "r1")
    assert not found.losses
    failed = take(lab, found.sparing())
    assert failed.failure is not None
    assert "half way, journaled" in failed.failure.message
    assert lab.migrator().look(lab.branch).unfinished
    again = take(lab, found.sparing()).failure
    assert again is not None
    assert again.type == failed.failure.type  # what is gone by now is nothing that it would lose
    lab.query("CREATE TABLE nowhere (id INT)")
    anew = down(lab, "r1")
    assert (named(anew), refused(anew)) == ([], [])
    done = take(lab, anew.sparing())
    assert (done.failure, done.applied, done.heads) == (None, ("r3", "r2"), ("r1",))
    assert not lab.has_journal()


def test_what_broke_half_way_must_be_finished_in_its_own_direction(journaled: Lab) -> None:
    lab = journaled
    lab.revision("r3", TILLS, 'op.drop_table("tills")\nop.drop_table("nowhere")')
    assert take(lab, down(lab, "r2").forfeiting()).failure
    up = lab.attempt()
    assert up.failure is not None
    assert "the downgrade of r3 broke half way" in up.failure.message
    assert "finish r3 first with `branchmig rollback`" in str(up.failure.hint)


def test_an_upgrade_that_broke_half_way_stands_in_the_way_down(journaled: Lab) -> None:
    lab = journaled
    lab.revision("r4", 'op.create_table("more", sa.Column("id", sa.Integer))\nop.execute("oops")')
    assert lab.attempt().failure
    (why,) = refused(down(lab, "r1"))
    assert "its upgrade broke half way" in why
