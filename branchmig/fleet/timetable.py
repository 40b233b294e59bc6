"""When the branches of one run may be migrated, and until when it may begin any."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from ..config import ScheduleSettings
from ..errors import BranchmigError
from ..fence import clock
from ..manager import BranchMigrationManager
from ..model import Branch, Heads, Provider
from ..windows import Closed, Freeze, Schedule, Window


def scheduled(given: ScheduleSettings) -> Schedule:
    """The schedule that the settings describe."""
    return Schedule(
        tuple(
            Window(window.cron, timedelta(hours=window.hours), window.tz, window.tag, window.branch)
            for window in given.windows
        ),
        tuple(
            Freeze(freeze.begins, freeze.ends, freeze.tag, freeze.branch)
            for freeze in given.freezes
        ),
    )


class Timetable:
    """A schedule as it holds for one run.

    HeadOffice's clock is asked once, at the begin; from there on elapsed time counts, so that no
    clock that is set meanwhile opens or closes anything.
    """

    def __init__(self, manager: BranchMigrationManager, schedule: Schedule) -> None:
        """Raises StoreError."""
        self._manager = manager
        self._schedule = schedule
        self._zero = clock()
        self._began = manager.store.now()
        self._durations = manager.store.durations.known() if schedule.windows else {}
        minutes = manager.settings.run.max_minutes
        self._end = None if minutes is None else self._zero + 60 * minutes

    def left(self) -> float | None:
        """Seconds in which branches may still be begun; 0: none any more; None: without limit."""
        return None if self._end is None else max(0.0, self._end - clock())

    def closed(self, branch: Branch) -> Closed | None:
        """Why a branch may not be migrated now, or None where it may."""
        found = self._schedule.at(branch, self._now())
        return found if isinstance(found, Closed) else None

    def closes(self, branch: Branch) -> float | None:
        """When the window of a branch closes, on `fence.clock`; None: nothing says so."""
        if not self._schedule:
            return None
        found = self._schedule.at(branch, self._now())
        if isinstance(found, Closed):
            return clock()
        if found.closes is None:
            return None
        return self._zero + (found.closes - self._began).total_seconds()

    def window(self, branch: Branch) -> float | None:
        """How many seconds the windows of a branch last at most; None: it has none."""
        found = self._schedule.longest(branch)
        return found.total_seconds() if found else None

    def expected(
        self, provider: Provider, heads: Heads | None, target: str
    ) -> tuple[tuple[str, float], ...]:
        """The revisions before a branch, as far as they are known, and what they took elsewhere."""
        if not self._durations:
            return ()
        return tuple(
            (revision, self._durations[provider, revision])
            for revision in self._ahead(provider, heads, target)
            if (provider, revision) in self._durations
        )

    def _ahead(self, provider: Provider, heads: Heads | None, target: str) -> Iterable[str]:
        try:
            history = self._manager.migrator.history(provider)
            return [step.revision for step in history.steps(heads or (), target)]
        except BranchmigError:
            # An attempt tells what is wrong.
            return ()

    def _now(self) -> datetime:
        return self._began + timedelta(seconds=clock() - self._zero)
