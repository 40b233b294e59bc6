"""Ctrl-C and SIGTERM: the first ends a run in good order, the second rolls back what is in hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import slow
from office import Office
from processes import Family, until

COMMANDS = pytest.mark.parametrize("command", [("apply", "BR001"), ("apply-all",)])

# A terminal signals the whole foreground group, systemd the parent alone or (by its KillMode)
# everything; it must not matter who else is hit.
SIGNALS = pytest.mark.parametrize(
    ("signum", "group", "code"),
    [
        (signal.SIGINT, True, 130),
        (signal.SIGTERM, False, 143),
        (signal.SIGTERM, True, 143),
    ],
    ids=["ctrl-c", "sigterm", "sigterm-to-all"],
)


class Run:
    """A run in a process group of its own, to be signalled."""

    def __init__(self, office: Office, command: tuple[str, ...]) -> None:
        self.process: subprocess.Popen[str] = office.start(
            *command, "--json", start_new_session=True
        )

    def signal(self, signum: int, group: bool) -> None:
        (os.killpg if group else os.kill)(self.process.pid, signum)

    def told(self, text: str) -> None:
        """Wait until the run says on stderr that a signal has come."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if text in line:
                return
        pytest.fail(f"the run ended without saying {text!r}")

    def ended(self) -> tuple[int, Any]:
        out, err = self.process.communicate(timeout=60)
        assert out, err
        return self.process.returncode, json.loads(out)


def pending(pid: int, signum: int) -> bool:
    """Whether a signal waits to be delivered to a process (proc_pid_status(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = (line.split()[1] for line in lines if line.startswith("ShdPnd:"))
    return bool(int(mask, 16) >> (signum - 1) & 1)


def states(office: Office) -> list[tuple[Any, ...]]:
    return office.headoffice(
        "SELECT code, status, heads, retry_count, next_attempt_at, error, lock_owner, "
        "lock_expires_at FROM branchmig_migration_states "
        "JOIN branchmig_branches ON id = branch_id ORDER BY code"
    )


def exit_code_on_record(office: Office, report: dict[str, Any]) -> int | None:
    rows = office.headoffice(
        "SELECT exit_code FROM branchmig_runs WHERE id = ? AND finished_at IS NOT NULL",
        (report["runId"],),
    )
    return rows[0][0] if rows else None


@COMMANDS
@SIGNALS
def test_the_first_signal_finishes_the_revision_in_hand_and_gives_everything_back(
    office: Office, family: Family, command: tuple[str, ...], signum: int, group: bool, code: int
) -> None:
    slow.prepare(office, "BR001", "BR002")
    slow.hold(office, "BR001")
    run = Run(office, command)
    slow.begun(office, "BR001", "s2_many")
    run.signal(signum, group)
    run.told("finishing the revision in hand")
    slow.release(office, "BR001")
    returned, report = run.ended()
    assert returned == code
    assert exit_code_on_record(office, report) == code
    first, *rest = report["branches"]
    assert (first["verdict"], first["reason"]) == ("skipped", "stopped")
    assert first["appliedMigrations"] == ["s1", "s2_many"]
    assert slow.head(office, "BR001") == "s2_many"
    if command[0] == "apply-all":
        assert [(row["verdict"], row["reason"]) for row in rest] == [("skipped", "stopped")]
    assert not office.database("BR002").exists()
    nothing = (0, None, None, None, None)
    assert states(office) == [
        ("BR001", "Pending", '["s2_many"]', *nothing),
        ("BR002", "Pending", "[]", *nothing),
    ]
    # Nothing is left to wait for.
    assert office.json("apply-all")["success"] is True
    assert slow.head(office, "BR001") == slow.head(office, "BR002") == "s4"


@COMMANDS
@pytest.mark.parametrize(
    ("signum", "group", "code"), [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143)]
)
def test_the_second_signal_rolls_the_revision_in_hand_back_even_within_one_statement(
    office: Office, family: Family, command: tuple[str, ...], signum: int, group: bool, code: int
) -> None:
    slow.prepare(office, "BR001", "BR002")
    slow.lengthen(office, "BR001")
    run = Run(office, command)
    slow.begun(office, "BR001", "s3_long")
    run.signal(signum, group)
    run.told("finishing the revision in hand")
    asked = time.monotonic()
    run.signal(signum, group)
    run.told("rolling it back")
    returned, report = run.ended()
    assert time.monotonic() - asked < 10
    assert returned == code
    assert exit_code_on_record(office, report) == code
    first = report["branches"][0]
    assert (first["reason"], first["appliedMigrations"]) == ("stopped", ["s1", "s2_many"])
    assert "rolled back" in first["errorMessage"]
    assert slow.head(office, "BR001") == "s2_many"
    assert office.query("BR001", "SELECT count(*) FROM rows WHERE revision = 's3_long'") == [(0,)]
    assert states(office)[0] == ("BR001", "Pending", '["s2_many"]', 0, None, None, None, None)


@COMMANDS
def test_the_second_signal_stops_between_statements_too(
    office: Office, family: Family, command: tuple[str, ...]
) -> None:
    slow.prepare(office, "BR001")
    slow.hold(office, "BR001")
    run = Run(office, command)
    slow.begun(office, "BR001", "s2_many")
    for text in ("finishing the revision in hand", "rolling it back"):
        run.signal(signal.SIGINT, True)
        run.told(text)
    returned, report = run.ended()
    assert (returned, report["appliedMigrations"][-1:]) in [
        (130, ["s1"]),
        (130, ["[BR001] s1"]),
    ]
    assert slow.head(office, "BR001") == "s1"


@COMMANDS
def test_a_stop_restores_the_status_that_failures_before_it_had_left(
    office: Office, family: Family, command: tuple[str, ...]
) -> None:
    slow.prepare(office, "BR001")
    office.environ["BRANCHMIG_RETRY_BACKOFF_SECONDS"] = "0"
    broken = office.folder / "slow" / "versions" / "s2_many.py"
    text = broken.read_text()
    broken.write_text(text.replace("    database =", "    raise ValueError\n    database ="))
    office.run("apply-all", code=1)
    before = states(office)
    assert before[0][1:4] == ("Failed", '["s1"]', 1)
    broken.write_text(text)
    slow.lengthen(office, "BR001")
    run = Run(office, command)
    slow.begun(office, "BR001", "s3_long")
    for text in ("finishing the revision in hand", "rolling it back"):
        run.signal(signal.SIGINT, True)
        run.told(text)
    assert run.ended()[0] == 130
    (_, status, heads, retries, *_), *_ = states(office)
    assert (status, heads, retries) == ("Failed", '["s2_many"]', 1)


def test_a_run_without_anyone_to_read_its_messages_still_obeys(
    office: Office, family: Family
) -> None:
    slow.prepare(office, "BR001")
    slow.lengthen(office, "BR001")
    run = Run(office, ("apply", "BR001"))
    slow.begun(office, "BR001", "s3_long")
    assert run.process.stderr is not None
    run.process.stderr.close()
    run.process.stderr = None
    run.signal(signal.SIGTERM, False)
    # Two that are pending at once would be one to the kernel.
    until(lambda: not pending(run.process.pid, signal.SIGTERM), "the first signal's arrival")
    run.signal(signal.SIGTERM, False)
    out, _ = run.process.communicate(timeout=60)
    assert run.process.returncode == 143
    assert json.loads(out)["branches"][0]["reason"] == "stopped"


@pytest.mark.parametrize("delay", [0.2, 0.4, 0.6, 0.8, 1.0])
def test_a_signal_at_any_moment_of_the_start_leaves_nothing_behind(
    office: Office, family: Family, delay: float
) -> None:
    office.use_history("linear")
    office.add("BR001", "BR002")
    run = office.start("apply-all", "--json", start_new_session=True)
    deadline = time.monotonic() + delay
    until(lambda: time.monotonic() >= deadline or run.poll() is not None, "the moment")
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=60)
    # Before Python runs, and after the program has ended its work, the system's own ways hold.
    assert run.returncode in (0, 130, -signal.SIGINT), err
    assert "Traceback" not in err or run.returncode == -signal.SIGINT, err
    for _, status, heads, retries, _, error, owner, _ in states(office):
        assert (retries, error, owner) == (0, None, None), err
        assert status == ("Completed" if heads == '["a3"]' else "Pending")
    assert office.json("apply-all")["success"] is True
