"""What became of branches, written to HeadOffice in small batches by the one thread that asks.

A parent that is killed loses at most one batch: the branches hold the truth, and the next run
records it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial

from ..errors import LeaseLost, StoreError
from ..fence import Fence
from ..lease import RECORDING, Tenure, patiently
from ..manager import UNRECORDED, skipped
from ..model import Outcome, Record, SkipReason
from ..store.leases import Conclusion

_BATCH = 100
_AGE = 0.25
"""A batch is written when it has so many entries, or when its first is so many seconds old."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One branch that is done with. `recorded`: its outcome belongs into the audit trail."""

    record: Record
    conclusion: Conclusion
    outcome: Outcome


class Ledger:
    """Entries on their way to HeadOffice."""

    def __init__(self, tenure: Tenure, fence: Fence, lease_seconds: float) -> None:
        """`fence`: a stop of the run ends the wait for a HeadOffice that does not answer."""
        self._tenure = tenure
        self._fence = fence
        self._patience = min(RECORDING, lease_seconds)
        self._entries: list[Entry] = []
        self._since = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry, *, urgent: bool = False) -> None:
        """`urgent`: what follows depends on it, so it is due at once."""
        if not self._entries:
            self._since = time.monotonic()
        if urgent:
            self._since -= _AGE
        self._entries.append(entry)

    def due_in(self) -> float | None:
        """Seconds until the batch is to be written; None: there is nothing to write."""
        if not self._entries:
            return None
        if len(self._entries) >= _BATCH:
            return 0.0
        return max(0.0, self._since + _AGE - time.monotonic())

    def write(self, *, patient: bool) -> list[Outcome]:
        """Write what there is; the outcomes with the statuses that they led to.

        `patient`: HeadOffice is given a while to come back where it is away. Raises StoreError that
        says what landed and is not recorded.
        """
        entries, self._entries = self._entries, []
        if not entries:
            return []
        concluded = [entry.conclusion for entry in entries]
        try:
            states = patiently(
                partial(self._tenure.give_back, concluded),
                self._fence,
                self._patience if patient else 0,
            )
        except StoreError as error:
            _tell_unrecorded(error, entries)
            raise
        return [
            _lost(entry, state)
            if isinstance(state, LeaseLost)
            else replace(entry.outcome, status=state.status)
            for entry, state in zip(entries, states, strict=True)
        ]


def _lost(entry: Entry, error: LeaseLost) -> Outcome:
    """Whoever has the lease now records what is true; of ours only the report remains."""
    outcome = skipped(entry.record, SkipReason.LEASED, error.message)
    return replace(outcome, applied=entry.outcome.applied)


def _tell_unrecorded(error: StoreError, entries: list[Entry]) -> None:
    landed = [
        f"on {entry.outcome.branch.code} {', '.join(entry.outcome.applied) or 'nothing'} landed"
        for entry in entries
    ]
    named = landed[:5] + ([f"and {len(landed) - 5} branches more"] if len(landed) > 5 else [])
    error.message += f"; {'; '.join(named)} in this run, which could not be recorded"
    error.hint = UNRECORDED
