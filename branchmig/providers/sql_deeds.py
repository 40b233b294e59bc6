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

_MOVES = ("search_path", "schema", "role", "authorization")
"""What a SET may name that changes which tables are meant by names without a schema."""

_EXECUTED = ("/*!", "/*M!")
"""Comments that MySQL and MariaDB execute."""

_SHOWN = 120


def deeds(text: str, dialect: str) -> tuple[Effect, ...]:
    """The effects of the statements of `text`, in order."""
    import logging

    import sqlglot

    if dialect in ("mysql", "mariadb") and any(mark in text for mark in _EXECUTED):
        return (_unknown(text),)
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
            case exp.Set() | exp.Pragma() if not any(m in self._text.lower() for m in _MOVES):
                return
            case _:
                yield from self._rows(statement)

    def _rows(self, statement: exp.Expr) -> Iterator[Effect]:
        from sqlglot import exp

        match statement:
            case exp.Delete() | exp.Update() if _is_alias(statement):
                yield _unknown(self._text)
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
                yield self._on(Deed.DROPS, table, may_be_gone=bool(statement.args.get("exists")))
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
        elif statement.find(exp.TemporaryProperty):
            yield _unknown(self._text)  # it may hide one of that name
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
        actions = statement.args.get("actions") or []
        kind = str(statement.args.get("kind") or "").upper()
        if kind != "TABLE" or not actions:
            yield Effect(Deed.SHAPES) if kind in _HOLDS_NO_ROWS else _unknown(self._text)
            return
        found = [effect for action in actions for effect in self._actions(statement, action)]
        renames = [_turn(effect) for effect in found if effect.deed is Deed.RENAMES]
        if len(renames) > len(set(renames)):
            yield _unknown(self._text)  # names may be exchanged
            return
        # All of one statement go by the names that there were before it.
        yield from sorted(found, key=_turn)

    def _actions(self, statement: exp.Alter, action: exp.Expr) -> Iterator[Effect]:
        from sqlglot import exp

        table = statement.this
        if isinstance(action, exp.AlterRename):
            yield self._renamed(statement, action.this)
        elif isinstance(action, exp.Drop) and action.kind == "COLUMN":
            gone = bool(statement.args.get("exists") or action.args.get("exists"))
            for column in action.args["tables"]:
                yield self._on(Deed.DROPS, table, self._name(column), may_be_gone=gone)
        else:
            yield self._action(table, action)

    def _renamed(self, statement: exp.Alter, new: Any) -> Effect:
        """RENAME without a word for what: PostgreSQL's RENAME a TO b, COLUMN left out, is parsed as
        a table's new name a with an option TO b."""
        from sqlglot import exp

        table, options = statement.this, statement.args.get("options") or []
        if not isinstance(new, exp.Table) or new.args.get("db"):
            return _unknown(self._text)
        match options:
            case []:
                return self._on(Deed.RENAMES, table, new=self._name(new))
            case [exp.ToTableProperty(this=exp.Table() as to)] if self._folds:
                return self._on(Deed.RENAMES, table, self._name(new), new=self._name(to))
        return _unknown(self._text)

    def _action(self, table: Any, action: exp.Expr) -> Effect:
        from sqlglot import exp

        found = _unknown(self._text)
        match action:
            case exp.Drop() if action.kind in _HOLDS_NO_ROWS:
                found = Effect(Deed.SHAPES)
            case exp.ColumnDef() if action.args.get("exists"):
                found = Effect(Deed.SHAPES)  # IF NOT EXISTS: it may have been there, with values
            case exp.ColumnDef():
                found = self._on(Deed.ADDS, table, self._name(action.this))
            case exp.AddConstraint():
                found = Effect(Deed.SHAPES)
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
        what: str = "", may_be_gone: bool = False,
    ) -> Effect:  # fmt: skip
        if table.args.get("catalog") or table.this.args.get("temporary"):
            return _unknown(self._text)  # of another database, or of the session alone
        schema = table.args.get("db")
        within = self._name(schema) if schema else None
        name = self._name(table)
        return Effect(deed, name, column, within, new, what, may_be_gone=may_be_gone)

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


def _turn(effect: Effect) -> int:
    """Where an effect of ALTER TABLE stands among those of its statement."""
    if effect.deed is Deed.RENAMES:
        return 1 if effect.column else 3
    return 2 if effect.deed is Deed.ADDS else 0


def _is_alias(statement: exp.Delete | exp.Update) -> bool:
    """Whether what is written to is named by an alias, or is a query of WITH."""
    from sqlglot import exp

    name = statement.this.name.lower()
    others = statement.find_all(exp.Table, exp.CTE)
    return any(one.alias.lower() == name for one in others if one is not statement.this)


def _joins(statement: exp.Update) -> bool:
    """Whether an UPDATE is of several tables: which of them, only the engine knows."""
    return bool(statement.this.args.get("joins"))
