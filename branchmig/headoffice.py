"""HeadOffice as a whole: created and upgraded by its own history, opened only at a version we know.

Floor 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa

from .config import Settings, packaged
from .errors import (
    BranchBusy,
    BranchmigError,
    ConfigError,
    DatabaseMissing,
    DriverMissing,
    HeadOfficeLocked,
    HeadOfficeUnreachable,
    HeadOfficeVersion,
    LeaseLost,
    SecretMissing,
    StoreError,
    UnsupportedProvider,
    UsageError,
)
from .model import Provider, Snapshot, Step
from .providers import Limits, MigrationStrategy, provider_of, refuse_references, strategy_for
from .references import is_whole, resolve
from .revisions.hooks import NoHooks
from .store import REVISIONS, VERSION_TABLE, Store
from .store.tables import branches

_RACES = 10
"""How often an upgrade looks again after another `init` was quicker."""


def address(settings: Settings) -> str:
    """HeadOffice's URL with the secrets in it. Raises ConfigError."""
    try:
        return resolve(settings.headoffice.url, settings)
    except SecretMissing as error:
        raise ConfigError(f"[headoffice] url: {error.message}", error.hint) from None


def open_store(settings: Settings) -> Store:
    """HeadOffice for reading and writing. Raises HeadOfficeVersion, StoreError."""
    strategy = headoffice_strategy(settings)
    _require(lambda: _look_as_writer(settings, strategy))
    return Store(strategy.engine(address(settings)), _explainer(settings, strategy))


def open_reader(settings: Settings) -> Store:
    """HeadOffice for reading only, held to it by the engine. Raises as `open_store` does."""
    strategy = headoffice_strategy(settings)

    def look() -> Snapshot:
        with _as_store_errors(settings, strategy):
            return strategy.inspect(address(settings), VERSION_TABLE)

    _require(look)
    return Store(strategy.read_engine(address(settings)), _explainer(settings, strategy))


def upgrade(settings: Settings) -> tuple[str, ...]:
    """Create or upgrade HeadOffice; the revisions that this call applied.

    Any number of callers may do so at once. Raises HeadOfficeVersion where it is newer than this
    program, StoreError where it cannot be written.
    """
    strategy = headoffice_strategy(settings)
    for _ in range(_RACES):
        snapshot = _look_as_writer(settings, strategy)
        _refuse_foreign(snapshot)
        if snapshot.heads == REVISIONS[-1:]:
            return ()
        with suppress(LeaseLost), _as_store_errors(settings, strategy):
            return _upgraded(settings, strategy, snapshot)
    raise HeadOfficeLocked("HeadOffice is being upgraded by others again and again", "try again")


def _upgraded(
    settings: Settings, strategy: MigrationStrategy, snapshot: Snapshot
) -> tuple[str, ...]:
    """Run HeadOffice's own history. Raises LeaseLost where another is quicker."""
    from .revisions.environment import run
    from .revisions.history import History
    from .revisions.source import Source

    source = Source(
        str(packaged("alembic_headoffice")), version_table=VERSION_TABLE.name, probe=False
    )
    history = History.load(source, strategy.scratch_url, online=False)
    url = address(settings)
    if not snapshot.exists:
        strategy.create(url)
    with strategy.connect(url) as connection, strategy.lock(connection):
        hooks = _Landed(strategy, connection)
        with hooks.journal.kept():
            run(
                history,
                connection,
                history.steps(snapshot.heads, "head"),
                hooks,
                transactional_ddl=strategy.capabilities.transactional_ddl,
            )
    return tuple(hooks.applied)


def _look_as_writer(settings: Settings, strategy: MigrationStrategy) -> Snapshot:
    """What HeadOffice holds, after whatever a killed writer left has been recovered."""
    url = address(settings)
    with _as_store_errors(settings, strategy):
        try:
            with strategy.connect(url) as connection:
                return strategy.read(connection, VERSION_TABLE)
        except DatabaseMissing:
            return Snapshot(exists=False, versioned=False)


@contextmanager
def _as_store_errors(settings: Settings, strategy: MigrationStrategy) -> Iterator[None]:
    """Whatever HeadOffice's engine complains of is an error of HeadOffice, not of a branch."""
    try:
        yield
    except (LeaseLost, ConfigError, StoreError):
        raise
    except Exception as error:
        found = strategy.explain(error, address(settings))
        kind = HeadOfficeLocked if isinstance(found, BranchBusy) else HeadOfficeUnreachable
        raise kind(f"HeadOffice: {found.message}", found.hint) from error


def headoffice_strategy(settings: Settings) -> MigrationStrategy:
    """The strategy of HeadOffice's engine. Raises ConfigError for a URL that none can open."""
    given = settings.run
    limits = Limits(given.connect_timeout, max(given.lock_timeout, 5), 0)
    try:
        strategy = strategy_for(_provider(settings), limits, settings.folder)
        refuse_references(strategy, settings.headoffice.url)
        strategy.check_url(address(settings))
        return strategy
    except (UsageError, UnsupportedProvider, DriverMissing) as error:
        raise ConfigError(f"[headoffice] url: {error.message}", error.hint) from None


def _provider(settings: Settings) -> Provider:
    given = settings.headoffice.url
    try:
        return provider_of(address(settings))
    except UsageError as error:
        if not is_whole(given):
            raise
        # Without what it holds: that may be a secret meant for another place.
        raise UsageError(f"{given} holds no URL of a database", error.hint) from None


def write_settings(file: Path) -> None:
    """Write the commented settings file, unless one is there."""
    template = Path(__file__).with_name("settings.toml").read_text(encoding="utf-8")
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(template)
        file.chmod(0o640)
    except FileExistsError:
        return
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be written: {error.strerror}", "run init in a folder of your own"
        ) from error


class _Landed(NoHooks):
    """Each step begins only where the one before it left HeadOffice; others may be quicker."""

    def __init__(self, strategy: MigrationStrategy, connection: sa.Connection) -> None:
        self._strategy = strategy
        self._connection = connection
        there = strategy.read(connection, VERSION_TABLE).journaled
        self.journal = strategy.journal(connection, "HeadOffice", there=there)
        self.applied: list[str] = []

    def begun(self, step: Step) -> None:
        if self._strategy.read(self._connection, VERSION_TABLE).heads != step.from_heads:
            raise LeaseLost("another init was quicker")
        self.journal.begun(step)

    def executed(self, step: Step) -> None:
        self.journal.executed(step)

    def stamped(self, step: Step) -> None:
        self.journal.stamped(step)

    def landed(self, step: Step) -> None:
        self.journal.landed(step)
        self.applied.append(step.revision)


def _require(look: Callable[[], Snapshot]) -> None:
    """Raise HeadOfficeVersion unless HeadOffice is at the version that this program needs."""
    snapshot = look()
    if snapshot.heads != REVISIONS[-1:]:
        # An `init` may have ended between two questions of one look.
        snapshot = look()
    _refuse_foreign(snapshot)
    if snapshot.heads != REVISIONS[-1:]:
        found = "has no tables yet" if snapshot.exists else "does not exist yet"
        found = f"is at {snapshot.heads[0]}" if snapshot.heads else found
        raise HeadOfficeVersion(
            f"HeadOffice {found}; this program needs {REVISIONS[-1]}",
            "run `branchmig init`, which creates and upgrades it",
        )


def _refuse_foreign(snapshot: Snapshot) -> None:
    """Raise HeadOfficeVersion where the version is none that an upgrade could begin from."""
    made = branches.name in {name.lower() for name in snapshot.tables}
    # An `init` that was killed where DDL cannot be rolled back has left its journal to go on from.
    if made and not snapshot.heads and not snapshot.unfinished:
        raise HeadOfficeVersion(
            f"HeadOffice has its tables, but {VERSION_TABLE.name} does not say of which version",
            "restore it from a backup, or write into it the version that it was at: "
            f"{REVISIONS[-1]} is this program's",
        )
    if set(snapshot.heads) - set(REVISIONS):
        raise HeadOfficeVersion(
            f"HeadOffice is at {', '.join(snapshot.heads)}, which this program does not know",
            "it was upgraded by a newer branchmig: upgrade the program on this host",
        )


def _explainer(
    settings: Settings, strategy: MigrationStrategy
) -> Callable[[BaseException], BranchmigError]:
    return lambda error: strategy.explain(error, address(settings))
