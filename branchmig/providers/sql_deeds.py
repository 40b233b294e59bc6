"""What a statement of SQL does to the data of a branch, for each engine's dialect.

A statement that the parser does not know, or of which it cannot say what becomes of the data, is
UNKNOWN. The parser is a library (sqlglot), imported where one is read: few commands ever do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..deeds import Deed, Effect
from ..masking import mask

if TYPE_CHECKING:
    from sqlglot import exp

_NAMES = {"postgresql": "postgres", "mssql": "tsql", "mariadb": "mysql"}
"""sqlglot's names of dialects, where they are not SQLAlchemy's."""

_HOLDS_NO_ROWS = ("INDEX", "VIEW", "TRIGGER", "CONSTRAINT", "EVENT")
_MAY_BE_USED = ("FUNCTION", "PROCEDURE", "TYPE", "DOMAIN", "SEQUENCE")
"""Columns may be made of them, and go with them under CASCADE."""

_SHOWN = 120


def deeds(text: str, dialect: str) -> tuple[Effect, ...]:
    """The effects of the statements of `text`, in order."""
    import logging

    import sqlglot

    # It warns there of what it reads as a mere command; that is UNKNOWN here.
    logging.getLogger("sqlglot").setLevel(logging.ERROR)
    try:
        found = sqlglot.parse(text, read=_NAMES.get(dialect, dialect))
    except (sqlglot.errors.SqlglotError, RecursionError, ValueError):
        return (_unknown(text),)
    folds = dialect == "postgresql"
    return tuple(
        effect
        for statement in found
        if statement is not None
        for effect in _Reader(text if len(found) == 1 else statement.sql(), folds).read(statement)
    )


def _unknown(text: str) -> Effect:
    shown = mask(" ".join(text.split()))
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
    return Effect(Deed.UNKNOWN, what=f"what becomes of data cannot be told from: {shown}")


class _Reader:
    """Reads one statement. `folds`: names without quotes are lower case."""

    def __init__(self, text: str, folds: bool) -> None:
        self._text = text
        self._folds = folds

    def read(self, statement: exp.Expr) -> Iterator[Effect]:
        from sqlglot import exp

        inner = [
            node for node in statement.find_all(exp.Delete, exp.Update, exp.Merge, exp.Command)
            if node is not statement
        ]  # fmt: skip
        calls = not isinstance(statement, exp.Create) and statement.find(exp.Anonymous)
        if inner or calls:
            # A function may do anything, and a statement within another one may be any.
            yield _unknown(self._text)
            return
        match statement:
            case exp.Drop():
                yield from self._drop(statement)
            case exp.Alter():
                yield from self._alter(statement)
            case exp.Create():
                yield from self._create(statement)
            case exp.Comment() | exp.Grant() | exp.Revoke():
                yield Effect(Deed.SHAPES)
            case exp.Query() if not statement.find(exp.Into):
                return
            case exp.Set() | exp.Pragma() if "search_path" not in self._text.lower():
                return
            case _:
                yield from self._rows(statement)

    def _rows(self, statement: exp.Expr) -> Iterator[Effect]:
        from sqlglot import exp

        match statement:
            case exp.Delete() | exp.TruncateTable():
                yield from self._empty(statement)
            case exp.Update() if isinstance(statement.this, exp.Table) and not _joins(statement):
                yield self._on(Deed.CHANGES, statement.this, what="its rows are written over")
            case exp.Insert() if not _overwrites(statement):
                yield Effect(Deed.ROWS)
            case _:
                yield _unknown(self._text)

    def _drop(self, statement: exp.Drop) -> Iterator[Effect]:
        may_go = statement.kind in _MAY_BE_USED and not statement.args.get("cascade")
        if statement.kind == "TABLE":
            for table in statement.args["tables"]:
                yield self._on(Deed.DROPS, table)
        elif statement.kind in _HOLDS_NO_ROWS or may_go:
            yield Effect(Deed.SHAPES)
        else:
            yield _unknown(self._text)

    def _create(self, statement: exp.Create) -> Iterator[Effect]:
        from sqlglot import exp

        table = statement.find(exp.Table)
        if statement.kind in _HOLDS_NO_ROWS + _MAY_BE_USED:
            yield Effect(Deed.SHAPES)
        elif statement.kind != "TABLE" or statement.args.get("replace") or table is None:
            yield _unknown(self._text)
        elif statement.args.get("exists"):
            yield Effect(Deed.SHAPES)  # IF NOT EXISTS: it may have been there, with rows
        else:
            yield self._on(Deed.ADDS, table)

    def _empty(self, statement: exp.Expr) -> Iterator[Effect]:
        from sqlglot import exp

        tables = [statement.this] if isinstance(statement, exp.Delete) else statement.expressions
        if not tables or not all(isinstance(table, exp.Table) for table in tables):
            yield _unknown(self._text)
            return
        if statement.args.get("tables") or statement.args.get("option") == "CASCADE":
            yield _unknown(self._text)  # which of them, or of others too, only the engine knows
            return
        for table in tables:
            yield self._on(Deed.DROPS, table, what="rows of it are deleted")

    def _alter(self, statement: exp.Alter) -> Iterator[Effect]:
        from sqlglot import exp

        table, actions = statement.this, statement.args.get("actions") or []
        kind = str(statement.args.get("kind") or "").upper()
        if kind != "TABLE" or not actions:
            yield Effect(Deed.SHAPES) if kind in _HOLDS_NO_ROWS else _unknown(self._text)
            return
        for action in actions:
            if isinstance(action, exp.Drop) and action.kind == "COLUMN":
                for column in action.args["tables"]:
                    yield self._on(Deed.DROPS, table, self._name(column))
            else:
                yield self._action(table, action)

    def _action(self, table: Any, action: exp.Expr) -> Effect:
        from sqlglot import exp

        found = _unknown(self._text)
        match action:
            case exp.Drop() if action.kind in _HOLDS_NO_ROWS:
                found = Effect(Deed.SHAPES)
            case exp.ColumnDef():
                found = self._on(Deed.ADDS, table, self._name(action.this))
            case exp.AddConstraint():
                found = Effect(Deed.SHAPES)
            case exp.AlterRename() if isinstance(action.this, exp.Table):
                found = self._on(Deed.RENAMES, table, new=self._name(action.this))
            case exp.RenameColumn():
                new = self._name(action.args["to"])
                found = self._on(Deed.RENAMES, table, self._name(action.this), new=new)
            case exp.AlterColumn() if action.args.get("dtype") is None:
                found = Effect(Deed.SHAPES)
            case exp.AlterColumn():
                column = self._name(action.this)
                found = self._on(Deed.CHANGES, table, column, what="its type changes")
            case exp.ModifyColumn() if isinstance(action.this, exp.ColumnDef):
                column = self._name(action.args.get("rename_from") or action.this.this)
                found = self._on(Deed.CHANGES, table, column, what="its type may change")
        return found

    def _on(
        self, deed: Deed, table: Any, column: str | None = None, *, new: str | None = None,
        what: str = "",
    ) -> Effect:  # fmt: skip
        schema = table.args.get("db")
        return Effect(
            deed, self._name(table), column, self._name(schema) if schema else None, new, what
        )

    def _name(self, node: Any) -> str:
        """A name as the engine has it."""
        from sqlglot import exp

        found = node if isinstance(node, exp.Identifier) else node.find(exp.Identifier)
        if isinstance(node, exp.Table):
            found = node.this
        if not isinstance(found, exp.Identifier):
            return str(getattr(node, "name", node))
        return found.name.lower() if self._folds and not found.quoted else found.name


def _overwrites(statement: exp.Insert) -> bool:
    """REPLACE, INSERT OR REPLACE, ON CONFLICT DO UPDATE, ON DUPLICATE KEY UPDATE."""
    given = statement.args
    return any(given.get(name) for name in ("overwrite", "alternative", "conflict"))


def _joins(statement: exp.Update) -> bool:
    """Whether an UPDATE is of several tables: which of them, only the engine knows."""
    return bool(statement.this.args.get("joins"))
