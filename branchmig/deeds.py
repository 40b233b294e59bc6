"""What a revision does, as far as it matters to the data that a branch holds.

Floor 0: imports nothing of the house. The words in which whoever reads a revision (its operations,
its SQL) tells whoever judges what it would lose.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Deed(StrEnum):
    """DROPS: a table, a column, or all rows of a table are gone. CHANGES: values are written over,
    or may no longer fit. UNKNOWN: nobody can tell. The others lose nothing: ADDS a table or a
    column, RENAMES one, SHAPES the schema (indexes, constraints, views), or writes ROWS anew."""

    DROPS = "drops"
    CHANGES = "changes"
    UNKNOWN = "unknown"
    ADDS = "adds"
    RENAMES = "renames"
    SHAPES = "shapes"
    ROWS = "rows"


@dataclass(frozen=True, slots=True)
class Effect:
    """One deed. `column` None: the table as a whole; `new`: the name that RENAMES gives; `what`:
    a sentence's part for people; `revision` is filled in by whoever knows it.

    `may_be_gone`: that nothing of that name is there is expected (IF EXISTS, say), and no loss;
    `followed`: the names are former ones, since a step before this one renames them."""

    deed: Deed
    table: str = ""
    column: str | None = None
    schema: str | None = None
    new: str | None = None
    what: str = ""
    revision: str = ""
    may_be_gone: bool = False
    followed: bool = False
