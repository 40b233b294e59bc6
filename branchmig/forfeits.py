"""What a live branch would lose by the deeds of a revision: a read, nothing more.

Floor 3. Counts what is there and stops counting early: a table may hold a hundred million rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa

from .deeds import Deed, Effect
from .reversal import Loss

MOST = 1000
"""Rows that are counted; of more it is said that they are more."""


def losses(connection: sa.Connection, effects: Iterable[Effect]) -> tuple[Loss, ...]:
    """The data that `effects` would take from this branch. Exceptions of the driver come through.

    A table without a row or a column without a value holds nothing. What cannot be told is a loss;
    so is a name that is not there, unless that is expected: it may be an alias, or a table that
    only the session of the migration finds. The transaction that this opens is the caller's to end.
    """
    return tuple(_losses(connection, tuple(effects)))


def _losses(connection: sa.Connection, effects: tuple[Effect, ...]) -> Iterator[Loss]:
    if not effects:
        return
    inspector = sa.inspect(connection)
    for effect in effects:
        if effect.deed is Deed.UNKNOWN:
            yield Loss(effect.revision, effect.what)
            continue
        table = _name(inspector.get_table_names(effect.schema), effect.table)
        column = effect.column
        if table is not None and column is not None:
            columns = [c["name"] for c in inspector.get_columns(table, effect.schema)]
            column = _name(columns, column)
        if table is None or (effect.column and column is None):
            if not effect.may_be_gone:
                yield _absent(effect)
            continue
        place = ".".join(part for part in (effect.schema, table, column) if part)
        rows = _count(connection, sa.table(table, schema=effect.schema), column)
        if rows is None:
            yield Loss(effect.revision, f"{place} (what it holds could not be read)", effect.what)
        elif rows:
            yield Loss(effect.revision, f"{place} ({_rows(rows)})", effect.what)


def _absent(effect: Effect) -> Loss:
    place = ".".join(part for part in (effect.schema, effect.table, effect.column) if part)
    text = "nothing of that name is there, and what would be lost cannot be told"
    return Loss(effect.revision, f"{place} ({text})", effect.what)


def _name(present: Iterable[str], wanted: str) -> str | None:
    """The spelling that is there: engines differ in whether case matters."""
    names = list(present)
    if wanted in names:
        return wanted
    return next((name for name in names if name.lower() == wanted.lower()), None)


def _count(connection: sa.Connection, table: sa.TableClause, column: str | None) -> int | None:
    """How many rows there are, or have a value in `column`; no more than one above MOST. None: it
    may not be read, or not within the time that a question may take."""
    rows: sa.Select[Any] = sa.select(sa.literal_column("1").label("found")).select_from(table)
    if column is not None:
        rows = rows.where(sa.column(column, _selectable=table).is_not(None))
    some = rows.limit(MOST + 1).subquery("some")
    try:
        return int(connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one())
    except sa.exc.DBAPIError as error:
        if error.connection_invalidated:
            raise
        connection.rollback()
        return None


def _rows(count: int) -> str:
    if count > MOST:
        return f"more than {MOST} rows"
    return f"{count} row{'s' * (count > 1)}"
