"""The survey looks at every branch once, at so many of one server at a time."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from office import Office
from processes import until
from scene import Scene
from servers import Mariadb, Postgresql, free_port, private

from branchmig.errors import BranchBusy, BranchUnreachable
from branchmig.fleet.survey import Finding, Survey
from branchmig.migrator import Migrator
from branchmig.model import Branch, BranchState, Failure, FailureKind, Provider, Record, Snapshot
from branchmig.providers import provider_of

SERVERS = {"a": 40, "b": 40, "": 5}
"""Branches of each server; without a server they are files of this host."""
PER_SERVER = 3


class Watched(Migrator):
    """Counts who looks at the same time, and has two servers meet."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene.settings)
        self.history()
        self.lock = threading.Lock()
        self.meeting = threading.Barrier(2 * PER_SERVER)
        self.looking: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.looks = 0
        self.refusals = 1

    def versions(self, branch: Branch) -> Snapshot:
        server = branch.server or ""
        with self.lock:
            self.looks += bool(server)
            self.looking[server] += 1
            self.most[server] = max(self.most[server], self.looking[server])
            meets = bool(server) and self.looks <= 2 * PER_SERVER
        if meets:
            self.meeting.wait(30)
        with self.lock:
            self.looking[server] -= 1
        if branch.code == "3" or (branch.code == "a7" and self.refusals):
            self.refusals -= branch.code == "a7"
            raise BranchBusy("somebody writes")
        if branch.code == "a8":
            raise BranchUnreachable("nobody is there")
        if branch.code == "b9":
            raise ZeroDivisionError
        return Snapshot(exists=True, versioned=True, heads=("r1",))


def test_every_branch_is_told_of_once_and_no_server_is_flooded(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.revision("r1", "pass")
    migrator = Watched(scene)
    records = [
        Record(
            Branch(f"{s}{n}", f"{s}{n}", "", Provider.SQLITE, "sqlite:///x.db", server=s or None),
            BranchState(),
        )
        for s, count in SERVERS.items()
        for n in range(count)
    ]
    found: list[Finding] = []
    done = threading.Event()

    def tell(findings: Sequence[Finding]) -> None:
        with migrator.lock:
            found.extend(findings)
            if len(found) == len(records):
                done.set()

    survey = Survey(migrator, PER_SERVER, tell)
    survey.begin(records)
    assert done.wait(60)
    survey.close()
    told = {finding.record.branch.code: (finding.heads, finding.busy) for finding in found}
    assert len(found) == len(told) == len(records)
    assert told["3"] == (None, "somebody writes")
    assert told["b9"] == (None, None)
    # Of a server being busy means that all its connections are taken: it was asked again.
    assert {told["a1"], told["b7"], told["1"], told["a7"]} == {(("r1",), None)}
    (unreachable,) = [finding for finding in found if finding.failure]
    assert unreachable.record.branch.code == "a8"
    assert unreachable.failure
    assert unreachable.failure.kind is FailureKind.UNREACHABLE
    assert unreachable.failure.message == "nobody is there"
    assert migrator.most == {"a": PER_SERVER, "b": PER_SERVER, "": 1}


def test_a_survey_that_is_closed_begins_no_further_look(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.revision("r1", "pass")
    branch = Branch("1", "BR1", "", Provider.SQLITE, "sqlite:///x.db", server="a")
    begun, go_on = threading.Event(), threading.Event()

    class Held(Migrator):
        def versions(self, branch: Branch) -> Snapshot:
            begun.set()
            assert go_on.wait(30)
            return Snapshot(exists=False, versioned=False)

    found: list[Finding] = []
    migrator = Held(scene.settings)
    migrator.history()
    survey = Survey(migrator, 1, found.extend)
    survey.begin([Record(branch, BranchState())] * 10)
    assert begun.wait(30)
    closing = threading.Thread(target=survey.close)
    closing.start()
    until(survey._ended.is_set, "the call of close")
    assert closing.is_alive()  # it waits for the look under way
    go_on.set()
    closing.join(30)
    assert len(found) == 1


def test_a_branch_with_a_revision_half_applied_is_not_taken_for_one_at_its_heads(
    tmp_path: Path,
) -> None:
    class Unfinished(Migrator):
        def versions(self, branch: Branch) -> Snapshot:
            return Snapshot(exists=True, versioned=True, heads=("r1",), unfinished=True)

    scene = Scene(tmp_path)
    scene.revision("r1", "pass")
    migrator = Unfinished(scene.settings)
    migrator.history()
    found: list[Finding] = []
    survey = Survey(migrator, 1, found.extend)
    survey.begin([Record(scene.branch, BranchState())])
    until(lambda: found, "the look")
    survey.close()
    assert found[0].heads is None


class Faulty(Migrator):
    """Has a fault in everything that a look may lead to."""

    def versions(self, branch: Branch) -> Snapshot:
        if branch.code == "P0":
            return Snapshot(exists=True, versioned=True, heads=("r1",))
        raise LookupError

    def versions_together(self, branches: Sequence[Branch]) -> dict[str, Snapshot]:
        raise ZeroDivisionError

    def failure(self, branch: Branch, error: BaseException) -> Failure:
        raise ZeroDivisionError


def test_no_branch_is_lost_to_a_fault_of_ours(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.revision("r1", "pass")
    migrator = Faulty(scene.settings)
    found = surveyed(migrator, on_server("postgresql://u@127.0.0.1:1/d", 9), per_server=1)
    assert found.pop("P0").heads == ("r1",)
    assert {(f.heads, f.failure, f.busy) for f in found.values()} == {(None, None, None)}


class Together(Migrator):
    """Tells of many databases at once, though not of some; keeps who was asked how."""

    def __init__(self, scene: Scene, reached: threading.Event | None = None) -> None:
        super().__init__(scene.settings)
        self.alone: list[str] = []
        self.groups: list[int] = []
        self.reached = reached
        self.go_on = threading.Event()

    def versions(self, branch: Branch) -> Snapshot:
        self.alone.append(branch.code)
        return Snapshot(exists=True, versioned=True, heads=("r1",))

    def versions_together(self, branches: Sequence[Branch]) -> dict[str, Snapshot]:
        self.groups.append(len(branches))
        if self.reached:
            self.reached.set()
            assert self.go_on.wait(30)
        here = Snapshot(exists=True, versioned=True, heads=("r2",))
        return {b.id: here for b in branches if not b.code.endswith("7")}


def test_what_one_connection_cannot_tell_of_is_asked_for_alone(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.revision("r1", "pass")
    migrator = Together(scene)
    found = surveyed(migrator, on_server("postgresql://u@127.0.0.1:1/d", 3000), per_server=1)
    # The first shows that the server answers.
    alone = {code for code in found if code == "P0" or code.endswith("7")}
    assert set(migrator.alone) == alone
    assert len(migrator.alone) == len(alone)
    assert sum(migrator.groups) == 2999
    assert {code for code, finding in found.items() if finding.heads == ("r2",)} == set(
        found
    ) - alone


def test_a_survey_that_is_closed_asks_for_no_further_group(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.revision("r1", "pass")
    reached = threading.Event()
    migrator = Together(scene, reached)
    migrator.history(Provider.POSTGRESQL)
    survey = Survey(migrator, 1, lambda findings: None)
    survey.begin(on_server("postgresql://u@127.0.0.1:1/d", 5000))
    assert reached.wait(30)
    closing = threading.Thread(target=survey.close)
    closing.start()
    until(survey._ended.is_set, "the call of close")
    migrator.go_on.set()
    closing.join(30)
    assert not closing.is_alive()
    assert (len(migrator.groups), migrator.alone) == (1, ["P0"])


# Servers in trouble -------------------------------------------------------------------------------


def on_server(url: str, count: int) -> list[Record]:
    """So many branches of one provider; they may share a database, which is only read."""
    provider = provider_of(url)
    return [
        Record(Branch(f"p{n}", f"P{n}", "", provider, url), BranchState()) for n in range(count)
    ]


def surveyed(migrator: Migrator, records: list[Record], per_server: int) -> dict[str, Finding]:
    """What a survey tells of every branch, by code."""
    for provider in {record.branch.provider for record in records}:
        migrator.history(provider)
    found: list[Finding] = []
    survey = Survey(migrator, per_server, found.extend)
    survey.begin(records)
    until(lambda: len(found) == len(records), "the last branch", 60)
    survey.close()
    assert len({finding.record.branch.code for finding in found}) == len(records)
    return {finding.record.branch.code: finding for finding in found}


def test_the_first_file_is_told_of_alone_and_the_last_among_many(tmp_path: Path) -> None:
    """Workers need not wait for the second, which may lie on a slow share."""
    scene = Scene(tmp_path)
    scene.revision("r1", "pass")
    migrator = Migrator(scene.settings)
    migrator.history()
    records = [
        Record(Branch(f"s{n}", f"S{n}", "", Provider.SQLITE, f"sqlite:///{n}.db"), BranchState())
        for n in range(500)
    ]
    told: list[int] = []
    survey = Survey(migrator, 4, lambda found: told.append(len(found)))
    survey.begin(records)
    until(lambda: sum(told) == len(records), "the last branch", 60)
    survey.close()
    assert told[0] == 1
    assert max(told) > 1


@contextmanager
def silent_server() -> Iterator[tuple[int, list[socket.socket]]]:
    """Takes connections and never says a word. Gives its port and what it has taken."""
    taken: list[socket.socket] = []

    def take() -> None:
        while True:
            try:
                taken.append(listener.accept()[0])
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1], taken
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for connection in taken:
                connection.close()


def test_a_server_with_too_many_connections_fails_no_branch(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.revision("r1", "pass")
    with private(Postgresql, "-c", "max_connections=8") as server:
        url = server.url("few")
        server.query("CREATE DATABASE few")
        server.query("CREATE TABLE alembic_version (version_num text)", "few")
        server.query("INSERT INTO alembic_version VALUES ('r1')", "few")
        found = surveyed(scene.migrator, on_server(url, 100), per_server=32)
    assert {finding.heads for finding in found.values()} == {("r1",)}


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_a_silent_server_is_asked_by_few_and_delays_no_other(engine: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path, connect_timeout=2)
    scene.revision("r1", "pass")
    good = [
        Record(Branch(f"s{n}", f"S{n}", "", Provider.SQLITE, f"sqlite:///{n}.db"), BranchState())
        for n in range(20)
    ]
    with silent_server() as (port, taken):
        url = f"{engine}://u@127.0.0.1:{port}/d"
        found = surveyed(scene.migrator, [*on_server(url, 200), *good], per_server=4)
        asked = len(taken)
    assert asked == 4  # at once, and nobody after them
    silent = [finding for code, finding in found.items() if code.startswith("P")]
    assert all(f.failure and f.failure.kind is FailureKind.UNREACHABLE for f in silent)
    unasked = [f for f in silent if f.failure and "was not asked again" in f.failure.message]
    assert len(unasked) == len(silent) - asked
    assert not any(finding.failure for code, finding in found.items() if code.startswith("S"))


def test_a_url_that_is_a_secret_as_a_whole_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose server it names is not known before it is opened: each is looked at beside the others,
    and asked once."""
    scene = Scene(tmp_path, connect_timeout=4)
    scene.revision("r1", "pass")
    migrator = Migrator(scene.settings)
    engines = {Provider.POSTGRESQL: "postgresql", Provider.MYSQL: "mysql"}
    for provider in engines:
        migrator.history(provider)
    with silent_server() as (port, taken):
        records = []
        for number, (provider, scheme) in enumerate([*engines.items()] * 10):
            name = f"BRANCHMIG_SECRET_{number}"
            monkeypatch.setenv(name, f"{scheme}://u@127.0.0.1:{port}/d{number}")
            branch = Branch(name, f"P{number}", "", provider, f"${{env:{name}}}")
            records.append(Record(branch, BranchState()))
        found: list[Finding] = []
        survey = Survey(migrator, 4, found.extend)
        survey.begin(records)
        until(lambda: found or len(taken) == len(records), "the last connection", 30)
        assert not found
        until(lambda: len(found) == len(records), "the last branch", 60)
        survey.close()
        assert len(taken) == len(records)
    assert all(f.failure and f.failure.kind is FailureKind.UNREACHABLE for f in found)


def test_looks_that_wait_for_silent_servers_hold_up_nobody(tmp_path: Path) -> None:
    """More silent servers than looks at once: all are asked before the first is given up."""
    scene = Scene(tmp_path, connect_timeout=4)
    scene.revision("r1", "pass")
    most = 0
    with silent_server() as (port, taken):
        records = [
            Record(
                Branch(f"p{n}", f"P{n}", "", Provider.POSTGRESQL,
                       f"postgresql://u@127.0.0.1:{port}/d{n}", server=f"server-{n}"),
                BranchState(),
            )
            for n in range(200)
        ]  # fmt: skip
        migrator = Migrator(scene.settings)
        migrator.history(Provider.POSTGRESQL)
        found: list[Finding] = []
        survey = Survey(migrator, 4, found.extend)
        survey.begin(records)
        until(lambda: found or len(taken) == len(records), "the last connection", 30)
        most = len(taken) - len(found)
        until(lambda: len(found) == len(records), "the last branch", 60)
        survey.close()
    assert most > 128
    assert all(finding.failure for finding in found)


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_only_what_no_attempt_could_mend_is_told_as_failed(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A missing or an empty database is work; who is refused the login would be so again."""
    scene = Scene(tmp_path)
    scene.revision("r1", "pass")
    server: Postgresql | Mariadb = request.getfixturevalue(engine)
    user, name = f"u_{uuid4().hex[:8]}", f"s_{uuid4().hex}"
    server.add_user(user, "right")
    server.query(f"CREATE DATABASE {name}")
    for url in (server.url(f"s_{uuid4().hex}"), server.url(name)):
        found = surveyed(scene.migrator, on_server(url, 5), per_server=2)
        assert {(f.heads, f.failure, f.busy) for f in found.values()} == {(None, None, None)}
    url = f"{server.provider}://{user}:wrong@127.0.0.1:{server.port}/{name}"
    for finding in surveyed(scene.migrator, on_server(url, 5), per_server=2).values():
        assert finding.failure
        assert "the login is refused" in finding.failure.message
        assert "wrong" not in finding.failure.message


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_a_server_that_takes_no_connections_fails_each_branch_at_once(
    engine: str, tmp_path: Path
) -> None:
    scene = Scene(tmp_path)
    scene.revision("r1", "pass")
    url = f"{engine}://u@127.0.0.1:{free_port()}/d"
    found = surveyed(scene.migrator, on_server(url, 20), per_server=4)
    failures = [finding.failure for finding in found.values()]
    assert all(failure and failure.kind is FailureKind.UNREACHABLE for failure in failures)
    assert not any("asked" in str(failure) for failure in failures)  # none waited, so none gave up


def test_a_survey_that_is_closed_asks_a_silent_server_no_more(tmp_path: Path) -> None:
    scene = Scene(tmp_path, connect_timeout=2)
    scene.revision("r1", "pass")
    migrator = scene.migrator
    migrator.history(Provider.POSTGRESQL)
    with silent_server() as (port, taken):
        survey = Survey(migrator, 2, lambda findings: None)
        survey.begin(on_server(f"postgresql://u@127.0.0.1:{port}/d", 200))
        until(lambda: len(taken) == 2, "both connections")
        survey.close()
        assert len(taken) == 2


def test_a_run_asks_a_silent_server_no_second_time(office: Office) -> None:
    office.use_history("linear")
    office.add("GOOD")
    with silent_server() as (port, taken):
        rows = "".join(f"S{n},postgresql://u@127.0.0.1:{port}/d{n}\n" for n in range(60))
        office.run("branch", "import", "-", stdin=f"code,url\n{rows}")
        limits = {"BRANCHMIG_RUN_CONNECT_TIMEOUT": "2", "BRANCHMIG_RUN_SURVEY_PER_SERVER": "4"}
        report = office.json("apply-all", code=1, **limits)
        assert len(taken) == 4  # by the survey; the workers ask nobody
    verdicts = {row["branchCode"]: row["verdict"] for row in report["branches"]}
    assert verdicts.pop("GOOD") == "migrated"
    assert set(verdicts.values()) == {"failed"}
    (error,) = {row["errorType"] for row in report["branches"] if row["verdict"] == "failed"}
    assert error == "BranchUnreachable"
    retries = {row["branchCode"]: row["retryCount"] for row in office.json("status")}
    assert retries.pop("GOOD") == 0
    assert set(retries.values()) == {1}
