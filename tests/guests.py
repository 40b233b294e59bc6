"""Hosts of their own: a real systemd as the first process of namespaces that last one test.

The guest's root is an overlay: this machine's files below, a tmpfs above that its mount namespace
alone sees. What shall outlive a restart is its `disk`, a folder here: /etc and /var/lib/branchmig.
It has no network but loopback. When its first process ends, so does every process, mount and file
of it; and it ends with this one. It needs root and a cgroup2 tree; without, tests are left out.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, Self

from processes import lives, until

PROGRAMS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_NEEDED = ("nsenter", "unshare", "setpriv", "pivot_root", "systemctl", "journalctl")

# Of what systemd starts everywhere: hardware, kernel settings, clocks, seats.
_MASKED = (
    *("systemd-sysctl.service", "systemd-modules-load.service", "systemd-binfmt.service"),
    *("systemd-udevd.service", "systemd-udev-trigger.service", "systemd-remount-fs.service"),
    *("systemd-update-utmp.service", "systemd-timesyncd.service", "systemd-logind.service"),
    *("systemd-journald-audit.socket", "systemd-initctl.socket", "systemd-tmpfiles-clean.timer"),
    *("proc-sys-fs-binfmt_misc.automount", "dev-hugepages.mount", "sys-kernel-debug.mount"),
    *("sys-kernel-tracing.mount", "sys-kernel-config.mount", "sys-fs-fuse-connections.mount"),
    *("systemd-ask-password-console.path", "systemd-ask-password-wall.path"),
)

# The first process, before it becomes systemd. LoadCredential= needs shared mounts; -n, or mount
# would leave notes of its own below this machine's /run.
_BOOT = r"""
set -eu
mount -n --make-rprivate /
mount -n -t tmpfs -o mode=755,size=1g guest /mnt
cd /mnt
mkdir upper work root
cp -a "$GUEST_FILES/." upper/
mount -n -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work guest root
for bind in $GUEST_BINDS; do
    from=${bind%%:*} rest=${bind#*:}
    mkdir -p "root${rest%%:*}"  # nothing below /run, /dev, /tmp: those are mounted later
    mount -n --bind "$from" "root${rest%%:*}"
    mount -n -o "remount,bind,${rest#*:}" "root${rest%%:*}"
done
cd root
mount -n -t proc -o nosuid,nodev,noexec proc proc
for part in sys sysrq-trigger irq bus fs; do
    [ -e "proc/$part" ] || continue
    mount -n --bind "proc/$part" "proc/$part"
    mount -n -o remount,bind,ro,nosuid,nodev,noexec "proc/$part"
done
mount -n -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -n -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
mount -n -t tmpfs -o mode=755,nosuid tmpfs dev
for device in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 666 "dev/${device%:*}" c 1 "${device#*:}"
done
mknod -m 666 dev/tty c 5 0
mkdir dev/pts dev/shm dev/mqueue
mount -n -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5,nosuid,noexec devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin; ln -s fd/1 dev/stdout; ln -s fd/2 dev/stderr
mount -n -t mqueue -o nosuid,nodev,noexec mqueue dev/mqueue
mount -n -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm
mount -n -t tmpfs -o mode=755,nosuid,nodev tmpfs run
mount -n -t tmpfs -o mode=1777,nosuid,nodev tmpfs var/tmp
mount -n -t tmpfs -o mode=1777,nosuid,nodev tmpfs tmp
mkdir -p run/systemd/system run/lock
for unit in $GUEST_MASKED; do ln -s /dev/null "run/systemd/system/$unit"; done
hostname "$GUEST_NAME"
mkdir .before
pivot_root . .before
cd /
umount -n -l /.before
rmdir /.before
mount -n --make-rshared /
ip link set lo up 2>/dev/null || true
exec setpriv --bounding-set=-sys_module,-sys_rawio,-sys_time,-mac_admin,-mac_override \
    env -i container=guest PATH="$PATH" LANG=C.UTF-8 /lib/systemd/systemd --system \
    --unit=basic.target --log-target=journal --show-status=no
"""


def leave_out_without_guests() -> None:
    """Leave out the test where no guest can be had, and say why."""
    if os.geteuid() != 0:
        _leave_out("only root can start a systemd of its own")
    missing = [program for program in _NEEDED if not shutil.which(program)]
    if missing or not Path("/lib/systemd/systemd").exists():
        _leave_out(f"{', '.join(missing) or 'systemd'} is not installed: apt install systemd")
    if _cgroups() is None:
        _leave_out("there is no cgroup2 tree here, so no systemd can be started")


def _leave_out(reason: str) -> NoReturn:
    import pytest

    pytest.skip(reason)


def _cgroups() -> Path | None:
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return next((Path(m[1]) for m in mounts if m[2] == "cgroup2"), None)


class Guest:
    """One host. `disk` is what it keeps, `files` is laid over its root once, `binds` maps folders
    of this machine to where the guest has them, read only; those of `shared` it can write."""

    def __init__(
        self, disk: Path, files: Path, binds: dict[Path, str], shared: dict[Path, str]
    ) -> None:
        self.disk = disk
        self.files = files
        kept = {disk / "etc": "/etc", disk / "branchmig": "/var/lib/branchmig", **shared}
        self._binds = [f"{here}:{there}:rw" for here, there in kept.items()]
        self._binds += [f"{here}:{there}:ro" for here, there in binds.items()]
        self._process: subprocess.Popen[bytes] | None = None
        self._cgroup = Path()
        self._first = 0
        if not (disk / "etc").exists():
            _furnish(disk, files)

    def start(self) -> Self:
        """Boot it, and wait until its timers are on."""
        root = _cgroups()
        assert root
        _sweep(root)
        self._cgroup = root / f"branchmig-test.{os.getpid()}.{uuid.uuid4().hex}"
        self._cgroup.mkdir()
        # The shell joins the cgroup before it unshares: the guest's tree begins there. The guest
        # dies with the shell, and that with us.
        enter = (
            'echo $$ >"$1/cgroup.procs" && exec setpriv --pdeathsig=KILL unshare --fork '
            '--kill-child=KILL --pid --mount --uts --ipc --net --cgroup sh -c "$2"'
        )
        log = (self.disk / "boot.log").open("wb")
        self._process = subprocess.Popen(
            ["sh", "-c", enter, "sh", self._cgroup, _BOOT],
            env={
                "PATH": PROGRAMS,
                "GUEST_NAME": "branchmig-guest",
                "GUEST_FILES": str(self.files),
                "GUEST_BINDS": " ".join(self._binds),
                "GUEST_MASKED": " ".join(_MASKED),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        self._first = until(self._pid_of_systemd, "the guest's systemd")
        until(self._is_up, "the end of the guest's boot")
        return self

    def _pid_of_systemd(self) -> int:
        assert self._process
        assert self._process.poll() is None, (self.disk / "boot.log").read_text()
        with suppress(OSError, IndexError):
            return int((self._cgroup / "init.scope/cgroup.procs").read_text().split()[0])
        return 0

    def _is_up(self) -> bool:
        state = self.run("systemctl", "is-system-running", "--wait", code=None).stdout.strip()
        return state in ("running", "degraded")

    def shut_down(self) -> None:
        """In good order, as `poweroff` does it: its services are stopped first."""
        os.kill(self._first, signal.SIGRTMIN + 4)  # systemd(1): poweroff.target
        self._gone()

    def cut_power(self) -> None:
        """Every process of it ends at once."""
        assert self._process
        self._process.kill()
        self._gone()

    def _gone(self) -> None:
        assert self._process
        self._process.wait(60)
        until(lambda: "populated 0" in self._events(), "the end of the guest's processes")
        _remove(self._cgroup)
        self._process = None

    def _events(self) -> str:
        return (self._cgroup / "cgroup.events").read_text()

    def processes(self, unit: str) -> list[str]:
        """The ids of what a unit of it has running, as this machine counts."""
        with suppress(FileNotFoundError):
            return (self._cgroup / "system.slice" / unit / "cgroup.procs").read_text().split()
        return []

    # Within it ------------------------------------------------------------------------------------

    def run(
        self, *command: str, code: int | None = 0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the guest's root. `code` is the exit code expected, None: any."""
        done = subprocess.run(
            ["nsenter", "-t", str(self._first), "-a", "--", *command],
            env={"PATH": PROGRAMS, "LANG": "C.UTF-8", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if code is not None:
            assert done.returncode == code, (
                f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def branchmig(self, *arguments: str, code: int = 0, stdin: str = "") -> str:
        """Run the program as an operator does who is root and takes the service's account."""
        at_home = ("sh", "-c", 'cd /root && exec "$@"', "sh")
        command = ("runuser", "-u", "branchmig", "--", "branchmig", *arguments)
        return self.run(*at_home, *command, code=code, stdin=stdin).stdout

    def systemctl(self, *arguments: str, code: int | None = 0) -> str:
        return self.run("systemctl", *arguments, code=code).stdout.strip()

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file below /etc, and have systemd look at its units again."""
        file = self.disk / path.removeprefix("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        self.systemctl("daemon-reload")

    def shows(self, unit: str, *properties: str) -> tuple[str, ...]:
        """The values of a unit's properties."""
        told = self.systemctl("show", unit, *(f"-p{name}" for name in properties))
        found = dict(line.split("=", 1) for line in told.splitlines())
        return tuple(found[name] for name in properties)

    def journal(self, unit: str, *arguments: str) -> list[str]:
        """What a unit has written since the guest's boot, a line each."""
        words = ("--no-pager", "--quiet", "--output=cat", f"--unit={unit}", *arguments)
        self.run("journalctl", "--sync")
        return self.run("journalctl", *words).stdout.splitlines()


def _remove(cgroup: Path) -> None:
    for folder, _, _ in os.walk(cgroup, topdown=False):
        Path(folder).rmdir()


def _sweep(root: Path) -> None:
    """Remove the empty cgroups of sessions that were killed."""
    for left in root.glob("branchmig-test.*"):
        if not lives(int(left.name.split(".")[1])):
            with suppress(OSError):  # its processes may be about to end
                _remove(left)


def _furnish(disk: Path, files: Path) -> None:
    """A disk with this machine's /etc, less what is secret or starts something, and no state."""
    disk.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", "/etc", disk], check=True)
    etc = disk / "etc"
    for name in ("shadow", "shadow-", "gshadow", "gshadow-", "ssl/private", "ssh", "branchmig"):
        found = etc / name
        shutil.rmtree(found) if found.is_dir() else found.unlink(missing_ok=True)
    for wanted in (etc / "systemd/system").glob("*.wants"):
        shutil.rmtree(wanted)
    subprocess.run(["cp", "-a", f"{files}/etc/.", etc], check=True)
    (etc / "fstab").write_text("")
    (etc / "systemd/journald.conf").write_text(
        "[Journal]\nStorage=volatile\nForwardToSyslog=no\nAudit=no\nReadKMsg=no\n"
        "RateLimitIntervalSec=0\n"
    )
    (disk / "branchmig").mkdir()


@contextmanager
def booted(guest: Guest) -> Iterator[Guest]:
    """A guest that is up; whatever becomes of it, nothing of it is left."""
    try:
        yield guest.start()
    finally:
        if guest._process:
            guest.cut_power()
        shutil.rmtree(guest.disk / "etc", ignore_errors=True)
