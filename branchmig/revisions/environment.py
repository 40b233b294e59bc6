"""Running steps of a history on a connection, in an Alembic environment of our own."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, RevisionStep

from ..model import Step
from .history import History
from .hooks import Hooks
from .source import place

if TYPE_CHECKING:
    import sqlalchemy as sa


def run(
    history: History,
    connection: sa.Connection,
    steps: Sequence[Step],
    hooks: Hooks,
    *,
    transactional_ddl: bool,
) -> None:
    """Run `steps`, each in a transaction of its own together with its version row.

    The branch stands where the first begins. `connection` must not be in a transaction: Alembic
    would take that for a foreign one and leave it open. Whatever a revision raises comes through,
    its transaction rolled back.
    """

    def work(heads: Any, context: MigrationContext) -> Iterator[RevisionStep]:
        for step in steps:
            hooks.before_step(step)
            yield _guarded(history.fresh_step(step), step, hooks)
            # A revision that commits on its bind ended the transaction that Alembic knows; the
            # version row is then in a new one, which nobody would commit.
            if connection.in_transaction():
                connection.commit()
            hooks.landed(step)

    by_revision = {step.revision: step for step in steps}

    def stamped(*, step: Any, **_: Any) -> None:
        hooks.stamped(by_revision[step.up_revision_id])

    given = history.configure.get("on_version_apply") or ()
    callbacks = given if isinstance(given, (list, tuple, set)) else (given,)
    env = EnvironmentContext(history.config, history.script, fn=work, as_sql=False)
    history.config.attributes["connection"] = connection
    options = {
        **history.configure,
        "on_version_apply": (*callbacks, stamped),
        "transaction_per_migration": True,
        "transactional_ddl": transactional_ddl,
    }
    try:
        with redirect_stdout(sys.stderr), env:
            env.configure(connection=connection, **options)
            heads = steps[0].from_heads if steps else ()
            if heads:
                # Alembic would ask once more for what the plan was made from. Whether that still
                # holds, the hooks ask within the transaction of each step. Where there are none it
                # has to see for itself, or it would commit its table before the first step.
                context: Any = env.get_context()
                context.get_current_heads = lambda: heads
            with env.begin_transaction():
                env.run_migrations(**history.run_arguments)
    finally:
        history.config.attributes.pop("connection", None)
        if connection.in_transaction():
            connection.rollback()


def _guarded(alembic_step: RevisionStep, step: Step, hooks: Hooks) -> RevisionStep:
    revise: Callable[..., None] = alembic_step.migration_fn

    def migration(**arguments: Any) -> None:
        hooks.begun(step)
        try:
            revise(**arguments)
        except BaseException:
            hooks.broken(step)
            raise
        hooks.executed(step)

    migration.__name__ = revise.__name__
    alembic_step.migration_fn = migration
    return alembic_step


def stamp(history: History, connection: sa.Connection, revision: str) -> None:
    """Write the version rows of `revision` ("base": an empty version table).

    `connection` is in a transaction, and the caller commits it.
    """
    table = history.version_table
    options = {"version_table": table.name, "version_table_schema": table.schema}
    MigrationContext.configure(connection, opts=options).stamp(history.script, revision)


def offline_sql(history: History, steps: Sequence[Step], dialect: str) -> dict[str, str]:
    """The SQL of each step for a dialect, by revision, as Alembic would send it.

    A revision that asks the database something cannot be shown: its text then says so.
    """
    return {step.revision: _step_sql(history, step, dialect) for step in steps}


def _step_sql(history: History, step: Step, dialect: str) -> str:
    def work(heads: Any, context: MigrationContext) -> list[RevisionStep]:
        return [history.fresh_step(step)]

    text = io.StringIO()
    env = EnvironmentContext(
        history.config,
        history.script,
        fn=work,
        as_sql=True,
        starting_rev=step.from_heads or None,
    )
    options = {**history.configure, "on_version_apply": ()}
    try:
        with redirect_stdout(sys.stderr), env:
            env.configure(
                dialect_name=dialect,
                output_buffer=text,
                # Otherwise drivers that take %s for a parameter have every percent sign doubled.
                dialect_opts={"paramstyle": "named"},
                literal_binds=True,
                transactional_ddl=False,
                **options,
            )
            env.run_migrations(**history.run_arguments)
    except (Exception, SystemExit) as error:
        return f"-- not to be had without the database: {place(error)}"
    return text.getvalue().strip()
