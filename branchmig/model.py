"""The values that everything speaks in: frozen, picklable, touching nothing outside themselves.

Floor 1. A newcomer reads this after the README and before `manager`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from .deeds import Effect
from .masking import mask, mask_url
from .terms import Direction as Direction
from .terms import FailureKind as FailureKind
from .terms import MigrationStatus as MigrationStatus
from .terms import Provider as Provider
from .terms import Resolution as Resolution
from .terms import Severity as Severity
from .terms import SkipReason as SkipReason
from .terms import Verdict as Verdict

Heads = tuple[str, ...]
"""Revisions that a database stands at, sorted; empty: none."""


def heads_text(heads: Heads) -> str | None:
    """Several heads as people read them: sorted, joined by a comma; none is null."""
    return ", ".join(sorted(heads)) or None


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch office's database.

    `url` is kept as it was written (a relative SQLite path counts from the settings file's folder)
    and may hold a password: neither `repr` nor `str` shows it.
    """

    id: str
    code: str
    name: str
    provider: Provider
    url: str = field(repr=False)
    server: str | None = None
    tags: tuple[str, ...] = ()
    is_active: bool = True

    @property
    def masked_url(self) -> str:
        """The URL with its password starred out."""
        return mask_url(self.url)

    def __str__(self) -> str:
        return self.code


class BranchState(NamedTuple):
    """HeadOffice's memory of one branch. A named tuple: it is made and replaced for every branch,
    which costs a frozen dataclass of so many fields five times as much.

    While status is IN_PROGRESS, `heads` are the heads that the attempt started from. Times are
    aware and in UTC, by HeadOffice's clock. `lock_token` never falls. `rollout` (an id) and `wave`
    (from 0) say in which rollout the branch was last brought on, or failed; `failed_revision` is
    the one that its last failed attempt had in hand.
    """

    status: MigrationStatus = MigrationStatus.PENDING
    heads: Heads = ()
    target: str | None = None
    retry_count: int = 0
    next_attempt_at: datetime | None = None
    last_attempt_at: datetime | None = None
    lock_owner: str | None = None
    lock_token: int = 0
    lock_expires_at: datetime | None = None
    error: str | None = None
    pinned: bool = False
    rollout: str | None = None
    wave: int | None = None
    failed_revision: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A branch together with its state, as HeadOffice holds them."""

    branch: Branch
    state: BranchState


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to migrate one branch, as granted: `token` fences every write made under it.

    `previous` is the state found when the lease was taken, to be restored by an attempt that
    ends without a result; `state` the one written with it.
    """

    branch_id: str
    owner: str
    token: int
    previous: BranchState
    state: BranchState


@dataclass(frozen=True, slots=True)
class Revision:
    """One entry of a history. `down` holds its parents, `depends_on` what else must come first."""

    id: str
    down: Heads
    depends_on: Heads
    description: str
    path: str


@dataclass(frozen=True, slots=True)
class Step:
    """One revision applied in one direction, and the version rows before and after it."""

    revision: str
    direction: Direction
    from_heads: Heads
    to_heads: Heads
    description: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The ordered steps that take one branch from its current heads to a target."""

    branch: Branch
    current: Heads
    target: Heads
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Reversal:
    """The way down that a person has agreed to. `spares`: what it would do to data that was not
    there then, and that it may not do to data that has come since."""

    target: Heads
    steps: tuple[Step, ...]
    spares: tuple[Effect, ...] = ()

    def left(self, heads: Heads) -> tuple[Step, ...] | None:
        """The steps that a branch at `heads` has still to take; None: it is not on this way."""
        if heads == self.target:
            return ()
        places = (n for n, step in enumerate(self.steps) if step.from_heads == heads)
        first = next(places, None)
        return None if first is None else self.steps[first:]


@dataclass(frozen=True, slots=True)
class VersionTable:
    """Where a history keeps its version rows in the database it migrates."""

    name: str = "alembic_version"
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a look at a live database found, without changing it.

    `exists`: there is a database (for SQLite: a file that is not empty); `versioned`: it has the
    version table, if only an empty one; `tables`: every ordinary table but the version table and
    the journal; `journaled`: the journal's table is there; `unfinished`: it has rows, since a
    revision broke half way.
    """

    exists: bool
    versioned: bool
    heads: Heads = ()
    tables: frozenset[str] = frozenset()
    journaled: bool = False
    unfinished: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """All that an attempt on one branch needs, so that it can cross to a worker process.

    `recorded` are the heads that HeadOffice knew before: a database that had some and is gone has
    vanished; `create` lets a person say that this one may be made anew. `expected`: revisions and
    how many seconds each took elsewhere, for one that must be done before a window closes.
    `reversal`: the branch goes down that way, and `target` is but its name.
    """

    branch: Branch
    target: str
    recorded: Heads = ()
    create: bool = False
    expected: tuple[tuple[str, float], ...] = ()
    reversal: Reversal | None = None


LONGEST_MESSAGE = 4000
"""Characters of a failure that are kept: some drivers quote whole statements with their data."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as a value: its class, a sentence, a hint, and what the run may do about it.

    `revision`: the one that was in hand; None where the branch failed before any was begun.
    """

    type: str
    message: str
    hint: str | None = None
    kind: FailureKind = FailureKind.PERMANENT
    revision: str | None = None

    @classmethod
    def of(cls, error: BaseException, kind: FailureKind = FailureKind.PERMANENT) -> Failure:
        """The value of an error, every secret in it masked."""
        hint = getattr(error, "hint", None)
        message = mask(getattr(error, "message", None) or str(error) or type(error).__name__)
        if len(message) > LONGEST_MESSAGE:
            message = f"{message[:LONGEST_MESSAGE]}... ({len(message)} characters)"
        return cls(type(error).__name__, message, mask(hint) if hint else None, kind)

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of the work on one branch's own database; HeadOffice has no part in it.

    `heads` are those the branch was last seen at, None where it could not be read. `applied` are
    the revisions that landed, in order, and `took` how many seconds each of them did. `failure`,
    `skip` and neither (success) exclude each other.
    """

    plan: Plan | None = None
    applied: tuple[str, ...] = ()
    took: tuple[float, ...] = ()
    heads: Heads | None = None
    failure: Failure | None = None
    skip: SkipReason | None = None
    warnings: tuple[str, ...] = ()
    reason: str | None = None
    duration: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did to one branch. On failure `applied` says what did land."""

    branch: Branch
    verdict: Verdict
    status: MigrationStatus
    from_heads: Heads = ()
    to_heads: Heads = ()
    applied: tuple[str, ...] = ()
    failure: Failure | None = None
    reason: SkipReason | None = None
    detail: str | None = None
    warnings: tuple[str, ...] = ()
    started_at: datetime | None = None
    duration: timedelta = timedelta()

    @property
    def message(self) -> str | None:
        """The sentence of a failure or of a skip, None where all went well."""
        return self.failure.message if self.failure else self.detail


@dataclass(frozen=True, slots=True)
class Run:
    """One invocation that may change branches, as the audit trail keeps it.

    `actor`: the account that it ran as; `login`: the one that had logged in, behind `sudo` say, by
    the kernel's word; None where nobody had, as for a timer.
    """

    id: str
    command: str
    trigger: str
    actor: str
    host: str
    pid: int
    target: str | None = None
    login: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What the audit trail keeps of one branch in one run."""

    branch_id: str
    branch_code: str
    verdict: str
    reason: str | None
    status: str
    from_heads: Heads
    to_heads: Heads
    applied: tuple[str, ...]
    error: str | None
    finished_at: datetime
    duration: timedelta


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run as the audit trail keeps it. `finished_at` None: it has not ended, or was killed."""

    run: Run
    program: str
    started_at: datetime
    finished_at: datetime | None
    exit_code: int | None
    results: tuple[Result, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which runs are asked for; None: any. `branch`: a code or an id; `run`: how its id begins;
    `failed`: those alone that ended with another code than 0, or not at all."""

    branch: str | None = None
    run: str | None = None
    command: str | None = None
    actor: str | None = None
    host: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    failed: bool = False
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the branches of one wave of a rollout. `last`: when the last one ended."""

    in_hand: int = 0
    passed: int = 0
    failed: int = 0
    last: datetime | None = None

    @property
    def taken(self) -> int:
        """How many of the wave's places are taken."""
        return self.in_hand + self.passed + self.failed


@dataclass(frozen=True, slots=True)
class Rollout:
    """The bringing of one target, with one content of scripts, to the fleet.

    `wave` is the latest that was begun, from 0. Halted (`halted_by`: a run) and not resumed since
    (`resumed_by`: a person), it holds back.
    """

    id: str
    target: str
    heads: Heads
    started_at: datetime
    finished_at: datetime | None = None
    wave: int = 0
    halted_at: datetime | None = None
    halted_by: str | None = None
    halt_reason: str | None = None
    resumed_at: datetime | None = None
    resumed_by: str | None = None

    @property
    def is_halted(self) -> bool:
        return self.halted_at is not None and self.resumed_at is None


@dataclass(frozen=True, slots=True)
class Standing:
    """A rollout and what became of the branches of each of its waves."""

    rollout: Rollout
    tallies: dict[int, Tally]

    def tally(self, wave: int) -> Tally:
        return self.tallies.get(wave, Tally())

    @property
    def whole(self) -> Tally:
        """All waves together."""
        tallies = self.tallies.values()
        return Tally(
            sum(tally.in_hand for tally in tallies),
            sum(tally.passed for tally in tallies),
            sum(tally.failed for tally in tallies),
        )


@dataclass(frozen=True, slots=True)
class Trouble:
    """One error of one revision, and in how many branches of a rollout it was the last."""

    revision: str
    error: str
    branches: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did. Every count is derived.

    `rollout`: the one that the run was a part of, as it stood at the end.
    """

    run_id: str
    outcomes: tuple[Outcome, ...]
    duration: timedelta = timedelta()
    rollout: Standing | None = None

    def of(self, *verdicts: Verdict) -> tuple[Outcome, ...]:
        """The outcomes with one of these verdicts."""
        return tuple(o for o in self.outcomes if o.verdict in verdicts)

    @property
    def failed(self) -> tuple[Outcome, ...]:
        return self.of(Verdict.FAILED)

    @property
    def succeeded(self) -> tuple[Outcome, ...]:
        """Migrated or found unchanged."""
        return self.of(Verdict.MIGRATED, Verdict.UNCHANGED)

    @property
    def skipped(self) -> tuple[Outcome, ...]:
        return self.of(Verdict.SKIPPED)

    @property
    def halted(self) -> bool:
        """Whether this very run halted the rollout that it was a part of."""
        rollout = self.rollout.rollout if self.rollout else None
        return rollout is not None and rollout.is_halted and rollout.halted_by == self.run_id

    @property
    def exit_code(self) -> int:
        """1 where a branch failed or the rollout was halted, otherwise 0."""
        return 1 if self.failed or self.halted else 0


@dataclass(frozen=True, slots=True)
class PendingRevisions:
    """The revisions that one branch still lacks, in the order they would run."""

    branch: Branch
    revisions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MigrationHistory:
    """One branch's past and what is before it, read from the branch itself."""

    branch: Branch
    applied: tuple[str, ...]
    pending: tuple[str, ...]
    last_migration_at: datetime | None
    state: BranchState


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """Whether one live branch is what the target promises; `reason`: a sentence, if it is not."""

    branch: Branch
    missing_tables: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def is_valid(self) -> bool:
        return self.reason is None


@dataclass(frozen=True, slots=True)
class HistoryReport:
    """Whether an Alembic history can be trusted; `findings` are sentences, none means valid."""

    heads: Heads
    findings: tuple[str, ...]

    @property
    def is_valid(self) -> bool:
        return not self.findings


@dataclass(frozen=True, slots=True)
class BranchStatus:
    """One row of `status`, from HeadOffice alone. `halted`: why its rollout is, if it is.

    `status` differs from the recorded one where a branch recorded Completed is behind the target:
    it is then shown as Pending. `target` is null where the history's target is relative.
    """

    branch: Branch
    state: BranchState
    status: MigrationStatus
    behind: bool
    target: str | None
    is_locked: bool
    halted: str | None = None


@dataclass(frozen=True, slots=True)
class Filters:
    """Which branches a command means. Empty filters mean every active branch.

    `shard` is (index, count) with index from 1: a site's share, the same on every host.
    """

    tags: tuple[str, ...] = ()
    providers: tuple[Provider, ...] = ()
    statuses: tuple[MigrationStatus, ...] = ()
    shard: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that the doctor looked at: `check` (a word), of what, how bad it is, what was
    found, and what to do about it."""

    check: str
    subject: str
    severity: Severity
    message: str
    hint: str | None = None
