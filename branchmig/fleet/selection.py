"""Which branches a command means."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from ..model import Filters, Record


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
