"""How the house is built: the rules that no single module can break unseen."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlserver import LEFT_OUT

ROOT = Path(__file__).resolve().parent.parent
HISTORIES = ("alembic_branch", "alembic_headoffice")

SKIPPING = """
import pytest

def test_that_runs():
    pass

@pytest.mark.skip(reason={reason!r})
def test_that_does_not():
    pass
"""


def run(*command: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout with this interpreter's programs found first."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, "PATH": programs, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def succeeds(*command: str | Path) -> None:
    done = run(*command)
    assert done.returncode == 0, done.stdout


def test_imports_go_downward_only() -> None:
    succeeds("lint-imports", "--no-logo")


def test_ruff_has_nothing_to_say() -> None:
    succeeds(sys.executable, "-m", "ruff", "check", ".")


def test_every_file_is_formatted() -> None:
    succeeds(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_types_hold_under_strict_mypy() -> None:
    succeeds(sys.executable, "-m", "mypy", "--strict")


def test_the_wheel_holds_the_program_and_both_histories(tmp_path: Path) -> None:
    succeeds(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"),
        *("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", tmp_path, "."),
    )
    [wheel] = tmp_path.glob("branchmig-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == set(sources())


def sources() -> Iterator[str]:
    """Every file of the packages, the templates of new revisions included."""
    for package in ("branchmig", *HISTORIES):
        for file in (ROOT / package).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                yield file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("history", HISTORIES)
def test_a_history_brings_the_template_of_its_revisions(history: str) -> None:
    assert (ROOT / history / "script.py.mako").is_file()


@pytest.mark.parametrize(
    ("reason", "ci", "status"),
    [("no server here", "true", 1), ("no server here", "", 0), (LEFT_OUT, "true", 0)],
)
def test_a_skip_fails_the_session_in_ci_alone_but_for_the_one_server_that_none_can_install(
    tmp_path: Path, reason: str, ci: str, status: int
) -> None:
    test = tmp_path / "test_skipping.py"
    test.write_text(SKIPPING.format(reason=reason))
    done = run(
        *(sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"),
        *("-c", os.devnull, "--rootdir", tmp_path, test),
        CI=ci,
        PYTHONPATH=str(Path(__file__).parent),
    )
    assert done.returncode == status, done.stdout
    assert ("CI=true allows no skips, and there were 1" in done.stdout) is (status == 1)
