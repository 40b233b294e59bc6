"""Migrations on a Dask cluster: a real scheduler and workers, all on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import slow
from office import Office
from processes import Family, until

CODES = ("BR001", "BR002", "BR003", "BR004")


@dataclass
class Cluster:
    """One scheduler and its workers, each a process without a nanny."""

    folder: Path
    family: Family
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        file = self.folder / "scheduler.json"
        self.scheduler = self._start(
            "dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
            "--scheduler-file", str(file),
        )  # fmt: skip
        until(lambda: file.exists() and file.read_text().endswith("}"), "the scheduler", 60)
        self.address: str = json.loads(file.read_text())["address"]

    @property
    def executor(self) -> str:
        return f"dask:{self.address}"

    def start_worker(self) -> None:
        number = len(self.workers)
        log = self.folder / f"worker-{number}.log"
        self.workers.append(
            self._start(
                "dask_worker",
                self.address,
                "--no-nanny",
                "--nthreads",
                "2",
                "--no-dashboard",
                "--name",
                str(number),
                "--local-directory",
                str(self.folder),
                log=log,
            )
        )
        until(lambda: "Registered to" in log.read_text(), "a worker of the cluster", 60)

    def _start(
        self, module: str, *arguments: str, log: Path | None = None
    ) -> subprocess.Popen[bytes]:
        with (log or self.folder / f"{module}.log").open("wb") as out:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{module}", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **self.family.environ},
            )

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(office: Office, family: Family) -> Iterator[Cluster]:
    """Two workers, and four branches that are held up within a revision."""
    slow.prepare(office, *CODES)
    (office.folder / "dask").mkdir()
    cluster = Cluster(office.folder / "dask", family)
    try:
        for _ in range(2):
            cluster.start_worker()
        yield cluster
    finally:
        cluster.close()


def outcomes(out: str) -> dict[str, tuple[str, str | None]]:
    return {
        row["branchCode"]: (row["verdict"], row["reason"]) for row in json.loads(out)["branches"]
    }


def test_a_cluster_migrates_one_branch_in_each_of_its_workers(
    office: Office, cluster: Cluster
) -> None:
    for code in CODES[:2]:
        slow.hold(office, code)
    run = office.start("apply-all", "--json", "--executor", cluster.executor)
    for code in CODES[:2]:
        slow.begun(office, code, "s2_many")
    assert not office.database(CODES[2]).exists(), "two workers of two threads migrate two branches"
    for code in CODES[:2]:
        slow.release(office, code)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert set(outcomes(out).values()) == {("migrated", None)}
    assert {slow.head(office, code) for code in CODES} == {"s4"}
    assert {row["status"] for row in office.json("status")} == {"Completed"}


@pytest.fixture
def known_to_workers(office: Office, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database of which only workers of the cluster know where it is."""
    path = office.folder / "known.db"
    monkeypatch.setenv("BRANCHMIG_SECRET_PLACE", f"sqlite:///{path}")
    return path


def test_references_are_resolved_where_the_branch_is_connected_to(
    office: Office, known_to_workers: Path, cluster: Cluster
) -> None:
    reference = "${env:BRANCHMIG_SECRET_PLACE}"
    office.run("branch", "add", "BR009", "--url", reference, "--provider", "sqlite")
    again = {"BRANCHMIG_RETRY_BACKOFF_SECONDS": "0"}
    said = office.json("apply", "BR009", code=1, **again)["errorMessage"]
    assert f"{reference} is not there" in said
    office.json("apply-all", "--executor", cluster.executor, **again)
    assert known_to_workers.exists()
    assert office.status("BR009")["status"] == "Completed"


def test_the_branch_of_a_worker_that_is_killed_is_brought_on_by_another(
    office: Office, cluster: Cluster
) -> None:
    for code in CODES[:2]:
        slow.hold(office, code)
    run = office.start("apply-all", "--json", "--executor", cluster.executor)
    for code in CODES[:2]:
        slow.begun(office, code, "s2_many")
    cluster.workers[0].kill()
    cluster.workers[0].wait()
    for code in CODES[:2]:
        slow.release(office, code)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert set(outcomes(out).values()) == {("migrated", None)}
    for code in CODES:
        assert slow.head(office, code) == "s4"
        assert office.status(code)["retryCount"] == 0


def test_a_run_whose_cluster_dies_ends_and_says_so(office: Office, cluster: Cluster) -> None:
    office.environ["BRANCHMIG_RUN_CONNECT_TIMEOUT"] = "2"
    for code in CODES[:2]:
        slow.hold(office, code)
    run = office.start("apply-all", "--json", "--executor", cluster.executor)
    for code in CODES[:2]:
        slow.begun(office, code, "s2_many")
    for worker in cluster.workers:
        worker.kill()
    out, _ = run.communicate(timeout=60)
    assert run.returncode == 69
    assert json.loads(out)["error"]["type"] == "ExecutorLost"
    for code in CODES[:2]:
        slow.release(office, code)
    status = {
        row["branchCode"]: (row["status"], row["retryCount"]) for row in office.json("status")
    }
    assert {status[code] for code in CODES[:2]} == {("InProgress", 0)}, "their leases run out"
    assert {status[code] for code in CODES[2:]} == {("Pending", 0)}
    locked = {row["branchCode"] for row in office.json("status") if row["isLocked"]}
    assert locked == set(CODES[:2])
    office.run("unlock", "--all", "--force", "--yes")
    office.run("apply-all")
    assert {slow.head(office, code) for code in CODES} == {"s4"}


def test_workers_of_a_cluster_obey_a_stop_of_the_run(office: Office, cluster: Cluster) -> None:
    for code in CODES[:2]:
        slow.hold(office, code)
    run = office.start("apply-all", "--json", "--executor", cluster.executor)
    for code in CODES[:2]:
        slow.begun(office, code, "s2_many")
    assert run.stderr is not None
    run.send_signal(signal.SIGTERM)
    # The second is its own signal only once the first has come.
    next(line for line in run.stderr if "SIGTERM: finishing" in line)
    run.send_signal(signal.SIGTERM)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 143, err
    assert set(outcomes(out).values()) == {("skipped", "stopped")}
    assert {slow.head(office, code) for code in CODES[:2]} == {"s1"}


def test_workers_with_other_scripts_migrate_nothing(office: Office, cluster: Cluster) -> None:
    # All are on one disk here, so what differs is made by a script that writes another beside it.
    script = office.folder / "slow" / "env.py"
    script.write_text(
        f"{script.read_text()}\n"
        "import sys, pathlib\n"
        "if 'distributed' in sys.modules:\n"
        "    pathlib.Path(__file__).with_name('strange.txt').write_text('x')\n"
    )
    done = office.json("apply-all", "--executor", cluster.executor, code=78)
    assert "differ from those of this host" in done["error"]["message"]
    assert not any(office.database(code).exists() for code in CODES)
    assert {row["retryCount"] for row in office.json("status")} == {0}


@pytest.mark.parametrize("address", ["tcp://192.0.2.1:8786", "ucx://127.0.0.1:8786", "8786"])
def test_tasks_never_cross_a_network_in_the_clear(office: Office, address: str) -> None:
    slow.prepare(office, "BR001")
    done = office.json("apply-all", "--executor", f"dask:{address}", code=2)
    assert "neither on TLS nor on this host" in done["error"]["message"]


def test_a_scheduler_that_is_not_there_is_named(office: Office) -> None:
    slow.prepare(office, "BR001")
    office.environ["BRANCHMIG_RUN_CONNECT_TIMEOUT"] = "1"
    done = office.json("apply-all", "--executor", "dask:tcp://127.0.0.1:1", code=69)
    assert "tcp://127.0.0.1:1 does not answer" in done["error"]["message"]
    assert office.status("BR001")["retryCount"] == 0


@pytest.mark.parametrize("given", [["--executor", "ray:x"], ["--executor", "dask:"],
                                   ["--executor", "dask:tls://h:1", "--workers", "2"]])  # fmt: skip
def test_an_executor_that_cannot_be_understood_is_refused(office: Office, given: list[str]) -> None:
    slow.prepare(office, "BR001")
    assert "cannot be understood" in office.json("apply-all", *given, code=2)["error"]["message"]
