"""The survey looks at every branch once, at so many of one server at a time."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

from processes import until
from scene import Scene

from branchmig.errors import BranchBusy, BranchUnreachable
from branchmig.fleet.survey import Finding, Survey
from branchmig.migrator import Migrator
from branchmig.model import Branch, BranchState, Provider, Record, Snapshot

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
        if branch.code in ("a7", "3"):
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

    def tell(finding: Finding) -> None:
        with migrator.lock:
            found.append(finding)
            if len(found) == len(records):
                done.set()

    survey = Survey(migrator, PER_SERVER, tell)
    survey.begin(records)
    assert done.wait(60)
    survey.close()
    told = {finding.record.branch.code: (finding.heads, finding.busy) for finding in found}
    assert len(found) == len(told) == len(records)
    # Of a server it means that all connections are taken: an attempt asks again.
    assert (told["3"], told["a7"]) == ((None, "somebody writes"), (None, None))
    assert told["a8"] == (None, None)
    assert told["b9"] == (None, None)
    assert {told["a1"], told["b7"], told["1"]} == {(("r1",), None)}
    assert migrator.most == {"a": PER_SERVER, "b": PER_SERVER, "": 1}


def test_a_survey_that_is_closed_begins_no_further_look(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.revision("r1", "pass")
    branch = Branch("1", "BR1", "", Provider.SQLITE, "sqlite:///x.db", server="a")
    begun, go_on = threading.Event(), threading.Event()

    class Held(Migrator):
        def look(self, branch: Branch) -> Snapshot:
            begun.set()
            assert go_on.wait(30)
            return Snapshot(exists=False, versioned=False)

    found: list[Finding] = []
    migrator = Held(scene.settings)
    migrator.history()
    survey = Survey(migrator, 1, found.append)
    survey.begin([Record(branch, BranchState())] * 10)
    assert begun.wait(30)
    closing = threading.Thread(target=survey.close)
    closing.start()
    until(lambda: survey._ended, "the call of close")
    assert closing.is_alive()  # it waits for the look under way
    go_on.set()
    closing.join(30)
    assert len(found) == 1


def test_a_branch_with_a_revision_half_applied_is_not_taken_for_one_at_its_heads(
    tmp_path: Path,
) -> None:
    class Unfinished(Migrator):
        def look(self, branch: Branch) -> Snapshot:
            return Snapshot(exists=True, versioned=True, heads=("r1",), unfinished=True)

    scene = Scene(tmp_path)
    scene.revision("r1", "pass")
    migrator = Unfinished(scene.settings)
    migrator.history()
    found: list[Finding] = []
    survey = Survey(migrator, 1, found.append)
    survey.begin([Record(scene.branch, BranchState())])
    until(lambda: found, "the look")
    survey.close()
    assert found[0].heads is None
