"""Figures for Prometheus, as a file that the node exporter reads (its textfile collector).

Written when an `apply-all` is over, from what the run knows in memory. A run that cannot come to
its end leaves the file as it was: its timestamps grow old, and that is what to be alarmed by.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ..model import (
    Heads,
    MigrationStatus,
    Outcome,
    Provider,
    Record,
    Report,
    SkipReason,
    Verdict,
    heads_text,
)
from ..transitions import is_locked
from .events import Event, RunFinished
from .logger import logger, visible

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

Behind = Callable[[Provider, Heads], bool]
"""Whether a branch of this engine that stands at these heads lacks revisions."""

_SUCCESS = "branchmig_last_success_timestamp_seconds"


@dataclass(slots=True)
class Census:
    """The active branches of HeadOffice, counted."""

    statuses: Counter[MigrationStatus] = field(default_factory=Counter)
    heads: Counter[Heads] = field(default_factory=Counter)
    behind: int = 0
    locked: int = 0
    pinned: int = 0


def census(
    records: Iterable[Record], outcomes: Iterable[Outcome], behind: Behind, now: datetime
) -> Census:
    """Count branches as `records` had them before a run, and its outcomes have them since.

    As in `status`, one that is Completed at older heads is Pending. `now`: by which leases that the
    run has met with have expired.
    """
    found, since = Census(), {outcome.branch.id: outcome for outcome in outcomes}
    lacking: dict[tuple[Provider, Heads], bool] = {}
    for branch, state in ((r.branch, r.state) for r in records if r.branch.is_active):
        outcome = since.get(branch.id)
        heads = outcome.to_heads if outcome else state.heads
        status = _status(outcome) if outcome else state.status
        key = branch.provider, heads
        if key not in lacking:
            lacking[key] = behind(*key)
        if lacking[key] and status is MigrationStatus.COMPLETED:
            status = MigrationStatus.PENDING
        found.statuses[status] += 1
        found.heads[heads] += 1
        found.behind += lacking[key]
        found.pinned += state.pinned
        leased = outcome.reason is SkipReason.LEASED if outcome else is_locked(state, now)
        found.locked += leased
    return found


def _status(outcome: Outcome) -> MigrationStatus:
    # Its last attempt was killed; the run has written it down as what it is.
    return MigrationStatus.MANUAL if outcome.reason is SkipReason.MANUAL else outcome.status


class MetricsSink:
    """Writes the file when the run is over. `records`: every branch, as the run found them."""

    def __init__(
        self, file: Path, labels: Mapping[str, str], records: Iterable[Record], behind: Behind
    ) -> None:
        self._file = file
        self._labels = labels
        self._records = records
        self._behind = behind

    def __call__(self, event: Event) -> None:
        if not isinstance(event, RunFinished):
            return
        try:
            self._write(event.report)
        except ImportError:
            logger.warning(
                "no metrics: the package prometheus-client is not installed "
                "(pip install 'branchmig[metrics]')"
            )
        except OSError as error:
            what = visible(f"{self._file}: {error.strerror or error}")
            logger.warning("the metrics cannot be written to %s", what)

    def _write(self, report: Report) -> None:
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        figures = _Figures(registry, self._labels)
        found = census(self._records, report.outcomes, self._behind, datetime.now(UTC))
        figures.of_fleet(found)
        figures.of_run(report, _last_success(self._file))
        _replace(self._file, generate_latest(registry))


class _Figures:
    """The gauges by their names. Each has the labels of the settings besides its own."""

    def __init__(self, registry: CollectorRegistry, labels: Mapping[str, str]) -> None:
        self._registry = registry
        self._labels = labels

    def of_fleet(self, found: Census) -> None:
        self._several(
            "branchmig_branches", "Active branches by status.", "status",
            {status.value: found.statuses[status] for status in MigrationStatus},
        )  # fmt: skip
        self._several(
            "branchmig_branches_at", "Active branches by the revision they stand at.", "revision",
            {heads_text(heads) or "none": count for heads, count in found.heads.items()},
        )  # fmt: skip
        for name, what, count in (
            ("behind", "that lack revisions of the target", found.behind),
            ("locked", "leased by another run", found.locked),
            ("pinned", "held at their revision", found.pinned),
        ):
            self._one(f"branchmig_branches_{name}", f"Active branches {what}.", count)

    def of_run(self, report: Report, last_success: float) -> None:
        now = time.time()
        stopped = any(outcome.reason is SkipReason.STOPPED for outcome in report.outcomes)
        halted = report.rollout is not None and report.rollout.rollout.is_halted
        self._one(
            "branchmig_last_run_timestamp_seconds", "When apply-all last came to its end.", now
        )
        self._one(
            _SUCCESS, "When apply-all last did, and no branch failed in it; 0: never.",
            last_success if report.exit_code or stopped else now,
        )  # fmt: skip
        self._one(
            "branchmig_last_run_duration_seconds", "How long the last apply-all took.",
            report.duration.total_seconds(),
        )  # fmt: skip
        self._several(
            "branchmig_last_run_branches", "Branches of the last apply-all by verdict.", "verdict",
            {verdict.value: len(report.of(verdict)) for verdict in Verdict},
        )  # fmt: skip
        self._one("branchmig_rollout_halted", "Whether the rollout is halted.", halted)

    def _one(self, name: str, what: str, value: float) -> None:
        self._several(name, what, None, {"": value})

    def _several(self, name: str, what: str, by: str | None, values: Mapping[str, float]) -> None:
        from prometheus_client import Gauge

        names = [*self._labels, *([by] if by else [])]
        gauge = Gauge(name, what, names, registry=self._registry)
        for key, value in values.items():
            own = [*self._labels.values(), *([key] if by else [])]
            (gauge.labels(*own) if own else gauge).set(value)


def _last_success(file: Path) -> float:
    """What the file has said so far."""
    from prometheus_client.parser import text_string_to_metric_families

    with suppress(OSError, ValueError):  # a file of somebody else's, or none
        for family in text_string_to_metric_families(file.read_text(encoding="utf-8")):
            for sample in family.samples:
                if sample.name == _SUCCESS:
                    return float(sample.value)
    return 0.0


def _replace(file: Path, content: bytes) -> None:
    """Whoever reads the file finds the old figures or the new, and may read them: the exporter is
    another user, whatever our umask says."""
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as written:
            written.write(content)
            os.fchmod(written.fileno(), 0o644)
            written.flush()
            os.fsync(written.fileno())
        Path(name).replace(file)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
