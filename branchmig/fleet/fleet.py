"""`apply-all`: find out who is behind, have the work done, put the outcomes together."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from datetime import datetime, timedelta

from .. import transitions
from ..errors import BranchBusy, BranchmigError, ProviderError, UnknownBranch
from ..manager import BranchMigrationManager, skipped
from ..model import (
    BranchState,
    Filters,
    Heads,
    MigrationStatus,
    Outcome,
    Record,
    Report,
    SkipReason,
    Verdict,
)
from ..sinks import BranchFinished, BranchStarted, RunFinished, RunStarted, Sinks
from .worker import Worker

log = logging.getLogger("branchmig.fleet")


def select(records: Iterable[Record], filters: Filters) -> tuple[Record, ...]:
    """The active branches that the filters mean, by code."""
    return tuple(r for r in records if r.branch.is_active and _meant(r, filters))


def _meant(record: Record, filters: Filters) -> bool:
    branch = record.branch
    return (
        (not filters.tags or bool(set(filters.tags) & set(branch.tags)))
        and (not filters.providers or branch.provider in filters.providers)
        and (not filters.statuses or record.state.status in filters.statuses)
        and (filters.shard is None or _in_shard(branch.id, *filters.shard))
    )


def _in_shard(branch_id: str, index: int, count: int) -> bool:
    """The same answer on every host and in every version: by the hash of the id."""
    digest = hashlib.sha256(branch_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") % count == index - 1


class _HeldBack(Exception):
    """Found out while taking the lease: somebody else has changed the branch's state."""

    def __init__(self, reason: SkipReason, why: str) -> None:
        super().__init__(why)
        self.reason = reason


class Fleet:
    """One run over many branches."""

    def __init__(self, manager: BranchMigrationManager, sinks: Sinks) -> None:
        self._manager = manager
        self._sinks = sinks

    def check(self, records: Iterable[Record], target: str) -> None:
        """Raise HistoryError, UnknownRevision or MultipleHeads before anything is touched."""
        migrator = self._manager.migrator
        for provider in sorted({record.branch.provider for record in records}):
            # A provider without a driver or a strategy harms its own branches alone.
            with suppress(ProviderError):
                migrator.strategy(provider)
                migrator.history(provider).check_target(target)

    def apply_all(self, records: Iterable[Record], target: str) -> Report:
        """Bring every one of `records` to `target`; one bad branch costs its neighbours nothing.

        To be checked with `check` first. Raises StoreError where HeadOffice goes away: what was
        done then is found by the next run.
        """
        started = time.monotonic()
        chosen = tuple(records)
        self._sinks.emit(RunStarted(self._manager.run, len(chosen)))
        outcomes = []
        with closing(Worker(self._manager.settings)) as worker:
            for outcome in self._outcomes(chosen, target, worker):
                self._sinks.emit(BranchFinished(outcome))
                outcomes.append(outcome)
        elapsed = timedelta(seconds=time.monotonic() - started)
        report = Report(self._manager.run.id, tuple(outcomes), elapsed)
        self._sinks.emit(RunFinished(self._manager.run, report))
        return report

    def _outcomes(
        self, records: tuple[Record, ...], target: str, worker: Worker
    ) -> Iterator[Outcome]:
        manager = self._manager
        now = manager.store.now()
        for record in records:
            if manager.fence.state.signum is not None:
                yield skipped(record, SkipReason.STOPPED, "the run was stopped")
                continue
            reason = transitions.held_back(record.state, now, manager.policy)
            if reason:
                yield skipped(record, reason, _why(record.state, reason))
                continue
            try:
                heads = self._surveyed(record)
            except BranchBusy as busy:
                yield skipped(record, SkipReason.BUSY, busy.message)
                continue
            if self._agrees(record, heads, target):
                yield _unchanged(record)
                continue
            self._sinks.emit(BranchStarted(record.branch))
            try:
                yield manager.migrate(
                    record, target, worker.attempt, self._beginning(heads, target)
                )
            except _HeldBack as held:
                yield skipped(record, held.reason, str(held))
            except UnknownBranch as removed:
                log.info("%s", removed)

    def _surveyed(self, record: Record) -> Heads | None:
        """The branch's heads, None where the attempt will have to find out what is wrong.

        Raises BranchBusy: an attempt would only wait as long again.
        """
        try:
            snapshot = self._manager.migrator.look(record.branch)
        except BranchBusy:
            raise
        except BranchmigError:
            return None
        return snapshot.heads if snapshot.versioned else None

    def _agrees(self, record: Record, heads: Heads | None, target: str) -> bool:
        """Nothing to do and nothing to put right: costs no lease and no write."""
        if heads is None or record.state.status is not MigrationStatus.COMPLETED:
            return False
        if heads != record.state.heads:
            return False
        try:
            history = self._manager.migrator.history(record.branch.provider)
            return not history.steps(heads, target)
        except BranchmigError:
            return False

    def _beginning(
        self, heads: Heads | None, target: str
    ) -> Callable[[BranchState, datetime], BranchState]:
        def begin(state: BranchState, now: datetime) -> BranchState:
            reason = transitions.held_back(state, now, self._manager.policy)
            if reason:
                raise _HeldBack(reason, _why(state, reason))
            return transitions.begin(state, heads, target, now)

        return begin


def _unchanged(record: Record) -> Outcome:
    heads = record.state.heads
    return Outcome(record.branch, Verdict.UNCHANGED, record.state.status, heads, heads)


def _why(state: BranchState, reason: SkipReason) -> str:
    """A skip in words, for the report and the log."""
    if reason is SkipReason.BACKOFF and state.next_attempt_at:
        return (
            f"failed {state.retry_count} time{'s' * (state.retry_count > 1)}, "
            f"next attempt at {state.next_attempt_at:%H:%M:%SZ}"
        )
    if reason is SkipReason.MANUAL:
        return f"needs a person after {state.retry_count} failed attempts: {state.error}"
    if reason is SkipReason.LEASED:
        return f"leased by another run until {state.lock_expires_at:%H:%M:%SZ}"
    return "pinned at its revision"
