"""Every error that branchmig raises on purpose: one root, a message, a hint, an exit code.

Floor 0: imports nothing of the house. A message says what happened and what landed; a hint says
what to do next. Neither may hold a secret: mask before raising.
"""

from __future__ import annotations

from collections.abc import Sequence


class BranchmigError(Exception):
    """The root of what a user may meet.

    `exit_code` is the status that a command ends with when this error prevents its result.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        # Not the argument: whoever passes an error on may have added a place to its message.
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        # The default would call the class with the message alone and lose what a subclass holds;
        # errors cross from the worker processes to their parent.
        return _rebuild, (type(self), self.__dict__.copy(), self.args)


def _rebuild(
    kind: type[BranchmigError], state: dict[str, object], args: tuple[object, ...]
) -> BranchmigError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class UsageError(BranchmigError):
    """The request cannot be carried out as it was put: a bad URL, a duplicate code, a bad line."""

    exit_code = 2


class ConfigError(BranchmigError):
    """Settings are missing, malformed, contradictory or open to strangers."""

    exit_code = 78


class HistoryError(ConfigError):
    """An Alembic history cannot be loaded, is empty, or its env.py fails."""


class NotFound(BranchmigError):
    exit_code = 2


class UnknownBranch(NotFound):
    """No branch of this code or id."""


class UnknownRevision(NotFound):
    """A revision that a person named is not, or not uniquely, in the history."""


class ProviderError(BranchmigError):
    """What a branch's own database or its driver is to blame for."""


class UnsupportedProvider(ProviderError):
    exit_code = 2


class DriverMissing(ProviderError):
    """The Python package or native library for a provider is not installed."""


class SecretMissing(ProviderError):
    """What a reference in a URL stands for cannot be had on this host."""


class BranchUnreachable(ProviderError):
    """The branch's database cannot be opened now."""


class BranchUnusable(ProviderError):
    """The branch's database can be reached but is not what it should be (not a database, read-only,
    a journal that wants recovery, a full disk)."""


class DatabaseMissing(ProviderError):
    """There is no database where the URL points, and it may not be created."""


class DatabaseVanished(ProviderError):
    """A database that had heads recorded is gone: it must not be replaced by an empty one."""


class SecondConnection(ProviderError):
    """Somebody opened another connection to the branch within one attempt."""


class LeaseError(BranchmigError):
    exit_code = 75


class LeaseHeld(LeaseError):
    """Another run holds the lease of this branch: a skip, no retry counted."""


class BranchBusy(LeaseError):
    """Another session holds the branch's own lock: a skip, no retry counted."""


class LeaseLost(LeaseError):
    """The lease is gone, or somebody else moved the branch: stop before the next statement."""


class WindowClosed(LeaseError):
    """The window in which a branch may be migrated leaves no time for the next revision."""


class HookFailed(BranchmigError):
    """A command or an SQL script of the operator's own did not do its work."""


class Stopped(BranchmigError):
    """A person or the system asked this run to end."""

    exit_code = 130


class PlanError(BranchmigError):
    """There is no safe way from where the branch is to where it should be."""


class MultipleHeads(PlanError):
    """The history has several heads and one is wanted."""

    exit_code = 78


class UnknownHeads(PlanError):
    """The branch's version table names revisions that the history does not have."""


class NotAdopted(PlanError):
    """The database has tables but no version table: another tool made it."""


class DriftDetected(PlanError):
    """The live schema is not what its revision should have left."""


class RevisionRefused(PlanError):
    """A revision does what this engine gives no way to do safely: mend the revision."""


class RollbackRefused(PlanError):
    """There is no way down for a branch, or it would lose data. Nothing was touched."""


class NeedsPerson(PlanError):
    """No further attempt can decide this; the branch goes to RequiresManualIntervention at once."""


class JournalDiverged(NeedsPerson):
    """A revision that broke half way does something else now than what its journal says."""


class StatementUnknown(NeedsPerson):
    """A statement was begun, and neither journal nor schema tells whether it landed."""


class MigrationFailed(BranchmigError):
    """A revision failed.

    `applied`: the revisions that landed before it, in order; `failed`: the revision that did not;
    the error of the driver or of the script is the `__cause__` where this is raised and `cause`
    as text.
    """

    def __init__(
        self,
        message: str,
        hint: str | None = None,
        *,
        applied: Sequence[str] = (),
        failed: str | None = None,
        cause: str | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.applied = tuple(applied)
        self.failed = failed
        self.cause = cause


class ValidationFailed(BranchmigError):
    """The live database is not what the target promises. `findings`: sentences."""

    def __init__(
        self, message: str, hint: str | None = None, *, findings: Sequence[str] = ()
    ) -> None:
        super().__init__(message, hint)
        self.findings = tuple(findings)


class StoreError(BranchmigError):
    """HeadOffice cannot be used."""

    exit_code = 69


class HeadOfficeUnreachable(StoreError):
    """HeadOffice's database cannot be opened."""


class HeadOfficeLocked(StoreError):
    """Another program holds HeadOffice's database for longer than we may wait."""

    exit_code = 75


class HeadOfficeVersion(StoreError):
    """HeadOffice's tables are missing, too old or too new for this program."""

    exit_code = 78


class HeadOfficeDamaged(StoreError):
    """A row of HeadOffice holds what no program has written there that this one knows."""

    exit_code = 78


class StateConflict(StoreError):
    """A conditional write met a row that somebody else had changed."""

    exit_code = 75


class ExecutorLost(BranchmigError):
    """What runs the migrations cannot be reached, or has nobody left to run them."""

    exit_code = 69


class WorkerDied(BranchmigError):
    """The process that migrated a branch ended without a word."""
