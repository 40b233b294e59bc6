"""How many looks one server gets at once: fewer where it refuses some, none where it is silent."""

from __future__ import annotations

_PATIENCE = 30.0
"""Seconds for which a server may refuse every connection until its branches are left alone."""

_SILENT = 3
"""So many looks in a row that ended by time-out, and nobody waits for this server again."""


class Pace:
    """Of one server. Not thread-safe: whoever surveys has a lock."""

    def __init__(self, most: int) -> None:
        """`most`: looks at once where all goes well."""
        self._most = most
        self._bound = most
        self._asked = 0
        self._answers = 0  # since the bound last changed
        self._timed_out = 0  # in a row
        self._refused_since: float | None = None

    @property
    def has_room(self) -> bool:
        return self._asked < self._bound

    @property
    def is_silent(self) -> bool:
        return self._timed_out >= _SILENT

    @property
    def timed_out(self) -> int:
        """Looks that waited in vain since the last answer."""
        return self._timed_out

    def begin(self) -> None:
        """A look begins."""
        self._asked += 1

    def end(self) -> None:
        """A look has ended, whatever it found."""
        self._asked -= 1

    def answered(self) -> None:
        """The server said something about its database: one more at a time is worth a try."""
        self._timed_out = 0
        self._refused_since = None
        self._answers += 1
        if self._answers >= self._bound and self._bound < self._most:
            self._bound += 1
            self._answers = 0

    def refused(self, now: float) -> bool:
        """The server has too many connections; whether it has refused them for long enough."""
        self._bound = max(1, self._bound // 2)
        self._answers = 0
        self._timed_out = 0
        if self._refused_since is None:
            self._refused_since = now
        return now - self._refused_since > _PATIENCE

    def waited(self) -> None:
        """A look ended by time-out."""
        self._timed_out += 1
