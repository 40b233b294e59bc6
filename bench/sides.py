"""The programs that are compared: each brings SQLite branches of the reference history up to date.

`prepare` makes what every round needs and is not measured. `measure` gives the CPU seconds of one
branch for each of the three jobs in JOBS.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from .meter import cpu

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(__file__).resolve().parent / ".cache"
BRANCHMIG = Path(sys.executable).with_name("branchmig")
ALEMBIC = Path(sys.executable).with_name("alembic")
DBMATE = "@dbmate/linux-x64"
DBMATE_VERSION = "2.36.0"

_FEW = 20
"""Branches enough to have every worker started and every cache filled."""

Meter = Callable[..., float]
"""`cpu` or `wall`."""

Figure = TypeVar("Figure")
"""What a meter gives."""

EMPTY, ONE, UNCHANGED = JOBS = ("from empty", "one revision", "unchanged")


@dataclass(frozen=True)
class Revision:
    """One revision of the reference history and its statements, `version` those of Alembic's own
    version table."""

    id: str
    statements: tuple[str, ...]
    version: tuple[str, ...]


class Side(Protocol):
    """One program under measurement."""

    name: str

    def prepare(self, folder: Path, history: Sequence[Revision]) -> None: ...

    def measure(self, folder: Path) -> dict[str, float]: ...


# branchmig ----------------------------------------------------------------------------------------


class Office:
    """A folder with settings, HeadOffice and branches that have no database yet.

    `meter`: how its runs are measured.
    """

    def __init__(self, folder: Path, meter: Meter = cpu) -> None:
        self.folder = folder
        self._meter = meter

    @classmethod
    def make(
        cls, folder: Path, urls: int | Sequence[str], meter: Meter = cpu, settings: str = ""
    ) -> Office:
        """`urls` of its branches, or how many SQLite branches it has; `settings` in TOML."""
        if isinstance(urls, int):
            urls = [f"sqlite:///branches/br{n:05}.db" for n in range(urls)]
        folder.mkdir(parents=True)
        (folder / "branchmig.toml").touch(0o640)
        (folder / "branchmig.toml").write_text(settings)
        office = cls(folder, meter)
        office.run("init")
        office.add(urls)
        return office

    def add(self, urls: Sequence[str], prefix: str = "BR") -> None:
        """Make branches known by URL."""
        rows = [f"{prefix}{n:05},{url}" for n, url in enumerate(urls)]
        (self.folder / "branches.csv").write_text("\n".join(["code,url", *rows, ""]))
        self.run("branch", "import", "branches.csv")

    def copy(self, folder: Path) -> Office:
        return Office(shutil.copytree(self.folder, folder), self._meter)

    def run(self, *arguments: str) -> float:
        """Seconds of `branchmig` with these arguments, worker processes included."""
        return self.measured(self._meter, *arguments)

    def measured(self, meter: Callable[..., Figure], *arguments: str | Path) -> Figure:
        """The same by another meter."""
        settings = str(self.folder / "branchmig.toml")
        return meter([BRANCHMIG, *arguments], self.folder, BRANCHMIG_CONFIG=settings)


def reference_history(folder: Path) -> list[Revision]:
    """The reference history as SQL for SQLite."""
    return planned(Office.make(folder, 1))


def planned(office: Office) -> list[Revision]:
    """The reference history as SQL for the first branch of an office, from `branchmig plan`."""
    plan = subprocess.run(
        [BRANCHMIG, "--config", "branchmig.toml", "plan", "BR00000", "--sql", "--json"],
        cwd=office.folder,
        capture_output=True,
        check=True,
    )
    history = []
    for step in json.loads(plan.stdout)["steps"]:
        statements = [part.strip() for part in step["sql"].split(";\n") if part.strip()]
        own = tuple(s.rstrip(";") for s in statements if "alembic_version" not in s)
        version = tuple(s.rstrip(";") for s in statements if "alembic_version" in s)
        history.append(Revision(step["revision"], own, version))
    return history


class Branchmig:
    """What one branch more costs in an `apply-all`: the whole program, with all its processes, over
    many branches less the same over a few, divided by the difference."""

    name = "branchmig apply-all"

    def __init__(self, branches: int) -> None:
        self._branches = branches
        self._counts = (_FEW, _FEW + branches)

    def prepare(self, folder: Path, history: Sequence[Revision]) -> None:
        before_last = history[-2].id
        for count in self._counts:
            office = Office.make(folder / f"empty-{count}", count)
            office.copy(folder / f"one-{count}").run("apply-all", "--to", before_last)

    def measure(self, folder: Path) -> dict[str, float]:
        few, many = (self._run(folder, count) for count in self._counts)
        return {job: (many[job] - few[job]) / self._branches for job in JOBS}

    def _run(self, folder: Path, count: int) -> dict[str, float]:
        work = folder / "work"
        used = {}
        used[EMPTY] = Office(folder / f"empty-{count}").copy(work).run("apply-all")
        shutil.rmtree(work)
        office = Office(folder / f"one-{count}").copy(work)
        used[ONE] = office.run("apply-all")
        used[UNCHANGED] = office.run("apply-all")
        shutil.rmtree(work)
        return used


# Programs that are started once for each branch ---------------------------------------------------


class Single:
    """A program that knows one database: started anew for each branch, as it must be."""

    def __init__(self, name: str, branches: int, up: Callable[[Path, bool], float]) -> None:
        """`up` brings a database to head, or to the revision before it, and gives CPU seconds."""
        self.name = name
        self._branches = branches
        self._up = up

    def prepare(self, folder: Path, history: Sequence[Revision]) -> None:
        folder.mkdir(parents=True)
        self._up(folder / "template.db", False)

    def measure(self, folder: Path) -> dict[str, float]:
        used = dict.fromkeys(JOBS, 0.0)
        file = folder / "work.db"
        for _ in range(self._branches):
            used[EMPTY] += self._up(file, True)
            used[UNCHANGED] += self._up(file, True)
            shutil.copy(folder / "template.db", file)
            used[ONE] += self._up(file, True)
            file.unlink()
        return {job: seconds / self._branches for job, seconds in used.items()}


def alembic(branches: int, history: Sequence[Revision]) -> Single:
    """`alembic upgrade head`, as its users run it."""

    def up(file: Path, whole: bool) -> float:
        revision = "head" if whole else history[-2].id
        return cpu([ALEMBIC, "-x", f"url=sqlite:///{file}", "upgrade", revision], ROOT)

    return Single("alembic upgrade head", branches, up)


def dbmate(branches: int, folder: Path, history: Sequence[Revision]) -> Single | None:
    """`dbmate up` over the same revisions as .sql files; None where it cannot be had."""
    program = dbmate_program()
    if program is None:
        return None
    dbmate_files(folder, history)

    def up(file: Path, whole: bool) -> float:
        revisions = folder / ("all" if whole else "before")
        options = ("--url", f"sqlite:{file}", "--migrations-dir", revisions, "--no-dump-schema")
        return cpu([program, *options, "up"], folder)

    return Single("dbmate up", branches, up)


def dbmate_files(folder: Path, history: Sequence[Revision]) -> None:
    """The revisions as .sql files: in `all` every one, in `before` those before the last."""
    for name, revisions in (("all", history), ("before", history[:-1])):
        (folder / name).mkdir(parents=True)
        for number, revision in enumerate(revisions, 1):
            text = "".join(f"{statement};\n" for statement in revision.statements)
            (folder / name / f"{number:04}_{revision.id}.sql").write_text(
                f"-- migrate:up\n{text}\n-- migrate:down\n"
            )


def dbmate_program() -> Path | None:
    """Fetched from its own npm package when first asked for; None where it cannot be had."""
    program = CACHE / "node_modules" / DBMATE / "bin" / "dbmate"
    npm = shutil.which("npm")
    if not program.exists() and npm:
        CACHE.mkdir(exist_ok=True)
        subprocess.run(
            [npm, "install", "--prefix", CACHE, "--no-save", f"{DBMATE}@{DBMATE_VERSION}"],
            stdout=subprocess.DEVNULL,
            check=False,
        )
    return program if program.exists() else None


# The floor ----------------------------------------------------------------------------------------


class Raw:
    """The driver alone: the same statements, each revision in one transaction with its version row.

    Nothing is planned, checked, locked or recorded: no tool can be faster.
    """

    name = "sqlite3, raw"

    def __init__(self, branches: int) -> None:
        self._branches = branches
        self._scripts: list[str] = []

    def prepare(self, folder: Path, history: Sequence[Revision]) -> None:
        folder.mkdir(parents=True)
        self._scripts = [
            ";\n".join(["BEGIN IMMEDIATE", *r.statements, *r.version, "COMMIT;"]) for r in history
        ]
        self._run(folder / "template.db", self._scripts[:-1])

    def measure(self, folder: Path) -> dict[str, float]:
        file = folder / "work.db"
        used = dict.fromkeys(JOBS, 0.0)
        for _ in range(self._branches):
            used[EMPTY] += self._run(file, self._scripts)
            used[UNCHANGED] += self._run(file, ())
            shutil.copy(folder / "template.db", file)
            used[ONE] += self._run(file, self._scripts[-1:])
            file.unlink()
        return {job: seconds / self._branches for job, seconds in used.items()}

    def _run(self, file: Path, scripts: Sequence[str]) -> float:
        started = time.process_time()
        with closing(sqlite3.connect(file, isolation_level=None)) as driver:
            for script in scripts:
                driver.executescript(script)
            driver.execute("SELECT version_num FROM alembic_version").fetchall()
        return time.process_time() - started
