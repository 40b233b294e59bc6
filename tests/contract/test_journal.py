"""What is journaled lands once, whatever breaks in between; on a MariaDB of our own."""

from __future__ import annotations

import random
import signal
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from lab import Lab
from office import Office
from servers import Mariadb

from branchmig.model import FailureKind, SkipReason
from branchmig.providers.marks import TABLE
from branchmig.providers.mysql_language import MysqlLanguage
from branchmig.providers.mysql_statements import landed, shown
from branchmig.providers.statements import Fact, Landed

KILLS = 20

LEDGER = "CREATE TABLE ledger (id INT AUTO_INCREMENT PRIMARY KEY, what VARCHAR(20)) ENGINE=InnoDB"


@pytest.fixture
def lab(tmp_path: Path, mariadb: Mariadb) -> Lab:
    """A branch whose first revision, applied, made a table `ledger`."""
    lab = Lab(tmp_path, mariadb, f"j_{uuid.uuid4().hex}")
    lab.revision("r1", f'op.execute("{LEDGER}")')
    assert lab.attempt().failure is None
    return lab


def ledger(lab: Lab) -> list[object]:
    return [row[0] for row in lab.query("SELECT what FROM ledger ORDER BY id")]


def columns(lab: Lab, table: str) -> list[object]:
    return [row[0] for row in lab.query(f"SHOW COLUMNS FROM {table}")]


def needs_person(lab: Lab, error: str, match: str) -> None:
    """An attempt that goes to a person at once and changes nothing."""
    before = lab.query("SHOW TABLES"), ledger(lab)
    attempt = lab.attempt()
    assert attempt.failure is not None
    assert attempt.failure.type == error, attempt.failure
    assert match in attempt.failure.message
    assert attempt.failure.kind is FailureKind.MANUAL
    assert (lab.query("SHOW TABLES"), ledger(lab)) == before


BREAKS = """
op.execute("INSERT INTO ledger (what) VALUES ('one')")
op.execute("CREATE TABLE made (id INT PRIMARY KEY)")
op.execute("INSERT INTO ledger (what) VALUES ('two')")
op.execute("ALTER TABLE made ADD COLUMN more INT")
op.execute("INSERT INTO ledger (what) VALUES ('three')")
op.execute("ALTER TABLE not_there ADD COLUMN more INT")
op.execute("INSERT INTO ledger (what) VALUES ('four')")
"""


def test_a_revision_that_fails_half_way_goes_on_after_what_landed(lab: Lab) -> None:
    lab.revision("r2", BREAKS)
    for _ in range(2):
        failure = lab.attempt().failure
        assert failure is not None
        assert "half way" in failure.message
        assert ledger(lab) == ["one", "two", "three"]
    lab.query("CREATE TABLE not_there (id INT)")
    assert lab.attempt().applied == ("r2",)
    assert ledger(lab) == ["one", "two", "three", "four"]
    assert columns(lab, "made") == ["id", "more"]


def test_data_that_was_not_committed_is_rolled_back_and_lands_once(lab: Lab) -> None:
    lab.revision("r2", """
        op.execute("CREATE TABLE made (id INT PRIMARY KEY)")
        op.execute("INSERT INTO ledger (what) VALUES ('one')")
        op.execute("INSERT INTO not_there VALUES (1)")
    """)  # fmt: skip
    assert lab.attempt().failure
    assert ledger(lab) == []
    lab.query("CREATE TABLE not_there (id INT)")
    assert lab.attempt().failure is None
    assert ledger(lab) == ["one"]


def test_the_journal_is_there_only_where_a_revision_broke(lab: Lab) -> None:
    assert not lab.has_journal()
    lab.revision("r2", BREAKS)
    assert lab.attempt().failure
    assert lab.has_journal()
    snapshot = lab.migrator().look(lab.branch)
    assert snapshot.unfinished
    assert TABLE not in snapshot.tables
    assert (
        lab.migrator().validate(lab.branch).reason
        == "a revision is half applied; behind by 1 revision"
    )
    lab.query("CREATE TABLE not_there (id INT)")
    assert lab.attempt().failure is None
    assert not lab.has_journal()


def test_an_empty_journal_that_a_kill_left_behind_is_cleared_away(lab: Lab) -> None:
    """The last version row was committed with the clearing; the table was about to be dropped."""
    lab.query(MysqlLanguage(lab.database).create)
    assert not lab.migrator().look(lab.branch).unfinished
    attempt = lab.attempt()
    assert (attempt.failure, attempt.applied) == (None, ())
    assert not lab.has_journal()


def test_a_revision_that_failed_before_anything_landed_leaves_no_journal(lab: Lab) -> None:
    lab.revision("r2", 'op.execute("ALTER TABLE not_there ADD COLUMN more INT")')
    assert lab.attempt().failure
    assert not lab.has_journal()


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        (BREAKS.replace("'one'", "'uno'"), "its statement 1 was INSERT"),
        (BREAKS.replace("CREATE", 'DROP TABLE ledger")\nop.execute("CREATE'),
         "its statement 2 was CREATE TABLE made"),
        ("pass", "it ends after 0 statements"),
    ],
    ids=["a text", "a statement more", "fewer statements"],
)  # fmt: skip
def test_a_revision_that_diverges_from_its_journal_executes_nothing_more(
    lab: Lab, changed: str, match: str
) -> None:
    lab.revision("r2", BREAKS)
    assert lab.attempt().failure
    lab.revision("r2", changed)
    needs_person(lab, "JournalDiverged", match)
    lab.revision("r2", BREAKS)
    lab.query("CREATE TABLE not_there (id INT)")
    assert lab.attempt().failure is None


@pytest.mark.parametrize(
    "reading",
    [
        "assert done.rowcount == 1",
        "assert done.inserted_primary_key[0] > 0",
        "bind.execute(table.insert(), {'what': str(done.lastrowid)})",
        'op.execute("INSERT INTO ledger (what) VALUES (LAST_INSERT_ID())")',
    ],
)
def test_a_revision_that_reads_the_result_of_what_is_passed_over_diverges(
    lab: Lab, reading: str
) -> None:
    lab.revision("r2", f"""
        bind = op.get_bind()
        table = sa.table("ledger", sa.column("id", sa.Integer), sa.column("what", sa.String))
        table = sa.Table("ledger", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True),
                         sa.Column("what", sa.String(20)))
        done = bind.execute(table.insert(), {{"what": "one"}})
        {reading}
        op.execute("CREATE TABLE made (id INT PRIMARY KEY)")
        op.execute("ALTER TABLE not_there ADD COLUMN more INT")
    """)  # fmt: skip
    assert lab.attempt().failure
    needs_person(lab, "JournalDiverged", "it reads the result of")


def test_rows_of_a_statement_that_is_passed_over_cannot_be_read(lab: Lab) -> None:
    lab.revision("r2", """
        op.get_bind().execute(sa.text("ANALYZE TABLE ledger")).fetchall()
        op.execute("ALTER TABLE not_there ADD COLUMN more INT")
    """)  # fmt: skip
    assert lab.attempt().failure
    needs_person(lab, "JournalDiverged", "it reads the result of its statement 1")


def test_an_error_swallowed_after_a_divergence_executes_nothing_more(lab: Lab) -> None:
    lab.revision("r2", BREAKS)
    assert lab.attempt().failure
    lab.revision("r2", """
        for what in ("DROP TABLE ledger", "DROP TABLE made"):
            try:
                op.execute(what)
            except Exception:
                pass
    """)  # fmt: skip
    needs_person(lab, "JournalDiverged", "its statement 1 was")


def test_a_half_applied_revision_that_nobody_wants_any_more_is_never_called_complete(
    lab: Lab,
) -> None:
    lab.revision("r2", BREAKS)
    assert lab.attempt().failure
    attempt = lab.attempt(target="r1")
    assert attempt.failure is not None
    assert attempt.failure.kind is FailureKind.MANUAL
    assert "broke half way" in attempt.failure.message


def test_session_statements_and_temporary_tables_are_executed_again(lab: Lab) -> None:
    lab.revision("r2", """
        op.execute("SET @word = 'set'")
        op.execute("CREATE TEMPORARY TABLE temp (what VARCHAR(20))")
        op.execute("INSERT INTO temp VALUES ('temp')")
        op.execute("CREATE TABLE made (id INT PRIMARY KEY)")
        op.execute("ALTER TABLE not_there ADD COLUMN more INT")
        op.execute("INSERT INTO ledger (what) SELECT what FROM temp")
        op.execute("INSERT INTO ledger (what) VALUES (@word)")
        op.execute("DROP TEMPORARY TABLE temp")
    """)  # fmt: skip
    assert lab.attempt().failure
    lab.query("CREATE TABLE not_there (id INT)")
    assert lab.attempt().failure is None
    assert ledger(lab) == ["temp", "set"]


def test_what_a_savepoint_took_back_is_done_and_taken_back_again(lab: Lab) -> None:
    lab.revision("r2", """
        op.execute("INSERT INTO ledger (what) VALUES ('one')")
        nested = op.get_bind().begin_nested()
        op.execute("INSERT INTO ledger (what) VALUES ('never')")
        nested.rollback()
        op.execute("INSERT INTO ledger (what) VALUES ('two')")
        op.execute("CREATE TABLE made (id INT PRIMARY KEY)")
        op.execute("ALTER TABLE not_there ADD COLUMN more INT")
    """)  # fmt: skip
    assert lab.attempt().failure
    lab.query("CREATE TABLE not_there (id INT)")
    assert lab.attempt().failure is None
    assert ledger(lab) == ["one", "two"]


def test_an_error_that_a_revision_caught_is_met_again_on_the_same_way(lab: Lab) -> None:
    lab.revision("r2", """
        try:
            op.execute("ALTER TABLE later ADD COLUMN more INT")
        except sa.exc.DBAPIError:
            op.execute("INSERT INTO ledger (what) VALUES ('caught')")
        op.execute("CREATE TABLE later (id INT PRIMARY KEY)")
        op.execute("ALTER TABLE not_there ADD COLUMN more INT")
    """)  # fmt: skip
    assert lab.attempt().failure
    lab.query("CREATE TABLE not_there (id INT)")
    assert lab.attempt().failure is None
    assert ledger(lab) == ["caught"]
    assert columns(lab, "later") == ["id"]


def test_an_autocommit_block_is_journaled_statement_by_statement(lab: Lab) -> None:
    lab.revision("r2", """
        op.execute("INSERT INTO ledger (what) VALUES ('one')")
        with op.get_context().autocommit_block():
            op.execute("INSERT INTO ledger (what) VALUES ('two')")
            op.execute("CREATE TABLE made (id INT PRIMARY KEY)")
            op.execute("INSERT INTO ledger (what) VALUES ('three')")
        op.execute("INSERT INTO not_there VALUES (1)")
    """)  # fmt: skip
    assert lab.attempt().failure
    assert ledger(lab) == ["one", "two", "three"]
    lab.query("CREATE TABLE not_there (id INT)")
    assert lab.attempt().failure is None
    assert ledger(lab) == ["one", "two", "three"]


def test_a_revision_that_commits_on_its_bind_repeats_nothing(lab: Lab) -> None:
    lab.revision("r2", """
        op.execute("INSERT INTO ledger (what) VALUES ('one')")
        op.get_bind().commit()
        op.execute("INSERT INTO ledger (what) VALUES ('two')")
        op.execute("COMMIT")
        op.execute("INSERT INTO not_there VALUES (1)")
    """)  # fmt: skip
    assert lab.attempt().failure
    lab.query("CREATE TABLE not_there (id INT)")
    assert lab.attempt().failure is None
    assert ledger(lab) == ["one", "two"]


def test_locked_tables_do_not_lock_the_journal_out(lab: Lab) -> None:
    lab.revision("r2", """
        op.execute("INSERT INTO ledger (what) VALUES ('one')")
        op.execute("LOCK TABLES ledger WRITE")
        op.execute("INSERT INTO ledger (what) VALUES ('two')")
        op.execute("ALTER TABLE ledger ADD COLUMN more INT")
        op.execute("UNLOCK TABLES")
        op.execute("INSERT INTO not_there VALUES (1)")
    """)  # fmt: skip
    assert lab.attempt().failure
    lab.query("CREATE TABLE not_there (id INT)")
    failure = lab.attempt().failure
    assert failure is None
    assert ledger(lab) == ["one", "two"]


def test_a_table_that_cannot_roll_back_is_journaled_like_the_schema(lab: Lab) -> None:
    lab.query("CREATE TABLE old (what VARCHAR(20)) ENGINE=MyISAM")
    lab.revision("r2", """
        op.execute("INSERT INTO old VALUES ('one')")
        op.execute("INSERT INTO not_there VALUES (1)")
    """)  # fmt: skip
    assert lab.attempt().failure
    lab.query("CREATE TABLE not_there (id INT)")
    assert lab.attempt().failure is None
    assert lab.query("SELECT what FROM old") == [("one",)]


def test_a_deadlock_or_lock_time_out_ends_the_attempt_though_it_is_caught(
    lab: Lab, mariadb: Mariadb
) -> None:
    lab.query("INSERT INTO ledger (what) VALUES ('held')")
    lab.configure(lock_timeout=1)
    lab.revision("r2", """
        try:
            op.execute("UPDATE ledger SET what = 'mine'")
        except sa.exc.DBAPIError:
            pass
        op.execute("CREATE TABLE made (id INT)")
    """)  # fmt: skip
    with mariadb.connect(lab.database) as other, other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("UPDATE ledger SET what = 'theirs'")
        failure = lab.attempt().failure
        cursor.execute("COMMIT")
    assert failure is not None
    assert "the revision went on" in failure.message
    assert lab.attempt().failure is None
    assert ledger(lab) == ["mine"]


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ("op.get_bind().connection.cursor().execute('CREATE TABLE raw (id INT)')", "goes round"),
        ("op.get_bind().connection.cursor().execute('INSERT INTO ledger VALUES (1, 1)')",
         "goes round"),
        ("op.execute(\"INSERT INTO ledger (what) VALUES ('x')\")\nop.get_bind().rollback()",
         "rolled back"),
    ],
)  # fmt: skip
def test_what_goes_round_the_journal_is_refused(lab: Lab, body: str, match: str) -> None:
    lab.revision("r2", body)
    failure = lab.attempt().failure
    assert failure is not None
    assert match in failure.message
    assert ledger(lab) == []
    assert len(lab.query("SHOW TABLES")) == 2


# Statements in doubt ----------------------------------------------------------------------------

SETUP = (
    "CREATE TABLE parent (id INT PRIMARY KEY) ENGINE=InnoDB",
    "CREATE TABLE t (id INT PRIMARY KEY, a INT, b VARCHAR(10), KEY ix_a (a)) ENGINE=InnoDB",
    "CREATE TABLE child (id INT PRIMARY KEY, parent_id INT, "
    "CONSTRAINT fk FOREIGN KEY (parent_id) REFERENCES parent (id)) ENGINE=InnoDB",
    "CREATE VIEW v AS SELECT id FROM t",
)

LOOKED_UP = (
    "CREATE TABLE made (id INT PRIMARY KEY, name VARCHAR(10) DEFAULT 'x;y')",
    "CREATE TABLE kid (id INT, parent_id INT, FOREIGN KEY (parent_id) REFERENCES parent (id))",
    "DROP TABLE t",
    "ALTER TABLE t ADD COLUMN c INT",
    "ALTER TABLE `t` ADD COLUMN c INT AFTER a, DROP COLUMN b",
    "ALTER TABLE t DROP COLUMN b",
    "ALTER TABLE t DROP COLUMN a",
    "CREATE INDEX ix_b ON t (b)",
    "CREATE UNIQUE INDEX ix_b ON t (b)",
    "DROP INDEX ix_a ON t",
    "ALTER TABLE t ADD CONSTRAINT uq UNIQUE (b)",
    "ALTER TABLE t ADD CONSTRAINT ck CHECK (a > 0)",
    "ALTER TABLE t DROP PRIMARY KEY",
    "ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES parent (id)",
    "ALTER TABLE child DROP FOREIGN KEY fk",
    "RENAME TABLE t TO u",
    "ALTER TABLE t RENAME TO u",
    "ALTER TABLE t CHANGE a renamed BIGINT NOT NULL",
    "ALTER TABLE t RENAME COLUMN a TO renamed",
    "ALTER TABLE t MODIFY b VARCHAR(20) NOT NULL",
    "ALTER TABLE t MODIFY b VARCHAR(10) FIRST",
    "ALTER TABLE t ALTER COLUMN a SET DEFAULT 5",
    "ALTER TABLE t COMMENT 'about'",
    "CREATE OR REPLACE VIEW v AS SELECT id, a FROM t",
    "DROP VIEW v",
    "CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW BEGIN SET NEW.a = 1; SET NEW.b = 2; END",
)


@pytest.mark.parametrize("statement", LOOKED_UP)
def test_whether_a_statement_landed_is_seen_in_the_schema(lab: Lab, statement: str) -> None:
    for text in SETUP:
        lab.query(text)
    with closing(lab.server.connect(lab.database)) as driver:
        query = asking(driver)
        language = MysqlLanguage(lab.database)
        facts = language.look(query, language.read(statement))
        assert facts
        assert language.landed(query, statement, facts) is Landed.NO
        query(statement)
        assert language.landed(query, statement, facts) is Landed.YES


@pytest.mark.parametrize(
    ("statement", "instead"),
    [
        ("ALTER TABLE t ADD COLUMN c INT", "ALTER TABLE t ADD COLUMN d INT"),
        ("ALTER TABLE t ADD COLUMN c INT", "DROP TABLE t"),
        ("CREATE TABLE made (id INT)", "CREATE TABLE made (other INT)"),
        ("RENAME TABLE t TO u", "DROP TABLE t"),
    ],
)
def test_a_schema_that_somebody_else_changed_tells_nothing(
    lab: Lab, statement: str, instead: str
) -> None:
    for text in SETUP:
        lab.query(text)
    with closing(lab.server.connect(lab.database)) as driver:
        query = asking(driver)
        language = MysqlLanguage(lab.database)
        facts = language.look(query, language.read(statement))
        query(instead)
        assert language.landed(query, statement, facts) is Landed.UNKNOWN


@pytest.mark.parametrize(
    "statement",
    ["GRANT SELECT ON t TO root", "TRUNCATE TABLE t", "CALL p()",
     "ALTER TABLE t TRUNCATE PARTITION p", "CREATE TABLE made AS SELECT 1",
     "DROP TABLE a; DROP TABLE b"],
)  # fmt: skip
def test_of_other_statements_nothing_can_be_seen(statement: str) -> None:
    assert MysqlLanguage("d").read(statement).targets == ()


def asking(driver: Any) -> Callable[..., list[Any]]:
    def query(statement: str, parameters: Any = None) -> list[Any]:
        with driver.cursor() as cursor:
            cursor.execute(statement, parameters)
            return list(cursor.fetchall())

    return query


SLOW_PROCEDURE = """
op.execute("INSERT INTO ledger (what) VALUES ('one')")
op.execute("CALL slow()")
op.execute("INSERT INTO ledger (what) VALUES ('two')")
"""


@pytest.fixture
def doubtful(lab: Lab) -> Lab:
    """A branch whose attempt was killed in a statement of which nothing can be seen."""
    lab.query("CREATE PROCEDURE slow() SELECT SLEEP(1.5)")
    lab.revision("r2", SLOW_PROCEDURE)
    lab.kill_during("SELECT SLEEP")
    return lab


def test_a_statement_of_which_nothing_can_be_seen_goes_to_a_person(doubtful: Lab) -> None:
    needs_person(doubtful, "StatementUnknown", "statement 2 of r2 (upgrade) was begun")


@pytest.mark.parametrize(
    ("resolution", "left"),
    [("--landed", ["one", "two"]), ("--not-landed", ["one", "two"]),
     ("--discard", ["one", "one", "two"])],
)  # fmt: skip
def test_a_person_resolves_a_statement_in_doubt(
    doubtful: Lab, resolution: str, left: list[str]
) -> None:
    office = Office(doubtful.folder)
    office.init()
    office.run("branch", "add", "BR001", "--url", doubtful.url)
    document = office.json("apply", "BR001", code=1)
    assert "CALL slow()" in document["branches"][0]["errorMessage"]
    assert "`branchmig resolve BR001 --landed`" in document["branches"][0]["hint"]
    assert office.status("BR001")["status"] == "RequiresManualIntervention"
    office.run("resolve", "BR001", resolution)
    assert office.status("BR001")["status"] == "Pending"
    office.run("apply-all")
    assert ledger(doubtful) == left
    assert office.status("BR001")["status"] == "Completed"
    assert office.json("resolve", "BR001", resolution, code=2)["error"]["type"] == "UsageError"


def test_resolve_wants_exactly_one_answer_and_something_to_resolve(office: Office) -> None:
    office.add("BR001")
    office.run("resolve", "BR001", code=2)
    office.run("resolve", "BR001", "--landed", "--discard", code=2)
    office.run("apply", "BR001")
    assert "keeps no journal" in office.run("resolve", "BR001", "--landed", code=2).stderr
    assert office.status("BR001")["status"] == "Completed"


# Kills ------------------------------------------------------------------------------------------


WAITING = """
op.execute("INSERT INTO ledger (what) VALUES ('before')")
op.execute("ALTER TABLE ledger ADD COLUMN more INT")
op.execute("INSERT INTO ledger (what) VALUES ('after')")
"""


def test_a_branch_that_another_session_migrates_is_busy_and_its_statement_is_named(
    lab: Lab, mariadb: Mariadb
) -> None:
    lab.revision("r2", WAITING)
    with mariadb.connect(lab.database) as reader, reader.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT * FROM ledger")
        with lab.start() as process:
            lab.wait_for("ALTER TABLE ledger")
            lab.configure(lock_timeout=1)
            attempt = lab.attempt()
            cursor.execute("COMMIT")
            process.communicate()
    assert attempt.skip is SkipReason.BUSY
    assert attempt.reason is not None
    assert "ALTER TABLE ledger ADD COLUMN more INT" in attempt.reason
    assert process.returncode == 0
    assert ledger(lab) == ["before", "after"]


def test_a_connection_killed_in_mid_alter_is_put_right_by_the_next_attempt(
    lab: Lab, mariadb: Mariadb
) -> None:
    lab.query("INSERT INTO ledger (what) SELECT 'row' FROM seq_1_to_300000")
    lab.revision("r2", WAITING.replace("more INT", "more INT, ALGORITHM=COPY"))
    process = lab.start()
    mariadb.query(f"KILL CONNECTION {lab.wait_for('ALTER TABLE ledger')}")
    process.communicate()
    assert lab.attempt().failure is None
    assert columns(lab, "ledger") == ["id", "what", "more"]
    assert [row for row in ledger(lab) if row != "row"] == ["before", "after"]


def test_a_killed_client_leaves_the_server_to_finish_its_alter(lab: Lab) -> None:
    lab.query("INSERT INTO ledger (what) SELECT 'row' FROM seq_1_to_300000")
    lab.revision("r2", WAITING.replace("more INT", "more INT, ALGORITHM=COPY"))
    lab.kill_during("ALTER TABLE ledger")
    lab.wait_for("ALTER TABLE ledger")  # the server has not noticed, and the attempt must wait
    assert lab.attempt().failure is None
    assert columns(lab, "ledger") == ["id", "what", "more"]
    assert [row for row in ledger(lab) if row != "row"] == ["before", "after"]


def test_a_foreign_key_of_which_only_the_index_is_there_has_not_landed() -> None:
    """As a server that was killed in the middle of making it has been seen to come back."""
    before = "CREATE TABLE `t` (\n  `a` int,\n  PRIMARY KEY (`id`)\n) ENGINE=InnoDB"
    index = before.replace("(`id`)", "(`id`),\n  KEY `fk` (`a`)")
    whole = index.replace(
        "(`a`)", "(`a`),\n  CONSTRAINT `fk` FOREIGN KEY (`a`) REFERENCES `p` (`id`)"
    )
    statement = "ALTER TABLE t ADD CONSTRAINT fk FOREIGN KEY (a) REFERENCES p (id)"
    facts = (Fact("TABLE", "`d`.`t`", "changes", before),)
    assert landed(statement, facts, [before]) is Landed.NO
    assert landed(statement, facts, [index]) is Landed.UNKNOWN
    assert landed(statement, facts, [whole]) is Landed.YES


MANY = """
op.create_table("t{n}", sa.Column("id", sa.Integer, primary_key=True),
                sa.Column("a", sa.String(20)), sa.Column("parent", sa.Integer))
op.bulk_insert(sa.table("t{n}", sa.column("id"), sa.column("a")),
               [dict(id=i, a=str(i)) for i in range(1, 51)])
op.execute("INSERT INTO ledger (what) VALUES ('r{n}')")
op.add_column("t{n}", sa.Column("count", sa.Integer, server_default="0", nullable=False))
op.execute("UPDATE t{n} SET count = count + 1")
op.create_index("ix{n}", "t{n}", ["a"])
op.create_foreign_key("fk{n}", "t{n}", "t{n}", ["parent"], ["id"])
op.alter_column("t{n}", "a", new_column_name="b", existing_type=sa.String(20),
                type_=sa.String(40))
op.execute("UPDATE t{n} SET count = count + 1")
op.drop_constraint("fk{n}", "t{n}", type_="foreignkey")
op.rename_table("t{n}", "u{n}")
"""


def test_killed_at_any_moment_every_statement_lands_exactly_once(
    tmp_path: Path, mariadb: Mariadb
) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    sys.stdout.write(f"seed {seed}\n")
    chance = random.Random(seed)
    reference, seconds = migrated(Lab(tmp_path / "reference", mariadb, f"k_{seed}"))
    persons = 0
    for number in range(KILLS):
        lab = with_history(Lab(tmp_path / str(number), mariadb, f"k_{seed}_{number}"))
        process = lab.start()
        time.sleep(chance.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        attempt = lab.attempt()
        if attempt.failure and attempt.failure.kind is FailureKind.MANUAL:
            persons += 1
            continue
        assert attempt.failure is None, attempt.failure.message
        assert attempt.skip is None
        assert contents(lab) == reference
        mariadb.query(f"DROP DATABASE {lab.database}")
    assert persons <= KILLS / 20


def with_history(lab: Lab) -> Lab:
    lab.revision("r0", f'op.execute("{LEDGER}")')
    for n in range(1, 4):
        lab.revision(f"r{n}", MANY.format(n=n))
    return lab


def migrated(lab: Lab) -> tuple[object, float]:
    """What a whole migration leaves, and how long it took."""
    process, began = with_history(lab).start(), time.monotonic()
    process.communicate()
    assert process.returncode == 0
    return contents(lab), time.monotonic() - began


def contents(lab: Lab) -> object:
    """Every table as the server shows it, and every row; numbers that were given out in vain and
    rolled back are nobody's."""
    tables = sorted(str(row[0]) for row in lab.query("SHOW TABLES"))
    texts = [shown(str(lab.query(f"SHOW CREATE TABLE {table}")[0][1])) for table in tables]
    rows = [lab.query(f"SELECT * FROM {table} ORDER BY 1") for table in tables if table != "ledger"]
    return texts, rows, ledger(lab)
