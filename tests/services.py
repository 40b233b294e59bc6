"""The servers that the tests start, for a person's own use: `make services`, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack, suppress

from servers import Mariadb, Postgresql, private


def main() -> None:
    with ExitStack() as stack:
        for kind in (Postgresql, Mariadb):
            say(stack.enter_context(private(kind)).url("NAME"))
        say("Any NAME: branchmig makes the databases. Ctrl-C ends the servers and removes them.")
        signal.pause()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        main()
