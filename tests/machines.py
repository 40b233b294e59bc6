"""Machines that share a disk and a HeadOffice: network namespaces with addresses of their own.

Only root can make those. For anybody else a machine is a loopback address under which it finds
HeadOffice. The address ranges are private and exist within the namespaces alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers import Postgresql, running

IN_NAMESPACES = os.geteuid() == 0
"""What the machines are here."""

RANGE = "10.213.77"


@dataclass(frozen=True)
class Machine:
    """`wrapper` runs a command on it; `host` is the address under which it finds HeadOffice."""

    name: str
    wrapper: tuple[str, ...]
    host: str


class Hub(Postgresql):
    """A PostgreSQL that machines reach; the test itself asks it by a socket in its folder."""

    def __init__(self, folder: Path) -> None:
        self.namespace: str | None = None
        super().__init__(folder)
        self.host = str(folder)
        with (self._data / "pg_hba.conf").open("a") as logins:
            logins.write(f"host all all {RANGE}.0/24 trust\nhost all all 127.0.0.0/8 trust\n")

    def command(self) -> list[str]:
        addresses = "*" if self.namespace else "127.0.0.1,127.0.0.2"
        command = [
            *(*super().command(), "-c", f"listen_addresses={addresses}"),
            *("-c", f"unix_socket_directories={self.folder}"),
        ]
        if self.namespace is None:
            return command
        account = super().account()
        return [
            *("ip", "netns", "exec", self.namespace, "setpriv", "--clear-groups"),
            *(f"--reuid={account['user']}", f"--regid={account['group']}", "--", *command),
        ]

    def account(self) -> dict[str, Any]:
        """It enters a namespace as root, who alone may, and lays that down then."""
        return {} if self.namespace else super().account()


@contextmanager
def machines(*names: str) -> Iterator[tuple[Hub, list[Machine]]]:
    """Machines of these names and the server that each of them reaches, and nothing else."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="hub-", dir="/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        hub = Hub(folder)
        if IN_NAMESPACES:
            found = _wired(stack, hub, names)
        else:
            found = [Machine(name, (), f"127.0.0.{n}") for n, name in enumerate(names, 1)]
        stack.enter_context(running(hub))
        yield hub, found


def _wired(stack: ExitStack, hub: Hub, names: tuple[str, ...]) -> list[Machine]:
    mark = uuid.uuid4().hex[:8]
    centre = hub.namespace = _namespace(stack, f"branchmig-{mark}-hub")
    found = []
    for number, name in enumerate(names):
        place = _namespace(stack, f"branchmig-{mark}-{name}")
        here, there = (f"{RANGE}.{4 * number + end}" for end in (1, 2))
        _ip(
            "-n", centre, "link", "add", name, "type", "veth", "peer", "name", "hub", "netns", place
        )
        for namespace, link, address in ((centre, name, here), (place, "hub", there)):
            _ip("-n", namespace, "address", "add", f"{address}/30", "dev", link)
            _ip("-n", namespace, "link", "set", link, "up")
        # A name of its own too: what a machine calls itself stands in HeadOffice.
        enter = ("ip", "netns", "exec", place, "unshare", "--uts", "sh", "-c")
        found.append(Machine(name, (*enter, 'hostname "$0" && exec "$@"', name), here))
    return found


def _namespace(stack: ExitStack, name: str) -> str:
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "delete", name)
    _ip("-n", name, "link", "set", "lo", "up")
    return name


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
