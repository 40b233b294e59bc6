"""The audit trail on every engine that HeadOffice may live on."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
from clients import RUN, a_branch, add, begin, outcome, succeed

from branchmig.model import AuditFilter
from branchmig.store import Store, trail

RUNS = 11


@pytest.fixture
def past(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """More runs than are read at once, each of which did something to two branches."""
    monkeypatch.setattr(trail, "_PAGE", 3)
    monkeypatch.setattr(trail, "_RESULTS", 3)
    branches = (a_branch(1), a_branch(2))
    add(store, *branches)
    for number in range(RUNS):
        run = begun(store, host=f"host{number % 4}")
        for branch in branches:
            lease = store.acquire(branch, run, 600, begin)
            store.conclude(lease, succeed, replace(RUN, id=run), outcome(branch))
    return store


def begun(store: Store, **fields: str) -> str:
    run = replace(RUN, id=str(uuid.uuid4()), **fields)
    store.begin_run(run, "1.0")
    return run.id


def test_runs_are_read_in_pages_each_once_and_whole_the_latest_first(past: Store) -> None:
    found = list(past.trail.runs(AuditFilter()))
    moments = [run.started_at for run in found]
    assert moments == sorted(moments, reverse=True)
    assert len({run.run.id for run in found}) == len(found) == RUNS
    assert {tuple(row.branch_code for row in run.results) for run in found} == {("BR001", "BR002")}


@pytest.mark.parametrize("limit", [1, 3, 4, RUNS + 1])
def test_a_limit_ends_within_a_page_or_with_it(past: Store, limit: int) -> None:
    every = list(past.trail.runs(AuditFilter()))
    assert list(past.trail.runs(AuditFilter(limit=limit))) == every[:limit]


def test_runs_that_begin_during_an_export_push_none_into_it_twice(past: Store) -> None:
    found = []
    for run in past.trail.runs(AuditFilter()):
        found.append(run.run.id)
        begun(past)
    assert len(set(found)) == len(found) == RUNS


def test_filters_hold_on_every_page(past: Store) -> None:
    here = list(past.trail.runs(AuditFilter(host="host1", branch="br002")))
    assert len(here) == len(range(1, RUNS, 4))
    assert all(run.run.host == "host1" for run in here)
    assert {row.branch_code for run in here for row in run.results} == {"BR002"}
    (latest, *_) = here
    assert [run.run.id for run in past.trail.runs(AuditFilter(until=latest.started_at))] == [
        run.run.id for run in past.trail.runs(AuditFilter()) if run.started_at < latest.started_at
    ]
