"""Strategies: each knows one engine. Floor 3.

Nothing outside this room may test a provider's name: ask a strategy's capabilities instead.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import UnsupportedProvider, UsageError
from ..masking import REFERENCE
from ..model import Provider
from .journal import NoJournal
from .mysql import MysqlStrategy
from .postgresql import PostgresqlStrategy
from .protocol import Capabilities, Limits, MigrationStrategy
from .sqlite import SqliteStrategy
from .sqlserver import SqlserverStrategy

STRATEGIES: dict[Provider, type[MigrationStrategy]] = {
    Provider.SQLITE: SqliteStrategy,
    Provider.POSTGRESQL: PostgresqlStrategy,
    Provider.MYSQL: MysqlStrategy,
    Provider.SQLSERVER: SqlserverStrategy,
}

_BACKENDS = {
    "sqlite": Provider.SQLITE,
    "postgresql": Provider.POSTGRESQL,
    "mysql": Provider.MYSQL,
    "mariadb": Provider.MYSQL,
    "mssql": Provider.SQLSERVER,
}
"""SQLAlchemy's backend names, the first part of a URL."""


def strategy_for(provider: Provider, limits: Limits, folder: Path) -> MigrationStrategy:
    """The strategy of a provider. `folder` is what relative paths in URLs count from.

    Raises UnsupportedProvider where this version has none.
    """
    try:
        return STRATEGIES[provider](limits, folder)
    except KeyError:
        known = ", ".join(sorted(STRATEGIES))
        raise UnsupportedProvider(
            f"the provider {provider} is not supported by this version", f"supported: {known}"
        ) from None


def provider_of(url: str) -> Provider:
    """The provider that a URL belongs to. Raises UsageError: malformed, or an unknown engine."""
    backend = url.partition("://")[0].partition("+")[0]
    if "://" not in url or not backend:
        raise UsageError(
            "this is not a database URL: it wants the form ENGINE://...",
            "for example sqlite:///branches/br001.db",
        )
    try:
        return _BACKENDS[backend]
    except KeyError:
        raise UsageError(
            f"unknown provider {backend!r} in the URL", f"known: {', '.join(sorted(_BACKENDS))}"
        ) from None


def refuse_references(strategy: MigrationStrategy, url: str) -> None:
    """Raise UsageError where a reference stands in a path: that is shown everywhere and becomes the
    name of a file, and no secret may. A URL that is one reference is left to what it stands for."""
    whole = REFERENCE.fullmatch(url)
    if REFERENCE.search(url) and not whole and not strategy.capabilities.url_holds_secrets:
        raise UsageError(
            "a path is no secret, and this URL has nothing else",
            "write the path itself, or all of the URL as one reference",
        )


__all__ = [
    "Capabilities",
    "Limits",
    "MigrationStrategy",
    "NoJournal",
    "provider_of",
    "refuse_references",
    "strategy_for",
]
