"""When branches may be migrated: windows that a cron expression opens, and freezes that close them.

Floor 2. Pure: the time is an argument. A window opens at every moment that its expression gives in
its time zone, and lasts so many hours of elapsed time. At a change of clocks the rules of Debian's
cron(8) hold, as cronsim has them: a start that falls into the hour left out comes at the end of it,
and one in the hour that comes twice comes once; expressions for every hour follow the clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from .model import Branch

_FAR = timedelta(days=2)
"""Openings that follow each other without a gap are one; no further ahead than this is looked."""


@dataclass(frozen=True, slots=True)
class Window:
    """`cron` in `zone` (a name such as Europe/Berlin) opens it, for `length`.

    For the branch of this code, or the branches with this tag, or all of them.
    """

    cron: str
    length: timedelta
    zone: str = "UTC"
    tag: str | None = None
    branch: str | None = None


@dataclass(frozen=True, slots=True)
class Freeze:
    """No branch of these (see `Window`) is migrated from `start` until `end`, both aware."""

    start: datetime
    end: datetime
    tag: str | None = None
    branch: str | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """A branch may be migrated now. `closes`: until then; None: nothing says when it ends."""

    closes: datetime | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """A branch may not be migrated now. `opens`: the next time that it may, in UTC.

    `frozen`: because of a freeze.
    """

    opens: datetime
    frozen: bool = False

    def __str__(self) -> str:
        what = "frozen" if self.frozen else "outside its window"
        return f"{what}; it may be migrated from {self.opens:%Y-%m-%dT%H:%M:%SZ}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """All windows and freezes. Windows for a branch's own code replace those for its tags, and
    these replace those for all; of several on one level any is enough. Without one it is open."""

    windows: tuple[Window, ...] = ()
    freezes: tuple[Freeze, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.windows or self.freezes)

    def at(self, branch: Branch, now: datetime) -> Opening | Closed:
        """Whether `branch` may be migrated at `now`, and until or from when."""
        if not self:
            return Opening()
        windows = _nearest(self.windows, branch)
        freezes = [freeze for freeze in self.freezes if _means(freeze, branch)]
        found = _in_freezes(_in_windows(windows, now), freezes, now)
        if isinstance(found, Opening):
            return found
        return Closed(_reopens(windows, freezes, found.opens), found.frozen)

    def longest(self, branch: Branch) -> timedelta | None:
        """How long a branch may be open in one go at most, were all its windows to follow each
        other; None where it has none."""
        lengths = [window.length for window in _nearest(self.windows, branch)]
        return sum(lengths, timedelta()) if lengths else None


def _means(rule: Window | Freeze, branch: Branch) -> bool:
    if rule.branch is not None:
        return rule.branch.lower() == branch.code.lower()
    return rule.tag is None or rule.tag in branch.tags


def _nearest(windows: Sequence[Window], branch: Branch) -> tuple[Window, ...]:
    meant = [window for window in windows if _means(window, branch)]
    own = tuple(window for window in meant if window.branch is not None)
    tagged = tuple(window for window in meant if window.branch is None and window.tag is not None)
    return own or tagged or tuple(meant)


def _in_windows(windows: Sequence[Window], now: datetime) -> Opening | Closed:
    minute = now.astimezone(UTC).replace(second=0, microsecond=0)
    found = [_at(window, minute) for window in windows]
    closes = [when.closes for when in found if isinstance(when, Opening) and when.closes]
    if closes:
        return Opening(_together(windows, max(closes)))
    opens = [when.opens for when in found if isinstance(when, Closed)]
    return Closed(min(opens)) if opens else Opening()


def _together(windows: Sequence[Window], closes: datetime) -> datetime:
    """When an opening ends, where another window is open by then that ends later."""
    far = closes + _FAR
    while closes <= far:
        minute = closes.replace(second=0, microsecond=0)
        later = [
            found.closes
            for found in (_at(window, minute) for window in windows)
            if isinstance(found, Opening) and found.closes and found.closes > closes
        ]
        if not later:
            break
        closes = max(later)
    return closes


def _in_freezes(
    found: Opening | Closed, freezes: Iterable[Freeze], now: datetime
) -> Opening | Closed:
    """What freezes leave of an opening."""
    ends = [freeze.end for freeze in freezes if freeze.start <= now < freeze.end]
    if ends:
        return Closed(max(ends).astimezone(UTC), frozen=True)
    starts = [freeze.start for freeze in freezes if freeze.start > now]
    if isinstance(found, Opening) and starts:
        return Opening(min([*starts, *([found.closes] if found.closes else [])]).astimezone(UTC))
    return found


def _reopens(windows: Sequence[Window], freezes: Sequence[Freeze], at: datetime) -> datetime:
    """The first moment from `at` on that is in a window and in no freeze."""
    # Each turn leaves a freeze behind, or comes to a window that one may cover in turn.
    for _ in range(2 * len(freezes) + 2):
        found = _in_freezes(_in_windows(windows, at), freezes, at)
        if isinstance(found, Opening):
            break
        at = found.opens
    return at


# A fleet has few windows, and they are asked about for every branch.
@lru_cache(1024)
def _at(window: Window, minute: datetime) -> Opening | Closed:
    """Starts are at full minutes, so that within a minute the answer stays the same."""
    starts = _starts(window, minute)
    closes = None
    for start in starts:
        if start > minute:
            if closes is None:
                return Closed(start)
            break
        if minute < start + window.length:
            closes = start + window.length
    if closes is None:
        # The expression gives no more moments; the settings refuse one that never did.
        return Closed(datetime.max.replace(tzinfo=UTC))
    return Opening(_merged(window, closes))


def _merged(window: Window, closes: datetime) -> datetime:
    """When an opening ends, where the next ones may begin before it does."""
    far = closes + _FAR
    for start in _starts(window, closes):
        if start > closes or closes > far:
            break
        closes = max(closes, start + window.length)
    return closes


def _starts(window: Window, around: datetime) -> Iterator[datetime]:
    """The moments at which a window opens, in UTC and rising, from well before `around`."""
    from zoneinfo import ZoneInfo

    from cronsim import CronSim

    # From a day before: begun in the midst of a change of clocks, cronsim gives moments that are
    # over, and leaves out one that was moved.
    begin = around - window.length - timedelta(hours=26)
    for start in CronSim(window.cron, begin.astimezone(ZoneInfo(window.zone))):
        yield start.astimezone(UTC)
