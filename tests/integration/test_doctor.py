"""What the doctor says of fleets that are large, or of which much is away."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
import simulated
from office import Office
from servers import MISSING, Mariadb, Postgresql

from branchmig.doctor.units import _walled as walled
from branchmig.doctor.units import unit


def add(office: Office, urls: dict[str, str]) -> None:
    rows = [f"{code},{url}" for code, url in urls.items()]
    office.run("branch", "import", "-", stdin="\n".join(["code,url", *rows, ""]))


def told(office: Office, check: str, code: int = 0) -> list[dict[str, Any]]:
    return [row for row in office.json("doctor", "--all", code=code) if row["check"] == check]


def test_a_server_that_does_not_answer_is_given_up_and_its_neighbours_are_not(
    office: Office,
) -> None:
    dead = {f"A{number}": f"postgresql://u@127.0.0.1:1/d{number}" for number in range(9)}
    add(office, {**dead, "B1": "sqlite:///b1.db", "B2": "mysql://u@127.0.0.1:1/d"})
    rows = told(office, "branch", 1)
    assert [row["subject"] for row in rows] == [
        "A0", "A1", "A2", "B1", "B2", "postgresql:127.0.0.1:1",
    ]  # fmt: skip
    assert rows[-1]["message"].endswith("6 more were not looked at")
    assert rows[-1]["severity"] == "error"


def test_branches_in_folders_of_their_own_are_on_one_disk(office: Office) -> None:
    add(office, {f"BR{number}": f"sqlite:///b/{number}/x.db" for number in range(9)})
    (*_, new) = told(office, "disk")
    assert new["severity"] == "note"
    assert "folders of new branches are not there yet" in new["message"]
    assert new["message"].endswith("and 4 more")
    office.run("apply-all")
    (disk,) = told(office, "disk")
    assert disk["severity"] == "ok"
    assert disk["message"].endswith("9 more of its folders")


def test_a_folder_in_which_databases_have_been_is_missed(office: Office) -> None:
    add(office, {"BR1": "sqlite:///share/x.db", "BR2": "sqlite:///new/x.db"})
    office.run("apply", "BR1")
    (office.folder / "share").rename(office.folder / "unmounted")
    _, vanished, new = told(office, "disk", 1)
    assert (vanished["severity"], vanished["hint"]) == ("warning", "mount them")
    assert vanished["subject"] == str(office.folder / "share")
    assert new["subject"] == str(office.folder / "new")


def test_clocks_that_differ_are_named_for_headoffice_and_for_each_server(
    office: Office, postgresql: Postgresql, mariadb: Mariadb
) -> None:
    if not (library := simulated.library()):
        pytest.skip(f"faketime {MISSING}: apt install faketime")
    name = f"d_{uuid.uuid4().hex}"
    add(office, {"BR1": "sqlite:///b.db", "BR2": postgresql.url(name), "BR3": mariadb.url(name)})
    office.run("apply-all")
    fast = {"LD_PRELOAD": str(library), "FAKETIME": "+1h", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    rows = office.json("doctor", **fast)
    slow = {row["subject"]: row for row in rows if "clock" in row["message"]}
    assert sorted(slow) == ["BR2", "BR3"]
    assert {row["severity"] for row in slow.values()} == {"warning"}
    assert all("behind this host's" in row["message"] for row in slow.values())
    assert all(" 36" in row["message"] or " 35" in row["message"] for row in slow.values())
    assert not [row for row in office.json("doctor") if "clock" in row["message"]]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ("/etc/branchmig/branchmig.toml", "branchmig"),
        ("/etc/branchmig/north.toml", "branchmig@north"),
        ("/srv/shop/north.toml", "branchmig"),
    ],
)
def test_the_unit_looked_at_is_the_one_that_takes_the_settings(settings: str, name: str) -> None:
    assert unit(Path(settings)) == name


def test_a_service_may_write_its_own_folder_and_those_opened_to_it() -> None:
    service = {
        "ProtectSystem": "strict",
        "StateDirectory": "branchmig",
        "ReadWritePaths": "-/srv/tills +/mnt/a",
    }
    inside = [Path(p) for p in ("/var/lib/branchmig/x", "/srv/tills", "/mnt/a/b")]
    outside = [Path(p) for p in ("/var/lib/branchmig2", "/srv", "/mnt/ab")]
    assert walled(service, (*inside, *outside)) == outside
    assert walled({**service, "ProtectSystem": "no"}, tuple(outside)) == []
