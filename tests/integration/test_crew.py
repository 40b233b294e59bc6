"""Several workers at once: each branch by itself, all of them under one run."""

from __future__ import annotations

import json
import os
import signal

import pytest
import slow
from office import Office
from processes import Family, until

CODES = ("BR001", "BR002", "BR003", "BR004")


@pytest.fixture
def office(office: Office) -> Office:
    """Four branches, of which the first three are held up within a revision."""
    slow.prepare(office, *CODES)
    for code in CODES[:3]:
        slow.hold(office, code)
    return office


def outcomes(out: str) -> dict[str, tuple[str, str | None]]:
    return {
        row["branchCode"]: (row["verdict"], row["reason"]) for row in json.loads(out)["branches"]
    }


def test_as_many_branches_as_there_are_workers_are_migrated_at_once(
    office: Office, family: Family
) -> None:
    run = office.start("apply-all", "--json", "--workers", "2")
    slow.begun(office, "BR001", "s2_many")
    slow.begun(office, "BR002", "s2_many")
    assert len(family.workers(run.pid)) == 2
    assert not office.database("BR003").exists()
    slow.release(office, "BR002")
    slow.begun(office, "BR003", "s2_many")
    for code in ("BR001", "BR003"):
        slow.release(office, code)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert list(outcomes(out).items()) == [(code, ("migrated", None)) for code in CODES]
    assert {slow.head(office, code) for code in CODES} == {"s4"}


def test_a_worker_that_is_killed_costs_one_branch_and_the_others_go_on(
    office: Office, family: Family
) -> None:
    run = office.start("apply-all", "--json", "--workers", "2")
    slow.begun(office, "BR001", "s2_many")
    slow.begun(office, "BR002", "s2_many")
    os.kill(family.workers(run.pid)[0], signal.SIGKILL)
    slow.begun(office, "BR003", "s2_many")
    for code in CODES[:3]:
        slow.release(office, code)
    out, _ = run.communicate(timeout=60)
    assert run.returncode == 1
    found = outcomes(out)
    assert sorted(found.values(), key=str) == [("failed", None)] + [("migrated", None)] * 3
    (dead,) = (code for code, (verdict, _) in found.items() if verdict == "failed")
    assert dead in ("BR001", "BR002")
    assert slow.head(office, dead) == "s1"


def test_branches_of_one_server_are_migrated_so_many_at_once_and_no_more(
    office: Office, family: Family
) -> None:
    for code in ("BR001", "BR002"):
        office.run("branch", "update", code, "--server", "small")
    office.environ["BRANCHMIG_RUN_PER_SERVER"] = "1"
    run = office.start("apply-all", "--workers", "4")
    slow.begun(office, "BR003", "s2_many")
    until(lambda: _begun(office, "BR001") or _begun(office, "BR002"), "one of the small server")
    slow.release(office, "BR003")
    until(lambda: slow.head(office, "BR003") == "s4", "the end of BR003")
    until(lambda: slow.head(office, "BR004") == "s4", "the end of BR004")
    assert _begun(office, "BR001") is not _begun(office, "BR002")
    for code in ("BR001", "BR002"):
        slow.release(office, code)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err


def _begun(office: Office, code: str) -> bool:
    return slow.mark(office, code, "s2_many").exists()


def test_a_signal_finishes_what_every_worker_has_in_hand_and_begins_nothing_more(
    office: Office, family: Family
) -> None:
    run = office.start("apply-all", "--json", "--workers", "2")
    slow.begun(office, "BR001", "s2_many")
    slow.begun(office, "BR002", "s2_many")
    run.send_signal(signal.SIGTERM)
    assert run.stderr is not None
    while "finishing the revision in hand" not in run.stderr.readline():
        assert run.poll() is None
    for code in CODES[:3]:
        slow.release(office, code)
    out, _ = run.communicate(timeout=60)
    assert run.returncode == 143
    assert outcomes(out) == dict.fromkeys(CODES, ("skipped", "stopped"))
    assert slow.head(office, "BR001") == slow.head(office, "BR002") == "s2_many"
    assert not office.database("BR003").exists()
    assert office.json("apply-all")["success"] is True


def test_a_second_signal_rolls_back_what_every_worker_has_in_hand(
    office: Office, family: Family
) -> None:
    run = office.start("apply-all", "--json", "--workers", "2")
    slow.begun(office, "BR001", "s2_many")
    slow.begun(office, "BR002", "s2_many")
    assert run.stderr is not None
    for sentence in ("finishing the revision in hand", "rolling it back"):
        run.send_signal(signal.SIGINT)
        while sentence not in run.stderr.readline():
            assert run.poll() is None
    run.communicate(timeout=60)
    assert run.returncode == 130
    assert slow.head(office, "BR001") == slow.head(office, "BR002") == "s1"


def test_a_url_that_its_driver_chokes_on_costs_that_branch_alone(office: Office) -> None:
    for code in CODES[:3]:
        slow.release(office, code)
    rows = [
        "ODD1,postgresql://u@127.0.0.1:1/d",
        "ODD2,mysql://u@127.0.0.1:1/d?ssl_mode=REQUIRED",
        "ODD3,mysql://u@127.0.0.1:1/e?read_timeout=abc",
    ]
    office.run("branch", "import", "-", stdin="\n".join(["code,url", *rows, ""]))
    # Nobody could add this one; somebody wrote it there.
    office.headoffice(
        "UPDATE branchmig_branches SET url = url || '?nonsense=1' WHERE code = 'ODD1'"
    )
    done = office.run("apply-all", "--json", "--workers", "2", code=1)
    found = outcomes(done.stdout)
    assert {found.pop(f"ODD{n}") for n in (1, 2, 3)} == {("failed", None)}
    assert set(found.values()) == {("migrated", None)}
    for code, option in (("ODD1", "nonsense"), ("ODD2", "ssl_mode"), ("ODD3", "abc")):
        assert option in office.json("pending", code, code=1)["error"]["message"]
    refused = office.run("branch", "add", "ODD4", "--url", "mysql+nodriver://u@h/d", code=2)
    assert "unknown driver in the URL: mysql+nodriver" in refused.stderr
