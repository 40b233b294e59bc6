"""What branchmig costs, next to others that do the same work in the same minutes.

    python -m bench                 all comparisons
    python -m bench --only mariadb  one of help, sqlite, postgresql, mariadb
    python -m bench --profile       where the time of an attempt goes, function by function

On SQLite every figure is CPU time, user and system, of whole process trees: the clock on the wall
would tell of the disk and of who else is on the machine. On PostgreSQL and MariaDB it is wall time,
because most of the work is the server's (`engines.py`). All sides take turns within one run and
medians are compared, so the RATIOS hold from machine to machine; the milliseconds are for
orientation.

`--help`        the whole program next to the least that a Typer program can be (`minimal.py`).
from empty      a new database is brought through all revisions of the reference history.
one revision    a database that lacks the last revision gets it.
unchanged       a database at head is looked at, and left.

branchmig's figure is what one branch more costs within an `apply-all`: lease, worker process,
checks, record and log line included, start-up not. Other programs know one database and are started
for each. The raw driver executes the same statements and does nothing else.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from . import engines, sides
from .meter import adopt_orphans, cpu
from .sides import JOBS, Branchmig, Office, Raw, Side

PARTS = ("help", "sqlite", *engines.ENGINES)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n")[0])
    parser.add_argument("--branches", type=int, default=200, help="branches of branchmig's fleet")
    parser.add_argument("--rounds", type=int, default=5, help="how often each side is measured")
    parser.add_argument("--only", choices=PARTS, action="append", help="leave out the others")
    parser.add_argument("--profile", action="store_true", help="show where an attempt's time goes")
    given = parser.parse_args()
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="branchmig-bench-") as folder:
        if given.profile:
            profile(Path(folder), given.branches)
        else:
            compare(Path(folder), given.only or PARTS, given.branches, given.rounds)


def compare(folder: Path, parts: Sequence[str], branches: int, rounds: int) -> None:
    if "help" in parts:
        compare_help(folder, 4 * rounds)
    if "sqlite" in parts:
        compare_branches(folder, branches, rounds)
    for part in parts:
        if part in engines.ENGINES:
            print()
            costs = engines.compare(part, folder, rounds)
            if isinstance(costs, str):
                print(costs)
            else:
                show(f"one {part} branch", "wall", costs)


def compare_help(folder: Path, rounds: int) -> None:
    ours: list[str | Path] = [sides.BRANCHMIG, "--help"]
    least: list[str | Path] = [sys.executable, Path(__file__).with_name("minimal.py"), "--help"]
    used: dict[str, list[float]] = {"ours": [], "least": []}
    for command in (ours, least):
        cpu(command, folder)
    for _ in range(rounds):
        used["ours"].append(cpu(ours, folder))
        used["least"].append(cpu(least, folder))
    our, their = median(used["ours"]), median(used["least"])
    print(f"branchmig --help: {our / their:.2f} of a minimal Typer program's ({our * 1000:.0f} ms)")
    print()


def compare_branches(folder: Path, branches: int, rounds: int) -> None:
    history = sides.reference_history(folder / "history")
    chosen: list[Side] = [Branchmig(branches), Raw(branches), sides.alembic(2, history)]
    peer = sides.dbmate(branches // 10, folder / "dbmate-sql", history)
    if peer:
        chosen.append(peer)
    else:
        print("dbmate is left out: npm is missing, or could not install it")
    for side in chosen:
        side.prepare(folder / side.name, history)
    used: dict[str, list[dict[str, float]]] = {side.name: [] for side in chosen}
    for _ in range(rounds):
        for side in chosen:
            used[side.name].append(side.measure(folder / side.name))
    costs = {
        name: {job: median(measured[job] for measured in each) for job in JOBS}
        for name, each in used.items()
    }
    show("one SQLite branch", "CPU", costs)


def show(title: str, clock: str, costs: dict[str, dict[str, float]]) -> None:
    """The ratios to branchmig, the first side, and beneath them milliseconds."""
    (ours, own), *others = costs.items()
    width = max(map(len, costs)) + len(ours) + 4
    print(f"{title:{width}}" + "".join(f"{job:>16}" for job in JOBS))
    for name, cost in others:
        ratios = "".join(f"{own[job] / cost[job]:>16.2f}" for job in JOBS)
        print(f"{f'{ours} / {name}':{width}}{ratios}")
    print(f"{clock} ms, for orientation")
    for name, cost in costs.items():
        print(f"{f'  {name}':{width}}" + "".join(f"{cost[job] * 1000:>16.2f}" for job in JOBS))


def profile(folder: Path, branches: int) -> None:
    """The work on each branch in this process: what a worker does, without HeadOffice."""
    from branchmig import config
    from branchmig.fence import Fence
    from branchmig.migrator import Migrator
    from branchmig.model import Branch, Provider, Task

    office = Office.make(folder / "office", 1)
    settings, _ = config.load(office.folder / "branchmig.toml")
    migrator = Migrator(settings)
    before_last = migrator.history().revisions[-2].id

    def attempts(target: str, first: int, count: int) -> None:
        for number in range(first, first + count):
            url = f"sqlite:///branches/br{number:05}.db"
            branch = Branch(str(number), f"BR{number:05}", "", Provider.SQLITE, url)
            attempt = migrator.attempt(Task(branch, target), Fence())
            assert attempt.failure is None, attempt.failure

    attempts("head", 0, 5)
    attempts(before_last, branches, branches)
    for job, first in (("from empty", 5), ("one revision", branches)):
        measured = cProfile.Profile()
        measured.runcall(attempts, "head", first, branches - 5)
        print(f"{job}, {branches - 5} branches")
        pstats.Stats(measured).sort_stats("tottime").print_stats(25)
        pstats.Stats(measured).sort_stats("cumulative").print_stats("branchmig|alembic", 40)


if __name__ == "__main__":
    main()
