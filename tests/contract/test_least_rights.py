"""The least rights with which an account of a server can do its work, each of them needed."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from pathlib import Path

import pytest
import sqlalchemy as sa
from office import Office
from servers import Server

from branchmig.config import packaged
from branchmig.errors import BranchBusy, BranchUnusable
from branchmig.model import Direction, Provider, Step, VersionTable
from branchmig.providers import Limits, MigrationStrategy, strategy_for
from branchmig.revisions.environment import run
from branchmig.revisions.history import History
from branchmig.revisions.hooks import NoHooks
from branchmig.revisions.source import Source

PASSWORD = "of-the-accounts"

Rights = dict[str, str]
"""What grants each, of a database {d} to an account {u}."""

ON_POSTGRESQL: Rights = {
    "CONNECT": "GRANT CONNECT ON DATABASE {d} TO {u}",
    "USAGE": "GRANT USAGE ON SCHEMA public TO {u}",
    "CREATE": "GRANT CREATE ON SCHEMA public TO {u}",
}
"""Whoever makes a table owns it, and may alter and drop it."""

ON_MARIADB: Rights = {
    right: f"GRANT {right} ON {{d}}.* TO {{u}}@'%'"
    for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP", "INDEX")
}

MIGRATING = {"postgresql": ON_POSTGRESQL, "mariadb": ON_MARIADB}

TO_CREATE = {
    "postgresql": "ALTER ROLE {u} CREATEDB",
    # Of the databases of that name's beginning; an underscore would stand for any letter.
    "mariadb": "GRANT " + ", ".join(ON_MARIADB) + r" ON `{d}\_%`.* TO {u}@'%'",
}

TO_LOOK: dict[str, Rights] = {
    "postgresql": {
        **{right: ON_POSTGRESQL[right] for right in ("CONNECT", "USAGE")},
        "SELECT": "GRANT SELECT ON alembic_version TO {u}",
    },
    # Names of tables are told only to who has some right on them.
    "mariadb": {"SELECT": ON_MARIADB["SELECT"]},
}

NAMES = {"postgresql": "SELECT datname FROM pg_database", "mysql": "SHOW DATABASES"}

PROVIDERS = {"postgresql": Provider.POSTGRESQL, "mariadb": Provider.MYSQL}


@pytest.fixture(params=list(MIGRATING))
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(engine: str, request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(engine)
    return found


@pytest.fixture
def strategy(engine: str) -> MigrationStrategy:
    return strategy_for(PROVIDERS[engine], Limits(lock_timeout=0.5), Path())


def account(server: Server, grants: Iterable[str], *, name: str = "", create: bool = True) -> str:
    """The URL of a database for an account that has exactly these rights.

    `name`: of the database, which is made unless `create` is False.
    """
    mark = uuid.uuid4().hex[:12]
    user, name = f"u_{mark}", name or f"l_{mark}"
    server.add_user(user, PASSWORD)
    known = sa.make_url(server.url(name))
    if create:
        server.query(f"CREATE DATABASE {name}")
        if known.drivername == "postgresql":
            server.query(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
            server.query("REVOKE ALL ON SCHEMA public FROM PUBLIC", name)
    there = {row[0] for row in server.query(NAMES[known.drivername])}
    for grant in grants:
        server.query(grant.format(d=name, u=user), *([name] if name in there else []))
    return known.set(username=user, password=PASSWORD).render_as_string(hide_password=False)


def add(office: Office, **urls: str) -> None:
    rows = [{"code": code, "url": url} for code, url in urls.items()]
    office.run("branch", "import", "-", stdin=json.dumps(rows))


# Migrating ----------------------------------------------------------------------------------------


def test_an_existing_branch_is_migrated_up_and_down_with_the_least_rights(
    office: Office, server: Server, engine: str, strategy: MigrationStrategy
) -> None:
    url = account(server, MIGRATING[engine].values())
    add(office, BR001=url)
    assert len(office.json("apply", "BR001")["appliedMigrations"]) == 4
    assert office.json("validate", "BR001")["isValid"]
    migrate(strategy, url, down=True)
    assert strategy.inspect(url, VersionTable()).tables == frozenset()
    migrate(strategy, url)
    assert len(strategy.inspect(url, VersionTable()).tables) == 14


def migrate(
    strategy: MigrationStrategy, url: str, target: str = "head", *, down: bool = False
) -> None:
    """Up the reference history, or down all of it, as a migration does it, without a lease."""
    source = Source(str(packaged("alembic_branch")))
    history = History.load(source, strategy.scratch_url, online=False)
    steps = history.steps((), target)
    if down:
        steps = tuple(
            Step(step.revision, Direction.DOWNGRADE, step.to_heads, step.from_heads)
            for step in reversed(steps)
        )
    transactional = strategy.capabilities.transactional_ddl
    with strategy.connect(url) as connection, strategy.lock(connection):
        hooks = _Watched(strategy, connection)
        with hooks.journal.kept():
            run(history, connection, steps, hooks, transactional_ddl=transactional)


class _Watched(NoHooks):
    def __init__(self, strategy: MigrationStrategy, connection: sa.Connection) -> None:
        self.strategy = strategy
        self.connection = connection
        self.journal = strategy.journal(connection, "BR001", there=False)

    def begun(self, step: Step) -> None:
        self.strategy.begin_watch(self.connection)
        self.journal.begun(step)

    def executed(self, step: Step) -> None:
        self.journal.executed(step)
        self.strategy.end_watch(self.connection)

    def stamped(self, step: Step) -> None:
        self.journal.stamped(step)

    def landed(self, step: Step) -> None:
        self.journal.landed(step)


def test_each_right_that_is_lacking_is_told_with_a_hint_what_to_grant(
    office: Office, server: Server, engine: str
) -> None:
    rights = MIGRATING[engine]
    add(
        office,
        **{
            f"NO-{lacking}": account(
                server, [grant for right, grant in rights.items() if right != lacking]
            )
            for lacking in rights
        },
    )
    report = office.json("apply-all", code=1)
    outcomes = {row["branchCode"]: row for row in report["branches"]}
    for lacking in rights:
        row = outcomes[f"NO-{lacking}"]
        assert row["verdict"] == "failed", row
        assert "the account lacks a right" in row["errorMessage"], row
        assert "grant" in row["hint"], row
    assert PASSWORD not in json.dumps(report)


@pytest.mark.parametrize("engine", ["postgresql"])
def test_a_table_of_another_owner_cannot_be_altered_and_the_error_says_so(
    server: Server, strategy: MigrationStrategy
) -> None:
    url = sa.make_url(account(server, ON_POSTGRESQL.values()))
    name = str(url.database)
    migrate(strategy, url.render_as_string(hide_password=False), "20251206_InitialCreate")
    other = account(server, ON_POSTGRESQL.values(), name=name, create=False)
    user = sa.make_url(other).username
    server.query(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}", name)
    with strategy.connect(other) as connection, pytest.raises(sa.exc.DBAPIError) as failed:
        connection.exec_driver_sql('ALTER TABLE "Sales" ADD COLUMN more int')
    found = strategy.explain(failed.value, other)
    assert "the account lacks a right (must be owner of table Sales" in found.message


def test_branches_are_created_with_one_right_more(
    office: Office, server: Server, engine: str
) -> None:
    name = f"n{uuid.uuid4().hex[:12]}"
    url = sa.make_url(account(server, [TO_CREATE[engine]], name=name, create=False))

    def of(suffix: str) -> str:
        return url.set(database=f"{name}{suffix}").render_as_string(hide_password=False)

    add(office, BR001=of("_1"), BR002=of("_2"))
    assert office.json("apply-all")["branchesSucceeded"] == 2
    assert office.json("validate")["isValid"]


# HeadOffice ---------------------------------------------------------------------------------------


def test_headoffice_needs_the_rights_of_a_branch_to_be_made_and_then_rights_on_rows_alone(
    tmp_path: Path, server: Server, engine: str
) -> None:
    owner = account(server, MIGRATING[engine].values())
    name = str(sa.make_url(owner).database)
    office = Office(tmp_path)
    use(office, owner)
    office.init()
    office.add("BR001")

    use(office, account(server, rights_on_rows(engine, ROWS), name=name, create=False))
    assert office.json("apply-all")["success"]
    office.run("unlock", "--all")
    found = [row for row in office.json("doctor") if row["subject"] == "HeadOffice"]
    assert {row["severity"] for row in found} <= {"ok", "note"}, found

    use(office, account(server, rights_on_rows(engine, "SELECT"), name=name, create=False))
    assert office.status("BR001")["status"] == "Completed"
    assert office.json("pending", "BR001")["count"] == 0
    done = office.run("retry", "BR001", code=69)
    assert "the account lacks a right" in done.stderr
    assert "grant" in done.stderr
    assert PASSWORD not in done.stderr


ROWS = "SELECT, INSERT, UPDATE, DELETE"


def rights_on_rows(engine: str, rights: str) -> list[str]:
    if engine == "mariadb":
        return [f"GRANT {rights} ON {{d}}.* TO {{u}}@'%'"]
    there = [ON_POSTGRESQL[right] for right in ("CONNECT", "USAGE")]
    return [*there, f"GRANT {rights} ON ALL TABLES IN SCHEMA public TO {{u}}"]


def use(office: Office, url: str) -> None:
    office.configure(f"[headoffice]\nurl = {json.dumps(url)}\n")


# Looking ------------------------------------------------------------------------------------------


def test_who_may_only_look_sees_what_is_pending_and_valid(
    office: Office, server: Server, engine: str, strategy: MigrationStrategy
) -> None:
    url = account(server, MIGRATING[engine].values())
    migrate(strategy, url)
    name = str(sa.make_url(url).database)
    rights = TO_LOOK[engine]
    add(office, BR001=account(server, rights.values(), name=name, create=False))
    assert office.json("pending", "BR001")["count"] == 0
    assert office.json("validate", "BR001")["isValid"]
    for lacking in rights:
        others = [grant for right, grant in rights.items() if right != lacking]
        without = account(server, others, name=name, create=False)
        with pytest.raises(BranchUnusable, match=r"has no right|lacks a right") as refused:
            strategy.inspect(without, VersionTable())
        assert "grant" in str(refused.value.hint)


@pytest.mark.parametrize("engine", ["mariadb"])
@pytest.mark.parametrize("may", [False, True])
def test_the_statement_of_another_account_is_seen_with_the_right_to_see_processes(
    server: Server, strategy: MigrationStrategy, may: bool
) -> None:
    holder = sa.make_url(account(server, ON_MARIADB.values()))
    grants = [*ON_MARIADB.values(), *(["GRANT PROCESS ON *.* TO {u}@'%'"] if may else [])]
    waiting = account(server, grants, name=str(holder.database), create=False)
    with (
        strategy.connect(holder.render_as_string(hide_password=False)) as first,
        strategy.lock(first),
        strategy.connect(waiting) as second,
        pytest.raises(BranchBusy) as busy,
        strategy.lock(second),
    ):
        pass
    named = f"of {holder.username} from" in busy.value.message
    assert named is may
    assert "migrated by session " in busy.value.message
