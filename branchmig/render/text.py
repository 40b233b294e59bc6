"""Small texts: times, durations, counts, and what keeps a stranger's text harmless."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from ..masking import mask
from ..sinks import visible

__all__ = ["duration_text", "masked", "tally", "time_text", "visible"]


def time_text(moment: datetime | None) -> str | None:
    """An aware time in UTC, to the second, ending in Z (what jq's `fromdate` reads)."""
    if moment is None:
        return None
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def duration_text(duration: timedelta) -> str:
    """`hh:mm:ss.mmm`, to the nearest millisecond; hours may exceed 99."""
    seconds, milliseconds = divmod(max(round(duration / timedelta(milliseconds=1)), 0), 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}.{milliseconds:03}"


def masked(text: str | None) -> str | None:
    """Text that a driver or a script may have written, its secrets starred out."""
    return mask(text) if text else text


def tally(words: Iterable[str], order: Iterable[str], asides: dict[str, str] | None = None) -> str:
    """How many branches there are of each word, in `order`: `3 branches: 2 Valid, 1 Invalid`.

    An aside is put behind the count of its word, in brackets.
    """
    counts = Counter(words)
    total = counts.total()
    if not total:
        return "no branches"
    parts = [f"{counts[word]} {word}{_aside(word, asides)}" for word in order if counts[word]]
    return f"{total} {'branch' if total == 1 else 'branches'}: {', '.join(parts)}"


def _aside(word: str, asides: dict[str, str] | None) -> str:
    return f" ({asides[word]})" if asides and word in asides else ""
