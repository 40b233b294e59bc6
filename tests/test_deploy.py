"""What a server gets: units, the manual page, the installation, the crontab."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from office import Office

from branchmig import errors

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"


def run(*command: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    # The tests themselves may be run by a make, which tells those within it of that.
    kept = {k: v for k, v in os.environ.items() if k not in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")}
    return subprocess.run(
        [str(word) for word in command], cwd=ROOT, env={**kept, **environ}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip


# Units --------------------------------------------------------------------------------------------


def judged(folder: Path) -> subprocess.CompletedProcess[str]:
    """What `make units` says of the units in a folder."""
    done = run("sh", folder / "check-units.sh")
    if "are not checked" in done.stdout:
        pytest.skip("systemd-analyze is not installed or too old: apt install systemd")
    return done


def test_systemd_understands_every_unit_and_finds_none_exposed() -> None:
    done = judged(DEPLOY)
    assert done.returncode == 0, done.stdout
    assert not done.stdout


@pytest.mark.parametrize(
    ("line", "instead"),
    [("KillMode=mixed", "KilMode=mixed"), ("CapabilityBoundingSet=\n", "")],
)
def test_a_unit_with_a_slip_or_a_missing_wall_is_found(
    tmp_path: Path, line: str, instead: str
) -> None:
    folder = tmp_path / "deploy"
    shutil.copytree(DEPLOY, folder)
    unit = folder / "systemd/branchmig@.service"
    text = unit.read_text()
    assert line in text
    unit.write_text(text.replace(line, instead))
    done = judged(folder)
    assert done.returncode == 1, done.stdout
    assert "systemd finds fault with branchmig@.service" in done.stdout


def settings_of(unit: str) -> list[str]:
    """The lines of a unit that say something."""
    lines = (DEPLOY / "systemd" / unit).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("kind", ["service", "timer"])
def test_an_instance_differs_from_the_plain_unit_in_its_name_and_its_settings_alone(
    kind: str,
) -> None:
    plain, instance = settings_of(f"branchmig.{kind}"), settings_of(f"branchmig@.{kind}")
    differing = {a.partition("=")[0] for a, b in zip(plain, instance, strict=True) if a != b}
    assert differing == ({"Description", "Environment"} if kind == "service" else {"Description"})


def test_every_unit_runs_within_the_same_walls() -> None:
    def walls(unit: str) -> list[str]:
        lines = settings_of(unit)
        return lines[lines.index("ProtectSystem=strict") :]

    assert walls("branchmig.service") == walls("branchmig-failed@.service")


# The manual page ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manual() -> ModuleType:
    spec = importlib.util.spec_from_file_location("manual", DEPLOY / "manual.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(manual: ModuleType) -> str:
    """The page as its reader sees its hyphens."""
    return str(manual.page()).replace("\\-", "-")


def program(manual: ModuleType) -> Iterator[tuple[str, Any]]:
    import typer.main

    from branchmig.cli.app import app

    yield from manual.commands(typer.main.get_command(app))


def test_the_manual_tells_of_every_command_and_every_option(manual: ModuleType, page: str) -> None:
    for name, command in program(manual):
        head, _, rest = page.partition(f"\n.SS {name} ")
        head, _, rest = (head, "", rest) if rest else page.partition(f"\n.SS {name}\n")
        assert rest, name
        section = rest.partition("\n.S")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name not in ("json", "debug"):
                for option in parameter.opts:
                    assert re.search(rf"(?m)^\.B .*{option}\b", section), f"{name} {option}"


def test_the_manual_tells_of_every_exit_code(page: str) -> None:
    section = page.partition(".SH EXIT STATUS")[2].partition(".SH")[0]
    told = {
        int(code)
        for line in section.splitlines()
        if line.startswith(".B")
        for code in re.findall(r"\d+", line)
    }
    raised = {
        e.exit_code
        for e in vars(errors).values()
        if isinstance(e, type) and issubclass(e, errors.BranchmigError)
    }
    assert raised <= told
    readme = (
        (ROOT / "README.md").read_text().partition("| exit | meaning |")[2].partition("\n\n")[0]
    )
    assert {
        int(code) for row in re.findall(r"(?m)^\| ([\d, ]+) \|", readme) for code in row.split(",")
    } <= told


def test_every_command_in_the_examples_of_the_manual_exists(manual: ModuleType, page: str) -> None:
    known = {name for name, _ in program(manual)}
    examples = [
        line for block in re.findall(r"(?s)\.EX\n(.*?)\.EE", page) for line in block.splitlines()
    ]
    used = [found for line in examples for found in re.findall(r"(?:^|-- )(branchmig .*)", line)]
    assert used
    for example in used:
        assert any(f"{example} ".startswith(f"{name} ") for name in known), example


def test_roff_finds_nothing_odd_in_the_manual(manual: ModuleType, tmp_path: Path) -> None:
    if not shutil.which("groff"):
        pytest.skip("groff is not installed: apt install groff-base")
    file = tmp_path / "branchmig.1"
    file.write_text(manual.page())
    done = run("groff", "-man", "-Tutf8", "-ww", "-z", file)
    assert (done.returncode, done.stdout) == (0, "")


# Installing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["install", "PREFIX=here"], "PREFIX=here is not absolute"),
        (["install", "DESTDIR=here"], "DESTDIR=here is not absolute"),
        (["install", "PREFIX=/opt/my shop"], "PREFIX and DESTDIR cannot hold spaces"),
        (["install", "PREFIX=/home/me"], "PREFIX=/home/me is below a home"),
        (["install", "PYTHON=/no/python3"], "/no/python3 is not there"),
        (["uninstall"], "there is no branchmig in"),
    ],
)
def test_what_cannot_be_installed_is_said_and_nothing_is_made(
    tmp_path: Path, words: list[str], told: str
) -> None:
    package = tmp_path / "package"
    done = run("make", f"DESTDIR={package}", *words)
    assert done.returncode == 2  # make's own
    assert done.stdout.startswith(told)
    assert not package.exists()
    assert not (ROOT / "here").exists()


def test_an_installation_that_fails_leaves_the_one_before_as_it_was(tmp_path: Path) -> None:
    before = tmp_path / "usr/local/lib/branchmig/kept"
    before.parent.mkdir(parents=True)
    before.touch()
    done = run("make", "install", f"DESTDIR={tmp_path}", PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert done.returncode == 2
    assert "could not be installed, see above; nothing was changed" in done.stdout
    assert {path.name for path in before.parent.parent.iterdir()} == {"branchmig", "systemd"}
    assert before.exists()


# The crontab --------------------------------------------------------------------------------------


def test_the_line_of_the_crontab_runs_a_tick_and_leaves_out_one_that_would_overlap(
    office: Office, tmp_path: Path
) -> None:
    lines = (DEPLOY / "crontab.example").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("*/5")]
    *_, user, command = line.split(None, 6)
    assert user == "branchmig"
    assert "%" not in command, "to cron that is the end of the line"
    wrapper = tmp_path / "program"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m branchmig "$@"\n')
    wrapper.chmod(0o755)
    command = command.replace("/usr/local/bin/branchmig", str(wrapper))
    command = command.replace("/var/lib/branchmig", str(tmp_path)).replace(
        "logger -t branchmig", "cat"
    )

    def tick(before: str = "") -> str:
        return subprocess.run(
            ["sh", "-c", f"{before} {command}"], env=office.environment(), cwd=tmp_path,
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    assert "apply-all finished" in tick()
    assert tick("exec 9>tick.lock; flock 9;") == ""
