"""The history `witnessed` tells when two are at work on one branch: tests of chaos rely on it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from office import Office
from servers import Mariadb, Postgresql
from witnessed import Witnessed

NOBODY = [2**22 + 1, 1]
"""No process: beyond the largest id that Linux gives."""


def process(pid: int) -> list[int]:
    """As the witnesses note it: the id, and the moment of the start."""
    return [pid, int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])]


@pytest.fixture
def overlaps(office: Office) -> Callable[[str, str, list[int], list[int]], int]:
    """How many times a run finds that a client and session, whose begin is told, is at work."""
    history = Witnessed.of(office)

    def found(code: str, url: str, client: list[int], session: list[int]) -> int:
        line = {"event": "begins", "revision": "w0001", "client": client, "session": session}
        file = history.folder / "witnesses" / f"{code}.jsonl"
        file.write_text(f"{json.dumps(line)}\n")
        office.run("branch", "import", "-", stdin=f"code,url\n{code},{url}\n")
        office.run("apply", code)
        return history.figures()["revisions: overlaps"]

    return found


@pytest.mark.parametrize(("alive", "told"), [(True, 1), (False, 0)])
def test_on_sqlite_whoever_lives_within_a_revision_is_told_of(
    overlaps: Callable[..., int], *, alive: bool, told: int
) -> None:
    client = process(os.getpid()) if alive else NOBODY
    assert overlaps("lone", "sqlite:///lone.db", client, client) == told


@pytest.mark.parametrize(("at_work", "told"), [(True, 1), (False, 0)])
def test_on_postgresql_a_session_within_a_transaction_is_told_of_though_its_client_is_dead(
    overlaps: Callable[..., int], postgresql: Postgresql, *, at_work: bool, told: int
) -> None:
    code = f"witnessed_{at_work}".lower()
    postgresql.query(f"CREATE DATABASE {code}")
    with postgresql.connect(code) as session:
        if at_work:
            session.execute("BEGIN")
        pid = session.info.backend_pid
        assert overlaps(code, postgresql.url(code), NOBODY, process(pid)) == told


@pytest.mark.parametrize(("alive", "told"), [(True, 1), (False, 0)])
def test_on_mariadb_an_idle_session_is_told_of_while_its_client_lives(
    overlaps: Callable[..., int], mariadb: Mariadb, *, alive: bool, told: int
) -> None:
    code = f"witnessed_{alive}".lower()
    mariadb.query(f"CREATE DATABASE {code}")
    assert mariadb.process is not None
    client = process(os.getpid()) if alive else NOBODY
    with closing(mariadb.connect(code)) as session:
        who = [session.thread_id(), *process(mariadb.process.pid)]
        assert overlaps(code, mariadb.url(code), client, who) == told
