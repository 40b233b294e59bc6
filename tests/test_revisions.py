"""Histories: loading them, probing their env.py, planning, running and showing their steps."""

from __future__ import annotations

import itertools
import logging
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from office import HISTORIES, query
from scene import Scene

from branchmig.errors import (
    HistoryError,
    MultipleHeads,
    SecondConnection,
    UnknownHeads,
    UnknownRevision,
)
from branchmig.fence import Fence
from branchmig.model import Direction, SkipReason, Step, Task, VersionTable
from branchmig.revisions.environment import offline_sql, run, stamp
from branchmig.revisions.history import History
from branchmig.revisions.hooks import NoHooks
from branchmig.revisions.source import Source

DIALECTS = ("sqlite", "postgresql", "mysql", "mssql")

AN_ENV = """
import sqlalchemy as sa
from alembic import context
{setup}
with sa.create_engine(context.config.get_main_option("sqlalchemy.url")).connect() as connection:
    context.configure(connection=connection, {options})
    with context.begin_transaction():
        context.run_migrations()
"""


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a history does to its process is undone after each test."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    environ, modules = dict(os.environ), set(sys.modules)
    yield
    os.environ.clear()
    os.environ.update(environ)
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def load(name: str, **source: Any) -> History:
    return History.load(Source(str(HISTORIES / name), **source), "sqlite://")


def plainly(folder: Path, database: Path, target: str = "heads") -> None:
    """Upgrade as plain Alembic does, with the history's own env.py."""
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("sqlalchemy.url", f"sqlite:///{database}")
    script = ScriptDirectory.from_config(config)
    env = EnvironmentContext(
        config, script, fn=lambda heads, _: script._upgrade_revs(target, heads)
    )
    with env:
        script.run_env()


def schema_of(file: Path) -> list[Any]:
    return query(file, "SELECT name, sql FROM sqlite_master ORDER BY name")


# What env.py says


def test_a_naming_convention_in_env_py_names_the_constraints_as_its_author_saw_them(
    scene: Scene,
) -> None:
    scene.use("naming_convention")
    plain = scene.folder / "plain.db"
    plainly(scene.history_folder, plain)
    assert scene.attempt().failure is None
    assert schema_of(scene.file) == schema_of(plain)
    assert "CONSTRAINT uq_shops_city UNIQUE" in str(scene.schema())


def test_without_the_probe_the_same_history_gives_another_schema_without_a_word(
    scene: Scene,
) -> None:
    scene.use("naming_convention", probe=False)
    plain = scene.folder / "plain.db"
    plainly(scene.history_folder, plain)
    assert scene.attempt().failure is None
    assert schema_of(scene.file) != schema_of(plain)
    assert "uq_shops_city" not in str(scene.schema())


def test_what_env_py_passes_is_kept_as_far_as_it_concerns_the_schema() -> None:
    history = load("says_much")
    assert history.version_table == VersionTable("our_version", "main")
    assert history.run_arguments == {"season": "autumn"}
    assert history.configure["colour"] == "green"
    assert history.configure["user_module_prefix"] == "ours."


def test_connection_url_and_transactions_stay_ours() -> None:
    kept = set(load("says_much").configure)
    dropped = {"connection", "url", "transactional_ddl", "transaction_per_migration"}
    assert kept & dropped == set()


def test_version_table_options_and_arguments_reach_the_revision(scene: Scene) -> None:
    scene.use("says_much")
    done = scene.attempt()
    assert (done.failure, done.heads) == (None, ("s1",))
    assert scene.tables() == {"our_version", "autumn", "green"}
    assert scene.versions_now("our_version") == {"s1"}
    assert scene.migrator.look(scene.branch).heads == ("s1",)


def test_a_callback_of_env_py_still_hears_of_every_version(scene: Scene) -> None:
    scene.use("says_much")
    history = scene.history
    with scene.strategy.scratch(scene.strategy.scratch_url) as connection:
        run(history, connection, history.steps((), "head"), NoHooks(), transactional_ddl=True)
    assert history.config.attributes["heard"] == ["s1"]


@pytest.mark.parametrize("by_hand", [False, True])
def test_version_locations_that_env_py_changes_are_followed(scene: Scene, by_hand: bool) -> None:
    scene.use("moved_versions")
    if by_hand:
        ini = scene.folder / "own.ini"
        ini.write_text("[alembic]\nby_hand = yes\n")
        scene.migrations["ini"] = "own.ini"
    assert scene.history.heads == ("m1",)


def test_settings_win_over_the_version_locations_of_env_py(scene: Scene) -> None:
    scene.use("moved_versions", version_locations=["history/versions"])
    assert scene.history.heads == ("m0",)


def test_env_py_never_opens_a_branch(scene: Scene) -> None:
    scene.use("linear")
    assert scene.attempt().failure is None
    before = scene.file.read_bytes()
    scene.env(
        AN_ENV.format(
            setup="config = context.config\n"
            "import pathlib\n"
            "url = config.get_main_option('sqlalchemy.url')\n"
            "pathlib.Path(config.attributes['told']).write_text(url)",
            options="",
        )
    )
    told = scene.folder / "told"
    scene.migrations["attributes"] = {"told": str(told)}
    assert scene.attempt().heads == ("a3",)
    assert told.read_text() == "sqlite://"
    assert scene.file.read_bytes() == before


def test_logging_that_env_py_configures_does_not_touch_ours(scene: Scene) -> None:
    scene.revision("r1", "pass")
    ini = scene.folder / "own.ini"
    ini.write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=h\n[formatters]\nkeys=\n"
        "[logger_root]\nlevel=ERROR\nhandlers=h\n"
        "[handler_h]\nclass=StreamHandler\nargs=(sys.stderr,)\n"
    )
    scene.migrations["ini"] = "own.ini"
    ours = logging.getLogger("branchmig.test")
    ours.setLevel(logging.DEBUG)
    before = (logging.root.handlers[:], logging.root.level)
    for setup in (
        "from logging.config import fileConfig; fileConfig(context.config.config_file_name)",
        "import logging; logging.root.handlers[:] = []; logging.root.setLevel(50);"
        "logging.getLogger('branchmig.test').disabled = True;"
        "logging.getLogger('branchmig.test').setLevel(50)",
    ):
        scene.env(AN_ENV.format(setup=setup, options=""))
        assert scene.history.heads == ("r1",)
        assert (logging.root.handlers, logging.root.level) == before
        assert (ours.disabled, ours.level) == (False, logging.DEBUG)
        assert ours.isEnabledFor(logging.DEBUG)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raise ValueError('no secrets here')", "ValueError: no secrets here"),
        ("raise SystemExit('no url')", "SystemExit: no url"),
        ("import nowhere_to_be_found", "ModuleNotFoundError"),
        ("this is no Python", "invalid syntax"),
    ],
)
def test_an_env_py_that_fails_says_where_and_names_the_settings_instead(
    scene: Scene, fault: str, said: str
) -> None:
    scene.revision("r1", "pass")
    scene.env(f"\n{fault}\n")
    with pytest.raises(
        HistoryError, match=r"env\.py fails when it is executed as a probe"
    ) as failed:
        _ = scene.history
    assert f"{scene.history_folder / 'env.py'}, line 2" in failed.value.message
    assert said in failed.value.message
    assert failed.value.exit_code == 78
    for name in ("probe = false", "target_metadata", "version_table", "setup"):
        assert name in str(failed.value.hint)


def test_an_env_py_that_cannot_connect_is_probed_offline(scene: Scene) -> None:
    scene.revision("r1", "pass")
    scene.env(
        "from alembic import context\n"
        "if not context.is_offline_mode():\n"
        "    raise OSError('no network')\n"
        "context.configure(url='x://', version_table='ours')\n"
        "context.run_migrations()\n"
    )
    assert scene.history.version_table == VersionTable("ours")


def test_without_the_probe_env_py_is_not_executed_and_need_not_be_there(scene: Scene) -> None:
    scene.revision("r1", "pass")
    assert scene.history.heads == ("r1",)
    (scene.history_folder / "env.py").write_text("raise ValueError")
    assert scene.history.heads == ("r1",)


# Settings that replace or change it


def test_the_version_table_of_the_settings_wins(scene: Scene) -> None:
    scene.use("says_much", version_table="theirs", version_table_schema="main")
    assert scene.history.version_table == VersionTable("theirs", "main")
    assert scene.attempt().failure is None
    assert scene.versions_now("theirs") == {"s1"}


def test_version_locations_may_be_folders_and_packages(scene: Scene) -> None:
    scene.use("linear", probe=False)
    package = scene.folder / "lib" / "plugin_of_test" / "more"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "p1.py").write_text(
        'revision = "p1"\ndown_revision = "a3"\ndef upgrade(): pass\ndef downgrade(): pass\n'
    )
    scene.migrations |= {
        "version_locations": ["history/versions", "plugin_of_test:more"],
        "prepend_sys_path": ["lib"],
    }
    assert scene.history.heads == ("p1",)


def test_a_version_location_that_is_not_there_is_an_error_and_not_no_revisions(
    scene: Scene,
) -> None:
    scene.use("linear", probe=False, version_locations=["history/versions", "history/vresions"])
    with pytest.raises(HistoryError, match=r"there is no folder .*vresions") as missing:
        _ = scene.history
    assert "version_locations" in str(missing.value.hint)


def test_target_metadata_of_the_settings_brings_its_naming_convention(scene: Scene) -> None:
    scene.use("naming_convention", probe=False)
    plain = scene.folder / "plain.db"
    plainly(scene.history_folder, plain)
    scene.module(
        "models_of_test",
        "import sqlalchemy as sa\n"
        "class Base:\n"
        "    metadata = sa.MetaData(naming_convention={\n"
        "        'uq': 'uq_%(table_name)s_%(column_0_name)s', 'pk': 'pk_%(table_name)s'})\n",
    )
    scene.migrations |= {
        "target_metadata": "models_of_test:Base.metadata",
        "prepend_sys_path": ["lib"],
    }
    assert scene.attempt().failure is None
    assert schema_of(scene.file) == schema_of(plain)


@pytest.mark.parametrize("named", ["models_of_test", "models_of_test:nothing", "nowhere_at_all:x"])
def test_a_target_metadata_that_is_not_there_is_an_error(scene: Scene, named: str) -> None:
    scene.module("models_of_test", "")
    scene.use("linear", target_metadata=named, prepend_sys_path=["lib"])
    with pytest.raises(HistoryError):
        _ = scene.history


def test_modules_are_preloaded_before_any_revision(scene: Scene) -> None:
    scene.module("types_of_test", "import builtins; builtins.shop_width = 80\n")
    scene.revision("r1", "op.execute(f'CREATE TABLE shops (city VARCHAR({shop_width}))')")
    scene.migrations |= {"preload": ["types_of_test"], "prepend_sys_path": ["lib"]}
    assert scene.attempt().failure is None
    import builtins

    del builtins.shop_width  # type: ignore[attr-defined]
    assert "VARCHAR(80)" in str(scene.schema())


def test_x_args_ini_attributes_and_environ_are_found_where_env_py_looks(scene: Scene) -> None:
    scene.revision("r1", "pass")
    (scene.folder / "own.ini").write_text("[alembic]\nprefix = i_\n[app]\nname = n_\n")
    scene.env(
        AN_ENV.format(
            setup="import os\nconfig = context.config",
            options="version_table=config.get_main_option('prefix') + "
            "config.get_section_option('app', 'name') + config.attributes['deep']['name'] + "
            "context.get_x_argument(as_dictionary=True)['site'] + os.environ['SITE_OF_TEST']",
        )
    )
    scene.migrations |= {
        "ini": "own.ini",
        "x_args": ["site=x_"],
        "attributes": {"deep": {"name": "a_"}},
        "environ": {"SITE_OF_TEST": "e"},
    }
    assert scene.history.version_table.name == "i_n_a_x_e"


def test_an_ini_that_is_not_there_is_an_error(scene: Scene) -> None:
    scene.use("linear", ini="nowhere.ini")
    with pytest.raises(HistoryError, match=r"no file .*nowhere.ini"):
        _ = scene.history


def test_setup_is_called_once_before_the_probe_with_a_scratch_url(scene: Scene) -> None:
    scene.module(
        "setup_of_test",
        "calls = []\n"
        "def prepare(config, url):\n"
        "    calls.append(url)\n"
        "    config.attributes['table'] = 'prepared'\n",
    )
    scene.revision("r1", "pass")
    scene.env(AN_ENV.format(setup="", options="version_table=context.config.attributes['table']"))
    scene.migrations |= {"setup": "setup_of_test:prepare", "prepend_sys_path": ["lib"]}
    migrator = scene.migrator
    assert migrator.history().version_table.name == "prepared"
    assert migrator.history().heads == ("r1",)
    assert sys.modules["setup_of_test"].calls == ["sqlite://"]


# Loading


def test_an_empty_history_is_an_error(scene: Scene) -> None:
    with pytest.raises(HistoryError, match="holds no revisions"):
        _ = scene.history


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nowhere_at_all", "ModuleNotFoundError"),
        ("this is no Python", "invalid syntax"),
        ("raise SystemExit(0)", "SystemExit"),
    ],
)
def test_a_revision_that_does_not_load_is_named_with_its_line(
    scene: Scene, text: str, said: str
) -> None:
    scene.revision("r1", "pass")
    (scene.versions / "r2.py").write_text(f"\n{text}\n")
    with pytest.raises(HistoryError, match=said) as failed:
        _ = scene.history
    assert f"{scene.versions / 'r2.py'}, line 2" in failed.value.message


@pytest.mark.parametrize(
    ("revision", "parent", "said"),
    [
        ("r1", None, "present more than once"),
        ("r3", "r_lost", "r_lost"),
        ("r0", "r0", "r0"),
    ],
)
def test_duplicate_ids_missing_parents_and_loops_are_errors(
    scene: Scene, revision: str, parent: str | None, said: str
) -> None:
    scene.revision("r1", "pass")
    (scene.versions / "odd.py").write_text(
        f"revision = {revision!r}\ndown_revision = {parent!r}\n"
        "def upgrade(): pass\ndef downgrade(): pass\n"
    )
    with pytest.raises(HistoryError, match=said) as failed:
        _ = scene.history
    assert "KeyError" not in failed.value.message


def test_a_cycle_is_an_error(scene: Scene) -> None:
    for name, parent in (("x1", "x3"), ("x2", "x1"), ("x3", "x2")):
        scene.parent = parent
        scene.revision(name, "pass")
    scene.parent = None
    scene.revision("r1", "pass")
    with pytest.raises(HistoryError, match="ycle"):
        _ = scene.history


def test_a_missing_downgrade_and_a_long_id_are_findings(scene: Scene) -> None:
    long = "20260101_" + "very_" * 5
    scene.revision(long, "pass")
    file = scene.versions / f"{long}.py"
    file.write_text(file.read_text().replace("def downgrade", "def down"))
    findings = scene.history.report("head").findings
    assert f"{long} has 34 characters; the version table holds 32" in findings
    assert f"{long} has no downgrade()" in findings
    assert load("linear").report("head").is_valid


def test_a_missing_downgrade_does_not_keep_anybody_from_upgrading(scene: Scene) -> None:
    scene.revision("r1", "pass")
    file = scene.versions / "r1.py"
    file.write_text(file.read_text().replace("def downgrade", "def down"))
    assert scene.attempt().heads == ("r1",)
    history = scene.history
    step = Step("r1", Direction.DOWNGRADE, ("r1",), ())
    with scene.strategy.scratch(scene.strategy.scratch_url) as connection:
        with pytest.raises(Exception, match=r"r1 has no downgrade\(\)"):
            run(history, connection, [step], NoHooks(), transactional_ddl=True)
        assert not connection.in_transaction()


def test_two_heads_are_a_finding_only_where_one_is_wanted() -> None:
    history = load("two_heads")
    assert any("2 heads" in finding for finding in history.report("head").findings)
    assert history.report("heads").is_valid


def test_loading_and_running_write_no_bytecode(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    scene.use("naming_convention")
    assert scene.attempt().failure is None
    assert list(scene.folder.rglob("*.pyc")) == []
    assert sys.dont_write_bytecode is False


def test_what_a_history_prints_is_no_result(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.revision("r1", "print('in the revision'); op.get_context().config.print_stdout('by it')")
    file = scene.versions / "r1.py"
    file.write_text("print('on loading')\n" + file.read_text())
    scene.env(AN_ENV.format(setup="print('in env.py')", options=""))
    assert scene.attempt().failure is None
    told = capsys.readouterr()
    assert told.out == ""
    for words in ("on loading", "in env.py", "in the revision", "by it"):
        assert words in told.err


# The way


@pytest.fixture(scope="module")
def branching() -> History:
    return load("branching", probe=False)


def test_heads_are_those_of_every_line(branching: History) -> None:
    assert branching.heads == ("merged", "middle", "till3")


def test_every_revision_comes_after_what_it_needs(branching: History) -> None:
    seen: set[str] = set()
    for revision in branching.revisions:
        assert {*revision.down, *revision.depends_on} <= seen
        seen.add(revision.id)
    assert len(seen) == 8


def test_head_is_refused_where_there_are_several(branching: History) -> None:
    with pytest.raises(MultipleHeads, match="3 heads") as several:
        branching.steps((), "head")
    assert several.value.exit_code == 78
    assert 'target = "heads"' in str(several.value.hint)


@pytest.mark.parametrize(
    ("current", "target", "expected"),
    [
        ((), "trunk", ["trunk"]),
        ((), "merged", ["trunk", "left", "right", "merged"]),
        ((), "till@head", ["till1", "till2", "trunk", "left", "right", "merged", "till3"]),
        (("left",), "merged", ["right", "merged"]),
        (("merged",), "trunk", []),
        (("merged", "till2"), "till@head", ["till3"]),
        ((), "mid", ["trunk", "till1", "till2", "middle"]),
        ((), "trunk+1", None),
        (("till1",), "till@+1", ["till2"]),
        (("till1",), "+1", ["till2"]),
        ((), "till1+1", ["till1", "till2"]),
        ((), "till2-1", ["till1"]),
    ],
)
def test_targets_mean_what_they_mean_to_alembic(
    branching: History, current: tuple[str, ...], target: str, expected: list[str] | None
) -> None:
    if expected is None:
        with pytest.raises(UnknownRevision, match="cannot be reached"):
            branching.steps(current, target)
        return
    steps = branching.steps(current, target)
    assert {step.revision for step in steps} == set(expected)
    plain = branching.script._upgrade_revs(target, current) if steps else []
    assert [step.revision for step in steps] == [step.revision.revision for step in plain]


@pytest.mark.parametrize(
    "target",
    [
        "",
        "base",
        "nowhere",
        "@",
        "nowhere@head",
        "nowhere@+1",
        "-1",
        "till3+1",
        "till"[:2],
    ],
)
def test_what_names_no_place_is_unknown_before_any_branch_is_touched(
    branching: History, target: str
) -> None:
    with pytest.raises(UnknownRevision) as unknown:
        branching.check_target(target)
    assert unknown.value.exit_code == 2


def test_a_name_that_fits_several_names_them(branching: History) -> None:
    with pytest.raises(UnknownRevision) as unknown:
        branching.check_target("ill")
    assert "till1" in str(unknown.value.hint)


def test_at_head_counts_what_a_head_depends_on(branching: History) -> None:
    # Alembic keeps no row for `merged` once `till3`, which depends on it, has been applied.
    heads = branching.steps((), "heads")[-1].to_heads
    assert heads == ("middle", "till3")
    assert branching.steps(heads, "heads") == ()
    assert branching.steps(heads, "merged") == ()
    assert set(branching.applied(heads)) == {revision.id for revision in branching.revisions}


def test_a_row_that_no_revision_explains_is_not_guessed_at(branching: History) -> None:
    with pytest.raises(UnknownHeads, match="holds newer, which this history does not know"):
        branching.steps(("newer", "trunk"), "heads")


class Compared(NoHooks):
    """Holds what was planned against the version table after each step."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.landings = 0

    def _rows(self) -> tuple[str, ...]:
        driver: Any = self.connection.connection.dbapi_connection
        rows = driver.execute("SELECT version_num FROM alembic_version")
        return tuple(sorted(row[0] for row in rows))

    def begun(self, step: Step) -> None:
        assert self._rows() == step.from_heads

    def landed(self, step: Step) -> None:
        assert self._rows() == step.to_heads
        self.landings += 1


TARGETS = ("trunk", "left", "right", "merged", "middle", "till1", "till2", "till3", "heads")


@pytest.mark.parametrize("seed", range(40))
def test_planned_version_rows_are_the_ones_that_alembic_writes(
    scene: Scene, branching: History, seed: int
) -> None:
    """Whatever order of targets led there, and as plain Alembic would have it as well."""
    order = random.Random(seed).sample(TARGETS, len(TARGETS))
    plain = scene.folder / "plain.db"
    with scene.strategy.scratch(scene.strategy.scratch_url) as connection:
        compared = Compared(connection)
        heads: tuple[str, ...] = ()
        for target in order:
            steps = branching.steps(heads, target)
            run(branching, connection, steps, compared, transactional_ddl=True)
            heads = steps[-1].to_heads if steps else heads
            plainly(HISTORIES / "branching", plain, target)
            rows = query(plain, "SELECT version_num FROM alembic_version")
            assert heads == tuple(sorted(row[0] for row in rows)), (order, target)
        assert compared.landings == len(branching.revisions)


@pytest.mark.parametrize("target", TARGETS)
def test_after_a_stamp_nothing_is_to_be_done_up_to_its_revision(
    scene: Scene, branching: History, target: str
) -> None:
    with scene.strategy.scratch(scene.strategy.scratch_url) as connection:
        with connection.begin():
            stamp(branching, connection, target)
        rows = scene.strategy.read(connection, branching.version_table).heads
    assert rows
    assert branching.steps(rows, target) == ()


# Running


def test_column_objects_of_a_module_serve_a_second_database(scene: Scene) -> None:
    """Used again, such a column silently loses its foreign key."""
    scene.use("columns_at_module_level")
    migrator = scene.migrator
    for number in range(3):
        scene.file = scene.folder / f"{number}.db"
        branch = replace(scene.branch, url=f"sqlite:///{number}.db")
        assert migrator.attempt(Task(branch, "head"), Fence()).failure is None
        assert "FOREIGN KEY(shop_id) REFERENCES shops (id)" in str(scene.schema())


@pytest.mark.parametrize(
    "how",
    [
        "op.get_bind().commit()",
        "from sqlalchemy.orm import Session; s = Session(op.get_bind()); s.commit(); "
        "op.get_bind().commit()",
    ],
)
def test_a_revision_that_commits_on_its_bind_keeps_its_version_row(scene: Scene, how: str) -> None:
    scene.revision("r1", f'op.execute("CREATE TABLE a (id)"); {how}; op.execute("SELECT 1")')
    scene.revision("r2", 'op.execute("CREATE TABLE b (id)")')
    done = scene.attempt()
    assert (done.failure, done.applied) == (None, ("r1", "r2"))
    assert scene.versions_now() == {"r2"}
    assert len(done.warnings) == 1
    assert "r1 ended its transaction itself" in done.warnings[0]


@pytest.mark.parametrize(
    "how",
    [
        'op.execute("COMMIT")',
        "op.get_bind().connection.executescript('CREATE TABLE b (id); CREATE TABLE c (id);')",
    ],
)
def test_a_revision_that_leaves_its_transaction_lands_with_a_warning(
    scene: Scene, how: str
) -> None:
    scene.revision("r1", f'op.execute("CREATE TABLE a (id)"); {how}')
    done = scene.attempt()
    assert (done.failure, done.heads) == (None, ("r1",))
    assert "could not have been rolled back" in done.warnings[0]


def test_a_revision_that_commits_and_then_fails_is_not_said_to_be_rolled_back(
    scene: Scene,
) -> None:
    scene.revision("r1", 'op.execute("CREATE TABLE a (id)"); op.execute("COMMIT"); op.bad()')
    failed = scene.attempt()
    assert "failed half way, and what it had committed stays" in str(failed.failure)
    assert "a" in scene.tables()


@pytest.mark.parametrize("how", ['op.execute("ROLLBACK")', "op.get_bind().rollback()"])
def test_a_revision_that_rolls_back_itself_fails_and_stamps_nothing(scene: Scene, how: str) -> None:
    scene.revision("r1", 'op.execute("CREATE TABLE a (id)")')
    scene.revision("r2", f'op.execute("CREATE TABLE b (id)"); {how}')
    failed = scene.attempt()
    assert "r2 rolled its transaction back itself" in str(failed.failure)
    assert (failed.applied, failed.heads) == (("r1",), ("r1",))
    assert scene.versions_now() == {"r1"}
    assert "b" not in scene.tables()


def test_an_autocommit_block_works_and_what_follows_is_a_transaction_again(scene: Scene) -> None:
    scene.revision(
        "r1",
        'op.execute("CREATE TABLE a (id)")\n'
        "    with op.get_context().autocommit_block():\n"
        '        op.execute("CREATE TABLE b (id)")\n'
        '    op.execute("CREATE TABLE c (id)")',
    )
    scene.revision("r2", 'op.execute("CREATE TABLE d (id)"); op.bad()')
    failed = scene.attempt()
    assert "r2 failed and was rolled back" in str(failed.failure)
    assert scene.tables() == {"alembic_version", "a", "b", "c"}
    assert scene.versions_now() == {"r1"}


def test_a_version_row_that_somebody_moved_stops_before_the_first_statement(scene: Scene) -> None:
    scene.revision("r1", 'op.execute("CREATE TABLE a (id)")')
    scene.revision("r2", 'op.execute("CREATE TABLE b (id)")')
    scene.revision("r3", 'op.execute("CREATE TABLE c (id)")')

    class Another(Fence):
        """Somebody who goes on by one revision as soon as the first has landed."""

        asked = 0

        def check_step(self, seconds: float = 0) -> None:
            self.asked += 1
            if self.asked == 2:
                scene.script("UPDATE alembic_version SET version_num = 'r2'")

    lost = scene.attempt(Another())
    assert (lost.failure, lost.skip) == (None, SkipReason.LEASED)
    assert "another migrator moved BR001 to r2" in str(lost.reason)
    assert lost.applied == ("r1",)
    assert scene.tables() == {"alembic_version", "a"}


def test_a_version_row_that_is_lost_stops_too(scene: Scene) -> None:
    scene.revision("r1", 'op.execute("CREATE TABLE a (id)")')
    scene.revision("r2", 'op.execute("CREATE TABLE b (id)")')

    class Wiper(Fence):
        asked = 0

        def check_step(self, seconds: float = 0) -> None:
            self.asked += 1
            if self.asked == 2:
                scene.script("DELETE FROM alembic_version")

    lost = scene.attempt(Wiper())
    assert lost.skip is SkipReason.LEASED
    assert "to base" in str(lost.reason)
    assert "b" not in scene.tables()


@pytest.mark.parametrize(
    "how",
    [
        "op.get_bind().engine.connect()",
        "from sqlalchemy.orm import Session; s = Session(op.get_bind().engine); s.connection()",
    ],
)
def test_a_revision_that_wants_a_connection_of_its_own_is_told_to_use_its_bind(
    scene: Scene, how: str
) -> None:
    scene.revision("r1", f'op.execute("CREATE TABLE a (id)"); {how}')
    failed = scene.attempt().failure
    assert failed is not None
    assert "a second connection to the branch was asked for" in failed.message
    assert "op.get_bind()" in str(failed.hint)
    assert SecondConnection.exit_code == 1
    assert scene.tables() == set()


# Errors


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("op.execute('nonsense')", 'near "nonsense": syntax error'),
        ("raise ValueError('five shops')", "ValueError: five shops"),
        ("raise SystemExit('giving up')", "SystemExit: giving up"),
        ("import json; json.loads('{')", "JSONDecodeError"),
        ("op.drop_column('shops')", "TypeError"),
        ("sa.Table('x', sa.MetaData(), autoload_with=op.get_bind())", "NoSuchTableError"),
    ],
)
def test_what_a_revision_fails_on_is_told_with_file_and_line(
    scene: Scene, body: str, said: str
) -> None:
    scene.revision("r1", body)
    failed = scene.attempt().failure
    assert failed is not None
    assert f"the revision r1 failed and was rolled back: {scene.versions / 'r1.py'}, line 10" in (
        failed.message
    )
    assert said in failed.message
    assert scene.tables() == set()


def test_the_parameters_of_a_statement_are_never_told(scene: Scene) -> None:
    scene.revision(
        "r1",
        'op.execute("CREATE TABLE a (id INTEGER PRIMARY KEY, name TEXT)")\n'
        "    for _ in range(2):\n"
        '        op.get_bind().execute(sa.text("INSERT INTO a VALUES (:i, :n)"), '
        '{"i": 1, "n": "Ada"})',
    )
    failed = scene.attempt().failure
    assert failed is not None
    assert "UNIQUE constraint failed: a.id" in failed.message
    assert "[SQL: INSERT INTO a VALUES (?, ?)]" in failed.message
    assert "Ada" not in repr(failed)


def test_of_a_statement_about_a_password_nothing_is_told_that_may_be_one(scene: Scene) -> None:
    scene.revision("r1", "op.execute(\"ALTER USER a IDENTIFIED BY 'correct-horse' x\")")
    failed = scene.attempt().failure
    assert failed is not None
    assert "[SQL: ALTER USER a IDENTIFIED BY '***' x]" in failed.message


def test_a_password_in_a_long_statement_is_masked_before_the_statement_is_cut(scene: Scene) -> None:
    padding = "x" * 365
    scene.revision("r1", f"op.execute('SELECT {padding} -- x://u:correct-horse@h/d')")
    failed = scene.attempt().failure
    assert failed is not None
    assert padding in failed.message
    assert "correct" not in failed.message


# Showing


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_statements_of_a_plan_can_be_shown_for_each_engine(dialect: str) -> None:
    history = load("linear")
    texts = offline_sql(history, history.steps((), "head"), dialect)
    assert list(texts) == ["a1", "a2", "a3"]
    bare = "".join(texts.values()).translate(str.maketrans("", "", '"`[]'))
    assert "CREATE TABLE shops" in texts["a1"]
    assert "INSERT INTO alembic_version" in texts["a1"]
    assert "UPDATE alembic_version SET version_num='a2'" in texts["a2"]
    assert "CREATE INDEX goods_shop_ix ON goods (shop_id)" in bare


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_percent_sign_is_shown_as_it_is(scene: Scene, dialect: str) -> None:
    scene.revision("r1", "op.execute(sa.text(\"UPDATE t SET a = '5%' WHERE b LIKE '%x'\"))")
    history = scene.history
    (text,) = offline_sql(history, history.steps((), "head"), dialect).values()
    assert "SET a = '5%' WHERE b LIKE '%x'" in text


@pytest.mark.parametrize(
    "body",
    ["op.get_bind().execute(sa.text('SELECT 1')).scalar()", "raise SystemExit(1)"],
)
def test_a_revision_that_asks_its_database_says_that_it_cannot_be_shown(
    scene: Scene, body: str
) -> None:
    scene.revision("r1", body)
    history = scene.history
    (text,) = offline_sql(history, history.steps((), "head"), "sqlite").values()
    assert text.startswith("-- not to be had without the database")
    assert "r1.py, line 10" in text


def test_showing_touches_no_database_and_leaves_the_history_fit_to_run(scene: Scene) -> None:
    scene.use("says_much")
    history = scene.history
    for _, dialect in itertools.product(range(2), DIALECTS):
        assert "autumn" in offline_sql(history, history.steps((), "head"), dialect)["s1"]
    assert not scene.file.exists()
    assert scene.attempt().heads == ("s1",)
