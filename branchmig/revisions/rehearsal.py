"""What downgrades would do, found out by running them where they can do nothing.

Their functions run as they will, on a connection that only reads, with Alembic's operations taken
down instead of carried out. What reaches the database another way is let through where it asks and
stopped where it would change something: what such a revision does cannot be told.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic.operations import BatchOperations, Operations, batch, ops
from alembic.runtime.environment import EnvironmentContext

from ..deeds import Deed, Effect
from ..masking import mask
from ..model import Direction, Step
from ..reversal import Refusal, Rehearsal, settle
from .history import History
from .source import place

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

Read = Callable[[str], Sequence[Effect]]
"""Tells the effects of a text of SQL, in the dialect of the branch."""

_ASKS = ("SELECT", "SHOW", "PRAGMA", "EXPLAIN", "DESCRIBE", "DESC", "WITH")
_SHAPES = (
    *(ops.AddConstraintOp, ops.DropConstraintOp, ops.CreateIndexOp, ops.DropIndexOp),
    *(ops.CreateTableCommentOp, ops.DropTableCommentOp),
)


_SHOWN = 120
"""Characters of a statement that are shown."""


class _Untold(Exception):
    """A revision wants to change the database past its operations."""


def rehearse(
    history: History,
    connection: sa.Connection,
    steps: Sequence[Step],
    read: Read,
    begun: str | None = None,
) -> Rehearsal:
    """The effects of downgrades on a branch's data, and why some of them cannot be run at all.

    `connection` is to be one that cannot write, since a revision may go round all of this. `begun`:
    the revision whose downgrade broke half way.
    """
    effects: list[Effect] = []
    refusals: list[Refusal] = []
    for number, step in enumerate(steps):
        found = _Attendant(history, connection, step, read)
        found.attend(first=number == 0)
        if connection.in_transaction():
            connection.rollback()  # a question that failed would make all that follow fail too
        effects += [replace(effect, revision=step.revision) for effect in found.effects]
        refusals += [Refusal(step.revision, why) for why in found.refusals]
    return Rehearsal(settle(effects, begun), tuple(refusals))


class _Attendant:
    """Runs one downgrade and takes down what it does."""

    def __init__(self, history: History, connection: sa.Connection, step: Step, read: Read) -> None:
        self._history = history
        self._connection = connection
        self._step = step
        self._read = read
        self._asked = False  # it has read from the database, or tried to write to it
        self.effects: list[Effect] = []
        self.refusals: list[str] = []

    def attend(self, *, first: bool) -> None:
        """`first`: the database stands where this step begins, so that what it reads is true."""
        if not self._history.has(self._step.revision, Direction.DOWNGRADE):
            self.refusals.append("it has no downgrade")
            return
        fault = self._run(self._step)
        if fault is not None and not self._asked and not isinstance(fault, _Untold):
            self.refusals.append(f"its downgrade raises {place(fault)}")
        elif fault is not None:
            if not isinstance(fault, _Untold):
                self._cannot_tell(f"its downgrade cannot be tried beforehand: {place(fault)}")
        elif self._asked and not first:
            self._cannot_tell("what its downgrade does depends on what it then reads")
        elif not self.effects:
            self._look_at_upgrade()

    def _look_at_upgrade(self) -> None:
        """A downgrade that does nothing is right where its upgrade leaves the schema alone."""
        up = _Attendant(self._history, self._connection, self._step, self._read)
        fault = up._run(replace(self._step, direction=Direction.UPGRADE))
        kinds = {effect.deed for effect in up.effects}
        if kinds & {Deed.ADDS, Deed.RENAMES, Deed.SHAPES} or any(
            effect.deed is Deed.DROPS and not effect.what for effect in up.effects
        ):
            self.refusals.append("its downgrade does nothing, while its upgrade changes the schema")
        elif fault is not None or Deed.UNKNOWN in kinds:
            self._cannot_tell(
                "its downgrade does nothing, and whether its upgrade did cannot be told"
            )

    def _cannot_tell(self, what: str) -> None:
        self.effects.append(Effect(Deed.UNKNOWN, what=what))

    # Running it -------------------------------------------------------------------------------

    def _run(self, step: Step) -> BaseException | None:
        """What the function raised."""
        history = self._history
        env = EnvironmentContext(history.config, history.script, as_sql=False)
        options = {**history.configure, "on_version_apply": ()}
        history.config.attributes["connection"] = self._connection
        try:
            with redirect_stdout(sys.stderr), env, self._guarded():
                env.configure(connection=self._connection, **options)
                context = env.get_context()
                with self._operations(context):
                    history.fresh_step(step).migration_fn(**history.run_arguments)
        except (Exception, SystemExit) as error:
            return error
        finally:
            history.config.attributes.pop("connection", None)
        return None

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Within, nothing but questions reaches the database."""

        def guard(_: Any, __: Any, statement: str, *___: Any) -> None:
            self._asked = True
            words = statement.lstrip(" \t\r\n(").split(None, 1)
            if not words or words[0].upper() not in _ASKS:
                # Taken down here: the revision may go on after what this raises.
                sent = mask(" ".join(statement.split()))[:_SHOWN]
                self._cannot_tell(f"its downgrade goes past Alembic's operations: {sent}")
                raise _Untold

        sa.event.listen(self._connection, "before_cursor_execute", guard)
        try:
            yield
        finally:
            sa.event.remove(self._connection, "before_cursor_execute", guard)

    @contextmanager
    def _operations(self, context: MigrationContext) -> Iterator[None]:
        vars(context).update(autocommit_block=nullcontext, begin_transaction=_no_transaction)
        with Operations.context(context) as operations:
            vars(operations).update(
                invoke=lambda operation: self._invoke(operations, operation),
                batch_alter_table=lambda *given, **named: self._batch(operations, *given, **named),
            )
            yield

    @contextmanager
    def _batch(
        self,
        operations: Operations,
        table_name: str,
        schema: str | None = None,
        recreate: Any = "auto",
        partial_reordering: Any = None,
        copy_from: sa.Table | None = None,
        **given: Any,
    ) -> Iterator[BatchOperations]:
        if copy_from is not None:
            what = "it is made anew after a description in the revision"
            self._add(Deed.CHANGES, table_name, schema=schema, what=what)
        make: Any = batch.BatchOperationsImpl
        naming = given.get("naming_convention")
        impl = make(
            operations, table_name, schema, recreate, None, (), {}, (), {}, naming,
            partial_reordering or (),
        )  # fmt: skip
        within = BatchOperations(operations.migration_context, impl=impl)
        vars(within).update(invoke=lambda operation: self._invoke(within, operation))
        yield within

    # Its operations ---------------------------------------------------------------------------

    def _invoke(self, operations: Any, operation: Any) -> Any:
        match operation:
            case ops.DropTableOp():
                table, gone = operation.table_name, bool(operation.if_exists)
                self._add(Deed.DROPS, table, schema=operation.schema, may_be_gone=gone)
            case ops.DropColumnOp():
                table, gone = operation.table_name, bool(operation.if_exists)
                column = operation.column_name
                self._add(Deed.DROPS, table, column, operation.schema, may_be_gone=gone)
            case ops.RenameTableOp():
                new = operation.new_table_name
                self._add(Deed.RENAMES, operation.table_name, schema=operation.schema, new=new)
            case ops.AlterColumnOp():
                self._alter_column(operation)
            case ops.CreateTableOp():
                deed = Deed.SHAPES if operation.if_not_exists else Deed.ADDS
                self._add(deed, operation.table_name, schema=operation.schema)
                return operation.to_table(operations.migration_context)
            case ops.AddColumnOp():
                column = str(operation.column.name)
                deed = Deed.SHAPES if operation.if_not_exists else Deed.ADDS
                self._add(deed, operation.table_name, column, operation.schema)
            case ops.BulkInsertOp():
                self.effects.append(Effect(Deed.ROWS))
            case ops.ExecuteSQLOp():
                self._execute(operation.sqltext)
            case _ if isinstance(operation, _SHAPES):
                self.effects.append(Effect(Deed.SHAPES))
            case _:
                # One that the history itself has registered, made of others.
                return type(operations).invoke(operations, operation)
        return None

    def _alter_column(self, operation: ops.AlterColumnOp) -> None:
        table, column = operation.table_name, operation.column_name
        new = operation.modify_type
        if new is None or _widens(operation.existing_type, new):
            self.effects.append(Effect(Deed.SHAPES))
        else:
            what = f"its type changes to {new!r}"
            self._add(Deed.CHANGES, table, column, operation.schema, what=what)
        if operation.modify_name is not None:
            name = operation.modify_name
            self._add(Deed.RENAMES, table, column, operation.schema, new=name)

    def _execute(self, statement: Any) -> None:
        match statement:
            case str():
                self.effects += self._read(statement)
            case sa.TextClause():
                self.effects += self._read(statement.text)
            case sa.Insert():
                self.effects.append(Effect(Deed.ROWS))
            case sa.Update() if isinstance(statement.table, sa.TableClause):
                table = statement.table
                what = "its rows are written over"
                self._add(Deed.CHANGES, table.name, schema=table.schema, what=what)
            case sa.Delete() if isinstance(statement.table, sa.TableClause):
                table = statement.table
                what = "rows of it are deleted"
                self._add(Deed.DROPS, table.name, schema=table.schema, what=what)
            case _:
                compiled = statement.compile(dialect=self._connection.dialect)
                self.effects += self._read(str(compiled))

    def _add(
        self, deed: Deed, table: str, column: str | None = None, schema: str | None = None, *,
        new: str | None = None, what: str = "", may_be_gone: bool = False,
    ) -> None:  # fmt: skip
        found = Effect(deed, table, column, schema, new, what, may_be_gone=may_be_gone)
        self.effects.append(found)


@contextmanager
def _no_transaction(*_: Any, **__: Any) -> Iterator[None]:
    yield


def _widens(old: Any, new: Any) -> bool:
    """Whether every value of a column fits its new type as it is; False where that is not clear."""
    if old is None:
        return False
    old, new = sa.types.to_instance(old), sa.types.to_instance(new)
    if not (isinstance(old, sa.String) and type(new) is type(old)) or isinstance(new, sa.Enum):
        return False
    return new.length is None or (old.length is not None and new.length >= old.length)
