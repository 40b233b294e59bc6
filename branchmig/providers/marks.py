"""The rows of a journal, and what stands in for the result of a statement that is passed over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

from ..model import Step
from .statements import Fact

TABLE = "branchmig_journal"


class State(StrEnum):
    """`refused`: the server answered with an error; `undone`: rolled back to a savepoint."""

    BEGUN = "begun"
    DONE = "done"
    REFUSED = "refused"
    UNDONE = "undone"


@dataclass(slots=True)
class Mark:
    """One statement of a revision.

    `hash`: of its text and parameters; `schema`: a rollback leaves what it did; `facts`: its
    targets before it; `columns`: of the rows it gave; `error`: what the server refused it with.
    """

    number: int
    hash: str
    state: State
    statement: str
    schema: bool
    facts: tuple[Fact, ...] = ()
    columns: list[str] | None = None
    error: list[Any] | None = None

    def row(self, step: Step) -> tuple[Any, ...]:
        details = json.dumps([self.schema, self.facts, self.columns, self.error])
        return (
            step.revision, step.direction.value, self.number, self.hash, self.state.value,
            self.statement, details,
        )  # fmt: skip

    @classmethod
    def of(cls, row: Any) -> Mark:
        schema, facts, *rest = json.loads(row[6])
        known = tuple(Fact(*fact) for fact in facts)
        return cls(int(row[2]), row[3], State(row[4]), row[5], schema, known, *rest)


def digest(text: str, parameters: Any) -> str:
    """What tells one statement from another."""
    return hashlib.sha256(f"{text}\0{parameters!r}".encode()).hexdigest()


def columns(cursor: Any) -> list[str] | None:
    """The names of the columns that a statement gave rows of."""
    return [column[0] for column in cursor.description] if cursor.description else None


class _Unread:
    """A value that nobody knows; whoever uses it is told so."""

    def __init__(self, complain: Callable[[], NoReturn]) -> None:
        self.complain = complain

    def __getattr__(self, name: str) -> Any:
        self.complain()


def _complain(self: Any, *_: Any) -> Any:
    self.complain()


for _name in ("bool", "int", "index", "float", "eq", "ne", "lt", "le", "gt", "ge", "hash", "str",
              "repr", "format", "add", "radd", "sub", "rsub", "iter", "len"):  # fmt: skip
    setattr(_Unread, f"__{_name}__", _complain)


class PassedOver:
    """Stands in for the cursor of a statement that was passed over: its result is not to be had.

    `asked`: whether a person wrote that the statement gives rows. What SQLAlchemy asks for by
    itself, the key of a new row, is fetched as a value that complains only when it is used.
    """

    arraysize = 1

    def __init__(
        self, names: list[str] | None, asked: bool, complain: Callable[[], NoReturn]
    ) -> None:
        self.description = [(name, *(None,) * 6) for name in names] if names else None
        self.rowcount = self.lastrowid = _Unread(complain)
        self._asked = asked
        self._complain = complain

    def close(self) -> None:
        """There is nothing to close."""

    def fetchone(self) -> NoReturn:
        self._complain()

    def fetchmany(self, size: int = 1) -> NoReturn:
        self._complain()

    def fetchall(self) -> list[tuple[_Unread, ...]]:
        if self._asked:
            self._complain()
        return [tuple(_Unread(self._complain) for _ in self.description or ())]
