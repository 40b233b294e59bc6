"""One run over branches of three engines, by the real command on real servers."""

from __future__ import annotations

import uuid
from collections import Counter

from office import Office
from processes import Family
from servers import Mariadb, Postgresql

EACH = 10


def test_one_run_brings_ten_branches_of_each_of_three_engines_to_head(
    office: Office, family: Family, postgresql: Postgresql, mariadb: Mariadb
) -> None:
    databases = [f"m_{uuid.uuid4().hex}" for _ in range(EACH)]
    urls = [
        url
        for name in databases
        for url in (f"sqlite:///branches/{name}.db", postgresql.url(name), mariadb.url(name))
    ]
    lines = [f"BR{number:03},{url}" for number, url in enumerate(urls)]
    office.run("branch", "import", "-", stdin="\n".join(["code,url", *lines, ""]))
    report = office.json("apply-all")
    assert (report["success"], report["branchesSucceeded"]) == (True, len(urls)), report
    rows = office.json("status")
    head = rows[0]["targetMigration"]
    assert Counter(
        (row["provider"], row["status"], row["lastMigrationApplied"]) for row in rows
    ) == {(engine, "Completed", head): EACH for engine in ("sqlite", "postgresql", "mysql")}
    select = "SELECT version_num FROM alembic_version"
    for name in databases:
        assert office.query(name, select) == [(head,)]
        assert postgresql.query(select, name) == [(head,)]
        assert mariadb.query(select, name) == [(head,)]
