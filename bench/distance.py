"""A network that is far away: bytes pass after half a round trip, connections after all of it.

`python -m bench.distance SECONDS PORT:SERVER ...` takes connections on PORT of this host for
SERVER, another port of it, with a round trip of so many seconds. It prints a line once it listens,
and serves until it is killed.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from .sides import ROOT

_HOST = "127.0.0.1"
NEAR = [f"127.0.0.{number}" for number in range(1, 6)]
"""Addresses at which the far servers are reached: each may pass for a server of its own."""


class _End(asyncio.Protocol):
    """One end of a connection: what it receives is written to the other, later.

    Timers of one delay fire in the order in which they were set, so nothing overtakes.
    """

    def __init__(self, delay: float, other: _End | None = None) -> None:
        self._delay = delay
        self._other = other
        self._early: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        for data in self._early:
            transport.write(data)

    def data_received(self, data: bytes) -> None:
        assert self._other
        asyncio.get_running_loop().call_later(self._delay, self._other.write, data)

    def connection_lost(self, error: Exception | None) -> None:
        assert self._other
        asyncio.get_running_loop().call_later(self._delay, self._other.close)

    def write(self, data: bytes) -> None:
        if self._transport:
            self._transport.write(data)
        else:
            self._early.append(data)

    def close(self) -> None:
        if self._transport:
            self._transport.close()


class _Near(_End):
    """The client's end. Its system has the connection at once, over a real distance it would wait
    a round trip for it, and what it sends then is half of another under way."""

    def __init__(self, delay: float, server: int) -> None:
        super().__init__(delay)
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._other = _End(self._delay, self)
        loop = asyncio.get_running_loop()
        self._opening = loop.create_task(self._open(self._other))

    async def _open(self, far: _End) -> None:
        await asyncio.sleep(3 * self._delay)
        try:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: far, _HOST, self._server)
        except OSError:
            self.close()


async def _serve(seconds: float, ports: Mapping[int, int]) -> None:
    loop = asyncio.get_running_loop()
    for port, server in ports.items():
        for host in NEAR:
            await loop.create_server(partial(_Near, seconds / 2, server), host, port, backlog=512)
    print("listening", flush=True)
    await loop.create_future()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    probes = [socket.create_server((_HOST, 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def apart(seconds: float, ports: Mapping[int, int]) -> Iterator[None]:
    """Within, each port leads to its server in a process of its own, so far away."""
    pairs = [f"{port}:{server}" for port, server in ports.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(seconds), *pairs], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout
        if not process.stdout.readline():
            raise RuntimeError("the proxy did not start")
        yield
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    pairs = (pair.split(":") for pair in sys.argv[2:])
    asyncio.run(_serve(float(sys.argv[1]), {int(port): int(server) for port, server in pairs}))
