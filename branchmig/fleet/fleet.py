"""`apply-all`: find out who is behind, have the work done, put the outcomes together."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta

from ..errors import ProviderError, StoreError
from ..manager import BranchMigrationManager
from ..model import (
    Record,
    Report,
    Standing,
)
from ..sinks import RunFinished, RunStarted, Sinks
from ..waves import Gate
from .course import Course
from .crew import Crew
from .dispatch import Assignment

log = logging.getLogger("branchmig.fleet")


class Fleet:
    """One run over many branches.

    The survey finds out who is behind; the crew migrates those, so many at once. How they meet is
    the `Course`.
    """

    def __init__(self, manager: BranchMigrationManager, sinks: Sinks, crew: Crew) -> None:
        self._manager = manager
        self._sinks = sinks
        self._crew = crew

    def apply_all(self, records: Iterable[Record], assignment: Assignment) -> Report:
        """Bring every one of `records` to its target; one bad branch costs its neighbours nothing.

        To be checked with `check` first. Raises StoreError where HeadOffice goes away: what was
        done then is found by the next run.
        """
        started = time.monotonic()
        chosen = tuple(records)
        self._sinks.emit(RunStarted(self._manager.run, len(chosen)))
        course = Course(self._manager, self._sinks, self._crew, assignment)
        course.run(chosen)
        self._manager.learn(course.longest)
        # In the order of the list, whoever was quicker.
        place = {record.branch.id: number for number, record in enumerate(chosen)}
        outcomes = sorted(course.outcomes, key=lambda outcome: place[outcome.branch.id])
        elapsed = timedelta(seconds=time.monotonic() - started)
        gate = assignment.gate
        standing = self._standing(gate) if gate else None
        report = Report(self._manager.run.id, tuple(outcomes), elapsed, standing)
        self._sinks.emit(RunFinished(self._manager.run, report))
        return report

    def _standing(self, gate: Gate) -> Standing | None:
        """Where the rollout is now; recorded as finished once every branch is at its target."""
        rollouts = self._manager.store.rollouts
        try:
            standing = rollouts.standing(gate.rollout)
            rollouts.finish(standing.rollout)
            return rollouts.standing(gate.rollout)
        except StoreError as error:
            log.warning("where the rollout stands cannot be told: %s", error)
            return None


def check(manager: BranchMigrationManager, records: Iterable[Record], target: str) -> None:
    """Before anything is touched.

    Raises HistoryError, UnknownRevision, MultipleHeads, ConfigError.
    """
    for provider in sorted({record.branch.provider for record in records}):
        # A provider without a driver or a strategy harms its own branches alone.
        with suppress(ProviderError):
            manager.migrator.strategy(provider)
            manager.migrator.history(provider).check_target(target)
            manager.migrator.check_scripts(provider)
