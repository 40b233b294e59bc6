"""The units on a real systemd, from `make install`: ticks, stops, time-outs, power cuts."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from canaries import Hunt, canary
from guests import Guest, booted, leave_out_without_guests
from office import HISTORIES, Office
from processes import until
from servers import Postgresql, private
from slow import begun, head, hold, lengthen, release, shorten

ROOT = Path(__file__).resolve().parents[2]
STATE = "/var/lib/branchmig"

SERVICE = "branchmig.service"
SETTINGS = """
[headoffice]
url = "sqlite:////var/lib/branchmig/headoffice.db"
[run]
connect_timeout = 2
lease_seconds = 3
[retry]
backoff_seconds = 0
"""
SLOW = f'{SETTINGS}[migrations]\nscript_location = "slow"\n'

QUICK_TIMER = """
[Timer]
OnBootSec=
OnBootSec=300ms
OnUnitActiveSec=600ms
RandomizedDelaySec=0
AccuracySec=1ms
"""
"""The first line takes away what the shipped timer says."""


@dataclass(frozen=True)
class Installed:
    """What `make install` made under its DESTDIR; the environment is apart, to be bound."""

    files: Path
    environment: Path


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Made once, whatever the number of processes that run these tests."""
    leave_out_without_guests()
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    made = Installed(shared / "installed", shared / "environment")
    with (shared / "installed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.environment.exists():
            done = subprocess.run(
                ["make", "install", f"DESTDIR={made.files}", "EXTRAS=postgresql"],
                cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout
            (made.files / "usr/local/lib/branchmig").rename(made.environment)
    return made


Host = Callable[..., Guest]


@pytest.fixture
def host(tmp_path: Path, installed: Installed) -> Iterator[Host]:
    """Boots a host with these settings, on which branchmig has been installed."""
    with ExitStack() as stack:

        def boot(settings: str, shared: dict[Path, str] | None = None) -> Guest:
            environment = {installed.environment: "/usr/local/lib/branchmig"}
            guest = Guest(tmp_path / "disk", installed.files, environment, shared or {})
            stack.enter_context(booted(guest))
            guest.put("/etc/branchmig/branchmig.toml", settings)
            guest.run("systemd-sysusers")
            guest.run("systemd-tmpfiles", "--create", "branchmig.conf")
            return guest

        yield boot


def office(guest: Guest) -> Office:
    """The state of a guest as this machine sees it."""
    return Office(guest.disk / "branchmig")


def add(guest: Guest, *codes: str, **urls: str) -> None:
    """Branches on SQLite beside HeadOffice, and others under their URLs."""
    where = {code: f"sqlite:///{STATE}/branches/{code.lower()}.db" for code in codes}
    lines = ["code,url", *(f"{code},{url}" for code, url in {**where, **urls}.items()), ""]
    guest.branchmig("init")
    guest.branchmig("branch", "import", "-", stdin="\n".join(lines))
    guest.run("runuser", "-u", "branchmig", "--", "mkdir", "-p", f"{STATE}/branches")


def statuses(guest: Guest) -> dict[str, str]:
    """What HeadOffice has recorded of each branch."""
    return dict(
        office(guest).headoffice(
            "SELECT code, status FROM branchmig_branches "
            "LEFT JOIN branchmig_migration_states ON branch_id = branchmig_branches.id"
        )
    )


def exit_codes(guest: Guest) -> list[int]:
    """What the ticks ended with, the first one first."""
    ticks = "command = 'apply-all' AND trigger_kind = 'timer' AND finished_at IS NOT NULL"
    found = office(guest).headoffice(
        f"SELECT exit_code FROM branchmig_runs WHERE {ticks} ORDER BY started_at"
    )
    return [code for (code,) in found]


def use_slow(guest: Guest) -> None:
    """The history `slow`, beside the settings."""
    shutil.copytree(HISTORIES / "slow", guest.disk / "etc/branchmig/slow")


@contextmanager
def guarded_server() -> Iterator[tuple[Postgresql, Path]]:
    """A PostgreSQL and the folder of its socket, for guests, who do not reach its port."""
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp", prefix="socket-"))
        )
        folder.chmod(0o777)
        server = stack.enter_context(private(Postgresql, "-c", f"unix_socket_directories={folder}"))
        yield server, folder


PASSWORD = "a Till's very own 53cret"


def test_what_is_installed_is_found_by_shells_and_by_systemd(host: Host) -> None:
    guest = host(SETTINGS)
    assert guest.run("branchmig", "--version").stdout.startswith("branchmig ")
    assert "apply\\-all" in guest.run("cat", "/usr/local/share/man/man1/branchmig.1").stdout
    completed = guest.run(
        "bash", "-c",
        ". /usr/local/share/bash-completion/completions/branchmig; COMP_WORDS=(branchmig apply-) "
        'COMP_CWORD=1; _branchmig_completion branchmig; echo "${COMPREPLY[@]}"',
    )  # fmt: skip
    assert completed.stdout.split() == ["apply-all"]
    account, _, folder = guest.run("getent", "passwd", "branchmig").stdout.strip().rpartition(":")
    assert "/var/lib/branchmig" in account, folder
    modes = guest.run("stat", "-c", "%a %U %G", "/etc/branchmig", "/etc/branchmig/branchmig.toml")
    assert modes.stdout.splitlines() == ["750 root branchmig", "640 root branchmig"]
    guest.systemctl("enable", "branchmig.timer", "branchmig@north.timer")


def test_uninstalling_leaves_the_settings_alone_and_nothing_else(
    installed: Installed, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    shutil.copytree(installed.files, there, symlinks=True)
    (there / "usr/local/lib/branchmig").mkdir()
    subprocess.run(["make", "uninstall", f"DESTDIR={there}"], cwd=ROOT, check=True)
    left = [path.relative_to(there) for path in there.rglob("*") if not path.is_dir()]
    assert left == [Path("etc/branchmig/branchmig.toml")]


def printed(file: Path, begin: str, end: str, block: str) -> list[str]:
    """The commands that a text shows between two headings."""
    found = re.findall(block, file.read_text().partition(begin)[2].partition(end)[0])
    return [line.replace("\\-", "-") for text in found for line in text.strip().splitlines()]


def test_every_command_of_the_readme_and_the_manual_does_on_a_server_what_they_say(
    host: Host,
) -> None:
    guest = host(SETTINGS)
    guest.run(
        "sh", "-c", "cat >/root/branches.csv", stdin=f"code,url\nBR001,sqlite:///{STATE}/1.db\n"
    )
    first_day = printed(ROOT / "README.md", "## On a server", "\n## ", r"(?s)\n\n(    .*?)\n\n")
    assert [line.split()[0] for line in first_day[:2]] == ["make", "editor"]
    manual = printed(ROOT / "deploy/branchmig.1.in", ".SH EXAMPLES", ".SH", r"(?s)\.EX\n(.*?)\.EE")
    assert len(manual) > 5
    for command in first_day[2:] + manual:
        guest.run("sh", "-c", f"cd /root; {command}")
    assert statuses(guest) == {"BR001": "Completed"}
    assert [line for line in guest.journal(SERVICE) if "BR001 migrated" in line]


def test_ticks_come_by_themselves_with_a_secret_that_systemd_keeps_and_go_on_after_a_reboot(
    host: Host,
) -> None:
    with guarded_server() as (server, sockets):
        server.add_user("till", PASSWORD)
        server.query("CREATE DATABASE shop OWNER till")
        guest = host(SETTINGS, {sockets: "/srv/postgresql"})
        guest.put("/etc/branchmig/credentials/till", f"{PASSWORD}\n", 0o600)
        guest.put(
            "/etc/systemd/system/branchmig.service.d/host.conf",
            "[Service]\nLoadCredential=till:/etc/branchmig/credentials/till\n",
        )
        guest.put("/etc/systemd/system/branchmig.timer.d/quick.conf", QUICK_TIMER)
        where = f"host=/srv/postgresql&port={server.port}"
        shop = f"postgresql://till:${{credential:till}}@/shop?{where}"
        add(guest, "BR1", "BR2", "BR3", SHOP=shop)
        guest.systemctl("enable", "--now", "branchmig.timer")
        until(lambda: len(exit_codes(guest)) >= 3, "three ticks", 60)
        journal = guest.journal(SERVICE)
        assert set(statuses(guest).values()) == {"Completed"}, journal
        for code in ("BR1", "BR2", "BR3", "SHOP"):
            (line,) = [line for line in journal if code in line.split()]
            assert f"{code} migrated" in line
        assert PASSWORD not in "\n".join(journal)
        assert exit_codes(guest)[:3] == [0, 0, 0]

        guest.shut_down()
        add(guest.start(), "BR4")
        until(lambda: statuses(guest)["BR4"] == "Completed", "the new branch at head")
        assert guest.shows(SERVICE, "Result") == ("success",)


def test_a_service_that_fails_tells_its_journal_nothing_of_its_credential(host: Host) -> None:
    secret = canary(Random(), awkward=True)
    with guarded_server() as (server, sockets):
        server.add_user("till", PASSWORD)
        server.query("CREATE DATABASE shop OWNER till")
        hook = '[hooks]\nafter_run = ["/etc/branchmig/tell"]\n'
        guest = host(f"{SETTINGS}{hook}", {sockets: "/srv/postgresql"})
        guest.put(
            "/etc/branchmig/tell", '#!/bin/sh\ncat "$CREDENTIALS_DIRECTORY"/*\nfalse\n', 0o755
        )
        guest.put("/etc/branchmig/credentials/till", f"{secret}\n", 0o600)
        guest.put(
            "/etc/systemd/system/branchmig.service.d/host.conf",
            "[Service]\nLoadCredential=till:/etc/branchmig/credentials/till\n",
        )
        where = f"host=/srv/postgresql&port={server.port}"
        add(guest, "BR1", SHOP=f"postgresql://till:${{credential:till}}@/shop?{where}")
        guest.systemctl("start", SERVICE, code=1)
        journal = "\n".join(guest.journal(SERVICE))
        assert "SHOP failed" in journal
        assert "[hooks] after_run (/etc/branchmig/tell) failed with exit code 1: ***" in journal
        hunt = Hunt([secret])
        hunt.look("the journal", journal)
        hunt.look("all journals", guest.run("journalctl", "--no-pager", "--output=verbose").stdout)
        for error in office(guest).headoffice("SELECT error FROM branchmig_outcomes"):
            hunt.look("HeadOffice", str(error))
        assert not hunt.found


def test_a_stop_in_the_middle_of_a_revision_leaves_everything_in_order(host: Host) -> None:
    guest = host(SLOW)
    use_slow(guest)
    add(guest, "BR1", "BR2")
    here = office(guest)
    hold(here, "BR1")
    guest.systemctl("start", "--no-block", SERVICE)
    begun(here, "BR1", "s2_many")
    assert guest.processes(SERVICE)
    guest.systemctl("stop", "--no-block", SERVICE)
    heard = "finishing the revision in hand"
    until(lambda: any(heard in line for line in guest.journal(SERVICE)), "that it heard of it")
    assert guest.shows(SERVICE, "ActiveState") == ("deactivating",)
    release(here, "BR1")
    until(lambda: guest.shows(SERVICE, "ActiveState") == ("inactive",), "the end of the run")
    assert exit_codes(guest) == [143]
    assert head(here, "BR1") == "s2_many"
    (row,) = json.loads(guest.branchmig("status", "BR1", "--json"))
    assert (row["status"], row["retryCount"], row["isLocked"]) == ("Pending", 0, False)
    assert not guest.journal("branchmig-failed@branchmig.service.service")
    guest.systemctl("start", SERVICE)
    assert statuses(guest) == {"BR1": "Completed", "BR2": "Completed"}


def test_an_overlong_run_is_ended_and_a_later_tick_puts_it_right(host: Host) -> None:
    guest = host(SLOW)
    use_slow(guest)
    add(guest, "BR1")
    guest.put(
        "/etc/systemd/system/branchmig.service.d/host.conf",
        "[Service]\nTimeoutStartSec=4s\nTimeoutStopSec=500ms\n",
    )
    here = office(guest)
    lengthen(here, "BR1")
    guest.systemctl("start", SERVICE, code=1)
    assert guest.shows(SERVICE, "Result", "ActiveState") == ("timeout", "failed")
    assert not guest.processes(SERVICE)
    shorten(here, "BR1")
    guest.put("/etc/systemd/system/branchmig.service.d/host.conf", "")

    def put_right() -> bool:
        guest.systemctl("start", SERVICE, code=None)
        return statuses(guest) == {"BR1": "Completed"}

    until(put_right, "a tick that takes over what the killed one had leased")
    assert head(here, "BR1") == "s4"


def test_a_power_cut_in_the_middle_of_a_revision_is_put_right_after_the_boot(host: Host) -> None:
    guest = host(SLOW)
    use_slow(guest)
    add(guest, "BR1", "BR2")
    guest.put("/etc/systemd/system/branchmig.timer.d/quick.conf", QUICK_TIMER)
    here = office(guest)
    hold(here, "BR1")
    guest.systemctl("enable", "--now", "branchmig.timer")
    begun(here, "BR1", "s2_many")
    guest.cut_power()
    release(here, "BR1")
    guest.start()
    until(lambda: set(statuses(guest).values()) == {"Completed"}, "every branch at head")
    assert {head(here, "BR1"), head(here, "BR2")} == {"s4"}


def test_a_run_that_does_not_find_headoffice_is_a_failed_unit_and_is_told_of(host: Host) -> None:
    guest = host('[headoffice]\nurl = "postgresql://nobody@localhost:1/headoffice"\n')
    guest.put("/etc/branchmig/on-failure", '#!/bin/sh\necho "a pager rings for $1"\n', 0o755)
    guest.systemctl("start", SERVICE, code=1)
    assert guest.shows(SERVICE, "ActiveState", "ExecMainStatus") == ("failed", "69")
    told = "branchmig-failed@branchmig.service.service"
    until(
        lambda: guest.shows(told, "ActiveState", "ExecMainStatus") == ("inactive", "0"),
        "the end of the notifier",
    )
    until(lambda: guest.journal(told, "--priority=err"), "what it tells")
    lines = guest.journal(told, "--priority=err")
    assert [line for line in lines if line.startswith("branchmig.service has failed: exit-code 69")]
    assert "a pager rings for branchmig.service" in lines
    # Names are looked up and TCP is spoken within the walls of the unit.
    assert [line for line in guest.journal(SERVICE, "--priority=err") if "refused" in line]


def test_each_instance_has_settings_of_its_own_and_a_drop_in_opens_further_folders(
    host: Host,
) -> None:
    guest = host(SETTINGS)
    guest.put("/etc/branchmig/north.toml", SETTINGS.replace("headoffice.db", "north.db"))
    config = ("--config", "/etc/branchmig/north.toml")
    guest.branchmig(*config, "init")
    for code, tag in (("BR1", "harbour"), ("BR2", "hill")):
        guest.branchmig(
            *config, "branch", "add", code, "--url", f"sqlite:////srv/tills/{code}.db", "--tag", tag
        )
    guest.run("install", "-d", "-o", "branchmig", "/srv/tills")
    guest.systemctl("start", "branchmig@north.service", code=1)
    assert guest.shows("branchmig@north.service", "ExecMainStatus") == ("1",)
    guest.put(
        "/etc/systemd/system/branchmig@north.service.d/host.conf",
        "[Service]\nReadWritePaths=-/srv/tills\nReadWritePaths=-/srv/not-mounted\n"
        'Environment="OPTIONS=--tag harbour"\n',
    )
    guest.systemctl("start", "branchmig@north.service")
    found = json.loads(guest.branchmig(*config, "status", "--json"))
    assert {row["branchCode"]: row["status"] for row in found} == {
        "BR1": "Completed",
        "BR2": "Failed",
    }


def doctor(guest: Guest, *options: str) -> dict[str, str]:
    """What the doctor finds amiss, and how that is mended."""
    as_service = ("runuser", "-u", "branchmig", "--")
    done = guest.run(*as_service, "branchmig", *options, "doctor", "--json", code=None)
    return {
        f"{row['subject']}: {row['message']}": row["hint"]
        for row in json.loads(done.stdout)
        if row["severity"] in ("warning", "error")
    }


def test_the_doctor_finds_what_the_units_lack(host: Host) -> None:
    guest = host(SETTINGS)
    guest.branchmig("init")
    guest.branchmig("branch", "add", "BR1", "--url", "sqlite:////srv/tills/BR1.db")
    guest.run("install", "-d", "-o", "branchmig", "/srv/tills")
    found = doctor(guest)
    walls = f"{SERVICE}: the service may not write /srv/tills"
    assert found[walls] == f"`systemctl edit {SERVICE}`: [Service] ReadWritePaths=-/srv/tills"
    assert found["branchmig.timer: the timer is inactive"]
    guest.put(
        f"/etc/systemd/system/{SERVICE}.d/host.conf", "[Service]\nReadWritePaths=-/srv/tills\n"
    )
    guest.systemctl("daemon-reload")
    guest.systemctl("start", "branchmig.timer")
    assert list(doctor(guest)) == [
        "branchmig.timer: the timer is running, but is not enabled: it ends with the next boot"
    ]
    guest.systemctl("enable", "branchmig.timer")
    assert doctor(guest) == {}
    guest.put("/etc/branchmig/north.toml", SETTINGS)
    north = doctor(guest, "--config", "/etc/branchmig/north.toml")
    assert "branchmig@north.timer: the timer is inactive" in north
    # Of settings that no unit ticks with, the unit says nothing.
    guest.run("install", "-d", "-o", "branchmig", "/srv/shop")
    guest.put("/etc/shop.toml", '[headoffice]\nurl = "sqlite:////srv/shop/headoffice.db"\n')
    shop = ("--config", "/etc/shop.toml")
    guest.run("runuser", "-u", "branchmig", "--", "branchmig", *shop, "init")
    assert doctor(guest, *shop) == {}


def test_a_fault_of_the_program_leaves_its_traceback_where_it_outlives_the_service(
    host: Host,
) -> None:
    guest = host(SETTINGS)
    guest.put(
        "/etc/branchmig/fault.py",
        "from branchmig.cli import failures\nraise SystemExit(failures._guarded(lambda: 1 / 0))\n",
    )
    guest.put(
        "/etc/systemd/system/branchmig.service.d/fault.conf",
        "[Service]\nExecStart=\n"
        "ExecStart=/usr/local/lib/branchmig/bin/python /etc/branchmig/fault.py\n",
    )
    guest.systemctl("start", SERVICE, code=1)
    assert guest.shows(SERVICE, "ExecMainStatus") == ("70",)
    (hint,) = [line for line in guest.journal(SERVICE) if "please report it" in line]
    file = hint.rpartition(" ")[2]
    assert file.startswith("/var/log/branchmig/")
    assert "ZeroDivisionError" in guest.run("cat", file).stdout
