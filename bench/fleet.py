"""What a fleet costs: whole runs of `apply-all` over thousands of branches.

    python -m bench.fleet                   all parts, some twenty-five minutes
    python -m bench.fleet --only b          one part, by its name below; may be repeated
    python -m bench.fleet --branches 100    a quick look at a tenth of the size
    python -m bench.fleet --profile         where the time of (b) goes, function by function

a       existing SQLite branches one revision behind, next to dbmate, two at a time either way: CPU
        of the whole process trees, and the clock on the wall.
b       ten times as many branches with nothing to do: CPU of the whole program with its start-up,
        next to dbmate on a sample and to a bare loop of version reads, a Python program of its own
        with its start-up (`reads.py`).
c       the same on PostgreSQL and MariaDB, 100 ms away (`remote.py`).
d       HeadOffice's share (`ledger.py`).
silent  ten times as many on those, one in twenty of which lies on a server that never answers.
workers the rate of (a) by the number of workers: where it saturates.
memory  the most that the program's own process held, workers left out.

The sides of a part take turns and medians are compared. Ratios hold from machine to machine; the
milliseconds are for orientation.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median

from . import ledger, remote, sides
from .aims import Result
from .meter import Usage, adopt_orphans, peak, usage
from .sides import Office

_WORKERS = ("--workers", "2")
_CREWS = (1, 2, 4, 8)
_SAMPLE = 200
"""Branches by which dbmate is judged where it has nothing to do."""

_READS = Path(__file__).with_name("reads.py")
_MB = 1e6


class Bench:
    """Offices of SQLite branches on the reference history, in a scratch folder."""

    def __init__(self, folder: Path, branches: int, rounds: int) -> None:
        self.folder = folder
        self.branches = branches
        self.many = 10 * branches
        self.rounds = rounds
        self.history = sides.reference_history(folder / "history")
        self.head, self.before_last = self.history[-1].id, self.history[-2].id

    def office(self, branches: int, revision: str) -> Office:
        """Branches that are at a revision, and known to be: made once."""
        folder = self.folder / f"{revision}-{branches}"
        if folder.exists():
            return Office(folder)
        first = Office.make(folder.with_name(f"{folder.name}-first"), 1)
        first.run("apply-all", "--to", revision)
        office = Office.make(folder, branches)
        _copies(_databases(first)[0], folder / "branches", branches)
        office.run("apply-all", "--to", revision)
        return office


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--branches", type=int, default=1000, help="those of (a), for each of (c)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured")
    parser.add_argument("--only", choices=PARTS, action="append", help="leave out the others")
    parser.add_argument("--profile", action="store_true", help="show where the time of (b) goes")
    given = parser.parse_args()
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="branchmig-bench-") as folder:
        bench = Bench(Path(folder), given.branches, given.rounds)
        if given.profile:
            profile(bench)
            return
        print(f"on {os.cpu_count()} cores, medians of {given.rounds}")
        for name in given.only or PARTS:
            title, part = PARTS[name]
            print(f"\n({name}) {title.format(few=bench.branches, many=bench.many)}", flush=True)
            for result in part(bench):
                print(result, flush=True)


# Next to dbmate -----------------------------------------------------------------------------------


def one_behind(bench: Bench) -> Iterator[Result | str]:
    """(a)"""
    behind = bench.office(bench.branches, bench.before_last)
    peer = _Dbmate.found(bench)
    ours, theirs = [], []
    for _ in range(bench.rounds):
        with _scratch(bench) as work:
            office = behind.copy(work / "office")
            ours.append(office.measured(usage, "apply-all", *_WORKERS))
            _check(_databases(office))
        if peer:
            with _scratch(bench) as work:
                files = _copies(peer.before_last, work / "branches", bench.branches)
                theirs.append(peer.up(files))
                _check(files)
    yield from _compared(ours, theirs)
    yield from _costs("branchmig", ours, bench.branches)
    yield from _costs("dbmate", theirs, bench.branches)


def unchanged(bench: Bench) -> Iterator[Result | str]:
    """(b)"""
    first, office = bench.office(1, bench.head), bench.office(bench.many, bench.head)
    listed = bench.folder / "databases"
    listed.write_text("".join(f"{file}\n" for file in _databases(office)))
    peer = _Dbmate.found(bench)
    sample = _copies(peer.head, bench.folder / "sample", _SAMPLE) if peer else []
    start, ours, bare, theirs = [], [], [], []
    for _ in range(bench.rounds):
        start.append(first.measured(usage, "apply-all", *_WORKERS))
        ours.append(office.measured(usage, "apply-all", *_WORKERS))
        bare.append(usage([sys.executable, _READS, listed], bench.folder))
        if peer:
            theirs.append(peer.up(sample))
    shutil.rmtree(bench.folder / "sample", ignore_errors=True)
    mine = _cpu(ours) / bench.many
    if peer:
        yield Result("CPU a branch: branchmig / dbmate", mine / (_cpu(theirs) / _SAMPLE), "", 0.02)
    yield Result("CPU: branchmig / bare loop of reads", _cpu(ours) / _cpu(bare), "", 1.5)
    more = (_cpu(ours) - _cpu(start)) / (bench.many - 1)
    yield Result("branchmig over one branch, CPU", _cpu(start), "s")
    yield Result("branchmig, each one more, CPU", more * 1000, "ms a branch")
    yield from _costs("branchmig", ours, bench.many)
    yield from _costs("bare loop", bare, bench.many)
    yield from _costs("dbmate", theirs, _SAMPLE)


class _Dbmate:
    """dbmate, started for every branch, two at a time."""

    def __init__(self, program: Path, folder: Path, bench: Bench) -> None:
        self._program = program
        self._folder = folder
        sides.dbmate_files(folder, bench.history)
        self.before_last, self.head = folder / "before.db", folder / "head.db"
        self.up([self.before_last], "before")
        self.up([self.head])

    @classmethod
    def found(cls, bench: Bench) -> _Dbmate | None:
        program = sides.dbmate_program()
        folder = bench.folder / "dbmate"
        shutil.rmtree(folder, ignore_errors=True)
        return cls(program, folder, bench) if program else None

    def up(self, files: Iterable[Path], revisions: str = "all") -> Usage:
        listed = self._folder / "databases"
        listed.write_text("".join(f"{file}\n" for file in files))
        options = ("--migrations-dir", self._folder / revisions, "--no-dump-schema")
        command = (self._program, "--url", "sqlite:{}", *options, "up")
        return usage(["xargs", "-a", listed, "-P", "2", "-I", "{}", *command], self._folder)


def _compared(ours: list[Usage], theirs: list[Usage]) -> Iterator[Result | str]:
    if not theirs:
        yield "dbmate is left out: npm is missing, or could not install it"
        return
    yield Result("CPU: branchmig / dbmate", _cpu(ours) / _cpu(theirs), "", 0.6)
    yield Result("wall: branchmig / dbmate", _wall(ours) / _wall(theirs), "", 0.5)


def _costs(name: str, used: list[Usage], branches: int) -> Iterator[Result]:
    if used:
        yield Result(f"{name}, CPU", _cpu(used) / branches * 1000, "ms a branch")
        yield Result(f"{name}, wall", _wall(used) / branches * 1000, "ms a branch")


def _cpu(used: Iterable[Usage]) -> float:
    return median(each.cpu for each in used)


def _wall(used: Iterable[Usage]) -> float:
    return median(each.wall for each in used)


# The others ---------------------------------------------------------------------------------------


def far_away(bench: Bench) -> Iterator[Result | str]:
    """(c)"""
    with _scratch(bench) as work:
        yield from remote.survey(work, bench.branches, bench.rounds)


def silent(bench: Bench) -> Iterator[Result | str]:
    """What servers that never answer cost those that do."""
    with _scratch(bench) as work:
        yield from remote.silence(work, bench.branches, bench.rounds)


def headoffice(bench: Bench) -> Iterator[Result | str]:
    """(d)"""
    with _scratch(bench) as work:
        yield from ledger.share(work, bench.branches, bench.rounds)


def memory(bench: Bench) -> Iterator[Result | str]:
    """Once each: a peak hardly varies."""
    jobs = {"nothing to do": bench.head, "one revision": bench.before_last}
    for job, revision in jobs.items():
        most = []
        for branches in (bench.branches, bench.many):
            with _scratch(bench) as work:
                office = bench.office(branches, revision).copy(work / "office")
                most.append(office.measured(peak, "apply-all", *_WORKERS))
        few, many = most
        growth = (many - few) / (bench.many - bench.branches)
        yield Result(f"{job}: peak at {bench.branches}", few / _MB, "MB")
        yield Result(f"{job}: peak at {bench.many}", many / _MB, "MB", 200)
        yield Result(f"{job}: growth", growth / 1000, "KB a branch", 5)


def saturation(bench: Bench) -> Iterator[Result | str]:
    """What more workers bring, on (a)."""
    behind = bench.office(bench.branches, bench.before_last)
    used: dict[int, list[Usage]] = {workers: [] for workers in _CREWS}
    for _ in range(bench.rounds):
        for workers, each in used.items():
            with _scratch(bench) as work:
                office = behind.copy(work / "office")
                each.append(office.measured(usage, "apply-all", "--workers", str(workers)))
    for workers, each in used.items():
        yield Result(f"{workers} workers: rate", bench.branches / _wall(each), "branches/s")
        yield Result(f"{workers} workers: CPU", _cpu(each) / bench.branches * 1000, "ms a branch")


PARTS: dict[str, tuple[str, Callable[[Bench], Iterable[Result | str]]]] = {
    "a": ("{few:,} SQLite branches one revision behind", one_behind),
    "b": ("{many:,} SQLite branches with nothing to do", unchanged),
    "c": ("{few:,} branches on PostgreSQL, {few:,} on MariaDB, 100 ms away", far_away),
    "silent": ("{many:,} branches 100 ms away, one in twenty on a server that is silent", silent),
    "d": ("HeadOffice's share of a branch, over {few:,}", headoffice),
    "workers": ("{few:,} SQLite branches one revision behind, by workers", saturation),
    "memory": ("of the program's own process", memory),
}


def profile(bench: Bench) -> None:
    """CPU time of every thread of the program in (b), by function."""
    office = bench.office(bench.many, bench.head)
    environ = {**os.environ, "BRANCHMIG_CONFIG": str(office.folder / "branchmig.toml")}
    command = [sys.executable, "-m", "bench.profiled", "apply-all", *_WORKERS]
    subprocess.run(command, cwd=sides.ROOT, env=environ, stderr=subprocess.DEVNULL, check=True)


def _databases(office: Office) -> list[Path]:
    return sorted((office.folder / "branches").iterdir())


def _copies(database: Path, folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True)
    return [Path(shutil.copy(database, folder / f"br{n:05}.db")) for n in range(count)]


def _check(databases: Iterable[Path]) -> None:
    """All sides did the same: what the last revision makes is there."""
    for database in databases:
        with closing(sqlite3.connect(database)) as driver:
            driver.execute('SELECT "NetTotal", "TaxTotal" FROM "Sales"')


@contextmanager
def _scratch(bench: Bench) -> Iterator[Path]:
    """A folder that is gone afterwards, whatever servers left in it."""
    folder = bench.folder / "work"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
