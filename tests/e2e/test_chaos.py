"""Two hosts over a fleet of three engines, while workers, runs and servers are killed at random.

A kill has landed where it met a run that had workers. Whether two were at work on one branch the
revisions themselves find out: `histories/witnessed/witness.py` says how. A seed gives the same
blows again, not the same moments of the program under them.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from office import Office
from processes import Family, lives, until
from schemas import engine_of, schema_of
from servers import Mariadb, Postgresql, Server, private
from witnessed import Witnessed

WORKERS = 2
EACH = 4
"""Branches on each of the three engines."""

REVISIONS = 4
"""By so many the history grows at a time."""

LEASE_SECONDS = "1"

UNKNOWN = "was begun, and whether it landed is unknown: "
"""The one reason for which a kill may call for a person."""


def test_a_few_kills_over_a_mixed_fleet_of_two_hosts_leave_nothing_undone_or_done_twice(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    _survives(tmp_path, 8, record_property)


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_a_thousand_kills_over_a_mixed_fleet_of_two_hosts_leave_nothing_undone_or_done_twice(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    _survives(tmp_path, int(os.environ.get("TEST_KILLS", "1000")), record_property)


def _survives(folder: Path, kills: int, record: Callable[[str, object], None]) -> None:
    seed = int(os.environ.get("TEST_SEED") or random.randrange(2**32))
    _say(f"TEST_SEED={seed}")
    with ExitStack() as stack:
        chaos = Chaos(
            folder,
            stack.enter_context(private(Postgresql)),
            [stack.enter_context(private(kind)) for kind in (Postgresql, Mariadb)],
            random.Random(seed),
        )
        for host in chaos.hosts:
            stack.callback(host.family.end)
        try:
            chaos.begin()
            chaos.besiege(kills)
            chaos.prove()
        except BaseException as error:
            error.add_note(f"TEST_SEED={seed} after {dict(chaos.figures)}")
            raise
    record("seed", seed)
    record("figures", dict(chaos.figures))
    for name, number in sorted(chaos.figures.items()):
        _say(f"{number:6} {name}")


def _say(text: str) -> None:
    """Shown with a failure, and with -rP."""
    sys.stdout.write(f"{text}\n")


@dataclass
class Host:
    """A machine that runs `apply-all` again and again."""

    office: Office
    figures: Counter[str]
    family: Family = field(default_factory=Family)
    process: subprocess.Popen[str] | None = None

    def __post_init__(self) -> None:
        self.office.environ |= self.family.environ

    def keep(self) -> subprocess.Popen[str]:
        """The run of this moment; the next one where the last has ended."""
        if self.process is None or self.process.poll() is not None:
            self.ended()
            self.figures["runs"] += 1
            self.process = self.office.start(
                *("apply-all", "--workers", str(WORKERS)), start_new_session=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        return self.process

    def ended(self) -> None:
        """Wait for the end of the run, which has to be in order unless it was killed."""
        if self.process is not None:
            code = self.process.wait(timeout=120)
            self.figures[f"runs that ended with {code}"] += 1
            # 69: HeadOffice was down.
            assert code in (0, 1, 69, -signal.SIGKILL), code
            self.process = None

    def workers(self) -> list[int]:
        """Children of the fork server, which is the run's child; asked for too often to search."""
        servers = _children(self.process.pid) if self.process else []
        return [pid for server in servers for pid in _children(server) if lives(pid)]


def _children(pid: int) -> list[int]:
    """Each thread has those that it started."""
    found: list[int] = []
    with suppress(OSError):
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, file.read_text().split())
    return found


@dataclass
class Chaos:
    """A HeadOffice, its branches on three engines, and two hosts that are killed."""

    folder: Path
    headoffice: Postgresql
    servers: list[Server]
    chance: random.Random
    figures: Counter[str] = field(default_factory=Counter)
    proven: set[str] = field(default_factory=set)
    """Branches that were called done, and were found so, since the history grew."""

    def __post_init__(self) -> None:
        self.hosts = [Host(Office(self.folder), self.figures) for _ in range(2)]
        self.office = Office(self.folder)
        for office in (self.office, *(host.office for host in self.hosts)):
            office.environ |= {
                "BRANCHMIG_HEADOFFICE_URL": self.headoffice.url("headoffice"),
                "BRANCHMIG_RUN_LEASE_SECONDS": LEASE_SECONDS,
                "BRANCHMIG_RUN_CONNECT_TIMEOUT": "2",
                "BRANCHMIG_RUN_LOCK_TIMEOUT": "2",
                "BRANCHMIG_RETRY_BACKOFF_SECONDS": "0",
                # A worker's death costs its branch an attempt: no number of kills may be enough.
                "BRANCHMIG_RETRY_MAX_ATTEMPTS": "100000",
            }

    def begin(self) -> None:
        self.headoffice.query("CREATE DATABASE headoffice")
        self.history = Witnessed.of(self.office)
        self.office.init()
        self.urls: dict[str, str] = {}
        self.add(EACH)

    def add(self, count: int, prefix: str = "br") -> list[str]:
        """So many new branches on each engine; their codes are the names of their databases."""
        new = {}
        for number in range(count):
            name = f"{prefix}{number}"
            new[f"{name}_sqlite"] = f"sqlite:///{self.folder}/branches/{name}_sqlite.db"
            for server in self.servers:
                code = f"{name}_{server.provider.value}"
                new[code] = server.url(code)
        rows = [f"{code},{url}" for code, url in new.items()]
        self.office.run("branch", "import", "-", stdin="\n".join(["code,url", *rows, ""]))
        self.urls |= new
        return list(new)

    # The kills --------------------------------------------------------------------------------

    def besiege(self, kills: int) -> None:
        """Until so many have landed, let the history grow and its growth be migrated."""
        for _ in range(kills):
            if self.landed() >= kills:
                return
            self.history.grow(REVISIONS)
            self.proven.clear()
            self.migrate_under_fire(kills)
            for host in self.hosts:
                host.ended()
                host.family.gone()
            self.hear_witnesses()
        raise AssertionError("too few kills have landed")

    def migrate_under_fire(self, kills: int) -> None:
        """Until every branch is settled; in peace where the kills are spent."""
        deadline = time.monotonic() + 120
        while not self.settled():
            assert time.monotonic() < deadline, f"not done: {self.unsettled()}"
            for host in self.hosts:
                host.keep()
            if self.landed() < kills:
                self.strike(kills)
                deadline = time.monotonic() + 120

    def landed(self) -> int:
        return sum(self.figures[f"kills of a {who}"] for who in ("worker", "run", "run's group"))

    def strike(self, kills: int) -> None:
        """Kill something at a moment of chance."""
        every = max(kills // 4, 1) if kills < 100 else 25
        if self.landed() >= (self.figures["kills of a server"] + 1) * every:
            self.strike_server()
            return
        host = self.chance.choice(self.hosts)
        process = host.keep()
        early = self.chance.random() < 0.05
        if not early:
            self.await_work(host)
        # The moment of the blow is drawn, not waited for.
        time.sleep(self.chance.uniform(0, 0.4))
        who = self.chance.choice([*["worker"] * 4, "run", "run's group"])
        workers = host.workers()
        if process.poll() is not None or not (workers or early):
            self.figures["blows that came too late"] += 1
        elif who == "worker" and workers:
            with suppress(ProcessLookupError):
                os.kill(self.chance.choice(workers), signal.SIGKILL)
                self.figures["kills of a worker"] += 1
        else:
            (os.killpg if who == "run's group" else os.kill)(process.pid, signal.SIGKILL)
            landed = process.wait(timeout=60) == -signal.SIGKILL
            name = f"kills of a {who}" if workers else "kills of a run before its first worker"
            self.figures[name] += landed

    def await_work(self, host: Host) -> None:
        process = host.keep()
        until(lambda: host.workers() or process.poll() is not None, "a worker", 60)

    def strike_server(self) -> None:
        """Each in its turn, HeadOffice's the last; it is back before the next blow."""
        servers = [*self.servers, self.headoffice]
        number = self.figures["kills of a server"]
        self.await_work(self.hosts[number % 2])
        servers[number % len(servers)].kill()
        # For so long it is away: a time that is drawn.
        time.sleep(self.chance.uniform(0, 0.5))
        servers[number % len(servers)].start()
        self.figures["kills of a server"] += 1

    # What must hold ---------------------------------------------------------------------------

    def states(self) -> dict[str, tuple[str, list[str], str | None]]:
        """Status, heads and error of each branch, as HeadOffice has them."""
        rows = self.headoffice.query(
            "SELECT code, status, heads, error FROM branchmig_migration_states "
            "JOIN branchmig_branches ON id = branch_id",
            "headoffice",
        )
        return {code: (status, json.loads(heads), error) for code, status, heads, error in rows}

    def settled(self) -> bool:
        """Whether every branch is done, or a person's. Whatever is called done is looked at."""
        states = self.states()
        done = {
            code
            for code, (status, heads, _) in states.items()
            if status == "Completed" and heads == [self.history.head]
        }
        for code in sorted(done - self.proven):
            self.look(code)
        self.proven |= done
        return len(done) + len(self.given_up(states)) == len(self.urls)

    def unsettled(self) -> dict[str, Any]:
        return {code: state for code, state in self.states().items() if code not in self.proven}

    def look(self, code: str) -> None:
        """A branch at head, with everything landed once; nobody else writes to it any more."""
        assert self.query(code, "SELECT version_num FROM alembic_version") == [self.history.head]
        assert self.query(code, "SELECT what FROM ledger ORDER BY id") == self.history.ledger()

    def query(self, code: str, statement: str) -> list[Any]:
        """The first column, read as another program would."""
        with engine_of(self.urls[code]).connect() as connection:
            return list(connection.exec_driver_sql(statement).scalars())

    def given_up(self, states: dict[str, tuple[str, list[str], str | None]]) -> set[str]:
        """Branches that need a person: each says why, and it is true."""
        found = {
            c for c, (status, _, _) in states.items() if status == "RequiresManualIntervention"
        }
        for code in sorted(found):
            error = str(states[code][2])
            assert UNKNOWN in error, (code, error)
            (at,) = self.query(code, "SELECT version_num FROM alembic_version")
            open_ = self.history.revisions[self.history.revisions.index(at) + 1]
            assert f" of {open_} (upgrade) " in error, (code, at, error)
            ledger = self.query(code, "SELECT what FROM ledger ORDER BY id")
            assert ledger == self.history.ledger()[: len(ledger)], (code, ledger)
            assert f"{open_} ends" not in ledger, (code, error)
        self.figures["branches that need a person"] = len(found)
        return found

    def hear_witnesses(self) -> None:
        witnesses = self.history.witnesses()
        overlaps = [
            (branch, line)
            for branch, lines in witnesses.items()
            for line in lines
            if line["event"] == "overlaps"
        ]
        assert not overlaps, [(at, line, witnesses[at]) for at, line in overlaps]
        self.figures += self.history.figures()
        self.history.forget()

    def prove(self) -> None:
        """With everybody gone: what is called done is done, and as if nobody had been killed."""
        peace = self.add(1, "peace")
        # Its history may have hundreds of revisions by now, which take each branch a minute.
        run = self.office.start("apply-all", "--workers", str(len(peace)))
        run.communicate(timeout=1800)
        assert run.returncode == 0
        states = self.states()
        left = self.given_up(states)
        assert {c for c, (status, _, _) in states.items() if status == "Completed"} == set(
            self.urls
        ) - left
        validated = self.office.json("validate", code=None)["branches"]
        assert {row["branchCode"] for row in validated if not row["isValid"]} == left
        for reference in peace:
            engine = reference.rpartition("_")[2]
            wanted = self.contents(reference)
            for code in sorted(c for c in set(self.urls) - left if c.endswith(engine)):
                self.look(code)
                assert self.contents(code) == wanted, code
        assert self.headoffice.query(
            "SELECT count(*) FROM branchmig_migration_states WHERE lock_owner IS NOT NULL "
            "OR status = 'InProgress'", "headoffice",
        ) == [(0,)]  # fmt: skip

    def contents(self, code: str) -> object:
        """The schema, and every row that the last revision left."""
        rows = self.query(code, f"SELECT twice FROM {self.history.head} ORDER BY id")
        return schema_of(self.urls[code]), rows
