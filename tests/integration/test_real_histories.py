"""Histories that other people wrote and ship, run by settings alone.

The schema must be the one that plain Alembic makes with the package's own env.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from office import Office

BRANCHES = [f"BR{number:03}" for number in range(1, 21)]

OPTUNA = 'script_location = "optuna.storages._rdb:alembic"'
MLFLOW = 'script_location = "mlflow.store:db_migrations"'

# As optuna.storages._rdb.storage makes its configuration, on a database that is empty.
PLAIN_OPTUNA = """
import sys
from pathlib import Path
import optuna.storages._rdb as package
from alembic import command
from alembic.config import Config
folder = Path(package.__file__).parent
config = Config(folder / "alembic.ini")
config.set_main_option("script_location", str(folder / "alembic"))
config.set_main_option("sqlalchemy.url", sys.argv[1])
command.upgrade(config, "head")
"""

# As MLflow initialises a tracking database: what it began with, then its own upgrade.
PLAIN_MLFLOW = """
import sys
import sqlalchemy as sa
from mlflow.store.db.utils import _upgrade_db
from mlflow.store.tracking.dbmodels.initial_models import Base
engine = sa.create_engine(sys.argv[1], poolclass=sa.NullPool)
Base.metadata.create_all(engine)
_upgrade_db(engine)
"""

INITIAL_MLFLOW = """
import sys
import sqlalchemy as sa
from mlflow.store.tracking.dbmodels.initial_models import Base
for url in sys.argv[1:]:
    Base.metadata.create_all(sa.create_engine(url, poolclass=sa.NullPool))
"""


def plainly(program: str, *urls: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program, *urls],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def schema_of(file: Path) -> dict[str, Any]:
    """What reflection sees, as sets: a table rebuilt in batch mode has no order of constraints."""
    engine = sa.create_engine(f"sqlite:///{file}", poolclass=sa.NullPool)
    inspector = sa.inspect(engine)
    constraints = {
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
            **{
                kind: {json.dumps(found, sort_keys=True, default=str) for found in get(table)}
                for kind, get in constraints.items()
            },
        }
        for table in inspector.get_table_names()
    }


def versions_of(file: Path) -> set[str]:
    with sa.create_engine(f"sqlite:///{file}", poolclass=sa.NullPool).connect() as connection:
        return set(connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars())


def assert_like(office: Office, codes: list[str], plain: Path) -> None:
    """Every branch is what plain Alembic made, and HeadOffice says so."""
    wanted = schema_of(plain)
    assert len(wanted) > 5
    for code in codes:
        assert schema_of(office.database(code)) == wanted, code
        assert versions_of(office.database(code)) == versions_of(plain)
    rows = office.json("status")
    assert [row["status"] for row in rows] == ["Completed"] * len(codes)
    assert {row["lastMigrationApplied"] for row in rows} == versions_of(plain)


@pytest.fixture
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where plain Alembic shall make its database."""
    return tmp_path_factory.mktemp("plain") / "plain.db"


def test_twenty_branches_of_optuna_reach_head_as_plain_alembic_would(
    office: Office, plain: Path
) -> None:
    office.configure(f"[migrations]\n{OPTUNA}\n")
    office.add(*BRANCHES)
    report = office.json("apply-all")
    assert report["branchesSucceeded"] == len(BRANCHES)
    plainly(PLAIN_OPTUNA, f"sqlite:///{plain}")
    assert_like(office, BRANCHES, plain)
    assert office.json("validate", BRANCHES[0])["isValid"]


def test_databases_that_mlflow_made_are_adopted_and_reach_its_head(
    office: Office, plain: Path
) -> None:
    codes = BRANCHES
    office.configure(f"[migrations]\n{MLFLOW}\n")
    office.add(*codes)
    files = [office.database(code) for code in codes]
    files[0].parent.mkdir()
    plainly(INITIAL_MLFLOW, *(f"sqlite:///{file}" for file in files))
    refused = office.json("apply", codes[0], code=1)
    assert "another tool made it" in refused["errorMessage"]
    for code in codes:
        office.run("baseline", code, "--revision", "base")
    report = office.json("apply-all")
    assert report["branchesSucceeded"] == len(codes)
    plainly(PLAIN_MLFLOW, f"sqlite:///{plain}")
    assert_like(office, codes, plain)


def test_the_history_of_a_package_is_valid_and_stays_as_it_was_installed(office: Office) -> None:
    import optuna.storages._rdb as package

    folder = Path(package.__file__).parent / "alembic"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    office.configure(f"[migrations]\n{OPTUNA}\n")
    report = office.json("validate", "--no-branches", code=None)
    assert report["migrations"]["heads"] == ["v3.2.0.a"]
    office.add(BRANCHES[0])
    office.run("apply", BRANCHES[0])
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
