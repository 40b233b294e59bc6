"""Does what the branch's file is named for."""

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from alembic import op

revision = "m2"
down_revision = "m1"


class Unpicklable(Exception):
    def __init__(self):
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class Speechless(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def prints():
    print("this is no JSON", flush=True)  # noqa: T201
    os.write(1, b"nor is this\n")


def closes():
    sys.stdout.close()


def wanders():
    os.chdir("/")


def silences():
    logging.disable(logging.CRITICAL)
    logging.getLogger("branchmig").handlers.clear()


def listens():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def lingers():
    threading.Thread(target=time.sleep, args=(3600,)).start()


def dies():
    os._exit(3)


def kills():
    os.kill(os.getpid(), signal.SIGKILL)


def exits():
    sys.exit("gone home")


def interrupts():
    raise KeyboardInterrupt


def cancels():
    raise asyncio.CancelledError


def ends():
    raise GeneratorExit


def stops():
    raise StopIteration


def holds():
    raise Unpicklable


def speechless():
    raise Speechless


def rambles():
    raise ValueError("\x1b[31m[bold]" + "x" * 1_000_000)


def upgrade():
    name = Path(op.get_bind().exec_driver_sql("PRAGMA database_list").first()[2]).stem
    op.execute("INSERT INTO rows VALUES (1)")
    misbehaviour = globals().get(name.partition("-")[2])
    if misbehaviour:
        misbehaviour()
