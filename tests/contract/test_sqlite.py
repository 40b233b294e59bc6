"""What SQLite alone does to a migrator: files, journals, rebuilt tables, the disk."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from journals import leave_hot_journal
from scene import Scene

from branchmig.errors import (
    BranchBusy,
    BranchUnreachable,
    BranchUnusable,
    DatabaseMissing,
    UsageError,
)
from branchmig.fence import Fence
from branchmig.model import (
    FailureKind,
    SkipReason,
    Task,
    VersionTable,
)

ROOT = Path(__file__).parents[2]
TABLE = VersionTable()

FAMILY = """
CREATE TABLE shops (id INTEGER PRIMARY KEY, city TEXT);
CREATE TABLE tills (
    id INTEGER PRIMARY KEY, shop_id INTEGER REFERENCES shops (id) ON DELETE CASCADE
);
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO alembic_version VALUES ('base_of_all');
INSERT INTO shops VALUES (1, 'Leiden'), (2, 'Delft');
INSERT INTO tills VALUES (1, 1), (2, 1), (3, 2);
"""


def family(scene: Scene) -> None:
    """A parent and its children, adopted at the revision base_of_all."""
    scene.revision("base_of_all", "pass")
    scene.script(FAMILY)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@contextmanager
def elsewhere(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs `program` up to the line it prints, and lives on within."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            if process.poll() is None:
                process.kill()


# DDL lands whole or not at all


def test_a_revision_that_fails_leaves_the_file_as_it_was_and_retries_clean(scene: Scene) -> None:
    scene.revision("r1", 'op.execute("CREATE TABLE shops (id INTEGER PRIMARY KEY)")')
    assert scene.attempt().failure is None
    before = scene.schema()
    scene.revision(
        "r2", 'op.execute("CREATE TABLE half (id)"); op.execute("INSERT INTO later VALUES (1)")'
    )
    for _ in range(2):
        failed = scene.attempt()
        assert failed.failure is not None
        assert "no such table: later" in failed.failure.message
        assert (failed.applied, failed.heads) == ((), ("r1",))
        assert scene.schema() == before
    scene.script("CREATE TABLE later (id)")
    done = scene.attempt()
    assert (done.failure, done.applied, done.heads) == (None, ("r2",), ("r2",))
    assert scene.rows("SELECT count(*) FROM later") == [(1,)]


def test_the_first_revision_of_all_leaves_not_even_a_version_table(scene: Scene) -> None:
    scene.revision("r1", 'op.execute("CREATE TABLE half (id)"); op.execute("nonsense")')
    assert scene.attempt().failure is not None
    assert scene.schema() == []


MIGRATES = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
from branchmig.fence import Fence
from branchmig.migrator import Migrator
settings, task = pickle.loads(bytes.fromhex(sys.argv[2]))
Migrator(settings).attempt(task, Fence())
"""


def test_a_kill_in_the_middle_of_a_revision_retries_clean(scene: Scene) -> None:
    lever = scene.folder / "lever"
    scene.revision("r1", 'op.execute("CREATE TABLE shops (id INTEGER PRIMARY KEY)")')
    scene.revision(
        "r2",
        "import pathlib, sys, time\n"
        '    op.execute("CREATE TABLE half (id)")\n'
        f"    if pathlib.Path({str(lever)!r}).exists():\n"
        "        sys.__stdout__.write('ready\\n'); sys.__stdout__.flush()\n"
        "        time.sleep(60)",
    )
    lever.touch()
    with elsewhere(MIGRATES, ROOT, scene.packed()) as migrator:
        migrator.kill()
        migrator.wait()
    assert scene.rows("SELECT version_num FROM alembic_version") == [("r1",)]
    lever.unlink()
    done = scene.attempt()
    assert (done.failure, done.applied, done.heads) == (None, ("r2",), ("r2",))


def test_a_script_that_commits_is_seen_whatever_stands_before_the_word(scene: Scene) -> None:
    scene.revision(
        "r1",
        "driver = op.get_bind().connection\n"
        '    driver.execute("CREATE TABLE a (id)")\n'
        '    driver.execute("-- so much for that\\n/* and this */ COMMIT")\n'
        '    driver.execute("CREATE TABLE b (id)")',
    )
    done = scene.attempt()
    assert done.failure is None
    assert len(done.warnings) == 1
    assert "r1 ended its transaction itself" in done.warnings[0]


def test_a_savepoint_that_is_rolled_back_is_nobodys_business(scene: Scene) -> None:
    scene.revision(
        "r1",
        'op.execute("CREATE TABLE a (id)")\n'
        "    with op.get_bind().begin_nested() as inner:\n"
        '        op.execute("CREATE TABLE b (id)")\n'
        "        inner.rollback()",
    )
    done = scene.attempt()
    assert (done.failure, done.warnings) == (None, ())
    assert [name for name, _ in scene.schema() if name in "ab"] == ["a"]


def test_a_conflict_that_rolled_back_without_a_word_is_a_failure(scene: Scene) -> None:
    scene.revision(
        "r1",
        'op.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")\n'
        "    try:\n"
        '        op.execute("INSERT OR ROLLBACK INTO a VALUES (1), (1)")\n'
        "    except sa.exc.IntegrityError:\n"
        "        pass",
    )
    failed = scene.attempt()
    assert failed.failure is not None
    assert "rolled its transaction back itself" in failed.failure.message
    assert scene.schema() == []


# Tables that are rebuilt, and foreign keys

REBUILD = (
    'with op.batch_alter_table("shops", recreate="always") as batch:\n'
    '        batch.add_column(sa.Column("note", sa.Text))'
)


def test_rebuilding_a_parent_keeps_the_children_of_a_cascade(scene: Scene) -> None:
    family(scene)
    scene.revision("rebuild", REBUILD)
    assert scene.attempt().failure is None
    assert scene.rows("SELECT count(*) FROM tills") == [(3,)]
    assert scene.rows("SELECT note FROM shops") == [(None,), (None,)]


def test_a_listener_that_switches_foreign_keys_on_does_not_cost_the_children(
    scene: Scene,
) -> None:
    family(scene)
    scene.revision("rebuild", REBUILD)

    def switch_on(driver: Any, record: Any) -> None:
        driver.execute("PRAGMA foreign_keys=ON")

    sa.event.listen(sa.Engine, "connect", switch_on)
    try:
        assert scene.attempt().failure is None
    finally:
        sa.event.remove(sa.Engine, "connect", switch_on)
    assert scene.rows("SELECT count(*) FROM tills") == [(3,)]


def test_a_revision_that_switches_foreign_keys_on_and_commits_does_not_cost_them_either(
    scene: Scene,
) -> None:
    family(scene)
    scene.revision(
        "rebuild",
        "op.get_bind().commit()\n"
        "    op.get_bind().connection.execute('PRAGMA foreign_keys=ON')\n"
        f"    {REBUILD}",
    )
    assert scene.attempt().failure is None
    assert scene.rows("SELECT count(*) FROM tills") == [(3,)]


def test_rows_that_a_revision_would_orphan_roll_it_back(scene: Scene) -> None:
    family(scene)
    scene.revision("orphan", 'op.execute("DELETE FROM shops WHERE id = 1")')
    failed = scene.attempt()
    assert failed.failure is not None
    assert "2 rows of tills would refer to rows of shops that do not exist" in str(failed.failure)
    assert failed.heads == ("base_of_all",)
    assert scene.rows("SELECT count(*) FROM shops") == [(2,)]


def test_what_was_orphaned_before_does_not_stop_a_revision(scene: Scene) -> None:
    family(scene)
    scene.script("DELETE FROM shops WHERE id = 1")
    scene.revision("rebuild", REBUILD)
    assert scene.attempt().failure is None
    scene.revision("orphan", 'op.execute("DELETE FROM shops WHERE id = 2")')
    failed = scene.attempt()
    assert failed.failure is not None
    assert "1 rows of tills" in failed.failure.message


def test_renaming_a_table_with_old_orphans_makes_no_new_ones(scene: Scene) -> None:
    family(scene)
    scene.script("DELETE FROM shops WHERE id = 1")
    scene.revision("rename", 'op.rename_table("tills", "registers")')
    assert scene.attempt().failure is None
    scene.revision("orphan", 'op.execute("DELETE FROM shops")')
    assert "1 rows of registers" in str(scene.attempt().failure)


def test_a_foreign_key_without_a_unique_parent_rolls_back_where_the_check_ran_before(
    scene: Scene,
) -> None:
    family(scene)
    scene.revision("loose", 'op.execute("CREATE TABLE x (c TEXT REFERENCES shops (city))")')
    assert "not unique in its parent" in str(scene.attempt().failure)


def test_a_database_on_which_the_check_cannot_run_can_still_be_migrated(scene: Scene) -> None:
    family(scene)
    scene.script("CREATE TABLE x (c TEXT REFERENCES shops (city))")
    scene.revision("rebuild", REBUILD)
    assert scene.attempt().failure is None


# Busy


def test_a_waiting_writer_is_busy_and_not_failed(scene: Scene) -> None:
    scene.revision("r1", "pass")
    scene.script("CREATE TABLE shops (id)")
    with closing(sqlite3.connect(scene.file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        attempt = scene.attempt()
        assert time.monotonic() - began < 10
    assert (attempt.failure, attempt.skip) == (None, SkipReason.BUSY)
    assert "locked by another program for longer than 0.2 s" in str(attempt.reason)


def test_a_reader_that_stays_makes_a_commit_busy_and_what_landed_is_told(scene: Scene) -> None:
    scene.revision("r1", 'op.execute("CREATE TABLE shops (id)")')
    assert scene.attempt().failure is None
    scene.revision("r2", 'op.execute("CREATE TABLE tills (id)")')
    with closing(sqlite3.connect(scene.file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM shops").fetchall()
        attempt = scene.attempt()
    assert (attempt.failure, attempt.skip, attempt.heads) == (None, SkipReason.BUSY, ("r1",))
    assert scene.attempt().applied == ("r2",)


def test_a_writer_that_comes_between_two_revisions_makes_the_second_busy(scene: Scene) -> None:
    scene.revision("r1", 'op.execute("CREATE TABLE shops (id)")')
    scene.revision("r2", 'op.execute("CREATE TABLE tills (id)")')
    others = []

    class Between(Fence):
        def check_step(self, seconds: float = 0) -> None:
            super().check_step(seconds)
            if scene.file.stat().st_size:
                other = sqlite3.connect(scene.file, isolation_level=None)
                other.execute("BEGIN IMMEDIATE")
                others.append(other)

    attempt = scene.attempt(Between())
    for other in others:
        other.close()
    assert (attempt.failure, attempt.skip) == (None, SkipReason.BUSY)
    assert (attempt.applied, attempt.heads) == (("r1",), ("r1",))


def test_a_revision_that_waits_for_its_own_lock_is_told_so(scene: Scene) -> None:
    scene.revision(
        "r1",
        f"import sqlite3; c = sqlite3.connect({str(scene.file)!r}, timeout=0.1)\n"
        "    try:\n"
        '        c.execute("CREATE TABLE mine (id)")\n'
        "    finally:\n"
        "        c.close()",
    )
    failed = scene.attempt()
    assert failed.failure is not None
    assert "a connection of its own met the lock" in failed.failure.message
    assert "op.get_bind()" in str(failed.failure.hint)


def test_a_lock_timeout_of_nothing_does_not_wait(tmp_path: Path) -> None:
    scene = Scene(tmp_path, lock_timeout=0)
    scene.revision("r1", "pass")
    scene.script("CREATE TABLE shops (id)")
    with closing(sqlite3.connect(scene.file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        assert scene.attempt().skip is SkipReason.BUSY
        assert time.monotonic() - began < 5


# The file


def test_creating_a_database_makes_its_folders(scene: Scene) -> None:
    scene.strategy.create("sqlite:///north/sea/branch.db")
    assert (scene.folder / "north" / "sea" / "branch.db").stat().st_size == 0


def test_looking_at_a_missing_database_makes_neither_file_nor_folder(scene: Scene) -> None:
    assert not scene.strategy.inspect("sqlite:///north/branch.db", TABLE).exists
    with (
        pytest.raises(DatabaseMissing),
        scene.strategy.read_engine("sqlite:///north/branch.db").connect(),
    ):
        pytest.fail("there is nothing to read")
    assert not (scene.folder / "north").exists()


def test_an_empty_file_is_no_database_yet_and_is_left_empty(scene: Scene) -> None:
    scene.file.touch()
    assert not scene.strategy.inspect(scene.branch.url, TABLE).exists
    assert scene.file.stat().st_size == 0


def test_a_folder_is_refused(scene: Scene) -> None:
    scene.file.mkdir()
    with pytest.raises(UsageError, match="a folder, not a database"):
        scene.strategy.check_url(scene.branch.url)
    with pytest.raises(BranchUnusable, match="a folder, not a database"):
        scene.strategy.inspect(scene.branch.url, TABLE)
    with (
        pytest.raises(BranchUnusable, match="a folder, not a database"),
        scene.strategy.connect(scene.branch.url),
    ):
        pytest.fail("a folder was opened")
    assert list(scene.file.iterdir()) == []


def test_a_pipe_is_refused_without_waiting_for_its_writer(scene: Scene) -> None:
    os.mkfifo(scene.file)
    with pytest.raises(BranchUnusable, match="a device or a pipe"):
        scene.strategy.inspect(scene.branch.url, TABLE)


@pytest.mark.parametrize(
    "content", [b"Dear Sir or Madam, " * 100, b"x", b"SQLite format 3", bytes(4096)]
)
def test_what_is_no_database_is_refused_and_left_alone(scene: Scene, content: bytes) -> None:
    scene.revision("r1", "pass")
    scene.file.write_bytes(content)
    with pytest.raises(BranchUnusable, match="not a SQLite database"):
        scene.strategy.inspect(scene.branch.url, TABLE)
    failed = scene.attempt()
    assert failed.failure is not None
    assert "not a SQLite database" in failed.failure.message
    assert failed.failure.kind is FailureKind.PERMANENT
    assert scene.file.read_bytes() == content


def test_a_database_cut_short_is_called_damaged(scene: Scene) -> None:
    scene.script("CREATE TABLE shops (id); INSERT INTO shops VALUES (zeroblob(20000))")
    whole = scene.file.read_bytes()
    for length in (16, 18, 100, 4096):
        scene.file.write_bytes(whole[:length])
        with pytest.raises(BranchUnusable, match=r"damaged|not a SQLite database"):
            scene.strategy.inspect(scene.branch.url, TABLE)
        assert scene.file.stat().st_size == length


def test_a_path_through_a_file_is_out_of_reach(scene: Scene) -> None:
    scene.file.touch()
    with pytest.raises(BranchUnreachable, match="a part of this path is a file"):
        scene.strategy.inspect("sqlite:///branch.db/inner.db", TABLE)
    with pytest.raises(BranchUnreachable, match="cannot be created"):
        scene.strategy.create("sqlite:///branch.db/inner.db")


def test_one_file_has_one_identity_by_whatever_name(scene: Scene) -> None:
    scene.file.touch()
    (scene.folder / "link.db").symlink_to(scene.file)
    identity = scene.strategy.identity
    names = ("branch.db", "./branch.db", "history/../branch.db", "link.db", str(scene.file))
    assert len({identity(f"sqlite:///{name}") for name in names}) == 1
    assert identity("sqlite:///other.db") != identity("sqlite:///branch.db")
    (scene.folder / "hard.db").hardlink_to(scene.file)
    assert identity("sqlite:///hard.db") == identity("sqlite:///branch.db")


# As somebody who may not write

NOBODY = 65534

LOOKS = """
import os, sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
from pathlib import Path
from branchmig.errors import BranchmigError
from branchmig.model import VersionTable
from branchmig.providers import Limits
from branchmig.providers.sqlite import SqliteStrategy
import sqlalchemy.dialects.sqlite
os.setgid(int(sys.argv[3])); os.setuid(int(sys.argv[3]))
strategy = SqliteStrategy(Limits(lock_timeout=0.2), Path(sys.argv[2]))
url = "sqlite:///branch.db"
try:
    if sys.argv[4] == "inspect":
        print(sorted(strategy.inspect(url, VersionTable()).tables))
    elif sys.argv[4] == "read":
        with strategy.read_engine(url).connect() as connection:
            print(connection.exec_driver_sql("SELECT count(*) FROM shops").scalar())
    elif sys.argv[4] == "create":
        strategy.create("sqlite:///deep/branch.db")
    else:
        with strategy.connect(url) as connection, connection.begin():
            connection.exec_driver_sql("CREATE TABLE written (id)")
except BranchmigError as error:
    print(f"{type(error).__name__}: {error.message}")
"""


def as_nobody(scene: Scene, what: str, mode: int = 0o444) -> str:
    """What an account without any right to write sees; another account needs root to become."""
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    # The folders of a test are its user's alone; its parents must be passable for another.
    temporary = Path(tempfile.gettempdir()).resolve()
    for folder in scene.folder.parents:
        if temporary in folder.parents:
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH | stat.S_IXGRP)
    scene.folder.chmod(0o555)
    for file in scene.folder.glob("branch.db*"):
        file.chmod(mode)
    try:
        done = subprocess.run(
            [
                *(sys.executable, "-c", LOOKS, str(ROOT)),
                *(str(scene.folder), str(user), what),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
    finally:
        scene.folder.chmod(0o755)


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_who_may_not_write_can_read(scene: Scene, mode: str) -> None:
    scene.script(f"PRAGMA journal_mode={mode}; CREATE TABLE shops (id)")
    assert as_nobody(scene, "inspect") == "['shops']"
    assert as_nobody(scene, "read") == "0"
    assert scene.beside() == {"branch.db"}


def test_who_may_not_write_is_told_so_before_anything_is_tried(scene: Scene) -> None:
    scene.script("CREATE TABLE shops (id)")
    assert "BranchUnusable" in (said := as_nobody(scene, "write"))
    assert "the database or its folder is read-only" in said
    assert scene.beside() == {"branch.db"}


def test_who_may_not_write_the_folder_cannot_create(scene: Scene) -> None:
    assert as_nobody(scene, "create").startswith("BranchUnreachable")
    assert not (scene.folder / "deep").exists()


def test_who_may_not_read_the_file_is_told_that_it_is_out_of_reach(scene: Scene) -> None:
    scene.script("CREATE TABLE shops (id)")
    assert "BranchUnreachable" in (said := as_nobody(scene, "write", mode=0o000))
    assert "cannot be read: Permission denied" in said


# Write-ahead logs

WAL_WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("PRAGMA wal_autocheckpoint=0")
connection.execute("CREATE TABLE IF NOT EXISTS shops (id)")
connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
connection.execute("INSERT INTO alembic_version VALUES ('r1')")
print("ready", flush=True)
sys.stdin.read()
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("branch.db*")}


def test_reading_a_database_with_a_write_ahead_log_leaves_no_log_behind(scene: Scene) -> None:
    scene.script("PRAGMA journal_mode=WAL; CREATE TABLE shops (id)")
    before = contents(scene.folder)
    assert set(before) == {"branch.db"}
    assert scene.strategy.inspect(scene.branch.url, TABLE).tables == {"shops"}
    with scene.strategy.read_engine(scene.branch.url).connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM shops").scalar() == 0
    assert contents(scene.folder) == before


def test_what_stands_only_in_another_programs_log_is_read_and_stays_there(scene: Scene) -> None:
    scene.script("PRAGMA journal_mode=WAL; CREATE TABLE shops (id)")
    with elsewhere(WAL_WRITER, scene.file):
        before = contents(scene.folder)
        assert len(before["branch.db-wal"]) > 0
        assert b"alembic_version" not in before["branch.db"]
        found = scene.strategy.inspect(scene.branch.url, TABLE)
        assert (found.heads, found.tables) == (("r1",), {"shops"})
        with scene.strategy.read_engine(scene.branch.url).connect() as connection:
            statement = "SELECT version_num FROM alembic_version"
            assert connection.exec_driver_sql(statement).scalar() == "r1"
        assert contents(scene.folder) == before


def test_a_log_that_its_writer_left_is_read_or_reported_but_not_touched(scene: Scene) -> None:
    with elsewhere(WAL_WRITER, scene.file) as writer:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    before = contents(scene.folder)
    assert len(before["branch.db-wal"]) > 0
    found = scene.strategy.inspect(scene.branch.url, TABLE)
    assert found.heads == ("r1",)
    assert contents(scene.folder) == before


def test_a_log_without_its_index_is_reported_and_recovered_by_a_writer(scene: Scene) -> None:
    with elsewhere(WAL_WRITER, scene.file) as writer:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    Path(f"{scene.file}-shm").unlink()
    before = contents(scene.folder)
    with pytest.raises(BranchUnusable, match="unfinished") as reported:
        scene.strategy.inspect(scene.branch.url, TABLE)
    assert "branchmig apply" in str(reported.value.hint)
    assert contents(scene.folder) == before
    with scene.strategy.connect(scene.branch.url) as connection:
        assert scene.strategy.read(connection, TABLE).heads == ("r1",)
    assert scene.strategy.inspect(scene.branch.url, TABLE).heads == ("r1",)


RESTLESS = """
import pathlib, sqlite3, sys
number = 0
while not pathlib.Path(sys.argv[2]).exists():
    # Opened and closed each time: the log comes and goes.
    connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
    connection.execute("BEGIN IMMEDIATE")
    number += 1
    connection.execute(f"UPDATE alembic_version SET version_num = 'r{number}'")
    connection.execute(f"CREATE TABLE t{number} (id)")
    connection.execute("COMMIT")
    connection.close()
    if number == 1:
        print("ready", flush=True)
"""


def test_reads_are_right_while_another_program_writes_a_log(scene: Scene) -> None:
    """Each sees one commit or the next, never a mixture; or it says that it could not."""
    scene.script(
        "PRAGMA journal_mode=WAL; CREATE TABLE shops (id);"
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);"
        "INSERT INTO alembic_version VALUES ('r0')"
    )
    reads = 0
    with elsewhere(RESTLESS, scene.file, scene.folder / "enough") as writer:
        for _ in range(300):
            with suppress(BranchBusy):
                found = scene.strategy.inspect(scene.branch.url, TABLE)
                (head,) = found.heads
                assert len(found.tables) == int(head[1:]) + 1
                reads += 1
        (scene.folder / "enough").touch()
        writer.wait(30)
    assert reads > 30


def test_a_hot_journal_is_reported_and_not_recovered_by_reading(scene: Scene) -> None:
    scene.script("CREATE TABLE shops (id); INSERT INTO shops VALUES (zeroblob(20000))")
    leave_hot_journal(scene.file)
    before = contents(scene.folder)
    with pytest.raises(BranchUnusable, match="unfinished transaction") as reported:
        scene.strategy.inspect(scene.branch.url, TABLE)
    assert "branchmig apply" in str(reported.value.hint)
    assert contents(scene.folder) == before
    with scene.strategy.connect(scene.branch.url) as connection:
        assert scene.strategy.read(connection, TABLE).tables == {"shops"}
    assert scene.beside() == {"branch.db"}
    assert scene.strategy.inspect(scene.branch.url, TABLE).tables == {"shops"}


# The disk

ON_A_DISK = """
import os, pickle, subprocess, sys
sys.path.insert(0, sys.argv[1])
settings, task = pickle.loads(bytes.fromhex(sys.argv[2]))
disk = sys.argv[3]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], check=True)
subprocess.run(["cp", sys.argv[4], disk + "/branch.db"], check=True)
if sys.argv[5] == "read-only":
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
before = open(disk + "/branch.db", "rb").read()
from branchmig.fence import Fence
from branchmig.migrator import Migrator
attempt = Migrator(settings).attempt(task, Fence())
assert open(disk + "/branch.db", "rb").read() == before, "the file has changed"
assert os.listdir(disk) == ["branch.db"], os.listdir(disk)
print(type(attempt.failure).__name__, attempt.applied, attempt.heads, attempt.failure.message)
"""


def on_a_small_disk(scene: Scene, mode: str) -> str:
    """What an attempt says on a file system of its own, which nobody else sees."""
    scene.script("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    disk = scene.folder / "disk"
    disk.mkdir()
    own = ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",)))
    done = subprocess.run(
        [
            *(*own, sys.executable, "-c", ON_A_DISK, str(ROOT)),
            *(scene.packed("sqlite:///disk/branch.db"), str(disk), str(scene.file), mode),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(disk.iterdir()) == []
    return done.stdout


def test_a_full_disk_leaves_the_file_as_it_was(scene: Scene) -> None:
    scene.revision(
        "r1",
        'op.execute("CREATE TABLE big (x)")\n'
        '    op.execute("INSERT INTO big VALUES (zeroblob(900000))")',
    )
    assert "the disk is full" in on_a_small_disk(scene, "full")


def test_a_read_only_mount_leaves_the_file_as_it_was(scene: Scene) -> None:
    scene.revision("r1", 'op.execute("CREATE TABLE small (x)")')
    assert "read-only" in on_a_small_disk(scene, "read-only")


def test_migrating_writes_nothing_into_the_history(scene: Scene) -> None:
    scene.use("linear")
    before = sorted(scene.versions.parent.rglob("*"))
    assert scene.attempt().heads == ("a3",)
    assert sorted(scene.versions.parent.rglob("*")) == before


def test_attempts_leave_no_listener_on_what_they_share(scene: Scene) -> None:
    scene.revision("r1", 'op.execute("CREATE TABLE shops (id)")')
    migrator = scene.migrator
    for number in range(3):
        branch = replace(scene.branch, url=f"sqlite:///b{number}.db")
        assert migrator.attempt(Task(branch, "head"), Fence()).failure is None
    with migrator.strategy(branch.provider).connect(branch.url) as connection:
        assert not list(connection.engine.dialect.dispatch.handle_error)
