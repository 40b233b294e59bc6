"""Branches in HeadOffice, and many clients that want something of it at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

from branchmig import transitions
from branchmig.model import Branch, BranchState, MigrationStatus, Outcome, Provider, Run, Verdict
from branchmig.store import Store
from branchmig.store.tables import outcomes

OpenStore = Callable[[], Store]

RUN = Run("run-1", "apply", "operator", "ada", "hopper", 42, "head")
CLIENTS = 16


def a_branch(number: int = 1, **fields: Any) -> Branch:
    given = {
        "id": f"00000000-0000-4000-8000-{number:012}",
        "code": f"BR{number:03}",
        "name": f"Branch {number}",
        "provider": Provider.SQLITE,
        "url": f"sqlite:///br{number}.db",
    }
    return Branch(**{**given, **fields})


def add(store: Store, *branches: Branch) -> None:
    for branch in branches:
        store.add(branch, branch.url)


def state(store: Store, branch: Branch) -> BranchState:
    return store.record(branch.code).state


def begin(state: BranchState, now: datetime) -> BranchState:
    return transitions.begin(state, None, "head", now)


def succeed(state: BranchState, now: datetime) -> BranchState:
    return transitions.succeed(state, ("a1",), now)


def outcome(branch: Branch) -> Outcome:
    return Outcome(
        branch, Verdict.MIGRATED, MigrationStatus.PENDING, (), ("a1",), ("a1",),
        duration=timedelta(seconds=1.5),
    )  # fmt: skip


def trail(store: Store) -> list[Any]:
    """The lines of the audit trail."""
    with store._transaction() as connection:
        return list(connection.execute(outcomes.select()))


def at_once(
    another_store: OpenStore, work: Callable[[Store, int], Any], clients: int = CLIENTS
) -> list[Any]:
    """What `work` gives to each of many clients that begin together."""
    stores = [another_store() for _ in range(clients)]
    line = threading.Barrier(clients)

    def client(number: int) -> Any:
        line.wait()
        return work(stores[number], number)

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(client, range(clients)))
