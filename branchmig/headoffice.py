"""HeadOffice as a whole: created and upgraded by its own history, opened only at a version we know.

Floor 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import sqlalchemy as sa

from .config import Settings, packaged
from .errors import (
    BranchBusy,
    BranchmigError,
    ConfigError,
    HeadOfficeLocked,
    HeadOfficeUnreachable,
    HeadOfficeVersion,
    LeaseLost,
    UsageError,
)
from .model import Snapshot, Step
from .providers import Limits, MigrationStrategy, provider_of, strategy_for
from .revisions.hooks import NoHooks
from .store import REVISIONS, VERSION_TABLE, Store

_RACES = 10
"""How often an upgrade looks again after another `init` was quicker."""


def open_store(settings: Settings) -> Store:
    """HeadOffice for reading and writing. Raises HeadOfficeVersion, StoreError."""
    strategy = _checked(settings)
    return Store(strategy.engine(settings.headoffice.url), _explainer(settings, strategy))


def open_reader(settings: Settings) -> Store:
    """HeadOffice for reading only, held to it by the engine. Raises as `open_store` does."""
    strategy = _checked(settings)
    return Store(strategy.read_engine(settings.headoffice.url), _explainer(settings, strategy))


def upgrade(settings: Settings) -> tuple[str, ...]:
    """Create or upgrade HeadOffice; the revisions that this call applied.

    Any number of callers may do so at once. Raises HeadOfficeVersion where it is newer than this
    program, StoreError where it cannot be written.
    """
    from .revisions.environment import run
    from .revisions.history import History
    from .revisions.source import Source

    strategy = headoffice_strategy(settings)
    history = History.load(
        Source(str(packaged("alembic_headoffice")), version_table=VERSION_TABLE.name, probe=False),
        strategy.scratch_url,
    )
    url = settings.headoffice.url
    for _ in range(_RACES):
        snapshot = look(settings, strategy)
        if _newer(snapshot):
            raise _too_new(snapshot)
        steps = history.steps(snapshot.heads, "head")
        if not steps:
            return ()
        try:
            strategy.create(url)
            with strategy.connect(url) as connection, strategy.lock(connection):
                hooks = _Landed(strategy, connection)
                run(
                    history,
                    connection,
                    steps,
                    hooks,
                    transactional_ddl=strategy.capabilities.transactional_ddl,
                )
            return tuple(hooks.applied)
        except LeaseLost:
            continue
        except BranchmigError as error:
            raise _unusable(error) from error
        except Exception as error:
            raise _unusable(strategy.explain(error, url)) from error
    raise HeadOfficeLocked("HeadOffice is being upgraded by others again and again", "try again")


def look(settings: Settings, strategy: MigrationStrategy) -> Snapshot:
    """What HeadOffice's database holds, changing nothing. Raises StoreError."""
    try:
        return strategy.inspect(settings.headoffice.url, VERSION_TABLE)
    except BranchmigError as error:
        raise _unusable(error) from error


def headoffice_strategy(settings: Settings) -> MigrationStrategy:
    """The strategy of HeadOffice's engine. Raises ConfigError for a URL that names none."""
    given = settings.run
    limits = Limits(given.connect_timeout, max(given.lock_timeout, 5), 0)
    try:
        strategy = strategy_for(provider_of(settings.headoffice.url), limits, settings.folder)
        strategy.check_url(settings.headoffice.url)
        return strategy
    except UsageError as error:
        raise ConfigError(f"[headoffice] url: {error.message}", error.hint) from None


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
        self.applied: list[str] = []

    def begun(self, step: Step) -> None:
        if self._strategy.read(self._connection, VERSION_TABLE).heads != step.from_heads:
            raise LeaseLost("another init was quicker")

    def landed(self, step: Step) -> None:
        self.applied.append(step.revision)


def _checked(settings: Settings) -> MigrationStrategy:
    strategy = headoffice_strategy(settings)
    snapshot = look(settings, strategy)
    if _newer(snapshot):
        raise _too_new(snapshot)
    if snapshot.heads != REVISIONS[-1:]:
        found = f"is at {snapshot.heads[0]}" if snapshot.heads else "has no tables yet"
        raise HeadOfficeVersion(
            f"HeadOffice {found}; this program needs {REVISIONS[-1]}",
            "run `branchmig init`, which creates and upgrades it",
        )
    return strategy


def _newer(snapshot: Snapshot) -> Sequence[str]:
    return [head for head in snapshot.heads if head not in REVISIONS]


def _too_new(snapshot: Snapshot) -> HeadOfficeVersion:
    return HeadOfficeVersion(
        f"HeadOffice is at {', '.join(snapshot.heads)}, which this program does not know",
        "it was upgraded by a newer branchmig: upgrade the program on this host",
    )


def _explainer(
    settings: Settings, strategy: MigrationStrategy
) -> Callable[[BaseException], BranchmigError]:
    return lambda error: strategy.explain(error, settings.headoffice.url)


def _unusable(error: BranchmigError) -> BranchmigError:
    kind = HeadOfficeLocked if isinstance(error, BranchBusy) else HeadOfficeUnreachable
    return kind(f"HeadOffice: {error.message}", error.hint)
