"""Servers that are not there, refuse, break or die: each its own branch's failure and no other's.

Every trouble is met by the real program, in one run over a fleet in which healthy branches stand
beside the bad ones.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from office import Office
from processes import until
from proxy import proxied
from servers import Mariadb, Postgresql, Server, private

SECRET = "hunter2-of-the-till"
STRANGE = "p@ss:w/o%rd'\"ü€"
ODD = 'o\'dd-"name"-`of`-' + "x" * 43
"""A database's name of sixty letters."""

SETTINGS = """
[migrations]
script_location = "linear"
[run]
connect_timeout = 2
lock_timeout = 1
create_databases = {create}
[retry]
unreachable = "wait"
backoff_seconds = 0
"""
"""Under "wait" a branch that cannot be reached is not counted: so the kind of a failure shows."""

MARGIN = 15
"""Seconds within which a branch must be given up under a connect_timeout of 2."""

ENGINES = {"postgresql": "postgresql", "mariadb": "mysql"}
KINDS: dict[str, type[Server]] = {"postgresql": Postgresql, "mariadb": Mariadb}


@dataclass
class Fleet:
    """An office whose branches stand on one server, and how they are reached."""

    office: Office
    server: Server
    engine: str
    urls: dict[str, str] = field(default_factory=dict)

    @property
    def on_postgresql(self) -> bool:
        return self.engine == "postgresql"

    def url(self, user: str | None, password: str | None, database: str, **place: Any) -> str:
        place = {"host": "127.0.0.1", "port": self.server.port, **place}
        made = sa.URL.create(ENGINES[self.engine], user, password, database=database, **place)
        return made.render_as_string(hide_password=False)

    def add(self, **urls: str) -> None:
        """Add branches by one import, as a person would with a list of URLs."""
        rows = [{"code": code, "url": url} for code, url in urls.items()]
        self.office.run("branch", "import", "-", stdin=json.dumps(rows))
        self.urls.update(urls)

    def apply_all(self, *arguments: str, code: int = 1) -> dict[str, Any]:
        """Run, and give the outcomes by code; no secret is anywhere."""
        done = self.office.run("apply-all", "--json", *arguments, code=code)
        self.holds_no_secret(done.stdout + done.stderr)
        return {row["branchCode"]: row for row in json.loads(done.stdout)["branches"]}

    def states(self) -> dict[str, tuple[str, int]]:
        return {r["branchCode"]: (r["status"], r["retryCount"]) for r in self.office.json("status")}

    def holds_no_secret(self, text: str) -> None:
        """Neither what was said nor what HeadOffice remembers of it; there the URLs have a column
        of their own."""
        with closing(sqlite3.connect(self.office.folder / "headoffice.db")) as connection:
            tables = ("branchmig_migration_states", "branchmig_runs", "branchmig_outcomes")
            for table in tables:
                text += repr(connection.execute(f"SELECT * FROM {table}").fetchall())
        for secret in (SECRET, STRANGE, *(sa.make_url(url).password for url in self.urls.values())):
            assert not secret or str(secret) not in text


def at_the_first_revision(server: Server, name: str) -> None:
    """A database as the first revision of the history `linear` leaves it."""
    server.query(f"CREATE DATABASE {name}")
    for statement in (
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
        "INSERT INTO alembic_version VALUES ('a1')",
        "CREATE TABLE shops (id INTEGER NOT NULL PRIMARY KEY)",
    ):
        server.query(statement, name)


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def fleet(office: Office, engine: str, request: pytest.FixtureRequest) -> Fleet:
    office.use_history("linear")
    office.configure(SETTINGS.format(create="true"))
    return Fleet(office, request.getfixturevalue(engine), engine)


@pytest.fixture
def names() -> Callable[[str], str]:
    """Names of accounts and databases that no other test has."""
    mark = uuid.uuid4().hex[:8]
    return lambda name: f"{name}_{mark}"


@pytest.fixture
def own(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the test's own, which it may kill."""
    with private(KINDS[engine]) as server:
        yield server


# Those that refuse -------------------------------------------------------------------------------

NOT_THERE = ("BranchUnreachable", 0, "the server cannot be reached", "look at host, port")
REFUSED = ("BranchUnreachable", 0, "the login is refused", "user, password")
TROUBLES = {
    "B1_UNKNOWN_HOST": NOT_THERE,
    "B2_CLOSED_HOST": NOT_THERE,
    "B3_CLOSED_PORT": NOT_THERE,
    "B4_SILENT": NOT_THERE,
    "B5_PASSWORD": REFUSED,
    "B6_ACCOUNT": REFUSED,
    "B7_NO_RIGHT_TO_CREATE": ("BranchUnusable", 1, "the account ", "grant"),
    "B8_NO_RIGHT_ON_A_TABLE": ("MigrationFailed", 1, "the account lacks a right", "grant"),
}
"""By code: the class of the error, whether it was counted, and words of its sentence and hint."""


def test_each_server_that_refuses_is_its_branchs_failure_with_a_sentence_and_a_hint(
    fleet: Fleet, names: Callable[[str], str], silent_port: int
) -> None:
    server = fleet.server
    owner, narrow, theirs = names("owner"), names("narrow"), names("theirs")
    server.add_user(owner, STRANGE)
    server.add_user(narrow, SECRET)
    at_the_first_revision(server, theirs)
    if fleet.on_postgresql:
        server.query(f"ALTER ROLE {owner} CREATEDB")
        server.query(f"GRANT SELECT ON alembic_version TO {narrow}", theirs)
    else:
        server.query(f"GRANT ALL ON *.* TO {owner}@'%'")
        rights = "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP"
        server.query(f"GRANT {rights} ON {theirs}.* TO {narrow}@'%'")
    odd = ODD[:-8] + names("")[1:]
    assert len(odd) == 60

    fleet.add(
        A_LITE="sqlite:///branches/a.db",
        A_SAME=fleet.url(owner, STRANGE, names("before")),
        B1_UNKNOWN_HOST=fleet.url(owner, SECRET, "d", host="no-such-host.invalid"),
        B2_CLOSED_HOST=fleet.url(owner, SECRET, "d", host="127.0.0.77"),
        B3_CLOSED_PORT=fleet.url(owner, SECRET, "d", port=1),
        B4_SILENT=fleet.url(owner, SECRET, "d", port=silent_port),
        B5_PASSWORD=fleet.url(owner, SECRET, "d"),
        B6_ACCOUNT=fleet.url(names("nobody"), SECRET, "d2"),
        B7_NO_RIGHT_TO_CREATE=fleet.url(narrow, SECRET, names("new")),
        B8_NO_RIGHT_ON_A_TABLE=fleet.url(narrow, SECRET, theirs),
        ODD=fleet.url(owner, STRANGE, odd),
        Z_LITE="sqlite:///branches/z.db",
        Z_SAME=fleet.url(owner, STRANGE, names("after")),
    )
    outcomes = fleet.apply_all()
    states = fleet.states()
    assert {code for code, row in outcomes.items() if row["verdict"] == "failed"} == {*TROUBLES}
    for code, (kind, count, says, hint) in TROUBLES.items():
        row = outcomes[code]
        assert row["errorType"] == kind, row
        assert says in row["errorMessage"]
        assert "site-packages" not in row["errorMessage"]
        assert hint in row["hint"], row
        assert states[code] == ("Failed", count), row
        assert took(row) < MARGIN
    for code in outcomes.keys() - TROUBLES.keys():
        assert outcomes[code]["verdict"] == "migrated"
        assert states[code] == ("Completed", 0)

    began = time.monotonic()
    done = fleet.office.run("pending", "--all", "--json", code=1)
    assert time.monotonic() - began < MARGIN
    fleet.holds_no_secret(done.stdout + done.stderr)
    errors = {row["branchCode"]: row["error"] for row in json.loads(done.stdout) if "error" in row}
    for code, error in errors.items():
        kind, _, says, hint = TROUBLES[code]
        assert error["type"] == kind
        assert says in error["message"]
        assert hint in error["hint"]
    assert errors.keys() >= {code for code in TROUBLES if code < "B7"}


def took(row: dict[str, Any]) -> float:
    """Seconds that a branch took, as its outcome says."""
    hours, minutes, seconds = row["duration"].split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def test_a_database_that_is_not_there_and_must_not_be_made_is_that_branchs_failure(
    fleet: Fleet, names: Callable[[str], str]
) -> None:
    fleet.office.configure(SETTINGS.format(create="false"))
    there, absent = names("there"), names("absent")
    fleet.server.query(f"CREATE DATABASE {there}")
    fleet.add(ABSENT=fleet.server.url(absent), THERE=fleet.server.url(there))
    outcomes = fleet.apply_all()
    row = outcomes["ABSENT"]
    assert (row["verdict"], row["errorType"]) == ("failed", "DatabaseMissing")
    assert "the database does not exist" in row["errorMessage"]
    assert "create_databases" in row["hint"]
    assert fleet.states() == {"ABSENT": ("Failed", 1), "THERE": ("Completed", 0)}
    listed = "SELECT datname FROM pg_database" if fleet.on_postgresql else "SHOW DATABASES"
    assert (absent,) not in fleet.server.query(listed)


# Those that may not be written -------------------------------------------------------------------


def test_a_server_that_may_only_be_read_is_named_as_that(
    fleet: Fleet, own: Server, names: Callable[[str], str]
) -> None:
    own.add_user("app", SECRET)
    at_the_first_revision(own, "d")
    if fleet.on_postgresql:
        own.query("ALTER TABLE shops OWNER TO app", "d")
        own.query("GRANT ALL ON alembic_version TO app", "d")
        own.query("ALTER ROLE app CREATEDB")
        own.add_user("frozen", SECRET)
        own.query("GRANT app TO frozen")
        own.query("ALTER ROLE frozen SET default_transaction_read_only = on")
        fleet.add(FROZEN=fleet.url("frozen", SECRET, "d", port=own.port))
        (row,) = fleet.apply_all().values()
        assert "the server is read-only" in row["errorMessage"], row
        fleet.office.run("branch", "remove", "FROZEN", "--yes")
        become_standby(own)
    else:
        own.query("GRANT ALL ON *.* TO app@'%'")
        own.query("REVOKE READ ONLY ADMIN, SUPER ON *.* FROM app@'%'")
        own.query("SET GLOBAL read_only = 1")
    fleet.add(
        A_SAME=fleet.server.url(names("before")),
        NEW=fleet.url("app", SECRET, "new", port=own.port),
        OLD=fleet.url("app", SECRET, "d", port=own.port),
        Z_SAME=fleet.server.url(names("after")),
    )
    outcomes = fleet.apply_all()
    for code in ("NEW", "OLD"):
        assert "the server is read-only" in outcomes[code]["errorMessage"], outcomes[code]
        assert "Name the primary" in outcomes[code]["hint"]
    states = fleet.states()
    assert states["A_SAME"] == states["Z_SAME"] == ("Completed", 0)
    assert states["OLD"] == states["NEW"] == ("Failed", 1)
    assert own.query("SELECT version_num FROM alembic_version", "d") == [("a1",)]


def become_standby(server: Server) -> None:
    """The server comes back as a replica that has lost its primary."""
    assert isinstance(server, Postgresql)
    server.stop()
    server.become_standby()
    server.start()


# Those that die ----------------------------------------------------------------------------------


def test_a_server_that_is_killed_within_a_revision_costs_its_branch_one_run(
    fleet: Fleet, own: Server, names: Callable[[str], str]
) -> None:
    fleet.office.configure(SETTINGS.format(create="true").replace("= 1", "= 60", 1))
    at_the_first_revision(own, "d")
    waiting = (
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        if fleet.on_postgresql
        else "SELECT 1 FROM information_schema.processlist WHERE state LIKE 'Waiting for table%'"
    )
    fleet.add(
        A_SAME=fleet.server.url(names("before")),
        B_DYING=own.url("d"),
        Z_LITE="sqlite:///branches/z.db",
        Z_SAME=fleet.server.url(names("after")),
    )
    with reading(own, "d", "shops"):
        process = fleet.office.start("apply-all", "--json")
        until(lambda: own.query(waiting), "the revision at work")
        own.kill()
    output, errors = process.communicate(timeout=60)
    fleet.holds_no_secret(output + errors)
    assert process.returncode == 1
    row = next(r for r in json.loads(output)["branches"] if r["branchCode"] == "B_DYING")
    assert (row["verdict"], row["status"]) == ("failed", "Failed")
    assert "a2" in row["errorMessage"]
    assert row["hint"]
    states = fleet.states()
    assert states.pop("B_DYING") == ("Failed", 0)
    assert set(states.values()) == {("Completed", 0)}

    own.start()
    outcomes = fleet.apply_all(code=0)
    assert outcomes["B_DYING"]["appliedMigrations"] == ["a2", "a3"]
    assert fleet.office.json("validate", "B_DYING")["isValid"]


@contextmanager
def reading(server: Server, database: str, table: str) -> Iterator[None]:
    """Another program reads a table within a transaction: whoever changes the table waits."""
    connection = server.connect(database)
    connection.cursor().execute("BEGIN")
    connection.cursor().execute(f"SELECT * FROM {table}")
    try:
        yield
    finally:
        # The server may be gone.
        with suppress(Exception):
            connection.close()


def test_a_connection_that_is_cut_anywhere_leaves_a_branch_that_the_next_run_completes(
    fleet: Fleet, names: Callable[[str], str]
) -> None:
    user = "postgres" if fleet.on_postgresql else "root"
    with proxied(fleet.server.port) as whole:
        fleet.add(WHOLE=fleet.url(user, None, names("whole"), port=whole.port))
        fleet.apply_all(code=0)
    limits = [round(whole.most * share) for share in SHARES]
    direct = {f"B{n:02}": fleet.server.url(names(f"cut_{limit}")) for n, limit in enumerate(limits)}
    with ExitStack() as stack:
        cut = [stack.enter_context(proxied(fleet.server.port, limit)) for limit in limits]
        fleet.add(
            **{
                code: fleet.url(user, None, str(sa.make_url(url).database), port=proxy.port)
                for (code, url), proxy in zip(direct.items(), cut, strict=True)
            },
            Z_LITE="sqlite:///branches/z.db",
            Z_SAME=fleet.server.url(names("after")),
        )
        for url in direct.values():
            fleet.server.query(f"CREATE DATABASE {sa.make_url(url).database}")
        fleet.office.run("branch", "remove", "WHOLE", "--yes")
        outcomes = fleet.apply_all()
    states = fleet.states()
    assert states["Z_LITE"] == states["Z_SAME"] == ("Completed", 0)
    for code in direct:
        row = outcomes[code]
        assert (row["verdict"], states[code]) == ("failed", ("Failed", 0)), row
        assert row["hint"], row
        assert took(row) < MARGIN

    for code, url in direct.items():
        fleet.office.run("branch", "update", code, "--url", url)
    outcomes = fleet.apply_all(code=0)
    assert set(fleet.states().values()) == {("Completed", 0)}
    assert all(row["isValid"] for row in fleet.office.json("validate")["branches"])


SHARES = (0.01, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)
"""Parts of the bytes that a whole migration takes, after which the connection is cut."""


def test_a_server_that_falls_silent_at_any_question_is_given_up_in_time(
    fleet: Fleet, names: Callable[[str], str]
) -> None:
    """It keeps the connection, as one that is frozen does: no keepalive finds that out."""
    user = "postgres" if fleet.on_postgresql else "root"
    at_the_first_revision(fleet.server, names("d"))
    with proxied(fleet.server.port) as whole:
        fleet.add(WHOLE=fleet.url(user, None, names("d"), port=whole.port))
        fleet.office.run("pending", "WHOLE")
        fleet.office.run("branch", "remove", "WHOLE", "--yes")
    # Within a look; at its end; and in the first questions of an attempt, after a whole look.
    limits = [round(whole.most * 0.6), whole.most - 1, whole.most, whole.most + 100]
    with ExitStack() as stack:
        silent = [
            stack.enter_context(proxied(fleet.server.port, limit, silent=True)) for limit in limits
        ]
        fleet.add(
            **{
                f"B{n}": fleet.url(user, None, names(f"silent_{n}"), port=proxy.port)
                for n, proxy in enumerate(silent)
            },
            Z_SAME=fleet.server.url(names("after")),
        )
        for n in range(len(limits)):
            at_the_first_revision(fleet.server, names(f"silent_{n}"))
        outcomes = fleet.apply_all()
    states = fleet.states()
    assert states.pop("Z_SAME") == ("Completed", 0)
    assert set(states.values()) == {("Failed", 0)}
    for code in states:
        assert took(outcomes[code]) < MARGIN
        assert outcomes[code]["errorType"] == "BranchUnreachable"
