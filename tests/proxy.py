"""A proxy between a client and a server that fails as networks do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress


class Proxy:
    """Passes bytes on, and cuts each connection once `limit` of them have come from the server.

    `silent`: it keeps the connection open instead, and passes nothing on any more. `most` is the
    largest number of bytes that one connection has got; `answers` is how often the server has
    begun to speak, at first or after the client: round trips, where one connection is open.
    """

    def __init__(self, port: int, limit: int | None = None, *, silent: bool = False) -> None:
        self._server = port
        self._limit = limit
        self._silent = silent
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = ExitStack()
        self._lock = threading.Lock()
        self.port = int(self._listener.getsockname()[1])
        self.most = 0
        self.answers = 0
        self._asked = False

    def run(self) -> None:
        """Serve until `stop`."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._asked = True
                server = socket.create_connection(("127.0.0.1", self._server))
                for end in (client, server):
                    self._open.callback(_end, end)
                for work in (self._up, self._down):
                    threading.Thread(target=work, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                with self._lock:
                    self._asked = True
                server.sendall(data)
        _end(server)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        passed = 0
        with suppress(OSError):
            while data := server.recv(65536):
                if self._limit is not None:
                    data = data[: self._limit - passed]
                with self._lock:
                    self.answers += self._asked
                    self._asked = False
                client.sendall(data)
                passed += len(data)
                with self._lock:
                    self.most = max(self.most, passed)
                if passed == self._limit:
                    break
        if not (self._silent and passed == self._limit):
            _end(client)
            _end(server)

    def stop(self) -> None:
        """Take no more connections; `run` ends."""
        _end(self._listener)

    def close(self) -> None:
        """End the connections that are left; to be called after the end of `run`."""
        self._open.close()


def _end(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextmanager
def proxied(port: int, limit: int | None = None, *, silent: bool = False) -> Iterator[Proxy]:
    """A proxy to `port` of this host that serves in a thread of its own."""
    proxy = Proxy(port, limit, silent=silent)
    thread = threading.Thread(target=proxy.run, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join()
        proxy.close()
