"""The waves of a rollout: how many branches may begin now, and when it has to halt.

Floor 2. Pure: what became of the branches is an argument, so that every rule can be tested at every
standing. The first wave is the canary. A wave is passed once as many branches as it takes have been
attempted and have ended; what was skipped, or failed before any revision was begun, has not been
attempted. The last wave takes whatever is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from .model import Branch, Heads, Record, Standing, Trouble

SAME_ERROR = 3
"""So many branches with one error in a revision that none has passed, and the rollout halts."""


@dataclass(frozen=True, slots=True)
class Wave:
    """`size`: branches that it takes, None for all that are left; `budget`: how many may fail."""

    size: int | None
    budget: int


@dataclass(frozen=True, slots=True)
class Opening:
    """The wave that may take branches now, and how many (None: any number); for none, why."""

    wave: int
    room: int | None
    why: str | None = None


def portion(share: int | str, total: int) -> int:
    """A number, or a percentage of `total` rounded up; never more than `total`."""
    if isinstance(share, int):
        return min(share, total)
    return min(-(-int(share.removesuffix("%")) * total // 100), total)


def cohorts(
    canary: int, shares: Sequence[int], max_failures: int | str, total: int
) -> tuple[Wave, ...]:
    """The waves of `total` branches: the canary, then up to each percentage of `shares`, then all.

    A percentage of failures is of each wave's own size, rounded down.
    """
    ends = sorted({min(canary, total), *(portion(f"{share}%", total) for share in shares)})
    ends = [end for end in ends if min(canary, total) <= end < total]
    sizes = [end - start for start, end in zip([0, *ends], [*ends, total], strict=False)]
    waves = [Wave(size, _budget(max_failures, size)) for size in sizes]
    return (*waves[:-1], Wave(None, waves[-1].budget))


def _budget(max_failures: int | str, size: int) -> int:
    if isinstance(max_failures, int):
        return max_failures
    return int(max_failures.removesuffix("%")) * size // 100


def opening(waves: Sequence[Wave], standing: Standing, soak: timedelta, now: datetime) -> Opening:
    """What may begin now. A wave that was begun stays begun, whatever is tried in it again."""
    last = len(waves) - 1
    for number in range(min(standing.rollout.wave, last), last):
        wave, tally = waves[number], standing.tally(number)
        assert wave.size is not None
        if tally.taken < wave.size:
            return Opening(number, wave.size - tally.taken)
        if tally.in_hand:
            return Opening(number, 0, f"{name(number)} is being migrated by another run")
        if tally.last and now < tally.last + soak:
            until = tally.last + soak
            return Opening(
                number, 0, f"{name(number)} passed; the next begins at {until:%H:%M:%SZ}"
            )
    return Opening(last, None)


def halt(
    waves: Sequence[Wave],
    standing: Standing,
    troubles: Iterable[Trouble],
    passed: Callable[[str], bool],
) -> str | None:
    """Why the rollout must halt, as a sentence, or None.

    `passed`: whether any branch has got past a revision.
    """
    for number, wave in enumerate(waves):
        failed = standing.tally(number).failed
        if failed > wave.budget:
            return f"{failed} branches of {name(number)} failed, of which {wave.budget} may"
    for trouble in troubles:
        if trouble.branches >= SAME_ERROR and not passed(trouble.revision):
            return (
                f"{trouble.revision} failed with the same error in {trouble.branches} branches "
                f"and has passed in none: {trouble.error}"
            )
    return None


def name(wave: int) -> str:
    """A wave as people call it."""
    return f"wave {wave}" if wave else "the canary"


@dataclass(frozen=True)
class Gate:
    """One rollout's rules, for whoever leases its branches.

    `canaries`: ids of the branches that the first wave is made of, None for any. `applied`: the
    revisions that a database at some heads has had.
    """

    rollout: str
    waves: tuple[Wave, ...]
    soak: timedelta
    canaries: frozenset[str] | None
    applied: Callable[[Heads], Iterable[str]]

    def is_last(self, wave: int) -> bool:
        return wave >= len(self.waves) - 1

    def admits(self, branch: Branch, wave: int) -> bool:
        """Whether a branch may be one of a wave."""
        first = wave == 0 and not self.is_last(0)
        return not first or self.canaries is None or branch.id in self.canaries

    def goes_first(self, record: Record) -> bool:
        """Whether a branch has been let in before or is a canary: others may wait for it."""
        return record.state.rollout == self.rollout or record.branch.id in (self.canaries or ())

    def opening(self, standing: Standing, now: datetime) -> Opening:
        """See `opening`."""
        return opening(self.waves, standing, self.soak, now)

    def halt(
        self, standing: Standing, troubles: Iterable[Trouble], heads: Iterable[Heads]
    ) -> str | None:
        """See `halt`. `heads`: where the branches stand, each once."""

        def passed(revision: str) -> bool:
            return any(revision in self.applied(found) for found in heads)

        return halt(self.waves, standing, troubles, passed)
