"""Who is told: a web service and a mail server on this machine."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller


class Receiver(ThreadingHTTPServer):
    """Keeps what is posted to it. `status`: what it answers; while `holds` is set, nothing."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.letters: list[dict[str, Any]] = []
        self.lets_go = threading.Event()
        self.lets_go.set()

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.server_port}"

    @property
    def titles(self) -> list[str]:
        return [letter["title"] for letter in self.letters]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.letters.append(json.loads(self.rfile.read(length)))
        self.server.lets_go.wait(60)
        try:
            self.send_response(self.server.status)
            self.end_headers()
        except OSError:
            pass  # the client did not wait

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A service that listens while the block lasts."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.lets_go.set()
            server.shutdown()
            thread.join()


class _Mailbox:
    def __init__(self) -> None:
        self.mails: list[str] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(envelope.content.decode())
        return "250 taken"


@contextmanager
def mailbox() -> Iterator[tuple[str, list[str]]]:
    """The URL of a mail server, and the mails that it has got."""
    box = _Mailbox()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield (
            f"mailto://127.0.0.1:{port}?from=a@example.com&to=ops@example.com&mode=insecure",
            box.mails,
        )
    finally:
        controller.stop()
