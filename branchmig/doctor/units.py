"""The timer and its service, as the systemd of this host tells of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ..model import Diagnosis, Severity

_SERVICE, _TIMER = "branchmig.service", "branchmig.timer"

_ASKED = ("LoadState", "ActiveState", "UnitFileState", "Result", "ProtectSystem",
          "ReadWritePaths", "StateDirectory")  # fmt: skip

_PATIENCE = 10
"""Seconds that systemctl may take."""


def check(folders: tuple[Path, ...]) -> Iterator[Diagnosis]:
    """Whether ticks will come, and may write where branches are. Raises OSError."""
    if not Path("/run/systemd/system").is_dir() or not shutil.which("systemctl"):
        yield Diagnosis(
            "units", "systemd", Severity.NOTE, "this host has no systemd",
            "a crontab can call `branchmig apply-all --init` as well",
        )  # fmt: skip
        return
    service, timer = _shown(_SERVICE), _shown(_TIMER)
    if timer.get("LoadState") != "loaded":
        yield Diagnosis(
            "units", _TIMER, Severity.NOTE, "no timer is installed on this host",
            "`make install`, then `systemctl enable --now branchmig.timer`",
        )  # fmt: skip
        return
    yield _timer(timer)
    if service.get("Result", "success") != "success":
        yield Diagnosis(
            "units", _SERVICE, Severity.WARNING,
            f"its last run ended with {service['Result']}",
            f"`journalctl -u {_SERVICE} -n 50` says why",
        )  # fmt: skip
    yield from _walls(service, folders)


def _timer(timer: dict[str, str]) -> Diagnosis:
    if timer.get("ActiveState") == "active":
        return Diagnosis("units", _TIMER, Severity.OK, "the timer is running")
    return Diagnosis(
        "units", _TIMER, Severity.WARNING, f"the timer is {timer.get('ActiveState')}",
        f"`systemctl enable --now {_TIMER}`",
    )  # fmt: skip


def _walls(service: dict[str, str], folders: tuple[Path, ...]) -> Iterator[Diagnosis]:
    """Folders that the service may not write and has to."""
    if service.get("ProtectSystem") != "strict":
        return
    own = [Path("/var/lib") / name for name in service.get("StateDirectory", "").split()]
    open_ = [Path(word.lstrip("-+")) for word in service.get("ReadWritePaths", "").split()]
    for folder in folders:
        real = Path(os.path.realpath(folder))
        if not any(real.is_relative_to(place) for place in (*own, *open_)):
            yield Diagnosis(
                "units", _SERVICE, Severity.ERROR, f"the service may not write {folder}",
                f"`systemctl edit {_SERVICE}`: [Service] ReadWritePaths=-{folder}",
            )  # fmt: skip


def _shown(unit: str) -> dict[str, str]:
    done = subprocess.run(
        ["systemctl", "show", unit, *(f"--property={name}" for name in _ASKED)],
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    lines = (line.partition("=") for line in done.stdout.splitlines())
    return {name: value for name, _, value in lines}
