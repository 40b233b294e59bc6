"""Adopting a database that another tool made: held against what a revision leaves, then stamped.

Floor 4, below `migrator`.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from .errors import DriftDetected, NotAdopted, UnknownRevision
from .fence import Fence
from .model import Branch, Heads, heads_text
from .providers import MigrationStrategy
from .revisions.environment import run, stamp
from .revisions.history import History
from .revisions.hooks import NoHooks

BASE = "base"
"""The name of the place before every revision."""


def adopt(
    branch: Branch, revision: str, strategy: MigrationStrategy, history: History, fence: Fence
) -> Heads:
    """Write the version rows of `revision` into a database that has none. Gives the heads.

    Compared and stamped in one transaction: nobody can migrate in between. Raises DriftDetected
    with what is missing, NotAdopted where it is versioned already, UnknownRevision, MultipleHeads
    and exceptions of the driver; nothing is written then.
    """
    if revision != BASE and history.target_heads(revision) is None:
        raise UnknownRevision(
            f"{revision!r} is relative, and this database stands nowhere yet",
            "name the revision itself, or base",
        )
    with strategy.connect(branch.url) as connection, strategy.lock(connection):
        fence.check_step()
        with connection.begin():
            found = strategy.read(connection, history.version_table).heads
            if found:
                raise NotAdopted(
                    f"{branch.code} has a version table already, at {heads_text(found)}",
                    "it needs no baseline; `branchmig plan` shows what is before it",
                )
            missing = list(_missing(branch, strategy, history, connection, revision))
            if missing:
                raise DriftDetected(
                    f"{branch.code} is not at {revision}, it lacks {', '.join(missing)}",
                    "name an earlier revision, or add by hand what is missing",
                )
            stamp(history, connection, revision)
        return strategy.read(connection, history.version_table).heads


def _missing(
    branch: Branch,
    strategy: MigrationStrategy,
    history: History,
    connection: sa.Connection,
    revision: str,
) -> Iterator[str]:
    """Tables and columns that `revision` should have left and that are not there."""
    if revision == BASE:
        return
    with strategy.scratch(branch.url) as scratch:
        run(
            history,
            scratch,
            history.steps((), revision),
            NoHooks(),
            transactional_ddl=strategy.capabilities.transactional_ddl,
        )
        wanted = strategy.schema(scratch)
    wanted.pop(history.version_table.name, None)
    found = {name.lower(): columns for name, columns in strategy.schema(connection).items()}
    for table, columns in sorted(wanted.items()):
        present = found.get(table.lower())
        if present is None:
            yield f"the table {table}"
            continue
        known = {name.lower() for name in present}
        yield from (f"{table}.{name}" for name in sorted(columns) if name.lower() not in known)
