"""What plain ``alembic`` commands run on a branch database.

branchmig executes this file as well, once and only to record what ``context.configure`` is told;
it opens branches itself. So nothing here may touch files, logging or other globals.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.operations.ops import DropTableOp, MigrationScript, ModifyTableOps
from alembic.util import CommandError, load_python_file

# By its place, not its name: in a copy of this folder the name may mean an installed original.
METADATA: sa.MetaData = load_python_file(Path(__file__).parent, "schema.py").metadata


def database_url() -> str:
    url = (
        context.get_x_argument(as_dictionary=True).get("url")
        # Before the environment: branchmig gives a scratch database this way, and must get it.
        or context.config.get_alembic_option("sqlalchemy.url")
        or os.environ.get("BRANCH_URL")
    )
    if not url:
        raise CommandError(
            "No database given: pass -x url=URL, set sqlalchemy.url in Alembic's settings, "
            "or set the environment variable BRANCH_URL."
        )
    return str(url)


def run_offline(url: str) -> None:
    sqlite = sa.make_url(url).get_backend_name() == "sqlite"
    run(sqlite=sqlite, url=url, literal_binds=True, dialect_opts={"paramstyle": "named"})


def run_online(url: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    sqlite = engine.dialect.name == "sqlite"
    if sqlite:
        sa.event.listen(engine, "begin", begin_sqlite)
    with engine.connect() as connection:
        run(
            sqlite=sqlite,
            connection=connection,
            on_version_apply=refuse_orphans if sqlite else None,
        )


def run(*, sqlite: bool, **options: Any) -> None:
    context.configure(
        target_metadata=METADATA,
        compare_type=True,
        # Generated on one engine, a revision has to run on all of them.
        render_as_batch=True,
        process_revision_directives=leave_indexes_to_their_table,
        transaction_per_migration=True,
        # Alembic takes SQLite's DDL for non-transactional; after begin_sqlite it is not.
        transactional_ddl=True if sqlite else None,
        **options,
    )
    with context.begin_transaction():
        context.run_migrations()


def leave_indexes_to_their_table(
    _context: object, _revision: object, scripts: list[MigrationScript]
) -> None:
    """Drop a table without dropping its indexes first: MySQL needs them for the foreign keys."""
    for script in scripts:
        for direction in (*script.upgrade_ops_list, *script.downgrade_ops_list):
            dropped = {op.table_name for op in direction.ops if isinstance(op, DropTableOp)}
            direction.ops = [
                op
                for op in direction.ops
                if not (isinstance(op, ModifyTableOps) and op.table_name in dropped)
            ]


def begin_sqlite(connection: sa.Connection) -> None:
    """Begin a transaction that holds DDL too, as the driver's own do not."""
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        return
    driver: Any = connection.connection.dbapi_connection
    # Each time anew: SQLAlchemy puts the driver's default back after an autocommit block.
    driver.isolation_level = None
    # A rebuilt parent table would take its children along. Within a transaction this is ignored.
    driver.execute("PRAGMA foreign_keys=OFF")
    driver.execute("BEGIN IMMEDIATE")


def refuse_orphans(**_: object) -> None:
    """Make up, before a revision commits, for the foreign keys that SQLite did not enforce."""
    orphans = context.get_bind().exec_driver_sql("PRAGMA foreign_key_check").all()
    if orphans:
        child, rowid, parent, _key = orphans[0]
        raise CommandError(
            f"Rolled back: {len(orphans)} row(s) would refer to a missing row, "
            f"the first from {child} (rowid {rowid}) to {parent}."
        )


if context.is_offline_mode():
    run_offline(database_url())
else:
    run_online(database_url())
