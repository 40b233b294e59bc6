"""The timer and its service, as the systemd of this host tells of them."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ..config import SYSTEM_FILE
from ..model import Diagnosis, Severity

_ASKED = ("LoadState", "ActiveState", "UnitFileState", "Result", "User", "ProtectSystem",
          "ReadWritePaths", "BindPaths", "ProtectHome", "StateDirectory",
          "Environment")  # fmt: skip

_NAMED = 5
"""Folders that one diagnosis names."""

_PATIENCE = 10
"""Seconds that systemctl may take."""


_HOMES = ("/home", "/root", "/run/user")
"""What ProtectHome= hides; ReadWritePaths= does not show it again, BindPaths= does."""


def check(settings: Path, folders: tuple[Path, ...]) -> Iterator[Diagnosis]:
    """Whether ticks with these settings will come, and may write where branches are. Raises
    OSError."""
    if not Path("/run/systemd/system").is_dir() or not shutil.which("systemctl"):
        yield Diagnosis(
            "units", "systemd", Severity.NOTE, "this host has no systemd",
            "a crontab can call `branchmig apply-all --init` as well",
        )  # fmt: skip
        return
    name = unit(settings)
    timer = _shown(f"{name}.timer")
    if timer.get("LoadState") != "loaded":
        yield Diagnosis(
            "units", f"{name}.timer", Severity.NOTE, "no timer is installed on this host",
            f"`make install`, then `systemctl enable --now {name}.timer`",
        )  # fmt: skip
        return
    service = _shown(f"{name}.service")
    other = _settings(service)
    if other is not None and os.path.realpath(other) != os.path.realpath(settings):
        yield Diagnosis(
            "units", f"{name}.timer", Severity.NOTE,
            f"no unit ticks with these settings; this one does with {other}",
            f"`branchmig --config {other} doctor` looks at what it needs",
        )  # fmt: skip
        return
    yield _timer(f"{name}.timer", timer)
    yield from _service(f"{name}.service", service, folders)


def unit(settings: Path) -> str:
    """The unit that ticks with these settings: an instance of the template for those of a name."""
    own = settings.parent == SYSTEM_FILE.parent and settings.name != SYSTEM_FILE.name
    return f"branchmig@{settings.stem}" if own else "branchmig"


def _timer(name: str, timer: dict[str, str]) -> Diagnosis:
    hint = f"`systemctl enable --now {name}`"
    if timer.get("ActiveState") != "active":
        state = timer.get("ActiveState")
        return Diagnosis("units", name, Severity.WARNING, f"the timer is {state}", hint)
    if timer.get("UnitFileState") == "disabled":
        return Diagnosis(
            "units", name, Severity.WARNING,
            "the timer is running, but is not enabled: it ends with the next boot", hint,
        )  # fmt: skip
    return Diagnosis("units", name, Severity.OK, "the timer is running")


def _settings(service: dict[str, str]) -> str | None:
    """The settings file of a service, where its unit names one."""
    words = shlex.split(service.get("Environment", ""))
    named = [word.partition("=")[2] for word in words if word.startswith("BRANCHMIG_CONFIG=")]
    return named[-1] if named else None


def _service(name: str, service: dict[str, str], folders: tuple[Path, ...]) -> Iterator[Diagnosis]:
    if service.get("Result", "success") != "success":
        yield Diagnosis(
            "units", name, Severity.WARNING, f"its last run ended with {service['Result']}",
            f"`journalctl -u {name} -n 50` says why",
        )  # fmt: skip
    user, own = service.get("User") or "root", _account()
    if user != own:
        yield Diagnosis(
            "units", name, Severity.NOTE, f"it runs as {user}, and the doctor as {own}",
            f"`runuser -u {user} -- branchmig doctor` sees what it may",
        )  # fmt: skip
    if walled := _walled(service, folders):
        named, rest = walled[:_NAMED], len(walled) - _NAMED
        more = f" and {rest} more" if rest > 0 else ""
        places = " ".join(f"-{folder}" for folder in named)
        at_home = any(folder.is_relative_to(home) for folder in named for home in _HOMES)
        key = "BindPaths" if at_home else "ReadWritePaths"
        yield Diagnosis(
            "units", name, Severity.ERROR,
            f"the service may not write {', '.join(map(str, named))}{more}",
            f"`systemctl edit {name}`: [Service] {key}={places}",
        )  # fmt: skip


def _account() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _walled(service: dict[str, str], folders: tuple[Path, ...]) -> list[Path]:
    """Folders that the service may not write and has to."""
    if service.get("ProtectSystem") != "strict":
        return []
    own = [Path("/var/lib") / name for name in service.get("StateDirectory", "").split()]
    bound = _paths(service.get("BindPaths", ""))
    open_ = [*own, *_paths(service.get("ReadWritePaths", "")), *bound]
    hidden = service.get("ProtectHome") in ("yes", "tmpfs")
    walled = []
    for folder in folders:
        real = Path(os.path.realpath(folder))
        at_home = hidden and any(real.is_relative_to(home) for home in _HOMES)
        if not any(real.is_relative_to(place) for place in (bound if at_home else open_)):
            walled.append(folder)
    return walled


def _paths(words: str) -> list[Path]:
    """Of `-/there:/here:rbind` the place within the unit."""
    found = []
    for word in words.split():
        parts = word.lstrip("-+").split(":")
        found.append(Path(parts[1] if len(parts) > 1 and parts[1].startswith("/") else parts[0]))
    return found


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
