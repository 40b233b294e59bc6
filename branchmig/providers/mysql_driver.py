"""PyMySQL's connection, made cheaper: TLS contexts are shared, and looks ask all at once. And a
server that asks for a file is refused in the driver's own words."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import closing
from functools import cache
from typing import Any

_KEEPALIVE = {
    "TCP_KEEPIDLE": 30,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 60_000,
}
"""A half-open connection is found out within a minute (tcp(7))."""

FILE_ASKED_FOR = 2068
"""CR_LOAD_DATA_LOCAL_INFILE_REJECTED: the number that MySQL's own client has for it."""

_contexts: dict[str, Any] = {}
_making = threading.Lock()


@cache
def connection_class(kind: Any, *, looking: bool) -> Any:
    """`kind`, the driver's own, without two things that it does for each connection.

    It makes a TLS context, even to a server without TLS, and loads the system's certificates into
    it: 35 ms. And it names its character set in a round trip of its own, which a look does
    together with its question.
    """

    class Connection(kind):  # type: ignore[misc]  # its base is known only when this runs
        def _create_ssl_ctx(self, options: Any) -> Any:
            if not isinstance(options, dict):
                return options
            key = repr(sorted(options.items()))
            with _making:
                if key not in _contexts:
                    _contexts[key] = super()._create_ssl_ctx(options)
                return _contexts[key]

        def set_character_set(self, charset: str, collation: str | None = None) -> None:
            if not looking:
                super().set_character_set(charset, collation)

        def _read_query_result(self, unbuffered: bool = False) -> Any:
            try:
                return super()._read_query_result(unbuffered)
            except RuntimeError:
                # So the driver refuses, and leaves the server waiting for an answer.
                self._force_close()
                raise self.OperationalError(
                    FILE_ASKED_FOR, "a file of the client was asked for, and was not sent"
                ) from None

    return Connection


def keep_alive(driver: Any) -> None:
    fileno = getattr(driver, "fileno", None) or getattr(
        getattr(driver, "_sock", None), "fileno", None
    )
    if fileno is None:
        return
    with closing(socket.socket(fileno=os.dup(fileno()))) as own:
        if own.family == socket.AF_UNIX:
            return
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
