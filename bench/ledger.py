"""What HeadOffice adds to each branch: its lease is taken, its outcome recorded, nothing between.

CPU time of this process, which is HeadOffice's client.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from .aims import Result
from .engines import Missing, running
from .meter import wall
from .sides import Office

if TYPE_CHECKING:
    from branchmig.model import BranchState, Record, Run
    from branchmig.store import Store

_AIM = 0.05
_HEADS = ("0001",)
_BATCH = 75


def share(folder: Path, branches: int, rounds: int) -> Sequence[Result | str]:
    """Milliseconds a branch on SQLite and on PostgreSQL, measured in turns."""
    offices = {"SQLite": _Ledger.make(folder / "sqlite", branches, "sqlite:///headoffice.db")}
    try:
        with running("postgresql", folder / "server") as server:
            server.make("headoffice")
            url = server.url("headoffice")
            offices["PostgreSQL"] = _Ledger.make(folder / "postgresql", branches, url)
            return _measured(offices, branches, rounds)
    except Missing as missing:
        return [str(missing), *_measured(offices, branches, rounds)]


def _measured(offices: dict[str, _Ledger], branches: int, rounds: int) -> list[Result]:
    used: dict[str, list[float]] = {name: [] for name in offices}
    try:
        for _ in range(rounds):
            for name, office in offices.items():
                used[name].append(office.measure())
    finally:
        for office in offices.values():
            office.store.close()
    return [
        Result(f"HeadOffice on {name}", median(times) / branches * 1000, "ms CPU", _AIM)
        for name, times in used.items()
    ]


@dataclass
class _Ledger:
    """HeadOffice, open, and its branches."""

    store: Store
    records: Sequence[Record]

    @classmethod
    def make(cls, folder: Path, branches: int, url: str) -> _Ledger:
        from branchmig import config, headoffice

        office = Office.make(folder, branches, wall, f'[headoffice]\nurl = "{url}"\n')
        settings, _ = config.load(office.folder / "branchmig.toml")
        store = headoffice.open_store(settings)
        return cls(store, store.records())

    def measure(self) -> float:
        """CPU seconds for all of them."""
        from branchmig.model import Run

        run = Run(str(uuid.uuid4()), "apply-all", "operator", "bench", "localhost", os.getpid())
        self.store.begin_run(run, "bench")
        started = time.process_time()
        _lease_and_record(self.store, self.records, run)
        used = time.process_time() - started
        self.store.finish_run(run, 0)
        return used


def _lease_and_record(store: Store, records: Sequence[Record], run: Run) -> None:
    """As `apply-all` does it with two quick workers: `_BATCH` leases, then as many outcomes."""
    from branchmig import transitions
    from branchmig.model import Lease, MigrationStatus, Outcome, Verdict
    from branchmig.store.leases import Conclusion, Wanted

    def begin(state: BranchState, now: datetime) -> BranchState:
        return transitions.begin(state, _HEADS, "head", now)

    def succeed(state: BranchState, now: datetime) -> BranchState:
        return transitions.succeed(state, _HEADS, now)

    done: dict[str, Any] = {"applied": _HEADS, "to_heads": _HEADS}
    for start in range(0, len(records), _BATCH):
        batch = records[start : start + _BATCH]
        wanted = [Wanted(record.branch, begin) for record in batch]
        leases = store.leases.acquire(wanted, run.id, 600)
        concluded = [
            Conclusion(
                lease,
                succeed,
                Outcome(record.branch, Verdict.MIGRATED, MigrationStatus.COMPLETED, **done),
            )
            for record, lease in zip(batch, leases, strict=True)
            if isinstance(lease, Lease)
        ]
        store.leases.conclude(concluded, run)
