"""`rollback` by the real command: a run over three engines undone, refused, stopped and killed."""

from __future__ import annotations

import signal
import subprocess
import textwrap
import uuid
from collections import Counter
from typing import Any

import pytest
import sqlalchemy as sa
from office import HISTORIES, Office
from processes import Family, until
from schemas import engine_of, schema_of
from servers import Mariadb, Postgresql

REVISION = """
import sqlalchemy as sa
from alembic import op

revision = {name!r}
down_revision = {down!r}


def upgrade():
{upgrade}


def downgrade():
{downgrade}
"""

SHOPS = """
op.create_table("shops", sa.Column("id", sa.Integer, primary_key=True),
                sa.Column("name", sa.String(40), nullable=False))
op.execute("INSERT INTO shops (id, name) VALUES (1, 'Leiden')")
"""
NOTE = 'op.add_column("shops", sa.Column("note", sa.String(80)))'
NO_NOTE = """
with op.batch_alter_table("shops") as batch:
    batch.drop_column("note")
"""
TILLS = """
op.create_table("tills", sa.Column("id", sa.Integer, primary_key=True),
                sa.Column("shop_id", sa.Integer, sa.ForeignKey("shops.id")))
op.create_index("ix_shops_name", "shops", ["name"])
"""
NO_TILLS = """
op.drop_index("ix_shops_name", table_name="shops")
op.drop_table("tills")
"""
NO_WAY = 'raise NotImplementedError("there is no way back")'
WAITS = """
from pathlib import Path
import time
here = Path(__file__).parent.parent
if (here / "rehearsed").exists():
    (here / "held").touch()
    while (here / "hold").exists():
        time.sleep(0.01)
(here / "rehearsed").touch()
"""
"""What comes before the rest of a downgrade: the first time is but its rehearsal."""


class Books:
    """An office whose history the test writes."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self.folder = office.folder / "history"
        (self.folder / "versions").mkdir(parents=True)
        env = (HISTORIES / "linear" / "env.py").read_text()
        (self.folder / "env.py").write_text(env)
        office.configure(
            '[migrations]\nscript_location = "history"\n[retry]\nbackoff_seconds = 0\n'
        )
        self.down: str | None = None

    def revision(self, name: str, upgrade: str, downgrade: str) -> None:
        bodies = [textwrap.indent(textwrap.dedent(b).strip(), "    ") for b in (upgrade, downgrade)]
        text = REVISION.format(name=name, down=self.down, upgrade=bodies[0], downgrade=bodies[1])
        (self.folder / "versions" / f"{name}.py").write_text(text)
        self.down = name

    def three(self, undo_third: str = NO_TILLS) -> None:
        self.revision("r1", SHOPS, 'op.drop_table("shops")')
        self.revision("r2", NOTE, NO_NOTE)
        self.revision("r3", TILLS, undo_third)

    def run_of(self, *arguments: str) -> str:
        """The id of a run that went well."""
        report = self.office.json(*arguments)
        assert report["success"], report
        return str(report["runId"])


@pytest.fixture
def books(office: Office) -> Books:
    return Books(office)


def contents(url: str) -> Any:
    """Schema and rows."""
    schema = schema_of(url)
    with engine_of(url).connect() as connection:
        return schema, {
            table: connection.execute(sa.text(f"SELECT * FROM {table} ORDER BY 1")).all()
            for table in schema
        }


def pinned(office: Office) -> dict[str, tuple[str | None, bool]]:
    rows = office.json("status")
    return {row["branchCode"]: (row["lastMigrationApplied"], row["pinned"]) for row in rows}


@pytest.mark.parametrize("each", [8, pytest.param(34, marks=pytest.mark.soak)])
def test_a_run_over_a_hundred_branches_of_three_engines_is_undone_to_the_last_row(
    books: Books, family: Family, postgresql: Postgresql, mariadb: Mariadb, each: int
) -> None:
    office = books.office
    office.environ["BRANCHMIG_RUN_WORKERS"] = "2"
    names = [f"u_{uuid.uuid4().hex}" for _ in range(each)]
    urls = [
        url
        for name in names
        for url in (
            f"sqlite:///{office.folder}/{name}.db", postgresql.url(name), mariadb.url(name)
        )
    ]  # fmt: skip
    lines = [f"BR{number:03},{url}" for number, url in enumerate(urls)]
    office.run("branch", "import", "-", stdin="\n".join(["code,url", *lines, ""]))
    books.three()
    assert office.json("apply-all", "--to", "r1")["branchesSucceeded"] == len(urls)
    before = {url: contents(url) for url in urls}
    run = books.run_of("apply-all")
    undone = office.json("rollback", "--run", run[:13], "--yes")
    assert Counter(branch["verdict"] for branch in undone["branches"]) == {"migrated": len(urls)}
    assert undone["branches"][0]["appliedMigrations"] == ["r3", "r2"]
    for url, was in before.items():
        assert contents(url) == was
    assert set(pinned(office).values()) == {("r1", True)}
    tick = office.json("apply-all")
    assert Counter(branch["reason"] for branch in tick["branches"]) == {"pinned": len(urls)}


def test_the_last_that_a_run_changed_is_the_first_to_be_undone(books: Books) -> None:
    office = books.office
    office.add("BR001", "BR002", "BR003")
    books.three()
    run = books.run_of("apply-all")
    order = office.headoffice(
        "SELECT branch_code FROM branchmig_outcomes WHERE run_id = ? "
        "ORDER BY finished_at DESC, branch_code",
        (run,),
    )
    undone = office.json("rollback", "--run", run, "--yes", "--allow-data-loss")
    assert [branch["branchCode"] for branch in undone["branches"]] == [row[0] for row in order]


def test_a_branch_that_has_moved_on_since_the_run_is_left_out_and_named(books: Books) -> None:
    office = books.office
    office.add("BR001", "BR002")
    books.three()
    office.run("apply-all", "--to", "r1")
    run = books.run_of("apply-all", "--to", "r2")
    office.run("apply", "BR002")
    done = office.run("rollback", "--run", run, "--yes")
    assert "BR002 is left out: it is at r3, no longer at r2" in done.stderr
    assert pinned(office) == {"BR001": ("r1", True), "BR002": ("r3", False)}


def test_what_cannot_be_undone_on_one_branch_leaves_all_of_them_untouched(books: Books) -> None:
    office = books.office
    office.add("BR001", "BR002")
    books.three(undo_third=NO_WAY)
    office.run("apply-all", "--to", "r1")
    run = books.run_of("apply-all")
    before = office.files()
    refused = office.json("rollback", "--run", run, "--yes", code=1)
    assert refused["error"]["type"] == "RollbackRefused"
    assert "nothing was touched" in refused["error"]["message"]
    assert "NotImplementedError: there is no way back [r3]" in refused["error"]["message"]
    assert office.run("rollback", "BR001", "--to", "r1", "--yes", "--allow-data-loss", code=1)
    assert office.files() == before


def test_data_is_only_lost_when_a_person_says_so(books: Books) -> None:
    office = books.office
    office.add("BR001", "BR002")
    books.three()
    office.run("apply-all", "--to", "r1")
    run = books.run_of("apply-all")
    office.query("BR002", "UPDATE shops SET note = 'dear'")
    before = office.files()
    refused = office.run("rollback", "--run", run, "--yes", code=1)
    assert "BR002: shops.note (1 row) [r2]" in refused.stderr
    assert "--allow-data-loss" in refused.stderr
    assert office.files() == before
    office.run("rollback", "--run", run, "--yes", "--allow-data-loss")
    assert set(pinned(office).values()) == {("r1", True)}


def test_a_run_that_only_recorded_what_was_there_is_not_undone(books: Books) -> None:
    office = books.office
    office.add("BR001")
    books.three()
    office.run("apply-all")
    office.query("BR001", "DROP TABLE alembic_version")
    office.run("baseline", "BR001", "--revision", "r3")
    ((run,),) = office.headoffice("SELECT id FROM branchmig_runs WHERE command = 'baseline'")
    before = office.files()
    refused = office.run("rollback", "--run", run, "--yes", "--allow-data-loss", code=2)
    assert "was `baseline`, which applied no revision" in refused.stderr
    assert "branchmig rollback BRANCH --to REV" in refused.stderr
    assert office.files() == before


def test_a_run_is_undone_when_it_has_ended_or_was_killed_and_not_before(books: Books) -> None:
    office = books.office
    office.add("BR001", "BR002")
    books.three()
    office.run("apply-all", "--to", "r1")
    run = books.run_of("apply-all")
    office.headoffice("UPDATE branchmig_runs SET finished_at = NULL WHERE id = ?", (run,))
    lease = (
        "UPDATE branchmig_migration_states SET lock_owner = ?, lock_expires_at = ? "
        "WHERE branch_id = (SELECT id FROM branchmig_branches WHERE code = 'BR002')"
    )
    office.headoffice(lease, (run, "9999-01-01 00:00:00.000000"))
    before = office.files()
    early = office.run("rollback", "--run", run, "--yes", code=75)
    assert "is still at work" in early.stderr
    assert office.files() == before
    office.headoffice(lease, (run, "2000-01-01 00:00:00.000000"))
    office.run("rollback", "--run", run, "--yes")
    assert pinned(office) == {"BR001": ("r1", True), "BR002": ("r1", True)}


def test_nothing_is_undone_where_nobody_can_be_asked(books: Books) -> None:
    office = books.office
    office.add("BR001")
    books.three()
    office.run("apply-all")
    before = office.files()
    asked = office.run("rollback", "BR001", "--to", "r2", code=2)
    assert "r3" in asked.stderr
    assert "add --yes" in asked.stderr
    assert office.files() == before


def test_what_cannot_be_meant_is_wrong_usage(books: Books) -> None:
    office = books.office
    office.add("BR001")
    books.three()
    office.run("apply-all", "--to", "r2")
    for arguments in (
        ("BR001",),
        ("--to", "r1"),
        ("BR001", "--to", "r1", "--run", "1"),
        ("BR001", "--to", "nowhere"),
        ("BR001", "--to", "r3"),
        ("NOBODY", "--to", "r1"),
        ("--run", "nothing-like-it"),
        ("--run", ""),
    ):
        office.run("rollback", *arguments, "--yes", code=2)
    assert pinned(office) == {"BR001": ("r2", False)}


def test_apply_brings_a_branch_up_again_and_lets_it_go(books: Books) -> None:
    office = books.office
    office.add("BR001")
    books.three()
    office.run("apply-all")
    office.run("rollback", "BR001", "--to", "r1", "--yes")
    status = office.status("BR001")
    assert (status["status"], status["behind"], status["pinned"]) == ("Pending", True, True)
    assert status["errorDetails"] is None
    assert office.run("status", "--check", code=1)
    office.run("apply", "BR001")
    status = office.status("BR001")
    assert (status["status"], status["pinned"]) == ("Completed", False)


def test_a_branch_that_was_rolled_back_has_not_passed_the_canary(books: Books) -> None:
    office = books.office
    office.settings.write_text(office.settings.read_text() + "[rollout]\ncanary = 1\n")
    office.add("BR001", "BR002")
    books.three()
    run = books.run_of("apply-all")
    marks = "SELECT count(*) FROM branchmig_migration_states WHERE rollout_id IS NOT NULL"
    assert office.headoffice(marks) == [(2,)]
    office.run("rollback", "--run", run, "--yes", "--allow-data-loss")
    assert office.headoffice(marks) == [(0,)]


# Killed and stopped


def held(books: Books, revision: str) -> str:
    """A run that brought BR001 from r1 to r3, whose undoing stops at one revision until it is let
    go. Gives the run's id."""
    undo = {"r2": NO_NOTE, "r3": NO_TILLS}
    undo[revision] = f"{WAITS}\n{textwrap.dedent(undo[revision])}"
    books.revision("r1", SHOPS, 'op.drop_table("shops")')
    books.revision("r2", NOTE, undo["r2"])
    books.revision("r3", TILLS, undo["r3"])
    books.office.add("BR001")
    books.office.run("apply-all", "--to", "r1")
    return books.run_of("apply-all")


def begun(books: Books, run: str) -> subprocess.Popen[str]:
    """A rollback that is in the midst of that revision."""
    (books.folder / "hold").touch()
    process = books.office.start("rollback", "--run", run, "--yes")
    until((books.folder / "held").exists, "the downgrade")
    return process


def killed(books: Books) -> str:
    """A rollback that was killed when it had undone r3; its lease has run out."""
    run = held(books, "r2")
    process = begun(books, run)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (books.folder / "hold").unlink()
    status = books.office.status("BR001")
    assert (status["status"], status["pinned"], status["isLocked"]) == ("InProgress", True, True)
    books.office.run("unlock", "BR001", "--force", "--yes")
    return run


def test_a_rollback_that_was_killed_is_shown_left_alone_by_ticks_and_gone_on_with(
    books: Books,
) -> None:
    run = killed(books)
    office = books.office
    status = office.status("BR001")
    assert (status["status"], status["pinned"]) == ("RequiresManualIntervention", True)
    assert "a rollback to r1 was begun and has not ended" in status["errorDetails"]
    tick = office.json("apply-all")
    assert [branch["reason"] for branch in tick["branches"]] == ["pinned"]
    assert office.query("BR001", "SELECT version_num FROM alembic_version") == [("r2",)]
    report = office.json("rollback", "--run", run, "--yes")
    assert report["appliedMigrations"] == ["[BR001] r2"]
    assert pinned(office) == {"BR001": ("r1", True)}
    assert office.status("BR001")["errorDetails"] is None


def test_the_same_number_of_steps_goes_on_with_a_rollback_that_broke(books: Books) -> None:
    breaks = f'{WAITS}\nif (here / "broken").exists():\n    raise RuntimeError("no")'
    books.revision("r1", SHOPS, 'op.drop_table("shops")')
    books.revision("r2", NOTE, f"{breaks}\n{textwrap.dedent(NO_NOTE)}")
    books.revision("r3", TILLS, NO_TILLS)
    office = books.office
    office.add("BR001")
    office.run("apply-all")
    two = ("rollback", "BR001", "--to", "-2", "--yes", "--allow-data-loss")
    (books.folder / "hold").touch()
    process = office.start(*two)
    until((books.folder / "held").exists, "the downgrade")
    (books.folder / "broken").touch()
    (books.folder / "hold").unlink()
    process.communicate()
    assert process.returncode == 1
    assert pinned(office) == {"BR001": ("r2", True)}
    (books.folder / "broken").unlink()
    again = office.run(*two)
    assert "a rollback to r1 has not ended" in again.stderr
    assert pinned(office) == {"BR001": ("r1", True)}
    office.run(*two[:3], "-1", *two[4:])
    assert pinned(office) == {"BR001": (None, True)}


def test_the_plan_of_a_rollback_that_nobody_can_see_is_not_carried_out(books: Books) -> None:
    books.three()
    office = books.office
    office.add("BR001")
    office.run("apply-all")
    office.wrapper = ("sh", "-c", 'exec "$@" 2>/dev/full', "sh")
    office.run("rollback", "BR001", "--to", "r2", "--yes", code=1)
    assert pinned(office) == {"BR001": ("r3", False)}


def killed_on_its_way_up(books: Books) -> str:
    """A run that was killed in the midst of r3, with r2 landed and nothing recorded. Gives its id;
    its lease has run out."""
    waits = WAITS.replace('(here / "rehearsed").exists()', '(here / "hold").exists()')
    books.revision("r1", SHOPS, 'op.drop_table("shops")')
    books.revision("r2", NOTE, NO_NOTE)
    books.revision("r3", f"{waits}\n{textwrap.dedent(TILLS)}", NO_TILLS)
    office = books.office
    office.environ["BRANCHMIG_RUN_LEASE_SECONDS"] = "1"
    office.add("BR001")
    office.run("apply-all", "--to", "r1")
    (books.folder / "hold").touch()
    process = office.start("apply-all")
    until((books.folder / "held").exists, "the upgrade")
    process.kill()
    process.communicate()
    (books.folder / "hold").unlink()
    until(lambda: not office.status("BR001")["isLocked"], "the end of the lease")
    (run, *_) = office.json("audit", "--limit", "1")
    return str(run["runId"])


def test_what_a_run_that_was_killed_had_in_hand_is_undone_too(books: Books) -> None:
    run = killed_on_its_way_up(books)
    report = books.office.json("rollback", "--run", run, "--yes", "--allow-data-loss")
    assert report["appliedMigrations"] == ["[BR001] r2"]
    assert pinned(books.office) == {"BR001": ("r1", True)}


def test_what_a_run_that_was_killed_had_done_is_known_as_its_own_once_it_is_found(
    books: Books,
) -> None:
    run = killed_on_its_way_up(books)
    office = books.office
    tick = books.run_of("apply-all")
    (found,) = office.json("audit", "--run", run)
    (row,) = found["branches"]
    assert (row["fromHeads"], row["toHeads"]) == (["r1"], ["r2"])
    for one, heads in ((tick, "r2"), (run, "r1")):
        office.run("rollback", "--run", one, "--yes", "--allow-data-loss")
        assert pinned(office) == {"BR001": (heads, True)}


def test_after_a_rollback_that_was_killed_apply_goes_up_again(books: Books) -> None:
    killed(books)
    books.office.run("apply", "BR001")
    status = books.office.status("BR001")
    assert (status["status"], status["pinned"], status["errorDetails"]) == (
        "Completed", False, None,
    )  # fmt: skip


def test_a_rollback_that_is_stopped_finishes_the_revision_in_hand(books: Books) -> None:
    run = held(books, "r3")
    process = begun(books, run)
    process.send_signal(signal.SIGTERM)
    until(lambda: "SIGTERM" in (process.stderr.readline() if process.stderr else ""), "the answer")
    (books.folder / "hold").unlink()
    process.communicate()
    assert process.returncode == 143
    status = books.office.status("BR001")
    assert (status["status"], status["lastMigrationApplied"]) == ("Pending", "r2")
    assert status["pinned"]
    assert "has not ended" in status["errorDetails"]
    report = books.office.json("rollback", "--run", run, "--yes")
    assert report["appliedMigrations"] == ["[BR001] r2"]
    assert pinned(books.office) == {"BR001": ("r1", True)}


def test_a_branch_that_another_run_has_leased_is_to_be_tried_later(books: Books) -> None:
    office = books.office
    office.add("BR001")
    books.three()
    office.run("apply-all")
    office.headoffice(
        "UPDATE branchmig_migration_states SET lock_owner = 'another', "
        "lock_expires_at = '9999-01-01 00:00:00.000000'"
    )
    done = office.run("rollback", "BR001", "--to", "r1", "--yes", "--allow-data-loss", code=75)
    assert "leased by run another" in done.stdout
    assert pinned(office) == {"BR001": ("r3", False)}


def test_one_that_fails_stops_no_other_and_stays_pinned(books: Books) -> None:
    books.three()
    office = books.office
    office.add("BR001", "BR002")
    office.run("apply-all", "--to", "r1")
    run = books.run_of("apply-all")
    office.query("BR002", "DROP INDEX ix_shops_name")
    report = office.json("rollback", "--run", run, "--yes", code=1)
    verdicts = {branch["branchCode"]: branch["verdict"] for branch in report["branches"]}
    assert verdicts == {"BR001": "migrated", "BR002": "failed"}
    status = office.status("BR002")
    assert (status["status"], status["pinned"]) == ("Failed", True)
    assert "the downgrade of r3 failed and was rolled back" in status["errorDetails"]
