"""What the rest of the house may ask of an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ..errors import BranchmigError
    from ..model import FailureKind, Provider, Snapshot, VersionTable
    from .examination import Examination
    from .journal import NoJournal


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do, so that nobody has to ask for its name.

    `transactional_ddl`: a failed revision leaves nothing behind; `session_lock`: a lock can be
    held for a connection over several transactions (otherwise the write transaction is the lock);
    `creates_databases`: a missing database can be made; `scratch_in_memory`: `scratch_url` can be
    connected to and is nobody's; `url_holds_secrets`: a URL has more than a path.
    """

    transactional_ddl: bool
    session_lock: bool
    creates_databases: bool
    scratch_in_memory: bool
    url_holds_secrets: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """How long anything may wait, in seconds; `statement_timeout` 0: no limit."""

    connect_timeout: float = 10
    lock_timeout: float = 5
    statement_timeout: float = 0


class MigrationStrategy(Protocol):
    """One engine. A strategy holds no connection; all its methods may raise ProviderError."""

    provider: ClassVar[Provider]
    dialect: ClassVar[str]
    """SQLAlchemy's name for the engine's SQL."""
    capabilities: ClassVar[Capabilities]
    scratch_url: ClassVar[str]
    """The URL of an empty database that is nobody's, on which env.py is probed."""

    def __init__(self, limits: Limits, folder: Path) -> None: ...

    def check_url(self, url: str) -> None:
        """Raise UsageError where no database could ever be meant by `url`."""

    def identity(self, url: str) -> str:
        """The database itself: equal for two URLs that lead to the same one."""

    def server(self, url: str) -> str | None:
        """What databases share that must not be flooded; None: they share nothing."""

    def inspect(self, url: str, version_table: VersionTable) -> Snapshot:
        """Look at a database by driver alone and change nothing, not even beside it.

        Raises BranchUnreachable, BranchUnusable, BranchBusy. A missing database is no error.
        """

    def versions(self, url: str, version_table: VersionTable) -> Snapshot:
        """As `inspect`, at the least cost, and only what tells whether there is anything to do: of
        `tables` nothing."""

    def versions_together(
        self, urls: Sequence[str], version_table: VersionTable
    ) -> Mapping[str, Snapshot]:
        """As `versions`, of those databases that one connection can tell of at once.

        What cannot be told that way is left out, to be asked one by one: none of them is missing,
        without a version table, or unfinished. Never raises for a database.
        """

    def examine(self, url: str) -> Examination:
        """The clock of a branch's server and the rights there. Raises BranchUnreachable and what
        else `connect` raises."""

    def create(self, url: str) -> None:
        """Make the database, empty. One that exists is left alone; so two may race."""

    def connect(self, url: str) -> AbstractContextManager[sa.Connection]:
        """The one connection of an attempt, with every limit set.

        Asked for another through its engine it raises SecondConnection. Raises DatabaseMissing
        where there is none to connect to.
        """

    def engine(self, url: str) -> sa.Engine:
        """An engine for many short write transactions from several threads, as HeadOffice needs."""

    def read_engine(self, url: str) -> sa.Engine:
        """An engine whose connections cannot write and leave nothing behind."""

    def scratch(self, url: str) -> AbstractContextManager[sa.Connection]:
        """A connection to an empty database, beside that of `url`, that is gone afterwards."""

    def lock(self, connection: sa.Connection) -> AbstractContextManager[None]:
        """The session lock. Raises BranchBusy where another session holds it."""

    def read(self, connection: sa.Connection, version_table: VersionTable) -> Snapshot:
        """As `inspect`, on an open connection and within its transaction."""

    def schema(self, connection: sa.Connection) -> dict[str, frozenset[str]]:
        """The names of the columns of every table."""

    def missing_tables(self, present: frozenset[str], required: tuple[str, ...]) -> tuple[str, ...]:
        """Those of `required` that are not there, by the engine's own rule for comparing names."""

    def statements(self, script: str) -> Sequence[str]:
        """The statements of a script, such that the driver can execute each by itself."""

    def journal(self, connection: sa.Connection, name: str, *, there: bool) -> NoJournal:
        """What makes a revision that breaks half way go on from there.

        `name`: the branch's, for messages; `there`: `Snapshot.journaled`.
        """

    def begin_watch(self, connection: sa.Connection) -> None:
        """From now on notice whether the transaction is ended by anybody."""

    def end_watch(self, connection: sa.Connection, *, failed: bool = False) -> str | None:
        """ "COMMIT" or "ROLLBACK" where the transaction was ended since `begin_watch`.

        `failed`: the revision raised. Then this does not, and may roll back to find out.
        """

    def integrity(self, connection: sa.Connection) -> Any:
        """What is already broken, to be compared by `check_integrity`."""

    def check_integrity(self, connection: sa.Connection, before: Any) -> None:
        """Raise BranchUnusable where more is broken than `before`."""

    def interrupt(self, connection: sa.Connection) -> None:
        """Cancel the statement that runs on `connection`; called from another thread."""

    def is_own(self, error: BaseException) -> bool:
        """Whether an exception comes from this engine's driver, not wrapped by SQLAlchemy."""

    def classify(self, error: BaseException) -> FailureKind:
        """What an exception of this engine means for trying again."""

    def explain(self, error: BaseException, url: str) -> BranchmigError:
        """An exception of this engine as an error of the house, with a sentence and a hint."""
