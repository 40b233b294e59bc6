"""Secrets of which no trace may be left anywhere, and the search for traces."""

from __future__ import annotations

import base64
import json
import string
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from urllib.parse import quote, quote_plus

WINDOW = 8
"""Characters of a secret that may not stand together: a part that was cut off gives it away too."""

_LETTERS = string.ascii_letters + string.digits
AWKWARD = "@:/?#%+&'\"\\;,$={ é"


def canary(random: Random, awkward: bool) -> str:
    """A secret that no other text holds by chance. With characters that URLs, SQL, shells and
    Python have to quote, where it shall be `awkward`."""
    letters = [random.choice(_LETTERS) for _ in range(random.randint(14, 24))]
    if awkward:
        for position in range(2, len(letters) - 1, 3):
            letters[position] = random.choice(AWKWARD)
    return "".join(letters)


def traces(secret: str) -> set[str]:
    """Every text of which one betrays the secret, plain or in some way of writing it."""
    found = set()
    for start in range(len(secret) - WINDOW + 1):
        part = secret[start : start + WINDOW]
        found |= {
            part, quote(part, safe=""), quote(part, safe="/"), quote(part, safe=" +"),
            quote_plus(part), repr(part)[1:-1], json.dumps(part)[1:-1], part.replace("'", "''"),
            json.dumps(repr(part)[1:-1])[1:-1], part.replace("'", "\\'").replace('"', '\\"'),
        }  # fmt: skip
        # Nine bytes are twelve characters of it, wherever the secret stands in a longer text.
        found.add(base64.b64encode(secret[start : start + WINDOW + 1].encode()[:9]).decode())
    return found


@dataclass
class Hunt:
    """The search for some secrets in whatever is shown to it."""

    secrets: Iterable[str]
    found: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._traces = sorted({trace for secret in self.secrets for trace in traces(secret)})

    def look(self, where: str, text: str | bytes) -> None:
        """Note what betrays a secret in `text`."""
        shown = text.decode(errors="replace") if isinstance(text, bytes) else text
        for trace in self._traces:
            at = shown.find(trace)
            if at >= 0:
                self.found.append(f"{where}: {trace!r} in ...{shown[max(0, at - 200) : at + 60]}")
                return


@contextmanager
def command_lines() -> Iterator[set[str]]:
    """Within, the command lines of all processes of this machine, as `ps` shows them, are noted."""
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            for folder in Path("/proc").iterdir():
                if folder.name.isdigit():
                    with suppress(OSError):
                        seen.add((folder / "cmdline").read_bytes().decode(errors="replace"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
