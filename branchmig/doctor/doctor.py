"""All checks, one after another; what one finds wrong keeps no other from looking."""

from __future__ import annotations

import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from .. import trust
from ..config import Settings
from ..errors import BranchmigError, BranchUnreachable
from ..headoffice import address, headoffice_strategy
from ..manager import BranchMigrationManager
from ..model import Diagnosis, Provider, Record, Severity
from ..transitions import is_locked
from . import outlets, units

_DRIFT = 2.0
"""Seconds by which clocks may differ: leases are counted in minutes, windows in hours."""

_LITTLE = 100 * 2**20
"""Bytes that should be free where SQLite databases are: a rebuilt table needs its size again."""

_SILENCES = 3
"""Branches in a row that could not be reached, after which their server is given up."""

_TO_WRITE = ("SELECT", "INSERT", "UPDATE", "DELETE", "USAGE", "write permission")
"""What rights begin with that a tick needs in HeadOffice; the others are those of `init`."""

_NAMED = 5
"""Branches that one diagnosis names."""


def diagnose(
    manager: BranchMigrationManager, records: tuple[Record, ...], looked_at: tuple[Record, ...]
) -> Iterator[Diagnosis]:
    """Every check. `records`: every active branch; `looked_at`: those whose databases are opened,
    to read and no more."""
    settings = manager.settings
    yield from _guarded("settings", str(settings.file), lambda: check_settings(settings))
    yield from _guarded("headoffice", "HeadOffice", lambda: check_headoffice(manager, records))
    providers = sorted({record.branch.provider for record in records})
    for provider in providers:
        yield from _guarded("driver", provider, partial(check_driver, manager, provider))
    for provider in providers or [Provider.SQLITE]:
        yield from _guarded("history", provider, partial(check_history, manager, provider))
    yield from _guarded("leases", "HeadOffice", lambda: check_leases(manager, records))
    yield from _branches(manager, looked_at)
    folders = _folders(manager, records)
    used = _folders(manager, tuple(record for record in records if record.state.heads))
    yield from _guarded("disk", "SQLite", lambda: check_disk(folders, used))
    yield from _guarded("outlets", "people", lambda: outlets.check(settings))
    written = (*folders, *outlets.folders(settings))
    yield from _guarded("units", "systemd", lambda: units.check(settings.file, written))


def diagnose_without(settings: Settings, error: BranchmigError) -> Iterator[Diagnosis]:
    """What can be checked where HeadOffice cannot be opened, for `error`."""
    yield from _guarded("settings", str(settings.file), lambda: check_settings(settings))
    yield Diagnosis("headoffice", "HeadOffice", Severity.ERROR, error.message, error.hint)
    yield from _guarded("outlets", "people", lambda: outlets.check(settings))
    written = outlets.folders(settings)
    yield from _guarded("units", "systemd", lambda: units.check(settings.file, written))


def representatives(
    manager: BranchMigrationManager, records: tuple[Record, ...]
) -> tuple[Record, ...]:
    """One branch of each server, and one on SQLite: any of them shows what is wrong with it."""
    seen: dict[tuple[Provider, str | None], Record] = {}
    for record in records:
        server = manager.migrator.server(record.branch)
        seen.setdefault((record.branch.provider, server), record)
    return tuple(seen.values())


def _guarded(
    check: str, subject: str, look: Callable[[], Iterator[Diagnosis]]
) -> Iterator[Diagnosis]:
    try:
        yield from look()
    except BranchmigError as error:
        yield Diagnosis(check, subject, Severity.ERROR, error.message, error.hint)
    except Exception as error:
        yield Diagnosis(
            check, subject, Severity.ERROR, f"it cannot be checked: {type(error).__name__}: {error}"
        )


# This host ----------------------------------------------------------------------------------------


def check_settings(settings: Settings) -> Iterator[Diagnosis]:
    file = settings.file
    found = list(trust.check([file, file.parent]))
    for warning in found:
        yield Diagnosis("settings", str(file), Severity.WARNING, warning, "chmod go-w it")
    if not found:
        mode = stat.S_IMODE(file.stat().st_mode)
        yield Diagnosis("settings", str(file), Severity.OK, f"read, mode {mode:04o}")


def check_driver(manager: BranchMigrationManager, provider: Provider) -> Iterator[Diagnosis]:
    manager.migrator.strategy(provider)
    yield Diagnosis("driver", provider, Severity.OK, "its driver is there")


def check_history(manager: BranchMigrationManager, provider: Provider) -> Iterator[Diagnosis]:
    report = manager.migrator.history(provider).report(manager.settings.migrations.target)
    for finding in report.findings:
        yield Diagnosis("history", provider, Severity.ERROR, finding)
    if report.is_valid:
        heads = ", ".join(report.heads)
        yield Diagnosis("history", provider, Severity.OK, f"loaded, its head is {heads}")


def check_disk(folders: tuple[Path, ...], used: tuple[Path, ...]) -> Iterator[Diagnosis]:
    """A line for each disk, not for each folder. `used`: those where databases have been."""
    disks: dict[int, list[Path]] = {}
    missing = []
    for folder in folders:
        try:
            disks.setdefault(folder.stat().st_dev, []).append(folder)
        except FileNotFoundError:
            missing.append(folder)
    for there in disks.values():
        yield _disk(there)
    if vanished := [str(folder) for folder in missing if folder in used]:
        yield Diagnosis(
            "disk", vanished[0], Severity.WARNING,
            f"folders of branches are not there: {_list(vanished)}", "mount them",
        )  # fmt: skip
    if new := [str(folder) for folder in missing if folder not in used]:
        yield Diagnosis(
            "disk", new[0], Severity.NOTE,
            f"folders of new branches are not there yet: {_list(new)}", "a tick makes them",
        )  # fmt: skip


def _disk(folders: list[Path]) -> Diagnosis:
    usage = shutil.disk_usage(folders[0])
    low = usage.free < _LITTLE
    rest = f", for it and {len(folders) - 1} more of its folders" if len(folders) > 1 else ""
    return Diagnosis(
        "disk", str(folders[0]), Severity.WARNING if low else Severity.OK,
        f"{usage.free / 2**20:.0f} MiB free{rest}",
        "make room: a migration needs the size of the table that it rebuilds" if low else None,
    )  # fmt: skip


def _folders(manager: BranchMigrationManager, records: tuple[Record, ...]) -> tuple[Path, ...]:
    """The folders of databases that are files, HeadOffice's included."""
    urls = [record.branch.url for record in records if record.branch.provider is Provider.SQLITE]
    if headoffice_strategy(manager.settings).provider is Provider.SQLITE:
        urls.append(address(manager.settings))
    files = (manager.settings.folder / url.partition(":///")[2] for url in urls)
    return tuple(sorted({file.parent for file in files}))


# HeadOffice ---------------------------------------------------------------------------------------


def check_headoffice(
    manager: BranchMigrationManager, records: tuple[Record, ...]
) -> Iterator[Diagnosis]:
    yield from _clock("headoffice", "HeadOffice", manager.store.now())
    lacking = headoffice_strategy(manager.settings).examine(address(manager.settings)).lacking
    if lacking:
        writes = not any(right.startswith(_TO_WRITE) for right in lacking)
        yield Diagnosis(
            "headoffice", "HeadOffice", Severity.NOTE if writes else Severity.WARNING,
            f"this account lacks {_list(lacking)}",
            "it suffices for ticks; `init` of a later version may have to make tables" if writes
            else "it suffices to look; a tick has to write",
        )  # fmt: skip
    count = len(records)
    yield Diagnosis(
        "headoffice", "HeadOffice", Severity.OK if count else Severity.NOTE,
        f"reached, {count} active branch{'' if count == 1 else 'es'}",
        None if count else "`branchmig branch add` or `branchmig branch import`",
    )  # fmt: skip


def check_leases(
    manager: BranchMigrationManager, records: tuple[Record, ...]
) -> Iterator[Diagnosis]:
    now = manager.store.now()
    expired = [
        record.branch.code
        for record in records
        if record.state.lock_owner and not is_locked(record.state, now)
    ]
    if expired:
        yield Diagnosis(
            "leases", "HeadOffice", Severity.WARNING,
            f"{len(expired)} expired: {_list(expired)}",
            "the next tick takes them over; `branchmig unlock --all` clears them",
        )  # fmt: skip


# Branches -----------------------------------------------------------------------------------------


def _branches(manager: BranchMigrationManager, records: tuple[Record, ...]) -> Iterator[Diagnosis]:
    """Each of them, but no more of a server that has not answered: a time-out for every one of its
    branches would take hours."""
    silent: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for record in records:
        branch = record.branch
        server = manager.migrator.server(branch)
        if server and silent[server] >= _SILENCES:
            left[server] += 1
            continue
        look = partial(_reached, manager, record, silent)
        yield from _guarded("branch", branch.code, look)
    for server, count in left.items():
        yield Diagnosis(
            "branch", server, Severity.ERROR,
            f"{_SILENCES} of its branches could not be reached; {count} more were not looked at",
            "mend those first",
        )  # fmt: skip


def _reached(
    manager: BranchMigrationManager, record: Record, silent: Counter[str]
) -> Iterator[Diagnosis]:
    """Counts in `silent`, by server, how many in a row have not been."""
    server = manager.migrator.server(record.branch)
    try:
        yield from check_branch(manager, record)
    except BranchUnreachable:
        silent.update([server] if server else ())
        raise
    silent.pop(server or "", None)


def check_branch(manager: BranchMigrationManager, record: Record) -> Iterator[Diagnosis]:
    branch = record.branch
    snapshot = manager.migrator.look(branch)
    if not snapshot.exists:
        known = record.state.heads
        yield Diagnosis(
            "branch", branch.code, Severity.ERROR if known else Severity.NOTE,
            "its database has vanished" if known else "it has no database yet",
            "find out why; `branchmig apply --create` makes a new one" if known else None,
        )  # fmt: skip
        return
    found = manager.migrator.strategy(branch.provider).examine(
        manager.migrator.reachable(branch).url
    )
    if found.time:
        yield from _clock("branch", branch.code, found.time)
    if found.lacking:
        yield Diagnosis(
            "branch", branch.code, Severity.WARNING, f"this account lacks {_list(found.lacking)}",
            "see the rights in the README; what a role gives is not always seen",
        )  # fmt: skip
    else:
        yield Diagnosis("branch", branch.code, Severity.OK, "reached, with the rights it needs")


def _clock(check: str, subject: str, theirs: datetime) -> Iterator[Diagnosis]:
    difference = (theirs - datetime.now(UTC)).total_seconds()
    if abs(difference) > _DRIFT:
        yield Diagnosis(
            check, subject, Severity.WARNING,
            f"its clock is {abs(difference):.0f} s {'ahead of' if difference > 0 else 'behind'} "
            "this host's",
            "have both follow the same time server: windows and back-off go by HeadOffice's clock",
        )  # fmt: skip


def _list(names: tuple[str, ...] | list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join([*names[:_NAMED], *([f"and {rest} more"] if rest > 0 else [])])
