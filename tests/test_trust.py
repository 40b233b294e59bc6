"""Who else may change what this program is about to run, whoever runs these tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from branchmig import trust
from branchmig.errors import ConfigError

STRANGER = 4711
"""Neither root nor whoever runs the tests."""
ME = os.geteuid() or STRANGER
"""Somebody who is not root and may own files here."""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A file that belongs to root or to who runs the tests, and that they alone can write."""
    file = tmp_path / "a script.py"
    file.touch()
    file.chmod(0o644)
    return file


def users(path: Path) -> tuple[int, ...]:
    """Root, and the user whose file this is."""
    return (0, ME) if path.stat().st_uid == 0 else (ME,)


def test_what_only_its_user_can_write_is_trusted(script: Path) -> None:
    for user in users(script):
        assert trust.open_to_others(script, user) is None


@pytest.mark.parametrize("user", [0, ME])
def test_what_everybody_can_write_is_trusted_by_nobody(script: Path, user: int) -> None:
    script.chmod(0o646)
    assert trust.open_to_others(script, user) == "everybody can write it"


def test_what_a_group_can_write_is_not_trusted_by_root(script: Path) -> None:
    group = os.getegid() or STRANGER
    os.chown(script, -1, group)
    script.chmod(0o664)
    assert trust.open_to_others(script, 0) == f"the group {group} can write it"


def test_what_a_group_can_write_is_trusted_by_its_owner(script: Path) -> None:
    """Users have a group of their own on most systems, and umask 002 with it."""
    os.chown(script, ME, os.getegid() or STRANGER)
    script.chmod(0o664)
    assert trust.open_to_others(script, ME) is None


@pytest.mark.parametrize("user", [0, ME + 1])
def test_what_belongs_to_another_is_not_trusted(script: Path, user: int) -> None:
    os.chown(script, ME, -1)
    assert trust.open_to_others(script, user) == f"it belongs to the user {ME}"


def test_a_folder_that_everybody_can_write_is_not_trusted(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert trust.open_to_others(tmp_path, ME) == "everybody can write it"


def test_a_sticky_folder_is_trusted_because_nobody_can_replace_what_is_in_it(
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o1777)
    assert trust.open_to_others(tmp_path, users(tmp_path)[0]) is None


def test_a_link_is_as_trusted_as_what_it_leads_to(script: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.py"
    link.symlink_to(script)
    assert trust.open_to_others(link, users(script)[0]) is None
    script.chmod(0o666)
    assert trust.open_to_others(link, users(script)[0]) == "everybody can write it"


def test_what_is_not_there_is_for_others_to_complain_of(tmp_path: Path) -> None:
    assert trust.open_to_others(tmp_path / "none", 0) is None


def test_root_is_refused_with_the_commands_that_mend_it(script: Path) -> None:
    script.chmod(0o666)
    with pytest.raises(ConfigError) as caught:
        list(trust.check([script], 0))
    assert caught.value.message == (
        f"{script} is code that would run as root, and everybody can write it"
    )
    assert f"chown root:root '{script}'; chmod go-w '{script}'" in (caught.value.hint or "")


def test_everybody_else_is_warned_of_each_of_them(script: Path, tmp_path: Path) -> None:
    os.chown(script, ME, -1)
    os.chown(tmp_path, ME, -1)
    script.chmod(0o666)
    tmp_path.chmod(0o777)
    assert list(trust.check([tmp_path, script], ME)) == [
        f"{tmp_path} holds code that runs here, and everybody can write it",
        f"{script} is code that runs here, and everybody can write it",
    ]


def test_whoever_runs_this_is_the_user_unless_another_is_named(script: Path) -> None:
    assert list(trust.check([script])) == []


def test_a_history_is_its_folders_and_python_files_without_caches(tmp_path: Path) -> None:
    wanted = ["env.py", "versions", "versions/a.py", "versions/deep", "versions/deep/b.py"]
    for name in (*wanted, "script.py.mako", "README", "versions/__pycache__/a.cpython.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch() if path.suffix or name == "README" else path.mkdir()
    found = {path.relative_to(tmp_path).as_posix() for path in trust.scripts(tmp_path)}
    assert found == {".", *wanted}


def test_a_history_that_is_not_there_has_no_scripts(tmp_path: Path) -> None:
    assert list(trust.scripts(tmp_path / "none")) == []
