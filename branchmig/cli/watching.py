"""Commands that look after a fleet: who did what, how it is, and what is wrong with this host."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import BranchmigError, StoreError, UsageError
from .session import Session, command

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..health import Health, Limits
    from ..model import AuditFilter, Diagnosis

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|w)")


def register(app: typer.Typer) -> None:
    command(app, "audit")(audit)
    command(app, "health")(health)
    command(app, "doctor")(doctor)


# Arguments ----------------------------------------------------------------------------------------


def _seconds(text: str) -> float | None:
    found = _DURATION.fullmatch(text.strip())
    return float(found[1]) * _UNITS[found[2]] if found else None


def _duration(text: str | None) -> float | None:
    if text is None:
        return None
    if (seconds := _seconds(text)) is None:
        raise typer.BadParameter(f"{text!r} is no time such as 15min, 24h or 3d")
    return seconds


def _moment(text: str | None, *, last: bool = False) -> datetime | None:
    """A time ago, or a day or a moment; without a zone by UTC, as everything here. `last`: a day is
    meant with all its hours."""
    if text is None:
        return None
    try:
        if (seconds := _seconds(text)) is not None:
            return datetime.now(UTC) - timedelta(seconds=seconds)
        given = datetime.fromisoformat(text)
        if last and _is_day(text):
            given += timedelta(days=1)
        # Of another zone it may be before the first or after the last moment that UTC has.
        return (given if given.tzinfo else given.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is neither a time ago, such as 24h or 7d, nor a moment, such as 2026-01-31 "
            "or 2026-01-31T20:00Z"
        ) from None


def _is_day(text: str) -> bool:
    with suppress(ValueError):
        date.fromisoformat(text)
        return True
    return False


def _percent(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        share = float(text.removesuffix("%"))
    except ValueError:
        share = -1
    if not 0 <= share <= 100:
        raise typer.BadParameter(f"{text!r} is no percentage such as 5%")
    return share


# Commands -----------------------------------------------------------------------------------------


def audit(
    session: Session,
    branch: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="Runs that did something to it.")
    ] = None,
    run: Annotated[
        str | None, typer.Option(metavar="ID", help="The run whose id begins like this.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--command", metavar="NAME", help="Such as apply-all.")
    ] = None,
    actor: Annotated[
        str | None, typer.Option(metavar="NAME", help="Run as, or by a login of, this account.")
    ] = None,
    host: Annotated[str | None, typer.Option(metavar="HOST", help="Run on this host.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="A time ago (24h, 7d), a day, a moment.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Likewise; a day with all its hours.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Not those that ended with 0.")] = False,
    limit: Annotated[
        int, typer.Option(metavar="N", min=0, help="The latest N; 0: all of them.")
    ] = 50,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="One JSON document a line, for export.")
    ] = False,
) -> None:
    """Who ran what, when, from which host and as whom, and what it did; the latest first.

    Example: branchmig audit --branch BR001 --since 7d
    """
    from ..model import AuditFilter
    from ..render import documents, tables

    wanted = AuditFilter(
        branch,
        run,
        name,
        actor,
        host,
        _moment(since),
        _moment(until, last=True),
        failed,
        limit or None,
    )
    if jsonl:
        _export(session, wanted)
        return
    with session.reading() as manager:
        found = list(manager.store.trail.runs(wanted))
    session.show(lambda: [documents.past_run(past) for past in found], lambda: tables.audit(found))


def _export(session: Session, wanted: AuditFilter) -> None:
    """Run after run, as they are read."""
    from ..render import documents

    with session.reading() as manager, session.printing():
        for past in manager.store.trail.runs(wanted):
            print(documents.line(documents.past_run(past)))


def health(
    session: Session,
    warning_lag: Annotated[
        str, typer.Option(metavar="TIME", help="Of a branch behind others that are at the target.")
    ] = "24h",
    critical_lag: Annotated[str, typer.Option(metavar="TIME", help="The same, critical.")] = "72h",
    warning_silence: Annotated[
        str, typer.Option(metavar="TIME", help="Since the timer last began a run.")
    ] = "15min",
    critical_silence: Annotated[
        str, typer.Option(metavar="TIME", help="The same, critical.")
    ] = "1h",
    warning_behind: Annotated[
        str | None, typer.Option(metavar="PERCENT", help="Of the branches that may be behind.")
    ] = None,
    critical_behind: Annotated[
        str | None, typer.Option(metavar="PERCENT", help="The same, critical.")
    ] = None,
) -> None:
    """One line for a monitoring system, from HeadOffice alone; exits 0 OK, 1 warning, 2 critical.

    A failed branch or an expired lease is a warning; one that needs a person, or a rollout that is
    halted, is critical, and so is a HeadOffice that cannot be reached. 3: it cannot be told.

    Example: branchmig health --warning-lag 2d
    """
    from ..health import Level, Limits, Threshold

    try:
        limits = Limits(
            lag=Threshold(_duration(warning_lag), _duration(critical_lag)),
            silence=Threshold(_duration(warning_silence), _duration(critical_silence)),
            behind=Threshold(_percent(warning_behind), _percent(critical_behind)),
        )
        found = _judged(session, limits)
    except StoreError as error:
        _unknown(session, Level.CRITICAL, error)
    except BranchmigError as error:
        _unknown(session, Level.UNKNOWN, error)
    except typer.BadParameter as error:
        _unknown(session, Level.UNKNOWN, UsageError(str(error)))
    else:
        from ..render import documents

        _say(session, found.level, lambda: documents.health(found), found.line())


def _judged(session: Session, limits: Limits) -> Health:
    from ..fleet.selection import select
    from ..health import judge
    from ..model import Filters

    with session.reading() as manager:
        rows = manager.status(select(manager.store.records(), Filters()))
        return judge(manager.condition(rows), limits)


def _unknown(session: Session, level: int, error: BranchmigError) -> None:
    """Nothing is known of the fleet; the line says why."""
    from ..health import Level, plain
    from ..masking import mask
    from ..render import documents

    name = Level(level).name
    _say(
        session, level, lambda: {**documents.error(error), "level": name},
        f"BRANCHMIG {name} - {plain(mask(error.message))}",
    )  # fmt: skip


def _say(session: Session, level: int, document: Callable[[], object], line: str) -> None:
    """The line and the level; a line that could not be printed is not known to anybody."""
    from ..health import Level

    try:
        session.tell(document, line)
    except BranchmigError:
        raise typer.Exit(Level.UNKNOWN) from None
    raise typer.Exit(level)


def doctor(
    session: Session,
    all: Annotated[
        bool, typer.Option("--all", help="Look at every branch, not at one of each server.")
    ] = False,
) -> None:
    """Look at everything that a tick needs, and say what to mend; nothing is changed.

    Settings, HeadOffice, drivers, scripts, leases, branches (rights and clocks), disks, outlets for
    notifications and metrics, units.
    Exits 1 where something is wrong that a tick would fail for.

    Example: branchmig doctor
    """
    from ..model import Severity
    from ..render import documents, tables

    found = _diagnosed(session, all)
    session.show(lambda: documents.diagnoses(found), lambda: tables.diagnoses(found))
    if any(item.severity is Severity.ERROR for item in found):
        raise typer.Exit(1)


def _diagnosed(session: Session, all: bool) -> tuple[Diagnosis, ...]:
    from ..doctor.doctor import diagnose, diagnose_without, representatives
    from ..errors import HeadOfficeVersion
    from ..fleet.selection import select
    from ..model import Filters

    try:
        with session.reading() as manager:
            records = select(manager.store.records(), Filters())
            looked_at = records if all else representatives(manager, records)
            return tuple(diagnose(manager, records, looked_at))
    except (StoreError, HeadOfficeVersion) as error:
        return tuple(diagnose_without(session.settings, error))
