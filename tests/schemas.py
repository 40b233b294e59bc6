"""The schema of a database as SQLAlchemy reflects it, to compare what two ways have made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa

from branchmig.providers import sqlserver_drivers as drivers

_DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
"""Of URLs that name none; SQLAlchemy's own choice would be another."""


def engine_of(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    name = _DRIVERS.get(parsed.drivername, parsed.drivername)
    parsed = parsed.set(drivername=name)
    if parsed.get_backend_name() == "mssql":
        parsed = drivers.for_driver(parsed, drivers.driver_of(parsed))
    return sa.create_engine(parsed, poolclass=sa.NullPool)


def schema_of(url: str) -> dict[str, Any]:
    """What reflection sees, as sets: a table rebuilt in batch mode has no order of constraints."""
    with engine_of(url).connect() as connection:
        return _reflected(sa.inspect(connection))


def _reflected(inspector: sa.Inspector) -> dict[str, Any]:
    constraints: dict[str, Callable[[str], Iterable[Any]]] = {
        "unique": inspector.get_unique_constraints,
        "foreign keys": inspector.get_foreign_keys,
        "checks": inspector.get_check_constraints,
        "indexes": inspector.get_indexes,
    }
    return {
        table: {
            "columns": {
                (c["name"], str(c["type"]), c["nullable"], c["default"])
                for c in inspector.get_columns(table)
            },
            "primary key": json.dumps(inspector.get_pk_constraint(table), sort_keys=True),
            "options": {
                (name, value)
                for name, value in _options(inspector, table).items()
                if not name.endswith("auto_increment")  # counts rows that came and went
            },
            **{
                kind: {json.dumps(found, sort_keys=True, default=str) for found in get(table)}
                for kind, get in constraints.items()
            },
        }
        for table in inspector.get_table_names()
    }


def _options(inspector: sa.Inspector, table: str) -> dict[str, Any]:
    """Engine, character set and the like, where the database has such."""
    try:
        return dict(inspector.get_table_options(table))
    except NotImplementedError:
        return {}


def versions_of(url: str) -> set[str]:
    with engine_of(url).connect() as connection:
        return set(connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars())
