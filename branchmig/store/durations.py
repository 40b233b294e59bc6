"""How long revisions have taken, by provider: the longest that was measured on any branch."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from ..model import Provider
from .rows import PROVIDERS, Transaction
from .tables import clock, durations

Measured = Mapping[tuple[Provider, str], float]
"""Seconds, by provider and revision."""


_FORGOTTEN = 30 * 86_400
"""Seconds after which the next measurement takes the place of the longest one: what once took long
on one branch must not keep the others from being migrated for ever."""


class Durations:
    """Every statement on durations."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def known(self) -> dict[tuple[Provider, str], float]:
        """The longest that each revision has taken, in seconds."""
        with self._transaction() as connection:
            return {
                (PROVIDERS[row.provider], row.revision): row.longest_ms / 1000
                for row in connection.execute(sa.select(durations))
                if row.provider in PROVIDERS  # a newer program on another host may know more
            }

    def learn(self, measured: Measured) -> None:
        """Remember what took longer than it has for a month."""
        known = self.known()
        for (provider, revision), seconds in measured.items():
            milliseconds = round(seconds * 1000)
            if (provider, revision) not in known:
                self._add(provider, revision, milliseconds)
            else:
                self._lengthen(provider, revision, milliseconds)

    def _add(self, provider: Provider, revision: str, milliseconds: int) -> None:
        try:
            with self._transaction() as connection:
                connection.execute(
                    sa.insert(durations).values(
                        provider=provider.value,
                        revision=revision,
                        longest_ms=milliseconds,
                        measured_at=clock(),
                    )
                )
        except sa.exc.IntegrityError:
            # Another host has measured it for the first time too.
            self._lengthen(provider, revision, milliseconds)

    def _lengthen(self, provider: Provider, revision: str, milliseconds: int) -> None:
        with self._transaction() as connection:
            connection.execute(
                sa.update(durations)
                .where(
                    durations.c.provider == provider.value,
                    durations.c.revision == revision,
                    sa.or_(
                        durations.c.longest_ms < milliseconds,
                        durations.c.measured_at < clock(-_FORGOTTEN),
                    ),
                )
                .values(longest_ms=milliseconds, measured_at=clock())
            )
