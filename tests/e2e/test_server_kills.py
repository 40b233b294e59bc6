"""The server itself is killed in the middle of a run, and started again; then comes the next run.

The server is the test's own: nobody else's tests may meet it dead.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from lab import Lab
from office import Office
from processes import Family, until
from servers import Mariadb, Postgresql, Server, private

HEAD = "r3"
BRANCHES = 3
"""For each kill, as many as are migrated at once or fewer."""

ENGINES = pytest.mark.parametrize("engine", [Postgresql, Mariadb])


@ENGINES
def test_two_kills_of_the_server_leave_nothing_that_the_next_run_cannot_put_right(
    engine: type[Server], tmp_path: Path
) -> None:
    _survives(engine, tmp_path, 2)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@ENGINES
def test_twenty_kills_of_the_server_leave_nothing_that_the_next_run_cannot_put_right(
    engine: type[Server], tmp_path: Path
) -> None:
    _survives(engine, tmp_path, int(os.environ.get("TEST_KILLS", "20")))


def _survives(engine: type[Server], folder: Path, kills: int) -> None:
    seed = int(os.environ.get("TEST_SEED") or random.randrange(2**32))
    sys.stdout.write(f"TEST_SEED={seed}\n")
    family = Family()
    try:
        with private(engine) as server:
            blows = Blows(server, folder, family)
            blows.begin(kills)
            blows.strike_often(kills, random.Random(seed))
            family.gone()
    except BaseException as error:
        error.add_note(f"TEST_SEED={seed}")
        raise
    finally:
        family.end()
    sys.stdout.write(f"{dict(blows.figures)}\n")
    assert blows.figures["needs a person"] <= blows.figures["branches"] / 20


@dataclass
class Blows:
    """An office whose branches' server is killed again and again."""

    server: Server
    folder: Path
    family: Family
    figures: Counter[str] = field(default_factory=Counter)
    seconds: float = 0
    reference: object = None

    def begin(self, kills: int) -> None:
        """A history, branches enough, and one of them migrated in peace."""
        self.lab("peace").eventful()
        self.office = Office(self.folder)
        self.office.environ |= {
            "BRANCHMIG_RETRY_MAX_ATTEMPTS": "100",
            "BRANCHMIG_RUN_CONNECT_TIMEOUT": "2",
            **self.family.environ,
        }
        self.office.init()
        codes = ["peace", *(f"b{n}" for n in range(2 * kills * BRANCHES))]
        rows = [f"{code},{self.server.url(code)}" for code in codes]
        self.office.run("branch", "import", "-", stdin="\n".join(["code,url", *rows, ""]))
        self.activate({"peace"})
        run = self.office.start("apply-all")
        until(lambda: "peace" in self.server.databases(), "the first database")
        began = time.monotonic()
        _, err = run.communicate()
        assert run.returncode == 0, err
        self.seconds = time.monotonic() - began
        self.reference = self.lab("peace").contents()

    def lab(self, code: str) -> Lab:
        return Lab(self.folder, self.server, code)

    def strike_often(self, kills: int, chance: random.Random) -> None:
        """Until so many have met a run that had not ended."""
        for number in range(2 * kills):
            if self.figures["kills"] == kills:
                return
            codes = {f"b{number * BRANCHES + i}" for i in range(BRANCHES)}
            self.activate(codes)
            self.strike(codes, chance.uniform(0, self.seconds))
            self.check(codes)
            self.office.run("apply-all", code=None)
            self.prove(codes)
        raise AssertionError("too few kills have landed")

    def activate(self, codes: set[str]) -> None:
        marks = ", ".join("?" * len(codes))
        self.office.headoffice(
            f"UPDATE branchmig_branches SET is_active = code IN ({marks})", sorted(codes)
        )

    def strike(self, codes: set[str], moment: float) -> None:
        run = self.office.start("apply-all")
        until(lambda: codes & self.server.databases() or run.poll() is not None, "a database")
        time.sleep(moment)
        self.figures["kills"] += run.poll() is None
        self.server.kill()
        _, err = run.communicate(timeout=120)
        assert run.returncode in (0, 1), err
        self.server.start()

    # What must hold ---------------------------------------------------------------------------

    def states(self, codes: set[str]) -> dict[str, tuple[str, str, str | None]]:
        """Status, heads and error of each branch, as HeadOffice has them."""
        rows = self.office.headoffice(
            "SELECT code, status, heads, error FROM branchmig_migration_states "
            "JOIN branchmig_branches ON id = branch_id"
        )
        return {row[0]: row[1:] for row in rows if row[0] in codes}

    def check(self, codes: set[str]) -> None:
        """Nothing is called Completed that is not."""
        for code, (status, _, _) in self.states(codes).items():
            self.figures[f"{status} after a kill"] += 1
            if status == "Completed":
                assert self.lab(code).contents() == self.reference, code

    def prove(self, codes: set[str]) -> None:
        """Each branch is at head, every statement once; or a person is told which one is open."""
        for code, (status, heads, error) in self.states(codes).items():
            self.figures["branches"] += 1
            if status == "RequiresManualIntervention":
                self.figures["needs a person"] += 1
                assert "was begun, and whether it landed is unknown: " in str(error), (code, error)
                continue
            assert (status, heads, error) == ("Completed", f'["{HEAD}"]', None), code
            assert self.lab(code).contents() == self.reference, code
