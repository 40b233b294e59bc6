"""Histories that other people wrote and ship, run by settings alone.

The schema must be the one that plain Alembic makes with the package's own env.py.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa
from office import Office
from schemas import engine_of, schema_of, versions_of
from servers import Server

BRANCHES = [f"BR{number:03}" for number in range(1, 21)]

OPTUNA = 'script_location = "optuna.storages._rdb:alembic"'
CINDER = 'script_location = "cinder.db:migrations"'
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


# As `cinder-manage db sync` does it; the URL is in its own settings there.
PLAIN_CINDER = """
import sys
import sqlalchemy as sa
from cinder.db.migration import db_sync
db_sync(engine=sa.create_engine(sys.argv[1], poolclass=sa.NullPool))
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


def urls_of(office: Office, codes: list[str]) -> list[str]:
    return [f"sqlite:///{office.database(code)}" for code in codes]


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Server:
    """A server of each engine that tests start."""
    found: Server = request.getfixturevalue(request.param)
    return found


def made(server: Server) -> str:
    """A new database of a server, as a URL that plain SQLAlchemy takes as well: with its driver."""
    name = f"r_{uuid.uuid4().hex}"
    server.query(f"CREATE DATABASE {name}")
    return engine_of(server.url(name)).url.render_as_string(hide_password=False)


def assert_like(office: Office, urls: list[str], plain: str) -> None:
    """Every branch is what plain Alembic made, and HeadOffice says so."""
    wanted = schema_of(plain)
    assert len(wanted) > 5
    for url in urls:
        assert schema_of(url) == wanted, url
        assert versions_of(url) == versions_of(plain)
    rows = office.json("status")
    assert [row["status"] for row in rows] == ["Completed"] * len(urls)
    assert {row["lastMigrationApplied"] for row in rows} == versions_of(plain)


@pytest.fixture
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where plain Alembic shall make its database."""
    return f"sqlite:///{tmp_path_factory.mktemp('plain') / 'plain.db'}"


def test_twenty_branches_of_optuna_reach_head_as_plain_alembic_would(
    office: Office, plain: str
) -> None:
    office.configure(f"[migrations]\n{OPTUNA}\n")
    office.add(*BRANCHES)
    report = office.json("apply-all")
    assert report["branchesSucceeded"] == len(BRANCHES)
    plainly(PLAIN_OPTUNA, plain)
    assert_like(office, urls_of(office, BRANCHES), plain)
    assert office.json("validate", BRANCHES[0])["isValid"]


def test_databases_that_mlflow_made_are_adopted_and_reach_its_head(
    office: Office, plain: str
) -> None:
    codes = BRANCHES[:8]
    office.configure(f"[migrations]\n{MLFLOW}\n")
    office.add(*codes)
    urls = urls_of(office, codes)
    office.database(codes[0]).parent.mkdir()
    plainly(INITIAL_MLFLOW, *urls)
    refused = office.json("apply", codes[0], code=1)
    assert "another tool made it" in refused["errorMessage"]
    for code in codes:
        office.run("baseline", code, "--revision", "base")
    report = office.json("apply-all")
    assert report["branchesSucceeded"] == len(codes)
    plainly(PLAIN_MLFLOW, plain)
    assert_like(office, urls, plain)


def test_a_database_that_mlflow_made_on_a_server_is_adopted_and_reaches_its_head(
    office: Office, server: Server
) -> None:
    office.configure(f"[migrations]\n{MLFLOW}\n")
    url, plain = made(server), made(server)
    plainly(INITIAL_MLFLOW, url)
    office.run("branch", "add", "BR001", "--url", url)
    office.run("baseline", "BR001", "--revision", "base")
    assert office.json("apply-all")["branchesSucceeded"] == 1
    plainly(PLAIN_MLFLOW, plain)
    assert_like(office, [url], plain)


def test_cinder_reaches_head_on_a_file_as_its_own_function_would(
    office: Office, plain: str
) -> None:
    office.add("BR001")
    assert_cinder(office, urls_of(office, ["BR001"])[0], plain)


def test_cinder_reaches_head_on_a_server_as_its_own_function_would(
    office: Office, server: Server
) -> None:
    url, plain = made(server), made(server)
    office.run("branch", "add", "BR001", "--url", url)
    assert_cinder(office, url, plain)


def assert_cinder(office: Office, url: str, plain: str) -> None:
    office.configure(f"[migrations]\n{CINDER}\n")
    report = office.json("apply-all")
    assert report["branchesSucceeded"] == 1
    plainly(PLAIN_CINDER, plain)
    assert_like(office, [url], plain)
    assert quotas_of(url) == quotas_of(plain)


def quotas_of(url: str) -> set[tuple[object, ...]]:
    """What cinder's revisions insert; moments and numbers left out."""
    with engine_of(url).connect() as connection:
        rows = connection.execute(
            sa.text("SELECT class_name, resource, hard_limit, deleted FROM quota_classes")
        )
        found = {tuple(row) for row in rows}
    assert len(found) > 3
    return found


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
