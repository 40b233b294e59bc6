"""People are told by the real program, at services that work, refuse, hang and come back."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from office import Office
from processes import Family, until
from receiver import Receiver, mailbox, receiver

NOT_A_DATABASE = "some text of a person, and no database at all, not even near " * 20
TOKEN = "T0kenOfThePager"


@pytest.fixture
def pager() -> Iterator[Receiver]:
    with receiver() as server:
        yield server


def settings(
    office: Office, *urls: str, on: str = "manual,halt,recovery", timeout: float = 20
) -> None:
    """One failed attempt is enough for a person to be needed."""
    office.configure(
        f"[retry]\nmax_attempts = 1\n\n[notify]\nurls = {json.dumps(urls)}\n"
        f"on = {json.dumps(on.split(','))}\ntimeout = {timeout}\n"
    )


def spoil(office: Office, *codes: str) -> None:
    for code in codes:
        office.database(code).parent.mkdir(exist_ok=True)
        office.database(code).write_text(NOT_A_DATABASE)


def trouble(office: Office, *codes: str, error: str = "no such table: Users") -> None:
    """Branches that need a person, for all that HeadOffice knows."""
    for code in codes:
        office.headoffice(
            "INSERT INTO branchmig_branches VALUES (?, ?, ?, ?, 'sqlite', ?, ?, NULL, '[]', 1, "
            "'2026-01-01', '2026-01-01')",
            (code, code, code.lower(), code, f"sqlite:///{code}.db", code),
        )
        office.headoffice(
            "INSERT INTO branchmig_migration_states (branch_id, status, heads, retry_count, "
            "lock_token, pinned, error) VALUES (?, ?, '[]', 3, 0, 1, ?)",
            (code, "RequiresManualIntervention", error),
        )


def mend(office: Office) -> None:
    office.headoffice("UPDATE branchmig_migration_states SET status = 'Completed'")


def notices(office: Office) -> list[tuple[str, bool]]:
    rows = office.headoffice("SELECT kind, told_at IS NOT NULL FROM branchmig_notices ORDER BY 1")
    return [(kind, bool(told)) for kind, told in rows]


def test_many_branches_with_one_error_are_one_message_once_and_so_is_their_recovery(
    office: Office, pager: Receiver
) -> None:
    settings(office, pager.url)
    codes = [f"BR{number:02}" for number in range(7)]
    trouble(office, *codes)
    for _ in range(2):
        office.run("apply-all")
    [letter] = pager.letters
    assert letter["title"] == "branchmig: 7 branches need a person"
    assert letter["message"].startswith("BR00, BR01, BR02, BR03, BR04 and 2 more: ")
    assert "branchmig retry BRANCH" in letter["message"]
    assert letter["type"] == "failure"
    mend(office)
    office.run("apply-all")
    assert pager.titles[1:] == ["branchmig: 7 troubles are over"]
    assert pager.letters[1]["message"].startswith("BR00 is Completed again\nBR01 is")
    assert notices(office) == []


def test_a_single_apply_tells_as_well(office: Office, pager: Receiver) -> None:
    settings(office, pager.url, on="failure,recovery")
    office.add("BR01")
    spoil(office, "BR01")
    office.run("apply", "BR01", code=1)
    office.database("BR01").unlink()
    office.run("apply", "BR01")
    assert pager.titles == ["branchmig: BR01 failed", "branchmig: BR01 is Completed again"]


def test_a_halted_rollout_is_told_once_and_that_it_goes_on(office: Office, pager: Receiver) -> None:
    settings(office, pager.url)
    office.headoffice(
        "INSERT INTO branchmig_rollouts VALUES ('r', 'a2', 'hash', '[]', "
        "'2026-01-01 00:00:00.000000', NULL, 0, 3, 0, 3, '2026-01-01 01:00:00.000000', 'run', "
        "'three branches failed alike', NULL, NULL)"
    )
    for _ in range(2):
        office.run("apply-all")
    assert pager.titles == ["branchmig: the rollout of a2 is halted"]
    assert pager.letters[0]["message"].startswith("three branches failed alike\n")
    office.run("resume")
    office.run("apply-all")
    assert len(pager.letters) == 2
    assert pager.titles[1].endswith("halted at 2026-01-01 01:00:00 UTC, is halted no longer")


@pytest.mark.parametrize("fault", ["refuses", "500", "hangs"])
def test_a_service_that_does_not_take_it_costs_no_exit_code_and_is_tried_again_by_the_next_run(
    office: Office, pager: Receiver, family: Family, fault: str
) -> None:
    url = f"{pager.url}/{TOKEN}"
    settings(office, url, timeout=1.5 if fault == "hangs" else 20)
    trouble(office, "BR01")
    if fault == "refuses":
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            url = f"json://127.0.0.1:{nobody.getsockname()[1]}/{TOKEN}"
        settings(office, url)
    pager.status = 500 if fault == "500" else 200
    if fault == "hangs":
        pager.lets_go.clear()
    failed = office.run("apply-all", "--json")
    assert json.loads(failed.stdout)["success"] is True
    assert "[notify] url 1 (json://***): " in failed.stderr
    assert "nobody was told, the next run tries again: branchmig: BR01 needs" in failed.stderr
    assert TOKEN not in failed.stderr + failed.stdout
    assert notices(office) == [("manual", False)]
    family.gone()
    pager.status = 200
    pager.lets_go.set()
    pager.letters.clear()
    settings(office, f"{pager.url}/{TOKEN}")
    quiet = office.run("apply-all")
    assert pager.titles == ["branchmig: BR01 needs a person"]
    assert "[notify]" not in quiet.stderr
    assert notices(office) == [("manual", True)]


def test_one_address_that_is_dead_keeps_no_other_waiting_and_has_nobody_told_twice(
    office: Office, pager: Receiver
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings(office, f"json://127.0.0.1:{silent.getsockname()[1]}", pager.url, timeout=2)
        trouble(office, "BR01")
        done = office.run("apply-all")
        assert "url 1 (json://***): no answer within 2 s" in done.stderr
        assert "nobody was told" not in done.stderr
        office.run("apply-all")
    assert pager.titles == ["branchmig: BR01 needs a person"]


def test_a_run_killed_while_it_tells_leaves_nobody_behind_and_has_it_told_once_more(
    office: Office, pager: Receiver, family: Family
) -> None:
    settings(office, pager.url, timeout=60)
    trouble(office, "BR01")
    pager.lets_go.clear()
    run = office.start("apply-all")
    until(lambda: pager.letters, "the message")
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    family.gone()
    pager.lets_go.set()
    office.run("apply-all")
    assert len(pager.letters) == 1, "for all that is known it is being told"
    office.headoffice("UPDATE branchmig_notices SET since = '2020-01-01 00:00:00.000000'")
    office.run("apply-all")
    office.run("apply-all")
    assert pager.titles == ["branchmig: BR01 needs a person"] * 2


def test_a_run_that_is_stopped_while_it_tells_ends_at_once_and_another_tells(
    office: Office, pager: Receiver, family: Family
) -> None:
    settings(office, pager.url, timeout=60)
    trouble(office, "BR01")
    pager.lets_go.clear()
    run = office.start("apply-all", "--json")
    until(lambda: pager.letters, "the message")
    run.send_signal(signal.SIGTERM)
    out, _ = run.communicate(timeout=30)
    assert (run.returncode, json.loads(out)["success"]) == (0, True), "the run itself was over"
    family.gone()
    pager.lets_go.set()
    office.run("apply-all")
    assert len(pager.letters) == 2


def test_two_runs_at_once_tell_of_a_trouble_once(office: Office, pager: Receiver) -> None:
    settings(office, pager.url)
    trouble(office, "BR01", "BR02")
    runs = [office.start("apply-all") for _ in range(3)]
    for run in runs:
        _, err = run.communicate(timeout=60)
        assert run.returncode == 0, err
    told = [
        code
        for letter in pager.letters
        for code in re.findall(r"BR\d\d", letter["message"].partition(":")[0])
    ]
    assert sorted(told) == ["BR01", "BR02"]


def test_the_digest_says_how_the_fleet_stands_once_for_each_time_that_it_is_due(
    office: Office, pager: Receiver
) -> None:
    settings(office, pager.url, on="digest")
    trouble(office, "BR01", "BR02")
    mend(office)
    trouble(office, "BR03")
    office.run("apply-all")
    assert pager.letters == [], "of what was before the first look nobody expects one"
    office.headoffice("UPDATE branchmig_notices SET since = '2020-01-01 00:00:00.000000'")
    office.run("apply-all")
    office.run("apply-all")
    [letter] = pager.letters
    lines = letter["message"].splitlines()
    assert lines[0] == "3 branches: 2 Pending, 1 RequiresManualIntervention"
    assert lines[1:3] == ["3 behind", "3 pinned"]
    assert "RequiresManualIntervention:" in lines
    assert any(line.startswith("BR03: ") for line in lines)


def test_a_password_in_an_error_is_told_to_nobody(office: Office, pager: Receiver) -> None:
    settings(office, pager.url, on="failure")
    error = "no way to postgresql://app:hunter2hunter2@db/x\nor password=hunter2hunter2"
    trouble(office, "BR01", error=error)
    office.run("apply-all")
    [letter] = pager.letters
    assert "hunter" not in json.dumps(letter)
    assert r"/x\nor password=***" in letter["message"]


# Trying it ----------------------------------------------------------------------------------------


def test_notify_says_which_address_takes_a_test_message(office: Office, pager: Receiver) -> None:
    with mailbox() as (mail, mails):
        settings(office, pager.url, mail)
        done = office.json("notify")
        assert done == {
            "success": True,
            "addresses": [
                {"url": "json://***", "delivered": True, "errorMessage": None},
                {"url": "mailto://***", "delivered": True, "errorMessage": None},
            ],
        }
        assert "Subject: branchmig: a test" in mails[0]
    assert pager.titles == ["branchmig: a test"]


def test_notify_fails_where_one_address_does_not_take_it_and_shows_no_token(
    office: Office, pager: Receiver
) -> None:
    pager.status = 403
    settings(office, f"{pager.url}/{TOKEN}", f"nonsense://{TOKEN}", f"slack://{TOKEN}")
    done = office.run("--debug", "notify", code=1)
    assert TOKEN.lower() not in (done.stdout + done.stderr).lower()
    assert [line.split()[:3] for line in done.stdout.splitlines()[1:]] == [
        ["1", "json://***", "no"],
        ["2", "nonsense://***", "no"],
        ["3", "slack://***", "no"],
    ]


def test_notify_without_anybody_to_tell_says_so(office: Office) -> None:
    assert "there is nobody to be told" in office.run("notify", code=78).stderr


def test_without_the_library_a_run_warns_and_claims_nothing(
    office: Office, pager: Receiver, tmp_path: Path
) -> None:
    settings(office, pager.url)
    trouble(office, "BR01")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(
        "import sys\n\n"
        "class Hides:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'apprise':\n"
        "            raise ModuleNotFoundError(name)\n\n"
        "sys.meta_path.insert(0, Hides())\n"
    )
    path = f"{tmp_path / 'hidden'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = office.run("apply-all", PYTHONPATH=path)
    assert "people could not be told" in done.stderr
    assert notices(office) == []
