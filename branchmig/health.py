"""Whether a fleet is well, for a monitoring system: pure rules over a few counts.

Floor 2. The levels and the form of the line are those of the Monitoring Plugins
(https://www.monitoring-plugins.org/doc/guidelines.html).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """The exit codes of monitoring plugins."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Threshold:
    """A value above `warning` or `critical` is that; None: never."""

    warning: float | None = None
    critical: float | None = None

    def level(self, value: float | None) -> Level:
        if value is not None and self.critical is not None and value > self.critical:
            return Level.CRITICAL
        if value is not None and self.warning is not None and value > self.warning:
            return Level.WARNING
        return Level.OK


@dataclass(frozen=True, slots=True)
class Limits:
    """`lag` and `silence` in seconds, `behind` in percent of the active branches, the others in
    branches."""

    lag: Threshold = Threshold(24 * 3600, 72 * 3600)
    silence: Threshold = Threshold(15 * 60, 3600)
    behind: Threshold = Threshold()
    failed: Threshold = Threshold(0, None)
    manual: Threshold = Threshold(None, 0)
    stuck: Threshold = Threshold(0, None)


@dataclass(frozen=True, slots=True)
class Condition:
    """A fleet as HeadOffice knows it: counts of active branches.

    `behind`: not at the target, pinned ones left out; `manual`: in need of a person; `stuck`:
    under a lease that has expired. `lag`: seconds since the first branch was brought to a target
    that another still lacks; None: nobody lags, or nobody knows since when. `silence`: seconds
    since the timer last began a run; None: it never did. `halted`: why the rollout is.
    """

    total: int
    at_head: int
    behind: int
    failed: int
    manual: int
    stuck: int
    lag: float | None = None
    silence: float | None = None
    halted: str | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """The verdict: the worst level, and every reason for it as a sentence, the worst first."""

    level: Level
    reasons: tuple[str, ...]
    condition: Condition
    limits: Limits

    def line(self) -> str:
        """One line as a monitoring system reads it: the verdict, and behind a bar the figures."""
        found = self.condition
        told = "; ".join(self.reasons) or f"{found.at_head} of {found.total} at head"
        return f"BRANCHMIG {self.level.name} - {plain(told)} | {' '.join(self._figures())}"

    def _figures(self) -> Iterator[str]:
        found, limits = self.condition, self.limits
        share = 100 * found.at_head / found.total if found.total else 100
        yield f"at_head={share:.2f}%;;;0;100"
        yield _figure("behind", found.behind, "", Threshold(), found.total)
        yield _figure("failed", found.failed, "", limits.failed, found.total)
        yield _figure("manual", found.manual, "", limits.manual, found.total)
        yield _figure("stuck", found.stuck, "", limits.stuck, found.total)
        yield _figure("lag", found.lag, "s", limits.lag)
        yield _figure("silence", found.silence, "s", limits.silence)


def judge(found: Condition, limits: Limits) -> Health:
    """How well a fleet is."""
    reasons = sorted(_reasons(found, limits), key=lambda reason: -reason[0])
    level = max((level for level, _ in reasons), default=Level.OK)
    return Health(level, tuple(text for _, text in reasons), found, limits)


def _reasons(found: Condition, limits: Limits) -> Iterator[tuple[Level, str]]:
    share = 100 * found.behind / found.total if found.total else 0
    silence = "no run yet" if found.silence is None else f"no run for {_long(found.silence)}"
    candidates = [
        (limits.manual.level(found.manual), f"{found.manual} need a person"),
        (limits.failed.level(found.failed), f"{found.failed} failed"),
        (limits.lag.level(found.lag), f"{found.behind} behind, since {_long(found.lag or 0)}"),
        (limits.behind.level(share), f"{found.behind} behind ({share:.1f} %)"),
        (limits.stuck.level(found.stuck), f"{found.stuck} under an expired lease"),
        (
            Level.WARNING if found.silence is None else limits.silence.level(found.silence),
            silence,
        ),
        (
            Level.CRITICAL if found.halted else Level.OK,
            f"the rollout is halted: {found.halted}",
        ),
    ]
    return ((level, text) for level, text in candidates if level is not Level.OK)


def _figure(
    name: str, value: float | None, unit: str, limit: Threshold, most: int | None = None
) -> str:
    told = "U" if value is None else f"{value:.0f}{unit}"
    warning, critical = (
        "" if bound is None else f"{bound:.0f}" for bound in (limit.warning, limit.critical)
    )
    return f"{name}={told};{warning};{critical};0;{'' if most is None else most}".rstrip(";")


def _long(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def plain(text: str) -> str:
    """A text for the line: what people wrote must not begin the figures, or a second line."""
    return " ".join(text.replace("|", "/").split())
