"""A revision that commits before its end, on PostgreSQL: nothing that landed is done again."""

from __future__ import annotations

import signal
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from lab import Lab
from servers import Postgresql

from branchmig.model import Attempt, FailureKind, Resolution
from branchmig.providers.marks import TABLE
from branchmig.providers.postgresql_language import PostgresqlLanguage

LEDGER = """
op.execute("CREATE TABLE ledger (id serial PRIMARY KEY, what varchar(20), parent int)")
"""


@pytest.fixture
def lab(tmp_path: Path, postgresql: Postgresql) -> Lab:
    """A branch whose first revision, applied, made a table `ledger`."""
    lab = Lab(tmp_path, postgresql, f"j_{uuid.uuid4().hex}")
    lab.revision("r1", LEDGER)
    assert lab.attempt().failure is None
    return lab


def ledger(lab: Lab) -> list[object]:
    return [row[0] for row in lab.query("SELECT what FROM ledger ORDER BY id")]


def tables(lab: Lab) -> set[object]:
    return {
        row[0] for row in lab.query("SELECT tablename FROM pg_tables WHERE schemaname='public'")
    }


def indexes(lab: Lab) -> dict[object, object]:
    """Those of the ledger, and whether each is valid."""
    rows = lab.query(
        "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        "WHERE indrelid = 'ledger'::regclass AND NOT indisprimary"
    )
    return {row[0]: row[1] for row in rows}


def failed(attempt: Attempt, kind: FailureKind = FailureKind.PERMANENT) -> str:
    assert attempt.failure is not None
    assert attempt.failure.kind is kind, attempt.failure
    return attempt.failure.message


BREAKS = """
op.execute("INSERT INTO ledger (what) VALUES ('one')")
op.create_table("made", sa.Column("id", sa.Integer, primary_key=True))
with op.get_context().autocommit_block():
    op.create_index("ix", "ledger", ["what"], postgresql_concurrently=True)
    op.execute("INSERT INTO ledger (what) VALUES ('two')")
op.execute("INSERT INTO ledger (what) VALUES ('three')")
op.execute("ALTER TABLE not_there ADD COLUMN more int")
"""


def test_what_was_committed_before_the_failure_is_not_done_again(lab: Lab) -> None:
    lab.revision("r2", BREAKS)
    for _ in range(2):
        attempt = lab.attempt()
        assert "r2 failed half way, journaled to go on from there" in failed(attempt)
        assert attempt.heads == ("r1",)
        assert ledger(lab) == ["one", "two"]
        assert indexes(lab) == {"ix": True}
    assert lab.migrator().look(lab.branch).unfinished
    assert TABLE not in lab.migrator().look(lab.branch).tables
    lab.query("CREATE TABLE not_there (id int)")
    attempt = lab.attempt()
    assert (attempt.failure, attempt.applied) == (None, ("r2",))
    assert ledger(lab) == ["one", "two", "three"]
    assert TABLE not in tables(lab)


def test_a_revision_without_a_commit_of_its_own_never_has_a_journal(lab: Lab) -> None:
    lab.revision("r2", BREAKS.replace("with op.get_context().autocommit_block():", "if True:")
                 .replace(", postgresql_concurrently=True", ""))  # fmt: skip
    assert "r2 failed and was rolled back" in failed(lab.attempt())
    assert tables(lab) == {"alembic_version", "ledger"}
    lab.query("CREATE TABLE not_there (id int)")
    assert lab.attempt().failure is None
    assert ledger(lab) == ["one", "two", "three"]


@pytest.mark.parametrize(
    "commit",
    ['op.execute("COMMIT")', "op.get_bind().commit()",
     "op.get_bind().connection.dbapi_connection.commit()"],
)  # fmt: skip
def test_any_commit_within_a_revision_is_journaled(lab: Lab, commit: str) -> None:
    lab.revision("r2", f"""
        op.execute("INSERT INTO ledger (what) VALUES ('one')")
        {commit}
        op.execute("INSERT INTO not_there VALUES (1)")
    """)  # fmt: skip
    failed(lab.attempt())
    lab.query("CREATE TABLE not_there (id int)")
    assert lab.attempt().failure is None
    assert ledger(lab) == ["one"]


INDEXED = """
op.execute("INSERT INTO ledger (what) VALUES ('before')")
with op.get_context().autocommit_block():
    op.create_index("ix", "ledger", ["what"], unique=True, postgresql_concurrently=True)
op.execute("INSERT INTO ledger (what) VALUES ('after')")
"""


def test_an_invalid_index_that_a_failed_revision_left_is_named_and_built_anew(lab: Lab) -> None:
    lab.query("INSERT INTO ledger (what) VALUES ('twice'), ('twice')")
    lab.revision("r2", INDEXED)
    for _ in range(2):
        attempt = lab.attempt()
        assert "twice" in failed(attempt)
        assert "index public.ix: invalid" in attempt.warnings[0]
        assert indexes(lab) == {"ix": False}
    lab.query("DELETE FROM ledger WHERE id = 2")
    assert lab.attempt().failure is None
    assert indexes(lab) == {"ix": True}
    assert ledger(lab) == ["twice", "before", "after"]


@pytest.mark.parametrize("option", ["", "if_not_exists=True, "])
def test_an_invalid_index_of_somebody_else_is_found_before_it_is_taken_for_a_good_one(
    lab: Lab, option: str
) -> None:
    lab.query("INSERT INTO ledger (what) VALUES ('twice'), ('twice')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        lab.query("CREATE UNIQUE INDEX CONCURRENTLY ix ON ledger (what)")
    lab.revision("r2", INDEXED.replace("unique=True, ", option))
    attempt = lab.attempt()
    assert "the index public.ix is there and invalid" in failed(attempt)
    assert attempt.failure
    assert "DROP INDEX CONCURRENTLY public.ix" in str(attempt.failure.hint)
    lab.query("DROP INDEX ix")
    assert lab.attempt().failure is None
    assert indexes(lab) == {"ix": True}
    assert ledger(lab) == ["twice", "twice", "before", "after"]


def test_a_killed_client_leaves_the_server_to_finish_its_index(
    lab: Lab, postgresql: Postgresql
) -> None:
    lab.revision("r2", INDEXED)
    with postgresql.connect(lab.database) as other:
        other.autocommit = False
        other.execute("INSERT INTO ledger (what) VALUES ('other')")
        process = lab.start()
        lab.wait_for("CREATE UNIQUE INDEX")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        other.commit()
    assert lab.attempt().failure is None
    assert indexes(lab) == {"ix": True}
    assert ledger(lab) == ["other", "before", "after"]


def test_a_dropped_index_that_is_gone_is_not_dropped_again(lab: Lab) -> None:
    lab.query("CREATE INDEX ix ON ledger (what)")
    lab.revision("r2", """
        with op.get_context().autocommit_block():
            op.drop_index("ix", postgresql_concurrently=True)
        op.execute("INSERT INTO not_there VALUES (1)")
    """)  # fmt: skip
    failed(lab.attempt())
    lab.query("CREATE TABLE not_there (id int)")
    assert lab.attempt().failure is None


def test_what_cannot_be_looked_up_goes_to_a_person(lab: Lab) -> None:
    """Begun, and the answer never came: as after a kill between the two."""
    lab.revision("r2", """
        with op.get_context().autocommit_block():
            op.execute("CREATE INDEX CONCURRENTLY ON ledger (what)")
            op.execute("INSERT INTO not_there VALUES (1)")
    """)  # fmt: skip
    failed(lab.attempt())
    lab.query(f"UPDATE {TABLE} SET state = 'begun' WHERE number = 1")
    message = failed(lab.attempt(), FailureKind.MANUAL)
    assert "CREATE INDEX CONCURRENTLY ON ledger (what)" in message
    done = lab.resolve(Resolution.LANDED)
    assert "is taken as landed" in done
    lab.query("CREATE TABLE not_there (id int)")
    assert lab.attempt().failure is None
    assert indexes(lab) == {"ledger_what_idx": True}


def test_a_revision_that_differs_from_its_journal_executes_nothing_more(lab: Lab) -> None:
    lab.revision("r2", BREAKS)
    failed(lab.attempt())
    lab.revision("r2", BREAKS.replace("'one'", "'other'"))
    assert "differs from its journal" in failed(lab.attempt(), FailureKind.MANUAL)
    assert ledger(lab) == ["one", "two"]


def test_the_key_of_a_row_that_is_passed_over_is_not_to_be_had(lab: Lab) -> None:
    insert = """
        ledger = sa.Table("ledger", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True),
                          sa.Column("what", sa.String), sa.Column("parent", sa.Integer))
        made = op.get_bind().execute(ledger.insert().values(what="one"))
        with op.get_context().autocommit_block():
            pass
        op.execute("INSERT INTO not_there VALUES (1)")
    """
    lab.revision("r2", insert)
    failed(lab.attempt())
    lab.query("CREATE TABLE not_there (id int)")
    assert lab.attempt().failure is None
    assert ledger(lab) == ["one"]
    lab.query("DROP TABLE not_there")
    lab.revision("r3", insert + """
        op.execute(ledger.insert().values(parent=made.inserted_primary_key[0]))
    """)  # fmt: skip
    failed(lab.attempt())
    lab.query("CREATE TABLE not_there (id int)")
    assert "reads the result" in failed(lab.attempt(), FailureKind.MANUAL)
    assert ledger(lab) == ["one", "one"]


def test_a_savepoint_that_was_rolled_back_before_the_commit_stays_undone(lab: Lab) -> None:
    lab.revision("r2", """
        bind = op.get_bind()
        op.execute("INSERT INTO ledger (what) VALUES ('one')")
        try:
            with bind.begin_nested():
                op.execute("INSERT INTO ledger (what) VALUES ('undone')")
                op.execute("INSERT INTO ledger (id) VALUES (1)")
        except sa.exc.IntegrityError:
            op.execute("INSERT INTO ledger (what) VALUES ('instead')")
        with op.get_context().autocommit_block():
            op.execute("INSERT INTO ledger (what) VALUES ('block')")
        op.execute("INSERT INTO not_there VALUES (1)")
    """)  # fmt: skip
    for _ in range(2):
        failed(lab.attempt())
        assert ledger(lab) == ["one", "instead", "block"]
    lab.query("CREATE TABLE not_there (id int)")
    assert lab.attempt().failure is None
    assert ledger(lab) == ["one", "instead", "block"]


def test_what_the_server_refused_within_a_block_and_the_revision_bore_is_refused_again(
    lab: Lab,
) -> None:
    lab.revision("r2", """
        with op.get_context().autocommit_block():
            op.execute("INSERT INTO ledger (what) VALUES ('one')")
            try:
                op.execute("INSERT INTO ledger (id) VALUES (1)")
            except sa.exc.IntegrityError:
                op.execute("INSERT INTO ledger (what) VALUES ('instead')")
            op.execute("INSERT INTO not_there VALUES (1)")
    """)  # fmt: skip
    failed(lab.attempt())
    lab.query("CREATE TABLE not_there (id int)")
    lab.query("DELETE FROM ledger WHERE id = 1")
    assert lab.attempt().failure is None
    assert ledger(lab) == ["instead"]


def test_a_temporary_table_is_made_and_filled_in_each_attempt(lab: Lab) -> None:
    lab.revision("r2", """
        op.execute("CREATE TEMPORARY TABLE chosen (what varchar(20))")
        op.execute("INSERT INTO chosen VALUES ('one')")
        with op.get_context().autocommit_block():
            op.execute("INSERT INTO ledger (what) VALUES ('block')")
        op.execute("INSERT INTO ledger (what) SELECT what FROM chosen")
        op.execute("INSERT INTO not_there VALUES (1)")
    """)  # fmt: skip
    failed(lab.attempt())
    lab.query("CREATE TABLE not_there (id int)")
    assert lab.attempt().failure is None
    assert ledger(lab) == ["block", "one"]


BESIDE = """
cursor = op.get_bind().connection.cursor()
cursor.execute("INSERT INTO ledger (what) VALUES ('raw')")
"""


def test_a_cursor_of_the_driver_is_harmless_where_nothing_is_committed_before_the_end(
    lab: Lab,
) -> None:
    lab.revision("r2", BESIDE)
    assert lab.attempt().failure is None
    assert ledger(lab) == ["raw"]


@pytest.mark.parametrize(
    "revision",
    [BESIDE + "\nwith op.get_context().autocommit_block():\n    pass",
     "with op.get_context().autocommit_block():" + BESIDE.replace("\n", "\n    ")],
)  # fmt: skip
def test_what_goes_round_the_journal_and_would_be_committed_is_refused(
    lab: Lab, revision: str
) -> None:
    lab.revision("r2", revision)
    assert "goes round its journal" in failed(lab.attempt())
    assert ledger(lab) == []


def test_a_rollback_of_its_own_is_refused_at_the_end(lab: Lab) -> None:
    lab.revision("r2", """
        op.execute("INSERT INTO ledger (what) VALUES ('one')")
        op.execute("ROLLBACK")
    """)  # fmt: skip
    assert "rolled back what it had done" in failed(lab.attempt())
    assert ledger(lab) == []


@pytest.mark.parametrize(
    ("statement", "kind", "target"),
    [
        ("SELECT 1", "READ", None),
        ("/* about */ -- it\n (SELECT 1)", "READ", None),
        ("SELECT * INTO other FROM ledger", "WRITE", None),
        ("WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone", "WRITE", None),
        ("EXPLAIN ANALYZE DELETE FROM t", "WRITE", None),
        ("VACUUM t", "SESSION", None),
        ("ROLLBACK TO SAVEPOINT s", "TRANSACTION", None),
        ("CREATE TABLE t (a int)", "WRITE", None),
        ('create unique index concurrently if not exists "Ix" on only s.t (a)', "SCHEMA", '"Ix"'),
        ("CREATE INDEX CONCURRENTLY ON t (a)", "SCHEMA", None),
        ("DROP INDEX CONCURRENTLY IF EXISTS s.ix CASCADE;", "SCHEMA", "ix"),
        ("-- for orders\nDROP INDEX CONCURRENTLY ix", "SCHEMA", "ix"),
        ("-- known to everyone\nCOMMIT", "TRANSACTION", None),
        ("SET LOCAL lock_timeout = '5s'; INSERT INTO t VALUES ('a;b')", "WRITE", None),
        ("SET LOCAL lock_timeout = '5s'; SELECT 1;", "SESSION", None),
        ("DO $a$ BEGIN PERFORM 1; COMMIT; END $a$;", "WRITE", None),
        ("SELECT E'it\\'s; COMMIT', 'it''s; COMMIT', \"a;b\"", "READ", None),
        ("/* nothing */", "READ", None),
        ("DROP INDEX CONCURRENTLY a, b", "SCHEMA", None),
        ("CREATE DATABASE d", "SCHEMA", None),
        ("DO $$ BEGIN NULL; END $$", "WRITE", None),
    ],
)
def test_a_statement_is_read_for_what_it_does(
    statement: str, kind: str, target: str | None
) -> None:
    read = PostgresqlLanguage("public").read(statement)
    assert read.kind.name == kind
    assert [t.name for t in read.targets] == ([target] if target else [])


def test_a_connection_that_is_lost_within_a_revision_is_told_as_that(
    lab: Lab, postgresql: Postgresql
) -> None:
    lab.revision("r2", 'op.execute("SELECT pg_sleep(60)")')
    with ThreadPoolExecutor(1) as pool:
        attempt = pool.submit(lab.attempt)
        postgresql.query(f"SELECT pg_terminate_backend({lab.wait_for('SELECT pg_sleep')})")
    assert "the connection was lost in the revision r2" in failed(
        attempt.result(), FailureKind.UNREACHABLE
    )


def test_a_commit_among_other_statements_of_one_text_is_refused(lab: Lab) -> None:
    """The marks of what stands before it could not be written in time."""
    lab.revision("r2", """
        op.execute("INSERT INTO ledger (what) VALUES ('one'); COMMIT; SELECT 1")
    """)  # fmt: skip
    assert "ends its transaction among other statements" in failed(lab.attempt())
    assert ledger(lab) == []


def test_an_index_of_another_schema_is_looked_up_there(lab: Lab) -> None:
    lab.query("CREATE SCHEMA sales")
    lab.query("CREATE TABLE sales.orders (id int)")
    lab.query("CREATE INDEX ix ON sales.orders (id)")
    lab.revision("r2", """
        op.execute("SET search_path TO sales")
        with op.get_context().autocommit_block():
            op.execute("DROP INDEX CONCURRENTLY ix")
        op.execute("INSERT INTO not_there VALUES (1)")
    """)  # fmt: skip
    failed(lab.attempt())
    # As if it had been begun and the answer had never come.
    lab.query(f"UPDATE {TABLE} SET state = 'begun'")
    lab.query("CREATE INDEX ix ON sales.orders (id)")
    failed(lab.attempt())
    assert lab.query("SELECT to_regclass('sales.ix')") == [(None,)]


def test_a_commit_that_fails_leaves_neither_journal_nor_the_claim_of_one(lab: Lab) -> None:
    lab.query("ALTER TABLE ledger ADD UNIQUE (what) DEFERRABLE INITIALLY DEFERRED")
    lab.revision("r2", """
        op.execute("INSERT INTO ledger (what) VALUES ('twice'), ('twice')")
        with op.get_context().autocommit_block():
            pass
    """)  # fmt: skip
    assert "r2 failed and was rolled back" in failed(lab.attempt())
    assert TABLE not in tables(lab)
