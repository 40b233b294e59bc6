"""What a look asks of MySQL and MariaDB by the driver alone, in as few round trips as can be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ..model import Snapshot, VersionTable
from .marks import TABLE as JOURNAL
from .mysql_errors import number_of
from .mysql_statements import quoted

_TOGETHER = 200
"""Version tables that one statement reads."""

_ORDINARY = "table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')"


def _plain(column: str) -> str:
    """A text in one collation, so that names and versions can be rows of one answer."""
    return f"CONVERT({column} USING utf8mb4) COLLATE utf8mb4_bin"


TABLES = (
    f"SELECT false, {_plain('table_name')} FROM information_schema.tables "
    f"WHERE table_schema = DATABASE() AND {_ORDINARY}"
)

JOURNAL_ALONE = f"{TABLES} AND table_name = '{JOURNAL}'"


def look(cursor: Any, begin: str, tables: str, version_table: VersionTable) -> Snapshot:
    """In one round trip, if there is a version table and no journal.

    `begin`: statements before the questions; `tables`: TABLES, or JOURNAL_ALONE of them.
    """
    versions = f"SELECT true, {_plain('version_num')} FROM {qualified(version_table)}"
    try:
        rows = _last_rows(cursor, f"{begin}; {tables} UNION ALL {versions}")
        versioned = True
    except Exception as error:
        if number_of(error) not in (1146, 1049):
            raise
        rows = _last_rows(cursor, f"{begin}; {tables}")
        versioned = False
    heads = sorted(name for is_version, name in rows if is_version)
    found = {name for is_version, name in rows if not is_version}
    journaled = JOURNAL in found
    unfinished = journaled and bool(_last_rows(cursor, f"SELECT 1 FROM {JOURNAL} LIMIT 1"))
    others = frozenset(found - {version_table.name, JOURNAL})
    return Snapshot(True, versioned, tuple(heads), others, journaled, unfinished)


def look_together(
    cursor: Any, begin: str, names: Sequence[str], version_table: VersionTable
) -> dict[str, Snapshot]:
    """Of those databases that have the version table and no journal, and that can be read.

    One table that cannot be read leaves out all that would have been read with it. Nothing here
    spans two statements, so that no table is held for longer than it takes to read it.
    """
    present = defaultdict(set)
    question = (
        f"SELECT {_plain('table_schema')}, {_plain('table_name')} FROM information_schema.tables "
        f"WHERE {_plain('table_name')} IN %s AND {_plain('table_schema')} IN %s AND {_ORDINARY}"
    )
    for database, table in _last_rows(
        cursor, f"{begin}; {question}", ((version_table.name, JOURNAL), tuple(names))
    ):
        present[database].add(table)
    told = [name for name in names if present.get(name) == {version_table.name}]
    found = {}
    for first in range(0, len(told), _TOGETHER):
        chunk = told[first : first + _TOGETHER]
        heads: list[list[str]] = [[] for _ in chunk]
        try:
            rows = _last_rows(cursor, _versions(chunk, version_table.name))
        except Exception as error:
            if number_of(error) is None:
                raise
            continue
        for number, version in rows:
            heads[number].append(version)
        for name, versions in zip(chunk, heads, strict=True):
            found[name] = Snapshot(True, True, tuple(sorted(versions)))
    return found


def _versions(databases: Sequence[str], table: str) -> str:
    """Rows of a database's number and a version of it."""
    return " UNION ALL ".join(
        f"SELECT {number}, {_plain('version_num')} FROM {quoted(database)}.{quoted(table)}"
        for number, database in enumerate(databases)
    )


def qualified(table: VersionTable) -> str:
    name = quoted(table.name)
    return f"{quoted(table.schema)}.{name}" if table.schema else name


def _last_rows(cursor: Any, statements: str, parameters: Any = None) -> list[Any]:
    """The rows of the last of several statements."""
    cursor.execute(statements, parameters)
    while cursor.nextset():
        pass
    return list(cursor.fetchall())
