"""What is asked for wrongly is refused with a sentence and a hint, and nothing is changed."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from office import Office, query
from rights import BOUND, IS_ROOT, NAMESPACE, ORDINARY

from branchmig.store import REVISIONS

BASE = "20251206_InitialCreate"
HEAD = "20251206_UpdateSalesTable"


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an office with BR001 at head and BR002, which has no database yet."""
    office = Office(tmp_path_factory.mktemp("founded"))
    office.configure()
    office.init()
    office.add("BR001", "BR002")
    office.run("apply", "BR001")
    return office.folder


@pytest.fixture
def office(founded: Path, tmp_path: Path) -> Office:
    """A copy of it, to be treated badly."""
    folder = tmp_path / "office"
    shutil.copytree(founded, folder)
    return Office(folder)


@contextmanager
def unchanged(office: Office) -> Iterator[None]:
    """Within, no file is made, changed or removed, HeadOffice's own included."""
    before = office.files()
    yield
    after = office.files()
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == []


def told(done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """The sentence and the hint, where nothing else is said and no traceback shown."""
    assert done.stdout == ""
    match = re.fullmatch(r"Error: (.+)\nHint: (.+)\n", done.stderr)
    assert match, done.stderr
    return match[1], match[2]


def refuse(
    office: Office, *arguments: str, code: int, says: str, hint: str = "", **options: str
) -> None:
    """The program refuses with this exit code, saying this, and changes nothing."""
    with unchanged(office):
        sentence, advice = told(office.run(*arguments, code=code, **options))
    assert says in sentence
    assert hint in advice


# Names and words ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "says", "hint"),
    [
        ("apply NOPE", "there is no branch 'NOPE'", "branch list"),
        ("status BR001 NOPE", "there is no branch 'NOPE'", "branch list"),
        ("apply BR002 --to nope", "there is no revision 'nope'", f"its heads are {HEAD}"),
        ("apply BR002 --to 2025", "'2025' is not one revision", f"one of {BASE[:9]}"),
        ("apply BR002 --to base", "'base' is no revision to go up to", ""),
        ("apply BR001 --to=-1", "'-1' is no revision to go up to", "apply -h"),
        ("apply BR001 --to=", "'' is no revision to go up to", "apply -h"),
        ("apply-all --to nope", "there is no revision 'nope'", f"its heads are {HEAD}"),
        ("baseline BR001 --revision nope", "there is no revision 'nope'", f"its heads are {HEAD}"),
        ("pending", "name a BRANCH, or --all, or a filter", "one of them"),
        ("validate BR001 --no-branches", "--no-branches looks at no branch", "leave one"),
        ("apply", "Missing argument 'BRANCH'", "`branchmig apply -h`"),
        ("apply BR001 BR002", "unexpected extra argument", "`branchmig apply -h`"),
        ("applyall", "No such command 'applyall'", "`branchmig -h`"),
        ("apply BR001 --dry-run", "No such option: --dry-run", "`branchmig apply -h`"),
        ("apply-all --shard 3/2", "it has the form I/N", "`branchmig apply-all -h`"),
        ("branch update BR001", "nothing to change is named", "branch update -h"),
        ("branch update BR001 --tag a --no-tags", "contradict each other", "leave one"),
        ("branch remove BR001", "Forget the branch BR001? Nobody is here", "--yes"),
        ("unlock --all --force", "Nobody is here to answer", "--yes"),
    ],
)
def test_a_wrong_command_is_refused(office: Office, command: str, says: str, hint: str) -> None:
    refuse(office, *command.split(" "), code=2, says=says, hint=hint)


@pytest.mark.parametrize(
    ("code", "url", "says", "hint"),
    [
        ("BR001", "sqlite:///x.db", "there is a branch BR001 already", "branch update"),
        ("br001", "sqlite:///x.db", "there is a branch BR001 already", "case alone"),
        ("BR/3", "sqlite:///x.db", "'BR/3' is not a branch code", "letters, digits"),
        ("BR\n3", "sqlite:///x.db", "'BR\\n3' is not a branch code", "letters, digits"),
        ("X", "branches/x.db", "this is not a database URL", "for example sqlite:///"),
        ("X", "oracle://h/d", "unknown provider 'oracle' in the URL", "known: mariadb, mssql"),
        ("X", "sqlite:///branches", "is a folder, not a database file", "name a file"),
        ("X", "sqlite:///./x/../branches/br001.db", "the branch BR001 is on the same", "its own"),
        ("X", "sqlite:///headoffice.db", "X is on HeadOffice's own database", "its own"),
        ("X", "postgresql://u:hunter2@h/d", "can be read by everybody", "`--url -`"),
        ("X", "-", "standard input holds no URL", "first line"),
    ],
)
def test_a_wrong_branch_is_not_added(
    office: Office, code: str, url: str, says: str, hint: str
) -> None:
    refuse(office, "branch", "add", code, "--url", url, code=2, says=says, hint=hint)


@pytest.mark.parametrize("provider", ["mysql", "oracle"])
def test_a_provider_that_contradicts_the_url_or_is_unknown_is_refused(
    office: Office, provider: str
) -> None:
    refuse(
        office, *("branch", "add", "X", "--url", "sqlite:///x.db", "--provider", provider),
        code=2, says=f"'{provider}'",
    )  # fmt: skip


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("branches/br001.db", "the branch BR001 is on the same database"),
        ("headoffice.db", "X is on HeadOffice's own database"),
    ],
)
def test_a_database_is_not_taken_by_another_name_for_it(
    office: Office, link: str, target: str, says: str
) -> None:
    getattr(office.folder / "alias.db", link)(office.folder / target)
    refuse(office, "branch", "add", "X", "--url", "sqlite:///alias.db", code=2, says=says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("code,url\nA,sqlite:///a.db\nB/,sqlite:///b.db\n", "line 3: 'B/' is not a branch code"),
        ("code,url,city\nA,sqlite:///a.db,Bonn\n", "unknown column 'city'"),
        ('[{"code": "A", "url": "sqlite:///a.db"}, {"code": "B"', "line 1, column 54: "),
    ],
)
def test_a_list_with_one_bad_line_imports_nothing_and_names_it(
    office: Office, text: str, says: str
) -> None:
    refuse(office, "branch", "import", "-", stdin=text, code=2, says=says)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none.csv", "none.csv cannot be read: No such file"),
        ("branches", "branches cannot be read: Is a directory"),
        ("headoffice.db", "headoffice.db is not UTF-8 text"),
    ],
)
def test_what_is_no_list_of_branches_is_not_imported(office: Office, name: str, says: str) -> None:
    refuse(office, "branch", "import", name, code=2, says=says)


@pytest.mark.parametrize(
    ("command", "code", "kind"),
    [
        ("apply NOPE --json", 2, "UnknownBranch"),
        ("--json apply-all --to nope", 2, "UnknownRevision"),
        ("--json applyall", 2, "UsageError"),
        ("branch remove BR001 --json", 2, "UsageError"),
        ("status --json --config none.toml", 2, "UsageError"),
        ("--json --config none.toml status", 78, "ConfigError"),
    ],
)
def test_with_json_the_error_is_one_document_on_standard_output(
    office: Office, command: str, code: int, kind: str
) -> None:
    with unchanged(office):
        done = office.run(*command.split(" "), code=code)
    document = json.loads(done.stdout)
    assert document.keys() == {"success", "error"}
    assert document["success"] is False
    assert document["error"].keys() == {"type", "message", "hint"}
    assert document["error"]["type"] == kind
    assert document["error"]["hint"]
    assert done.stderr == ""


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("[run]\nworker = 3", "branchmig.toml: [run] has no key 'worker'", "mean 'workers'?"),
        ("[rum]\nworkers = 3", "branchmig.toml: unknown section [rum]", "mean 'run'?"),
        ("[run]\nworkers = ", "is not valid TOML: Invalid value (at line 2, column 11)", "mend"),
        (
            "[run]\nper_server = 0",
            "[run] per_server: it should be greater",
            "default is 4",
        ),
        ("[headoffice]\nurl = 'x.db'", "[headoffice] url: this is not a database URL", "example"),
        ("[headoffice]\nurl = 'sqlite:///new.db'", "HeadOffice does not exist yet", "`branchmig i"),
        ("[headoffice]\nurl = 'sqlite:///void.db'", "HeadOffice has no tables yet", "`branchmig"),
        ("[migrations]\nscript_location = 'none'", "there is no folder", "script_location"),
        ("[migrations]\ntarget = 'nope'", "[migrations] target: there is no revision", "heads are"),
        ("[migrations]\ntarget = '-1'", "[migrations] target: '-1' goes down, not up", ""),
        ("[migrations]\nini = 'none.ini'", "there is no file", "[migrations] ini"),
    ],
)
def test_wrong_settings_are_refused(office: Office, text: str, says: str, hint: str) -> None:
    (office.folder / "void.db").touch()
    office.configure(text)
    refuse(office, "apply-all", code=78, says=says, hint=hint)


def test_a_setting_of_the_environment_that_is_wrong_names_its_variable(office: Office) -> None:
    refuse(
        office, "status", code=78, says="BRANCHMIG_RUN_WORKERS: it should be a valid integer",
        hint="", BRANCHMIG_RUN_WORKERS="many",
    )  # fmt: skip


def test_a_settings_file_that_is_named_and_missing_is_refused(office: Office) -> None:
    refuse(
        office, "--config", "none.toml", "status",
        code=78, says="there is no settings file none.toml", hint="branchmig init",
    )  # fmt: skip


def test_without_settings_every_command_says_where_it_looked(office: Office) -> None:
    """Root takes none from the current folder, and so it finds none although one is there."""
    if not IS_ROOT:
        office.settings.unlink()
    refuse(
        office, "status", code=78, says="no settings file was found",
        hint="/etc/branchmig/branchmig.toml", BRANCHMIG_CONFIG="",
    )  # fmt: skip


def test_settings_that_cannot_be_read_are_told_as_that(office: Office) -> None:
    office.wrapper = BOUND
    office.settings.chmod(0)
    try:
        done = office.run("status", code=78)
    finally:
        office.settings.chmod(0o644)
    assert told(done)[0] == f"{office.settings} cannot be read: Permission denied"


def open_settings(office: Office) -> Path:
    return office.settings


def open_folder(office: Office) -> Path:
    return office.folder


def open_script(office: Office) -> Path:
    return office.use_history("linear") / "versions" / "a2.py"


def open_scripts(office: Office) -> Path:
    return office.use_history("linear") / "versions"


@pytest.mark.parametrize("choose", [open_settings, open_folder, open_script, open_scripts])
def test_code_that_others_can_write_is_refused_for_root_and_warned_of_otherwise(
    office: Office, choose: Callable[[Office], Path]
) -> None:
    path = choose(office)
    path.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_IWOTH)
    if IS_ROOT:
        refuse(
            office, "pending", "--all",
            code=78, says=f"{path} ", hint=f"chmod go-w {path}",
        )  # fmt: skip
    office.wrapper = ORDINARY
    with unchanged(office):
        done = office.run("pending", "BR002")
    warnings = [line for line in done.stderr.splitlines() if f" WARNING {path} " in line]
    assert len(warnings) == 1, done.stderr
    assert warnings[0].endswith("code that runs here, and everybody can write it")


# Histories ----------------------------------------------------------------------------------------


def syntax_error(history: Path) -> str:
    (history / "versions" / "a2.py").write_text('revision = "a2"\ndef upgrade(:\n')
    return f"{history / 'versions' / 'a2.py'}, line 2: invalid syntax"


def empty(history: Path) -> str:
    shutil.rmtree(history / "versions")
    (history / "versions").mkdir()
    return f"the history {history} holds no revisions"


def two_heads(history: Path) -> str:
    source = (history / "versions" / "a3.py").read_text()
    (history / "versions" / "b3.py").write_text(source.replace("a3", "b3"))
    return "the history has 2 heads and one is wanted: a3, b3"


def failing_env(history: Path) -> str:
    (history / "env.py").write_text("import nope\n")
    return f"{history / 'env.py'}, line 1: ModuleNotFoundError: No module named 'nope'"


@pytest.mark.parametrize(
    ("spoil", "hint"),
    [
        (syntax_error, "mend that file"),
        (empty, "[migrations] script_location"),
        (two_heads, "alembic merge heads"),
        (failing_env, "probe = false"),
    ],
)
def test_a_history_that_cannot_be_used_stops_everything_before_it_begins(
    office: Office, spoil: Callable[[Path], str], hint: str
) -> None:
    says = spoil(office.use_history("linear"))
    for command in (("apply-all",), ("pending", "BR002")):
        refuse(office, *command, code=78, says=says, hint=hint)


# HeadOffice ---------------------------------------------------------------------------------------


@contextmanager
def held(database: Path, begin: str) -> Iterator[None]:
    """Another program holds the database.

    Within, nobody may open the file in another way: closing it again would release the lock
    (https://sqlite.org/howtocorrupt.html, section 2.2).
    """
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute(begin)
        yield
        connection.rollback()


@pytest.mark.parametrize(
    ("begin", "command"),
    [("BEGIN IMMEDIATE", ("apply", "BR001")), ("BEGIN EXCLUSIVE", ("status",))],
)
def test_headoffice_in_the_hands_of_another_program_is_tried_again_later(
    office: Office, begin: str, command: tuple[str, ...]
) -> None:
    with unchanged(office), held(office.folder / "headoffice.db", begin):
        sentence, hint = told(office.run(*command, code=75))
    assert sentence.startswith(f"HeadOffice: {office.folder}/headoffice.db is locked by another")
    assert "try again" in hint


def test_headoffice_can_be_read_while_another_program_writes(office: Office) -> None:
    with unchanged(office), held(office.folder / "headoffice.db", "BEGIN IMMEDIATE"):
        office.run("status")


LATER = "UPDATE branchmig_version SET version_num = '9999_later'"


@pytest.mark.parametrize(
    ("command", "statement", "says", "hint"),
    [
        ("status", LATER, "is at 9999_later", "newer"),
        ("apply-all", LATER, "is at 9999_later", "newer"),
        ("init", LATER, "is at 9999_later", "newer"),
        ("status", "DELETE FROM branchmig_version", "has its tables", REVISIONS[-1]),
        ("init", "DELETE FROM branchmig_version", "has its tables", REVISIONS[-1]),
        ("apply-all", "DROP TABLE branchmig_version", "has its tables", REVISIONS[-1]),
    ],
)
def test_headoffice_at_another_version_is_refused(
    office: Office, command: str, statement: str, says: str, hint: str
) -> None:
    office.headoffice(statement)
    refuse(office, command, code=78, says=f"HeadOffice {says}", hint=hint)


@pytest.mark.parametrize("command", ["status", "apply-all", "apply BR001"])
@pytest.mark.parametrize(
    ("statement", "says"),
    [
        (
            "UPDATE branchmig_migration_states SET status = 'Frozen'",
            "Frozen for the status of BR001",
        ),
        ("UPDATE branchmig_branches SET provider = 'oracle'", "oracle for the provider of BR001"),
        ("UPDATE branchmig_migration_states SET heads = 'a1'", "a1 for a list of heads"),
        ("UPDATE branchmig_migration_states SET heads = '\"a1\"'", '"a1" for a list of heads'),
        ("UPDATE branchmig_migration_states SET heads = '[[1]]'", "[[1]] for a list of heads"),
        ("UPDATE branchmig_migration_states SET heads = 5", "5 for a list of heads"),
    ],
)
def test_a_headoffice_that_holds_what_this_program_does_not_know_is_refused(
    office: Office, command: str, statement: str, says: str
) -> None:
    office.headoffice(statement)
    refuse(office, *command.split(), code=78, says=says, hint="newer branchmig")


@pytest.mark.parametrize("command", ["status", "init"])
def test_a_headoffice_that_is_no_database_is_refused(office: Office, command: str) -> None:
    (office.folder / "headoffice.db").write_text("this is a text that somebody wrote")
    refuse(
        office, command,
        code=69, says="headoffice.db: the file is not a SQLite database", hint="its URL",
    )  # fmt: skip


def test_a_headoffice_that_cannot_be_written_can_still_be_read(office: Office) -> None:
    office.wrapper = BOUND
    (office.folder / "headoffice.db").chmod(0o444)
    with unchanged(office):
        office.run("status")
    refuse(office, "apply", "BR002", code=69, says="is read-only", hint="needs to write both")


# Branches' databases ------------------------------------------------------------------------------


def truncated(path: Path, good: bytes) -> None:
    path.write_bytes(good[: len(good) // 2])


def cut_in_the_header(path: Path, good: bytes) -> None:
    path.write_bytes(good[:60])


def encrypted(path: Path, good: bytes) -> None:
    path.write_bytes(os.urandom(8192))


def written_by_a_person(path: Path, good: bytes) -> None:
    path.write_text("a text")


def folder(path: Path, good: bytes) -> None:
    path.mkdir()


def pipe(path: Path, good: bytes) -> None:
    os.mkfifo(path)


def strange(path: Path, good: bytes) -> None:
    path.write_bytes(good)
    query(path, "UPDATE alembic_version SET version_num = 'strange'")


def foreign(path: Path, good: bytes) -> None:
    query(path, "CREATE TABLE Invoices (id INTEGER)")


UNUSABLE: dict[Callable[[Path, bytes], None], str] = {
    truncated: "the database is damaged or truncated",
    cut_in_the_header: "the database is damaged or truncated",
    encrypted: "the file is not a SQLite database, or it is encrypted",
    written_by_a_person: "the file is not a SQLite database, or it is encrypted",
    folder: "is a folder, not a database file",
    pipe: "is a device or a pipe, not a database file",
    strange: "the version table holds strange, which this history does not know",
    foreign: "has 1 table but no version table: another tool made it",
}
READABLE = (foreign,)
"""Those of which something can be said without touching them."""


def test_databases_that_cannot_be_used_are_refused_each_with_its_sentence(office: Office) -> None:
    good = office.database("BR001").read_bytes()
    codes = {spoil.__name__: says for spoil, says in UNUSABLE.items()}
    office.add(*codes)
    for spoil in UNUSABLE:
        spoil(office.database(spoil.__name__), good)

    with unchanged(office):
        looked = office.json("pending", "--all", code=1)
    errors = {row["branchCode"]: row["error"] for row in looked if "error" in row}
    assert errors.keys() == {spoil.__name__ for spoil in UNUSABLE if spoil not in READABLE}
    for code, error in errors.items():
        assert codes[code] in error["message"]
        assert error["hint"]

    before = office.files()
    report = office.json("apply-all", code=1)
    after = office.files()
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"headoffice.db", "branches/br002.db"}
    assert before.keys() | changed == after.keys()

    outcomes = {row["branchCode"]: row for row in report["branches"]}
    states = {row["branchCode"]: row for row in office.json("status")}
    assert report["branchesFailed"] == len(UNUSABLE)
    for code, says in codes.items():
        assert says in outcomes[code]["errorMessage"]
        assert outcomes[code]["hint"]
        assert (states[code]["status"], states[code]["retryCount"]) == ("Failed", 1)
        assert says in states[code]["errorDetails"]
    assert states["BR001"]["status"] == states["BR002"]["status"] == "Completed"


@pytest.mark.parametrize("gone", ["removed", "emptied"])
def test_a_database_that_had_heads_and_is_gone_is_not_made_anew_unless_asked(
    office: Office, gone: str
) -> None:
    database = office.database("BR001")
    database.unlink() if gone == "removed" else database.write_bytes(b"")
    report = office.json("apply", "BR001", code=1)
    (outcome,) = report["branches"]
    assert report["errorMessage"] == f"the database of BR001 was at {HEAD} and is gone"
    assert "`branchmig apply BR001 --create`" in outcome["hint"]
    assert not database.exists() or database.read_bytes() == b""
    assert outcome["status"] == "Failed"

    assert office.json("apply", "BR001", "--create")["branches"][0]["status"] == "Completed"
    assert query(database, "SELECT version_num FROM alembic_version") == [(HEAD,)]


@pytest.mark.parametrize("mode", [0o444, 0o000])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_permissions_that_forbid_a_migration_are_a_failure_and_not_a_change(
    office: Office, mode: int, what: str
) -> None:
    office.wrapper = BOUND
    database = office.database("BR001")
    path = database if what == "file" else database.parent
    before, kept = database.read_bytes(), stat.S_IMODE(path.stat().st_mode)
    # A folder that may be read but not searched is no better than one that may not be read.
    path.chmod(mode if what == "file" or not mode else 0o555)
    try:
        report = office.json("apply", "BR001", code=1)
    finally:
        path.chmod(kept)
    expected = "is read-only" if mode else f"{database} cannot be read: Permission denied"
    assert expected in report["errorMessage"]
    assert report["branches"][0]["hint"]
    assert report["branches"][0]["status"] == "Failed"
    assert database.read_bytes() == before


def test_a_branch_in_a_folder_that_cannot_be_written_is_not_made(office: Office) -> None:
    office.wrapper = BOUND
    office.database("BR001").parent.chmod(0o555)
    try:
        report = office.json("apply", "BR002", code=1)
    finally:
        office.database("BR001").parent.chmod(0o755)
    assert "br002.db cannot be created: Permission denied" in report["errorMessage"]
    assert "let the user that runs this write it" in report["branches"][0]["hint"]


def test_a_part_of_the_path_that_is_a_file_is_told_as_that(office: Office) -> None:
    office.run("branch", "update", "BR002", "--url", "sqlite:///branches/br001.db/x.db")
    report = office.json("apply", "BR002", code=1)
    assert "a part of this path is a file" in report["errorMessage"]


def at_the_first_revision(office: Office) -> bytes:
    """BR002 gets a database; what is in it then."""
    office.run("apply", "BR002", "--to", BASE)
    return office.database("BR002").read_bytes()


FILL = """
mount -t tmpfs -o size={size} none branches
cp {database} branches/br002.db
head -c 1000000000 /dev/zero > branches/fill || :
set +e
"$@"
code=$?
cp branches/br002.db {database}
exit $code
"""


def test_a_full_disk_leaves_the_branch_as_it_was(office: Office) -> None:
    before = at_the_first_revision(office)
    kept = office.folder / "kept.db"
    shutil.copy(office.database("BR002"), kept)
    script = FILL.format(size=len(before) + 8192, database=kept)
    office.wrapper = (*NAMESPACE, "sh", "-ec", script, "sh")
    report = office.json("apply", "BR002", code=1)
    (outcome,) = report["branches"]
    assert "br002.db: the disk is full" in report["errorMessage"]
    assert outcome["hint"] == "free some space; what was begun is rolled back"
    assert (outcome["status"], outcome["appliedMigrations"]) == ("Failed", [])
    assert kept.read_bytes() == before


def test_a_limit_on_the_size_of_files_ends_a_migration_between_two_revisions(
    office: Office,
) -> None:
    largest = len(at_the_first_revision(office))
    assert largest > (office.folder / "headoffice.db").stat().st_size + 8192
    with office.start(
        "apply", "BR002", "--json",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest)),
    ) as process:  # fmt: skip
        output, _ = process.communicate(timeout=60)
    report = json.loads(output)
    assert process.returncode == 1
    assert "br002.db: the disk failed to read or write" in report["errorMessage"]
    assert "quotas" in report["branches"][0]["hint"]
    landed = report["appliedMigrations"][-1:] or [BASE]
    assert landed != [HEAD]
    assert office.query("BR002", "SELECT version_num FROM alembic_version") == [tuple(landed)]
    assert office.query("BR002", "PRAGMA integrity_check") == [("ok",)]


def test_a_branch_in_the_hands_of_another_program_is_tried_again_later(office: Office) -> None:
    office.environ["BRANCHMIG_RUN_LOCK_TIMEOUT"] = "0.1"
    with held(office.database("BR001"), "BEGIN EXCLUSIVE"):
        sentence, _ = told(office.run("pending", "BR001", code=75))
        report = office.json("apply", "BR001", code=75)
    assert sentence == report["errorMessage"]
    assert "is locked by another program for longer than 0.1 s" in sentence
    assert (report["success"], report["branchesSkipped"]) == (False, 1)
    assert office.status("BR001")["status"] == "Completed"


def test_failures_are_told_to_people_with_their_hints(office: Office) -> None:
    office.database("BR001").write_text("a text")
    done = office.run("apply", "BR001", code=1)
    assert "Error: " in done.stdout
    assert "Hint: look at what its URL points to" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


# Faults of the program ----------------------------------------------------------------------------


@pytest.mark.parametrize("debug", [False, True])
def test_a_traceback_is_shown_to_whoever_asks_for_it_alone(office: Office, debug: bool) -> None:
    done = office.run("apply", "NOPE", *(["--debug"] if debug else []), code=2)
    assert ("Traceback" in done.stderr) is debug
    assert "Error: there is no branch 'NOPE'" in done.stderr
