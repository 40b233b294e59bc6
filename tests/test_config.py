"""Settings: one file, the environment over it, and a sentence for whatever is wrong with either."""

from __future__ import annotations

import os
import pickle
import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from branchmig import headoffice
from branchmig.config import (
    RETAIL_TABLES,
    FreezeSettings,
    RolloutSettings,
    Settings,
    WindowSettings,
    find,
    load,
    packaged,
)
from branchmig.errors import ConfigError
from branchmig.masking import mask

TEMPLATE = Path(headoffice.__file__).with_name("settings.toml").read_text(encoding="utf-8")
SECTIONS: dict[str, type[BaseModel]] = {
    name: type(getattr(Settings.model_construct(file=Path(), rollout=RolloutSettings()), name))
    for name in Settings.model_fields
    if name != "file"
}
KEYS = [(section, key) for section, model in SECTIONS.items() for key in model.model_fields]
OVERRIDES: dict[str, tuple[str, Any]] = {
    "url": ("postgresql://h/d", "postgresql://h/d"),
    "script_location": ("package:folder", "package:folder"),
    "version_locations": ("a, b,", ("a", "b")),
    "preload": ("a", ("a",)),
    "prepend_sys_path": (".,lib", (".", "lib")),
    "x_args": ("tenant=1,mode=x", ("tenant=1", "mode=x")),
    "attributes": ('{"a": [1]}', {"a": [1]}),
    "environ": ('{"A": "b"}', {"A": "b"}),
    "probe": ("false", False),
    "required_tables": ("Users,Sales", ("Users", "Sales")),
    "workers": ("7", 7),
    "per_server": ("7", 7),
    "survey_per_server": ("7", 7),
    "create_databases": ("no", False),
    "connect_timeout": ("0.5", 0.5),
    "lock_timeout": ("0.5", 0.5),
    "lock_tries": ("5", 5),
    "statement_timeout": ("0.5", 0.5),
    "lease_seconds": ("7", 7),
    "max_attempts": ("7", 7),
    "backoff_seconds": ("7", 7),
    "unreachable": ("wait", "wait"),
    "canary": ("7", 7),
    "waves": ("50%,25", (25, 50)),
    "max_failures": ("7", 7),
    "soak_seconds": ("7", 7),
    "urls": ("json://a, json://b", ("json://a", "json://b")),
    "on": ("failure,digest", ("failure", "digest")),
    "digest": ("5 4 * * 1", "5 4 * * 1"),
    "tz": ("Europe/Berlin", "Europe/Berlin"),
    "labels": ('{"office": "north"}', {"office": "north"}),
    "textfile": ("/srv/x.prom", "/srv/x.prom"),
    "max_minutes": ("7", 7),
    **dict.fromkeys(
        ("before_run", "after_run", "before_branch", "after_branch", "on_failure", "on_halt"),
        ("/usr/bin/true,a b", ("/usr/bin/true", "a b")),
    ),
    "timeout": ("7", 7),
    "windows": (
        '[{"tag": "north", "cron": "0 2 * * *", "hours": 3}]',
        (WindowSettings(tag="north", cron="0 2 * * *", hours=3),),
    ),
    "freezes": (
        '[{"from": "2026-12-20", "until": "2026-12-31T12:00:00Z"}]',
        (
            FreezeSettings.model_validate(
                {"from": date(2026, 12, 20), "until": datetime(2026, 12, 31, 12, tzinfo=UTC)}
            ),
        ),
    ),
}
"""What the environment may say, and what it then is; any other key is a text as it stands."""


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of ours from outside."""
    for name in os.environ:
        if name.upper().startswith("BRANCHMIG_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A settings file that says nothing."""
    written = tmp_path / "branchmig.toml"
    written.touch(0o640)
    return written


def settings(file: Path, text: str = "") -> Settings:
    file.write_text(text)
    return load(file)[0]


def refused(file: Path, text: str | bytes = "") -> ConfigError:
    """What is said of a settings file that cannot be used. It always comes with a hint."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert caught.value.hint
    assert caught.value.exit_code == 78
    return caught.value


def everything(of: Settings) -> dict[str, Any]:
    return of.model_dump()


# The template -------------------------------------------------------------------------------------


def test_the_template_says_what_holds_without_it(file: Path) -> None:
    assert everything(settings(file, TEMPLATE)) == everything(settings(file, ""))


def commented() -> Iterator[tuple[str, str, str]]:
    """Section, key and value of what the template shows as a comment."""
    section = ""
    for line in TEMPLATE.splitlines():
        if header := re.match(r"(?:# )?\[(\w+)\.?(\w*)\]", line):
            section = header[1]
            if header[2]:
                yield section, header[2], "{}"
        elif key := re.match(r"# (\w+) = (.+?)(?:\s+#.*)?$", line):
            yield section, key[1], key[2]


def test_the_template_names_every_key() -> None:
    plain = {(name, key) for name, keys in tomllib.loads(TEMPLATE).items() for key in keys}
    named = plain | {(section, key) for section, key, _ in commented()}
    assert named == set(KEYS)


@pytest.mark.parametrize(("section", "key", "value"), list(commented()))
def test_what_the_template_shows_as_a_comment_can_be_written(
    file: Path, section: str, key: str, value: str
) -> None:
    given = settings(file, f"[{section}]\n{key} = {value}\n")
    assert getattr(getattr(given, section), key) is not None


# The environment ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("section", "key"), KEYS, ids=str)
@pytest.mark.parametrize("spelling", [str.upper, str.lower])
def test_every_key_is_overridden_by_the_environment(
    file: Path, monkeypatch: pytest.MonkeyPatch, section: str, key: str, spelling: Any
) -> None:
    said, meant = OVERRIDES.get(key, ("words", "words"))
    monkeypatch.setenv(spelling(f"branchmig_{section}_{key}"), said)
    given = settings(file, TEMPLATE)
    assert getattr(getattr(given, section), key) == meant


def test_what_the_environment_does_not_name_stays_as_the_file_has_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRANCHMIG_RUN_WORKERS", "7")
    given = settings(file, "[run]\nworkers = 2\nper_server = 3\n")
    assert (given.run.workers, given.run.per_server) == (7, 3)


@pytest.mark.parametrize("empty", ["", "[]", " , "])
def test_an_empty_list_in_the_environment_is_a_list(
    file: Path, monkeypatch: pytest.MonkeyPatch, empty: str
) -> None:
    monkeypatch.setenv("BRANCHMIG_VALIDATION_REQUIRED_TABLES", empty)
    assert settings(file).required_tables == ()


@pytest.mark.parametrize(
    "name", ["BRANCHMIG_FILE", "BRANCHMIG_CONFIG", "BRANCHMIG_PASSWORD", "BRANCHMIG_FOO_BAR"]
)
def test_variables_outside_the_sections_are_ignored(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "/somewhere/else.toml")
    assert settings(file).folder == file.parent


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "BRANCHMIG_RUN_WORKERS",
            "0",
            "BRANCHMIG_RUN_WORKERS: it should be greater than or equal to 1, not '0'",
        ),
        ("branchmig_run_worker", "3", "branchmig_run_worker: [run] has no key 'worker'"),
        (
            "BRANCHMIG_VALIDATION_REQUIRED_TABLES",
            "[1",
            "BRANCHMIG_VALIDATION_REQUIRED_TABLES: it should be a list, not '[1'",
        ),
        (
            "BRANCHMIG_MIGRATIONS_ATTRIBUTES",
            "a=b",
            "BRANCHMIG_MIGRATIONS_ATTRIBUTES: it should be a table, not ['a=b']",
        ),
        ("BRANCHMIG_RUN", "5", "BRANCHMIG_RUN is a section, not a key"),
        ("BRANCHMIG_RUN", "{", "BRANCHMIG_RUN is a section, not a key"),
    ],
)
def test_what_is_wrong_in_the_environment_names_the_variable(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    assert refused(file).message == message


def test_a_secret_in_a_variable_that_is_written_as_json_is_not_shown(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRANCHMIG_RUN_WORKERS", r'"postgresql://till:Sl\\KC?g6\"dz&y@127.0.0.1/h"')
    assert "KC?g6" not in refused(file).message


# Wrong files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[run]\nworker = 3", "[run] has no key 'worker'", "did you mean 'workers'?"),
        ("[migrations]\nscript = ''", "has no key 'script'", "did you mean 'script_location'?"),
        (
            "[retry]\nzzz = 3",
            "[retry] has no key 'zzz'",
            "known are: max_attempts, backoff_seconds, unreachable",
        ),
        ("[runs]\nworkers = 3", "unknown section [runs]", "did you mean 'run'?"),
        (
            "[zzz]",
            "unknown section [zzz]",
            "known are: headoffice, migrations, validation, run, retry",
        ),
        ("file = 'x'", "unknown section [file]", "known are"),
        ("run = 3", "run is a section, not a key", "write [run] above its keys"),
        (
            "[run]\nworkers = 0",
            "[run] workers: it should be greater than or equal to 1, not 0",
            "the default is to leave it out",
        ),
        (
            "[run]\nworkers = 'x'",
            "[run] workers: it should be a valid integer",
            "default is to leave it out",
        ),
        ("[run]\nlock_timeout = -1", "it should be greater than or equal to 0", "default is 5"),
        ("[run]\nconnect_timeout = 0", "it should be greater than 0, not 0", "default is 10"),
        ("[run]\nlease_seconds = inf", "it should be a finite number", "default is 600"),
        ("[run]\nlock_timeout = nan", "it should be a finite number", "default is 5"),
        ("[migrations]\npreload = 'x'", "preload: it should be a list, not 'x'", "default is []"),
        ("[migrations]\nini = 3", "ini: it should be a valid string", "default is to leave it out"),
        ("[migrations.environ]\nA = 3", "environ: it should be a valid string", "default is {}"),
        ("[retry]\nunreachable = 'x'", "it should be 'count' or 'wait', not 'x'", '"count"'),
        (
            "[schedule]\nwindows = [{cron = '0 2 * * *', hours = 1}, {cron = 'x', hours = 1}]",
            "[schedule] windows, entry 2: cron should be a cron expression (Wrong number of "
            "fields), not 'x'",
            "see the settings",
        ),
        (
            "[schedule]\nwindows = [{cron = '*/15 2 * * *', hours = 1}]",
            "entry 1: cron should name the minute at which the window opens, such as 0 2 * * *",
            "see the settings",
        ),
        (
            "[schedule]\nwindows = [{cron = '0 0 31 2 *', hours = 1}]",
            "windows, entry 1: cron should be a cron expression (Bad day-of-month)",
            "see the settings",
        ),
        (
            "[schedule]\nwindows = [{cron = '0 2 * * *', hours = 1, tz = 'Mars/Olympus'}]",
            "entry 1: tz should be a time zone such as Europe/Berlin, not 'Mars/Olympus'",
            "see the settings",
        ),
        (
            "[schedule]\nwindows = [{cron = '0 2 * * *', hours = 1, tz = '../../etc/passwd'}]",
            "tz should be a time zone",
            "see the settings",
        ),
        (
            "[schedule]\nwindows = [{cron = '0 2 * * *', hours = 169}]",
            "hours should be less than or equal to 168, not 169",
            "see the settings",
        ),
        (
            "[schedule]\nwindows = [{cron = '0 2 * * *'}]",
            "[schedule] windows, entry 1 lacks the key 'hours'",
            "see the settings",
        ),
        (
            "[schedule]\nwindows = [{cron = '0 2 * * *', hours = 1, zone = 'UTC'}]",
            "[schedule] windows, entry 1 may not have the key 'zone'",
            "see the settings",
        ),
        (
            "[schedule]\nwindows = [{cron = '0 2 * * *', hours = 1, tag = 'a', branch = 'b'}]",
            "entry 1: it should have a tag or a branch, not both",
            "see the settings",
        ),
        (
            "[schedule]\nfreezes = [{from = 2026-12-20, until = 2026-12-19}]",
            "[schedule] freezes, entry 1: it should end after it begins",
            "",
        ),
        (
            "[schedule]\nfreezes = [{from = 2026-12-20, until = 9999-12-31}]",
            "[schedule] freezes, entry 1: it should be before the year 9001",
            "see the settings",
        ),
        (
            '[hooks]\nafter_run = "a \'b"',
            "[hooks] after_run: it should be a command (No closing quotation)",
            "default is []",
        ),
        ("[schedule]\nwindows = 3", "windows: it should be a list, not 3", "default is []"),
    ],
)
def test_what_is_wrong_in_the_file_names_the_file_the_place_and_what_would_be_right(
    file: Path, text: str, message: str, hint: str
) -> None:
    error = refused(file, text)
    assert error.message.startswith(f"{file}: ")
    assert message in error.message
    assert hint in (error.hint or "")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[run\n", "line 1, column 5"),
        ("[run]\nworkers = 3\nworkers = 4\n", "line 3, column 12"),
        ("[run]\nworkers =", "line 2, column 10"),
        ("[run]\nworkers = [1,\n", "line 3, column 1"),
    ],
)
def test_malformed_toml_names_the_file_the_line_and_the_column(
    file: Path, text: str, place: str
) -> None:
    message = refused(file, text).message
    assert message.startswith(f"{file} is not valid TOML: ")
    assert place in message


def test_a_file_in_another_encoding_is_told_as_that(file: Path) -> None:
    assert refused(file, "# Köln".encode("latin-1")).message == (
        f"{file} is not UTF-8 text: invalid start byte at byte 3"
    )


def test_a_wrong_value_is_shown_without_the_password_in_it(file: Path) -> None:
    message = refused(file, "[run]\nworkers = 'postgresql://u:hunter2@h/d'").message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    "text",
    [
        "[run]\nworkers = 'postgresql://u:correct horse\"@h/d'",
        '[headoffice]\n"postgresql://u:correct horse@h/d" = 1',
        '["postgresql://u:correct horse@h/d"]\n',
        "[headoffice]\nurl = ['correct horse']",
        "[notify]\nurls = [['correct horse']]",
        "[migrations]\nenviron = 'correct horse'",
        "[hooks]\nbefore_run = {token = 'correct horse'}",
    ],
)
def test_what_may_be_a_secret_is_not_quoted_from_wrong_settings(file: Path, text: str) -> None:
    assert "horse" not in refused(file, text).message


@pytest.mark.parametrize(
    "text",
    [
        "[headoffice]\nurl = 'postgresql://u:correct-horse@h/d'",
        "[migrations.environ]\nDATABASE = 'postgresql://u:correct-horse@h/d'",
        "[migrations]\nx_args = ['password=correct-horse']",
        "[notify]\nurls = ['json://h/correct-horse']",
    ],
)
def test_a_file_with_a_secret_that_everybody_can_read_is_refused(file: Path, text: str) -> None:
    settings(file, text)
    file.chmod(0o644)
    error = refused(file, text)
    assert "everybody on this host can read it" in error.message
    assert "chmod o-r" in (error.hint or "")
    assert "correct-horse" not in error.message


def test_references_to_secrets_may_stand_where_everybody_reads(file: Path) -> None:
    file.chmod(0o644)
    settings(
        file,
        "[headoffice]\nurl = 'postgresql://u:${env:BRANCHMIG_SECRET_X}@h/d'\n"
        "[notify]\nurls = ['${credential:pager}']",
    )


def test_the_password_of_headoffice_is_masked_from_then_on(file: Path) -> None:
    settings(file, "[headoffice]\nurl = 'postgresql://u:correct-horse@h/d'")
    assert mask("login failed: correct-horse") == "login failed: ***"


# Paths --------------------------------------------------------------------------------------------


def test_relative_paths_count_from_the_folder_of_the_file(file: Path) -> None:
    given = settings(file, "[migrations]\nscript_location = 'a/history'")
    assert given.script_location == str(file.parent / "a/history")
    assert given.resolve("/srv/x") == "/srv/x"


def test_a_folder_within_a_package_is_left_to_python(file: Path) -> None:
    given = settings(file, "[migrations]\nscript_location = 'package:folder'")
    assert given.script_location == "package:folder"


def test_the_history_of_the_shops_is_the_one_that_was_installed(file: Path) -> None:
    given = settings(file)
    assert given.script_location == str(packaged("alembic_branch"))
    assert given.required_tables == RETAIL_TABLES


def test_a_folder_of_that_name_beside_the_settings_goes_first(file: Path) -> None:
    (file.parent / "alembic_branch").mkdir()
    given = settings(file)
    assert given.script_location == str(file.parent / "alembic_branch")
    assert given.required_tables == RETAIL_TABLES


def test_another_history_requires_no_tables_until_some_are_named(file: Path) -> None:
    assert settings(file, "[migrations]\nscript_location = 'mine'").required_tables == ()
    named = "[migrations]\nscript_location = 'mine'\n[validation]\nrequired_tables = ['A']"
    assert settings(file, named).required_tables == ("A",)


def test_a_command_is_a_list_or_what_a_shell_would_split(file: Path) -> None:
    given = settings(file, "[hooks]\nafter_run = ['a', 'b c']\nbefore_run = \"a 'b c'\"")
    assert given.hooks.after_run == given.hooks.before_run == ("a", "b c")


def test_settings_cross_to_worker_processes_whole(file: Path) -> None:
    given = settings(file, "[run]\nworkers = 7\n[migrations.attributes]\na = 1")
    crossed = pickle.loads(pickle.dumps(given))
    assert (crossed, crossed.file) == (given, file)


# Finding the file ---------------------------------------------------------------------------------


def test_a_file_that_is_named_on_the_command_line_goes_before_the_environment(file: Path) -> None:
    assert find(file, {"BRANCHMIG_CONFIG": "/none.toml"}) == file
    assert find(None, {"BRANCHMIG_CONFIG": str(file)}) == file


def test_a_file_that_is_named_is_found_from_wherever_it_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    assert find(Path(file.name), {}) == file


@pytest.mark.parametrize("name", ["none.toml", "file/below.toml", "."])
def test_a_file_that_is_named_and_is_not_there_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="there is no settings file") as caught:
        find(tmp_path / name, {})
    assert "--config" in (caught.value.hint or "")


def test_a_path_that_cannot_even_be_looked_at_is_told_as_that(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        find(tmp_path / ("x" * 300), {})


def test_root_takes_no_file_from_the_current_folder_and_everybody_else_does(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("branchmig.config.file.SYSTEM_FILE", tmp_path / "none.toml")
    assert find(None, {}) == (None if os.geteuid() == 0 else file)


def test_the_file_of_the_system_comes_last(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setattr("branchmig.config.file.SYSTEM_FILE", file)
    assert find(None, {}) == file
    assert find(None, {"BRANCHMIG_CONFIG": ""}) == file


# Whom to tell -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[notify]\ndigest = "every day"', "cron expression"),
        ('[notify]\ndigest = "0 0 30 2 *"', "cron expression"),
        ('[notify]\ntz = "Middle/Earth"', "time zone"),
        ('[notify]\ntz = "../../etc/passwd"', "time zone"),
        ('[notify]\non = ["everything"]', "'failure', 'manual', 'halt'"),
        ('[metrics]\ntextfile = "x.txt"', "end in .prom"),
        ('[metrics]\nlabels = {"a-b" = "c"}', "Prometheus"),
        ('[metrics]\nlabels = {status = "c"}', "is free"),
    ],
)
def test_what_cannot_be_told_or_measured_is_refused(file: Path, text: str, said: str) -> None:
    assert said in refused(file, text).message


def test_an_address_is_a_secret_even_where_it_is_refused_or_shown(file: Path) -> None:
    error = refused(file, '[notify]\nurls = "slack://T0kenA/T0kenB/T0kenC"')
    assert "T0ken" not in error.message + (error.hint or "")
    found = settings(file, '[notify]\nurls = ["slack://T0kenAbcd/x", "mailto://a:p4ssword@h"]')
    assert "T0ken" not in repr(found)
    assert "p4ssword" not in repr(found)
    assert mask("sent to T0kenAbcd by p4ssword") == "sent to *** by ***"
