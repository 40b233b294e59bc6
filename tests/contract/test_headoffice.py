"""A HeadOffice of a former version: refused until `init` has upgraded it, which loses nothing."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from office import Office
from proxy import proxied
from schemas import engine_of
from servers import Mariadb

from branchmig.config import packaged
from branchmig.store import REVISIONS

TABLES = [
    f"branchmig_{name}" for name in ("branches", "migration_states", "runs", "outcomes", "rollouts")
]


def downgrade(url: str, revision: str) -> None:
    """Bring HeadOffice back to a revision, as its maintainers do."""
    whole = engine_of(url).url.render_as_string(hide_password=False)
    config = Config(
        packaged("alembic_headoffice") / "alembic.ini", cmd_opts=Namespace(x=[f"url={whole}"])
    )
    command.downgrade(config, revision)


def content(url: str) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, in an order of its own."""
    found = {}
    with engine_of(url).connect() as connection:
        for name in TABLES:
            table = sa.Table(name, sa.MetaData(), autoload_with=connection)
            rows = connection.execute(table.select()).mappings()
            found[name] = sorted((dict(row) for row in rows), key=repr)
    return found


@pytest.fixture
def former(office: Office, headoffice_url: str) -> Office:
    """An office that has worked for a while, on a HeadOffice at the version before this one."""
    office.use_history("linear")
    settings = office.settings.read_text()
    office.configure(f'[headoffice]\nurl = "{headoffice_url}"\n{settings}')
    office.init()
    (office.folder / "branches").mkdir()
    office.add("BR001", "BR002", "BR003")
    office.database("BR003").write_bytes(b"this is no database, whatever its name says " * 100)
    office.run("apply", "BR001")
    office.run("apply", "BR003", code=1)
    office.run("pin", "BR002")
    downgrade(headoffice_url, REVISIONS[-2])
    return office


def test_a_former_headoffice_is_refused_with_the_way_out(
    former: Office, headoffice_url: str
) -> None:
    before = content(headoffice_url)
    for arguments in (["status"], ["apply-all"], ["branch", "list"], ["resume"]):
        error = former.json(*arguments, code=78)["error"]
        found, needed = REVISIONS[-2:]
        assert error["message"] == f"HeadOffice is at {found}; this program needs {needed}"
        assert error["hint"].startswith("run `branchmig init`")
    assert content(headoffice_url) == before


def test_init_upgrades_a_former_headoffice_and_loses_nothing(
    former: Office, headoffice_url: str
) -> None:
    before = content(headoffice_url)
    assert [len(before[table]) for table in TABLES] == [3, 3, 3, 2, 0]
    assert former.json("init")["appliedMigrations"] == [REVISIONS[-1]]
    after = content(headoffice_url)
    for table in TABLES:
        columns = before[table][0].keys() if before[table] else ()
        kept = [{column: row[column] for column in columns} for row in after[table]]
        assert sorted(kept, key=repr) == before[table]
    assert former.json("init")["appliedMigrations"] == []
    rows = {row["branchCode"]: row for row in former.json("status")}
    assert (rows["BR001"]["status"], rows["BR001"]["lastMigrationApplied"]) == ("Completed", "a3")
    assert (rows["BR002"]["status"], rows["BR002"]["pinned"]) == ("Pending", True)
    assert (rows["BR003"]["status"], rows["BR003"]["retryCount"]) == ("Failed", 1)


def test_a_former_headoffice_takes_part_in_rollouts_once_it_is_upgraded(
    former: Office,
) -> None:
    former.init()
    former.settings.write_text(former.settings.read_text() + "[rollout]\ncanary = 1\n")
    former.run("unpin", "BR002")
    report = former.json("apply-all")
    assert [row["verdict"] for row in report["branches"]] == ["unchanged", "migrated", "skipped"]
    assert (report["rollout"]["passed"], report["rollout"]["failed"]) == (1, 0)


def test_an_init_that_was_cut_off_anywhere_is_finished_by_the_next(
    office: Office, mariadb: Mariadb
) -> None:
    """MariaDB keeps the tables that were made; only their journal says that there are more."""
    settings, halves = office.settings.read_text(), 0
    for limit in range(400, 4000, 1200):
        url = mariadb.url(f"h_cut{limit}")
        with proxied(mariadb.port, limit) as proxy:
            far = url.replace(f":{mariadb.port}/", f":{proxy.port}/")
            office.settings.write_text(f'[headoffice]\nurl = "{far}"\n{settings}')
            cut = office.run("init", code=None).returncode
        office.settings.write_text(f'[headoffice]\nurl = "{url}"\n{settings}')
        if cut:
            halves += office.run("status", code=None).returncode != 0
        office.init()
        assert office.json("status") == []
    assert halves > 1


def test_a_headoffice_that_lost_its_version_is_refused_where_ddl_stays_too(
    office: Office, mariadb: Mariadb
) -> None:
    url = mariadb.url("h_half")
    settings = office.settings.read_text()
    office.settings.write_text(f'[headoffice]\nurl = "{url}"\n{settings}')
    office.init()
    with mariadb.connect("h_half") as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM branchmig_version")
    for asked in ("status", "init"):
        error = office.json(asked, code=78)["error"]
        assert "does not say of which version" in error["message"]
