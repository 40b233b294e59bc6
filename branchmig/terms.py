"""The words that have one spelling: engines, statuses, verdicts.

Floor 0. A room of their own because the command line needs them before it runs anything: what the
`model` costs to import would be paid for every `--help`.
"""

from __future__ import annotations

from enum import StrEnum


class Provider(StrEnum):
    """A database engine that a branch may live on. MySQL includes MariaDB."""

    SQLITE = "sqlite"
    SQLSERVER = "sqlserver"
    POSTGRESQL = "postgresql"
    MYSQL = "mysql"


class MigrationStatus(StrEnum):
    """What HeadOffice remembers of a branch. Exactly these five."""

    PENDING = "Pending"
    IN_PROGRESS = "InProgress"
    COMPLETED = "Completed"
    FAILED = "Failed"
    MANUAL = "RequiresManualIntervention"


class Verdict(StrEnum):
    """What one run did to one branch; kept apart from the status that is persisted."""

    MIGRATED = "migrated"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    FAILED = "failed"


class SkipReason(StrEnum):
    """Why a run left a branch alone."""

    BACKOFF = "backoff"
    MANUAL = "manual"
    LEASED = "leased"
    BUSY = "busy"
    PINNED = "pinned"
    HALTED = "halted"
    WAVE = "wave"
    WINDOW = "window"
    MAX_MINUTES = "max-minutes"
    STOPPED = "stopped"
    MOVED = "moved"


class Direction(StrEnum):
    UPGRADE = "upgrade"
    DOWNGRADE = "downgrade"


class FailureKind(StrEnum):
    """What a strategy's `classify` makes of an exception.

    Only BUSY and TRANSIENT may be tried again within a run; only UNREACHABLE is waited for under
    `retry.unreachable = "wait"`; MANUAL needs a person at once, whatever the attempts so far; HOST
    is a fault of this host, which counts against no branch.
    """

    BUSY = "busy"
    TRANSIENT = "transient"
    UNREACHABLE = "unreachable"
    PERMANENT = "permanent"
    MANUAL = "manual"
    HOST = "host"


class Resolution(StrEnum):
    """What a person says of a revision that broke half way.

    The statement in doubt is in the schema, or is not, and the revision goes on from there; or its
    whole journal is void, and the revision begins anew on what the person has put in order.
    """

    LANDED = "landed"
    NOT_LANDED = "not-landed"
    DISCARD = "discard"


class Severity(StrEnum):
    """How bad a finding of the doctor is. Only an error makes the command fail."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"
