"""Two machines with one HeadOffice on PostgreSQL share the work, and one of them may die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from machines import IN_NAMESPACES, Hub, machines
from office import Office
from processes import Family, until
from witnessed import Witnessed

NAMES = ("north", "south")
LEASE_SECONDS = 2

SIZES = pytest.mark.parametrize(
    "branches",
    [80, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])],
)


@SIZES
def test_two_machines_migrate_every_branch_once(tmp_path: Path, branches: int) -> None:
    with site(tmp_path, branches) as company:
        runs = [company.start(place) for place in company.machines]
        reports = [company.report(run) for run in runs]
        migrated = [
            {row["branchCode"] for row in report["branches"] if row["verdict"] == "migrated"}
            for report in reports
        ]
        say(f"migrated: {[len(codes) for codes in migrated]}")
        assert sum(len(codes) for codes in migrated) == branches
        assert migrated[0] | migrated[1] == company.codes
        assert [report["success"] for report in reports] == [True, True]
        assert all(migrated), "one machine had nothing to do"
        company.prove()


@SIZES
def test_when_one_of_two_machines_dies_the_other_has_its_branches_within_one_lease(
    tmp_path: Path, branches: int
) -> None:
    with site(tmp_path, branches) as company:
        dying, living = (company.start(place) for place in company.machines)
        until(lambda: company.count("status = 'Completed'") >= branches / 2, "half of it", 240)
        assert dying.poll() is None, "the machine had ended before it could die"
        os.killpg(dying.pid, signal.SIGKILL)
        dying.communicate()
        company.families[0].gone()
        left = company.count("lock_expires_at > now() AT TIME ZONE 'UTC'")
        cut = company.history.figures()["revisions: cut off"]
        say(f"leases in hand when one died: {left} of both; revisions begun and not ended: {cut}")
        # What the dead one held is free after one lease at most, by HeadOffice's clock.
        assert not company.count(
            "lock_expires_at > clock_timestamp() AT TIME ZONE 'UTC' "
            f"+ make_interval(secs => {LEASE_SECONDS})"
        )
        assert company.report(living)["success"]
        until(
            lambda: not company.count("lock_expires_at > clock_timestamp() AT TIME ZONE 'UTC'"),
            "the end of the dead machine's leases",
        )
        assert company.report(company.start(company.machines[1]))["success"]
        company.prove()


def say(text: str) -> None:
    """Shown with a failure, and with -rP."""
    sys.stdout.write(f"{text}\n")


@contextmanager
def site(folder: Path, branches: int) -> Iterator[Company]:
    """A company with two machines and so many branches that were never migrated."""
    with machines(*NAMES) as (hub, places), ExitStack() as stack:
        say(f"machines are {'network namespaces' if IN_NAMESPACES else 'loopback addresses'}")
        hub.query("CREATE DATABASE headoffice")
        families = [Family() for _ in places]
        offices = []
        for place, family in zip(places, families, strict=True):
            stack.callback(family.end)
            url = f"postgresql://postgres@{place.host}:{hub.port}/headoffice"
            environ = {
                **family.environ,
                "BRANCHMIG_HEADOFFICE_URL": url,
                "BRANCHMIG_RUN_LEASE_SECONDS": str(LEASE_SECONDS),
                "BRANCHMIG_RUN_WORKERS": "2",
            }
            offices.append(Office(folder, environ, place.wrapper))
        history = Witnessed.of(offices[0])
        history.grow(1)
        offices[0].init()
        codes = {f"BR{number:04}" for number in range(branches)}
        offices[0].add(*sorted(codes))
        yield Company(hub, offices, families, history, codes)


@dataclass
class Company:
    """HeadOffice, and the machines as those that run the program on them."""

    hub: Hub
    machines: list[Office]
    families: list[Family]
    history: Witnessed
    codes: set[str]

    def start(self, machine: Office) -> subprocess.Popen[str]:
        # Its logs go nowhere: a pipe that nobody empties would hold it up.
        return machine.start(
            "apply-all", "--json", start_new_session=True, stderr=subprocess.DEVNULL
        )

    def report(self, run: subprocess.Popen[str]) -> Any:
        out, _ = run.communicate(timeout=900)
        assert run.returncode == 0, out[-2000:]
        return json.loads(out)

    def count(self, condition: str) -> int:
        """The states in HeadOffice of which this is true."""
        rows = self.hub.query(
            f"SELECT count(*) FROM branchmig_migration_states WHERE {condition}", "headoffice"
        )
        return int(rows[0][0])

    def prove(self) -> None:
        """Every branch is at head, everything landed once, and no two were at one at a time."""
        done = (
            f"status = 'Completed' AND heads = '[\"{self.history.head}\"]' AND lock_owner IS NULL"
        )
        assert self.count(done) == len(self.codes)
        for code in sorted(self.codes):
            ledger = self.machines[0].query(code, "SELECT what FROM ledger ORDER BY id")
            assert [what for (what,) in ledger] == self.history.ledger(), code
        assert self.history.figures()["revisions: overlaps"] == 0
        hosts = self.hub.query(
            "SELECT DISTINCT host FROM branchmig_runs WHERE command = 'apply-all'", "headoffice"
        )
        if IN_NAMESPACES:
            assert {host for (host,) in hosts} == set(NAMES)
