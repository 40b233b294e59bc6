"""Who was frozen and lost the lease does no harm on a server: its session holds the lock."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from office import Office, freeze
from processes import Family, until
from servers import Ran, Server

WRITES = re.compile(r"\s*(CREATE|ALTER|DROP|INSERT|UPDATE|DELETE)\b", re.IGNORECASE)
LEDGER = [("many begins",), ("many ends",), ("last",)]


@dataclass
class Scene:
    """A branch on a server, and a history that is held up in the middle."""

    office: Office
    server: Server
    database: str

    def mark(self, name: str) -> Path:
        return self.office.folder / "held_up" / name

    def begun(self) -> None:
        """Wait until the revision of many statements has begun, once more."""
        until(self.mark("begun").exists, "the begin of h2_many")
        self.mark("begun").unlink()

    def start(self, *arguments: str, lease: str) -> subprocess.Popen[str]:
        self.office.environ["BRANCHMIG_RUN_LEASE_SECONDS"] = lease
        return self.office.start(*arguments, "--json")

    def state(self) -> dict[str, Any]:
        columns = "status, heads, retry_count, lock_owner, lock_token, error"
        (row,) = self.office.headoffice(f"SELECT {columns} FROM branchmig_migration_states")
        return dict(zip(columns.split(", "), row, strict=True))

    def expired(self) -> bool:
        return self.office.headoffice(
            "SELECT lock_expires_at < strftime('%Y-%m-%d %H:%M:%f', 'now') "
            "FROM branchmig_migration_states"
        ) == [(1,)]

    def ledger(self) -> list[Any]:
        return self.server.query("SELECT what FROM ledger ORDER BY id", self.database)

    def outcomes(self) -> set[str]:
        """The runs of which HeadOffice has recorded something."""
        return {run for (run,) in self.office.headoffice("SELECT run_id FROM branchmig_outcomes")}


@pytest.fixture(params=["postgresql", "mariadb"])
def scene(office: Office, family: Family, request: pytest.FixtureRequest) -> Scene:
    server: Server = request.getfixturevalue(request.param)
    database = f"f_{uuid.uuid4().hex}"
    server.query(f"CREATE DATABASE {database}")
    office.use_history("held_up")
    office.run("branch", "add", "BR001", "--url", server.url(database))
    scene = Scene(office, server, database)
    scene.mark("hold").touch()
    return scene


def test_who_was_frozen_and_lost_the_lease_overlaps_with_nobody_and_records_nothing(
    scene: Scene, family: Family
) -> None:
    with scene.server.watched(scene.database) as ran:
        frozen = scene.start("apply-all", lease="1")
        scene.begun()
        members = family.members()
        freeze(scene.office, *members)
        taken = scene.state()
        until(scene.expired, "the end of the lease")
        # The lease may be taken now; the branch may not: its lock says who can.
        busy = scene.office.json("apply", "BR001", code=75, BRANCHMIG_RUN_LOCK_TIMEOUT="0.2")
        assert busy["branches"][0]["reason"] == "busy"
        assert scene.state()["lock_token"] == taken["lock_token"] + 1
        scene.office.environ["BRANCHMIG_RUN_LOCK_TIMEOUT"] = "60"
        heir = scene.start("apply", "BR001", lease="60")
        until(lambda: scene.state()["lock_token"] == taken["lock_token"] + 2, "the heir's lease")
        before = scene.state()
        assert before["status"] == "InProgress"
        for pid in members:
            os.kill(pid, signal.SIGCONT)
        out, err = frozen.communicate(timeout=60)
        report = json.loads(out)
        first = report["branches"][0]
        assert (first["reason"], first["appliedMigrations"]) == ("leased", ["h1"]), err
        assert frozen.returncode == 0
        scene.begun()
        assert scene.state() == before
        scene.mark("hold").unlink()
        out, err = heir.communicate(timeout=60)
        assert heir.returncode == 0, err
        assert json.loads(out)["appliedMigrations"] == ["h2_many", "h3"]
        assert scene.outcomes().isdisjoint({report["runId"]})
        assert scene.ledger() == LEDGER
        assert_one_after_the_other([run for run in ran() if WRITES.match(run.text)])
    after = scene.state()
    assert (after["status"], after["heads"], after["retry_count"]) == ("Completed", '["h3"]', 0)


def assert_one_after_the_other(writes: list[Ran]) -> None:
    """Of two sessions that wrote, one had ended with that before the other began."""
    sessions = list(dict.fromkeys(run.session for run in writes))
    assert len(sessions) == 2
    first, second = ([run for run in writes if run.session == s] for s in sessions)
    assert min(len(first), len(second)) > 2
    assert max(run.ended for run in first) < min(run.began for run in second)


def test_while_the_parent_is_frozen_its_worker_stops_and_another_run_takes_over(
    scene: Scene, family: Family
) -> None:
    run = scene.start("apply-all", lease="1")
    scene.begun()
    freeze(scene.office, run.pid)
    # Nobody renews the lease and nobody tells the worker: it knows the deadline itself.
    until(scene.expired, "the end of the lease")
    scene.mark("hold").unlink()
    scene.office.environ["BRANCHMIG_RUN_LEASE_SECONDS"] = "60"
    heir = scene.office.json("apply", "BR001")
    assert heir["appliedMigrations"] == ["h2_many", "h3"]
    before = scene.state(), scene.outcomes()
    run.send_signal(signal.SIGCONT)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, json.loads(out)["branches"][0]["reason"]) == (0, "leased"), err
    assert (scene.state(), scene.outcomes()) == before
    assert scene.ledger() == LEDGER
