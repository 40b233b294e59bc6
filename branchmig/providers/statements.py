"""What a journal needs to know of a statement, and of an engine's SQL."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, NamedTuple, Protocol

Query = Callable[..., list[Any]]
"""Runs one statement by the driver alone, with parameters, and gives its rows."""


class Kind(Enum):
    """READ, SESSION and TRANSACTION statements leave nothing behind and are always executed.

    SCHEMA is everything else that is not WRITE: whatever may commit on its own.
    """

    READ = "read"
    SESSION = "session"
    TRANSACTION = "transaction"
    WRITE = "write"
    SCHEMA = "schema"


class Fate(StrEnum):
    """What a statement means for an object."""

    APPEARS = "appears"
    VANISHES = "vanishes"
    CHANGES = "changes"


class Target(NamedTuple):
    """An object that a statement acts on; `kind` and `name` as its language looks it up by."""

    kind: str
    name: str
    fate: Fate


class Fact(NamedTuple):
    """A target and how the server showed it before the statement; None: it was not there."""

    kind: str
    name: str
    fate: str
    before: str | None


@dataclass(frozen=True, slots=True)
class Statement:
    """`commits`: the server commits before it; `unskippable`: why it cannot be passed over;
    `refused`: why it must not be executed at all; `savepoint`: what a ROLLBACK TO or SAVEPOINT
    names; `targets` empty: nothing can be looked up.
    """

    kind: Kind
    verb: str
    targets: tuple[Target, ...] = ()
    commits: bool = False
    unskippable: str | None = None
    savepoint: str | None = None
    refused: str | None = None


class Landed(Enum):
    """Whether a statement is in the schema.

    PARTLY: it is not, but has left something there that is of no use and stands in its way.
    """

    YES = "yes"
    NO = "no"
    PARTLY = "partly"
    UNKNOWN = "unknown"


class Language(Protocol):
    """What a journal must know of an engine's SQL and of its driver."""

    transactional: bool
    """Whether DDL is rolled back with its transaction. Then SCHEMA means only what the server
    refuses to run within one."""
    create: str
    """Makes the journal where it is not there."""
    put: str
    """Writes one row, over what is there, from the seven columns in their order."""
    table: str

    def read(self, text: str) -> Statement:
        """What a statement does."""

    def looks_back(self, text: str) -> bool:
        """Whether it asks for the row count or the last id of a statement before it."""

    def is_loose(self, query: Query, text: str) -> bool:
        """Whether it changes a table that a rollback would leave changed. Not asked of an engine
        that is `transactional`."""

    def look(self, query: Query, statement: Statement) -> tuple[Fact, ...]:
        """The targets of a statement as they are; empty where they cannot be shown."""

    def landed(self, query: Query, text: str, facts: tuple[Fact, ...]) -> Landed:
        """Whether it is in the schema, judged by its targets as they were."""

    def take_away(self, query: Query, facts: tuple[Fact, ...]) -> None:
        """Remove what a statement that landed PARTLY has left."""

    def found(self, query: Query, facts: tuple[Fact, ...]) -> str:
        """What is in the schema now, for a person."""

    def undid_transaction(self, error: BaseException) -> bool:
        """Whether the server rolled back more than the statement that failed."""

    def is_refusal(self, error: BaseException) -> bool:
        """Whether the server answered, so that a failed statement has surely ended."""

    def commits_each(self, driver: Any) -> bool:
        """Whether the driver's connection is in autocommit."""

    def overheard(
        self, driver: Any, heard: Callable[[str], None]
    ) -> AbstractContextManager[object]:
        """Within, `heard` is given every text before the driver's connection sends it."""
