"""Who comes next: server after server, none with too many at once, and some before others."""

from __future__ import annotations

from branchmig.fleet.backlog import Backlog, Job
from branchmig.model import Branch, BranchState, Provider, Record


def a_job(code: str, server: str | None = "db1") -> Job:
    branch = Branch(code, code, "", Provider.POSTGRESQL, f"postgresql://{server}/{code}")
    return Job(Record(branch, BranchState()), (), server, True)


def filled(backlog: Backlog, *jobs: Job) -> Backlog:
    for job in jobs:
        backlog.add(job)
    return backlog


def codes(jobs: list[Job]) -> list[str]:
    return [job.record.branch.code for job in jobs]


def urgent(record: Record) -> bool:
    return record.branch.code.startswith("u")


def test_servers_take_turns() -> None:
    jobs = [a_job("a1"), a_job("a2"), a_job("a3"), a_job("b1", "db2"), a_job("c1", "db3")]
    assert codes(filled(Backlog(4), *jobs).take(9)) == ["a1", "b1", "c1", "a2", "a3"]


def test_a_server_gets_no_more_at_once_than_it_may() -> None:
    jobs = [a_job(f"a{number}") for number in range(5)]
    backlog = filled(Backlog(2), *jobs)
    assert codes(backlog.take(9)) == ["a0", "a1"]
    assert backlog.take(9) == []
    assert backlog, "three wait"
    backlog.done(jobs[0])
    assert codes(backlog.take(9)) == ["a2"]


def test_what_has_no_server_waits_for_nobody() -> None:
    jobs = [a_job(f"a{number}", None) for number in range(5)]
    assert len(filled(Backlog(2), *jobs).take(9)) == 5


def test_what_is_put_back_comes_first_again_and_is_not_at_work() -> None:
    backlog = filled(Backlog(2), *(a_job(f"a{number}") for number in range(4)))
    backlog.put_back(backlog.take(2))
    assert codes(backlog.take(9)) == ["a0", "a1"]


def test_who_goes_first_does_so_on_whatever_server_he_is() -> None:
    jobs = [a_job("a1"), a_job("b1", "db2"), a_job("u1"), a_job("c1", "db3"), a_job("u2", "db3")]
    backlog = filled(Backlog(4, urgent), *jobs)
    assert codes(backlog.take(3)) == ["u1", "u2", "a1"]
    backlog.put_back(jobs[2:3])
    assert codes(backlog.take(9)) == ["u1", "b1", "c1"]


def test_who_goes_first_gives_a_server_no_more_at_once_than_it_may_have() -> None:
    jobs = [a_job("a1"), a_job("u1"), a_job("u2"), a_job("b1", "db2")]
    backlog = filled(Backlog(1, urgent), *jobs)
    assert codes(backlog.take(9)) == ["u1", "b1"]
    backlog.done(jobs[1])
    assert codes(backlog.take(9)) == ["u2"]
    backlog.done(jobs[2])
    assert codes(backlog.take(9)) == ["a1"]
    assert not backlog


def test_a_drained_backlog_has_nothing_more_to_give() -> None:
    backlog = filled(Backlog(1, urgent), a_job("a1"), a_job("a2"), a_job("u1"))
    backlog.take(1)
    assert sorted(codes(backlog.drain())) == ["a1", "a2"]
    assert not backlog
    assert backlog.take(9) == []
