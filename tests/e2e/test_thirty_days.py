"""Thirty days of a fleet in a few minutes: windows, changes of clocks, and all that happens.

The month is October 2026: on the 4th the clocks of Sydney go forward, on the 25th those of Berlin
back, on November 1st those of New York.
"""

from __future__ import annotations

import json
import random
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import product
from typing import Any

import pytest
import simulated
from clocks import first_at_or_after
from office import Office
from receiver import Receiver, receiver
from servers import MISSING, Mariadb, Postgresql, Server, private
from simulated import Host

BEGIN = datetime(2026, 10, 3, tzinfo=UTC)
NEVER = BEGIN + timedelta(days=99)
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Hours:
    """A window: daily, or on one weekday, at a time of a clock on the wall."""

    hour: int
    minute: int
    length: timedelta
    zone: str
    weekday: int | None = None

    def on(self, day: date) -> tuple[datetime, datetime] | None:
        if self.weekday not in (None, day.weekday()):
            return None
        start = first_at_or_after(day, self.hour, self.minute, self.zone)
        return start, start + self.length

    @property
    def cron(self) -> str:
        day = "*" if self.weekday is None else str((self.weekday + 1) % 7)
        return f"{self.minute} {self.hour} * * {day}"


WINDOWS = {
    "berlin": Hours(2, 30, 2 * HOUR, "Europe/Berlin"),
    "sydney": Hours(2, 30, 2 * HOUR, "Australia/Sydney"),
    "new-york": Hours(0, 0, 4 * HOUR, "America/New_York", weekday=6),
    "": Hours(1, 0, 3 * HOUR, "UTC"),
}
"""By tag; the last for everybody else."""

HOURS = frozenset({1, 5, 12, 16})
"""When the timer ticks, by UTC: in every window, and in between."""

FREEZE = (datetime(2026, 10, 13, tzinfo=UTC), datetime(2026, 10, 15, tzinfo=UTC), "berlin")


@dataclass
class Branch:
    """A branch of the month: its tag, its database, and when it was there and could be reached."""

    code: str
    tag: str
    server: Server | None
    database: str
    joined: datetime = BEGIN
    left: datetime | None = None

    def windows(self) -> Iterator[tuple[datetime, datetime]]:
        hours = WINDOWS[self.tag]
        for number in range(-1, 33):
            if found := hours.on(BEGIN.date() + timedelta(days=number)):
                yield found


@dataclass
class Month:
    """What has happened so far, and the machine on which the timer runs."""

    office: Office
    host: Host
    seed: int
    branches: dict[str, Branch] = field(default_factory=dict)
    revisions: list[str] = field(default_factory=list)
    shipped: datetime = BEGIN
    down: dict[str, list[tuple[datetime, datetime]]] = field(default_factory=dict)
    ticks: list[datetime] = field(default_factory=list)

    def ship(self, body: str, since: datetime) -> None:
        """Put a revision into the history; `since`: from when on branches can have it."""
        parent = self.revisions[-1] if self.revisions else None
        name = f"r{len(self.revisions) + 1}"
        self.write(name, parent, body)
        self.revisions.append(name)
        self.shipped = since

    def stop(self, server: Server, now: datetime, length: timedelta) -> None:
        """A server is down for so long."""
        self.down.setdefault(type(server).__name__, []).append((now, now + length))
        server.kill()

    def unmount(self, code: str, now: datetime, length: timedelta) -> None:
        """The share with a branch's file is not there for so long."""
        self.down.setdefault(code, []).append((now, now + length))
        file = self.office.database(self.branches[code].database)
        file.rename(file.with_suffix(".away"))

    def mount(self, code: str) -> None:
        """It is there again; whoever mounted it has the next tick try the branch."""
        file = self.office.database(self.branches[code].database)
        file.with_suffix(".away").rename(file)
        self.office.run("retry", code)

    def write(self, name: str, parent: str | None, body: str) -> None:
        (self.office.folder / "history" / "versions" / f"{name}.py").write_text(
            "import sqlalchemy as sa\nfrom alembic import op\n"
            f"revision = {name!r}\ndown_revision = {parent!r}\n"
            f"def upgrade():\n    {body}\n"
        )

    def add(self, now: datetime, code: str, tag: str, server: Server | None) -> None:
        branch = Branch(code, tag, server, f"m_{uuid.uuid4().hex}", joined=now)
        self.branches[branch.code] = branch
        url = (
            branch.server.url(branch.database)
            if branch.server
            else f"sqlite:///branches/{branch.database}.db"
        )
        line = f"{branch.code},{url},{branch.tag}"
        done = self.office.run("branch", "import", "-", stdin=f"code,url,tags\n{line}\n")
        assert done.returncode == 0

    def tick(self, now: datetime) -> dict[str, Any]:
        """What the timer does."""
        done = self.host.run(now, "apply-all", "--json")
        assert done.code in (0, 1), done
        self.ticks.append(now)
        report: dict[str, Any] = json.loads(done.out)
        return report

    def heads(self, branch: Branch) -> str | None:
        select = "SELECT version_num FROM alembic_version"
        if branch.server:
            if branch.database not in branch.server.databases():
                return None
            rows = branch.server.query(select, branch.database)
        elif self.office.database(branch.database).exists():
            rows = self.office.query(branch.database, select)
        else:
            return None
        return str(rows[0][0]) if rows else None

    def away(self, branch: Branch) -> list[tuple[datetime, datetime]]:
        """When a branch could not be reached."""
        server = type(branch.server).__name__ if branch.server else ""
        return [*self.down.get(server, []), *self.down.get(branch.code, [])]

    def could_be_reached(self, branch: Branch, start: datetime, end: datetime) -> bool:
        """Whether, in a window, the timer ran while the branch could be reached."""
        down = self.away(branch)
        frozen_from, frozen_until, tag = FREEZE
        if branch.tag == tag:
            down = [*down, (frozen_from, frozen_until)]
        ran = [
            tick
            for tick in self.ticks
            if start <= tick < end and not any(a <= tick < b for a, b in down)
        ]
        return bool(ran)

    def check(self, now: datetime) -> None:
        """Every branch of which two windows in which it could be reached are over is at head."""
        for branch in self.branches.values():
            if branch.left or any(a <= now < b for a, b in self.away(branch)):
                continue
            since = max(self.shipped, branch.joined)
            over = [
                end
                for start, end in branch.windows()
                if start >= since and end <= now and self.could_be_reached(branch, start, end)
            ]
            if len(over) >= 2:
                assert self.heads(branch) == self.revisions[-1], (self.seed, now, branch, over)


def settings(pager: str) -> str:
    windows = [
        f'{{ cron = "{hours.cron}", hours = {hours.length / HOUR:g}, tz = "{hours.zone}"'
        + (f', tag = "{tag}" }}' if tag else " }")
        for tag, hours in WINDOWS.items()
    ]
    begin, end, tag = FREEZE
    return (
        '[migrations]\nscript_location = "history"\nprobe = false\n'
        '[retry]\nunreachable = "wait"\n[run]\nconnect_timeout = 2\nworkers = 2\n'
        f'[notify]\nurls = ["{pager}"]\n'
        'on = ["failure", "manual", "halt", "recovery", "digest"]\n'
        f"[schedule]\nwindows = [{', '.join(windows)}]\n"
        f'freezes = [{{ from = {begin:%Y-%m-%d}, until = {end - HOUR:%Y-%m-%d}, tag = "{tag}" }}]\n'
    )


@pytest.fixture
def month(office: Office, family: Any) -> Iterator[Month]:
    if not simulated.library():
        pytest.skip(f"faketime {MISSING}: apt install faketime")
    (office.folder / "history" / "versions").mkdir(parents=True)
    (office.folder / "branches").mkdir()
    seed = random.randrange(2**32)
    with Host(office) as host:
        yield Month(office, host, seed)


@pytest.fixture
def pager() -> Iterator[Receiver]:
    with receiver() as server:
        yield server


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("hours", [HOURS, frozenset(range(24))], ids=["some", "every"])
def test_a_month_of_windows_outages_and_a_bad_revision(
    month: Month, pager: Receiver, hours: frozenset[int]
) -> None:
    office = month.office
    office.configure(settings(pager.url))
    month.ship('op.create_table("t", sa.Column("n", sa.Integer))', BEGIN)
    minutes = timedelta(minutes=random.Random(month.seed).randrange(60))
    with private(Postgresql) as postgresql, private(Mariadb) as mariadb:
        places: list[tuple[str, Server | None]] = [
            *(("", None), ("berlin", None), ("berlin", postgresql)),
            *(("sydney", None), ("sydney", mariadb), ("new-york", postgresql)),
        ]
        if hours != HOURS:
            places += product(WINDOWS, (None, postgresql, mariadb))
        for number, (tag, server) in enumerate(places):
            month.add(BEGIN, f"BR{number:02}", tag, server)
        events = happenings(month, postgresql, mariadb)
        for hour in range(30 * 24):
            day, of_day = divmod(hour, 24)
            now = BEGIN + hour * HOUR + minutes
            if event := events.pop((day, of_day), None):
                event(now)
            # The machine of the timer sleeps through one night.
            if of_day in hours and not (day == 22 and of_day < 12):
                month.tick(now)
                month.check(now)
        assert not events
        month.check(BEGIN + 31 * 24 * HOUR)
    check_times(month)
    check_telling(month, pager)


def happenings(
    month: Month, postgresql: Server, mariadb: Server
) -> dict[tuple[int, int], Callable[[datetime], object]]:
    """What happens besides the ticks, by day and hour."""
    insert = 'op.execute("INSERT INTO t (n) VALUES (1)")'

    def mend(now: datetime) -> None:
        month.write(month.revisions[-1], month.revisions[-2], insert)
        month.shipped = now
        month.office.run("retry", "--all")

    def leave(now: datetime) -> None:
        month.office.run("branch", "remove", "BR03", "--yes")
        month.branches["BR03"].left = now

    return {
        (2, 12): lambda now: month.ship('op.add_column("t", sa.Column("a", sa.Integer))', now),
        (4, 0): lambda now: month.stop(postgresql, now, 24 * HOUR),
        (5, 0): lambda now: postgresql.start(),
        (6, 12): lambda now: month.ship(insert, now),
        (6, 13): lambda now: month.add(now, "NEW", "berlin", mariadb),
        (8, 0): lambda now: month.stop(mariadb, now, 6 * HOUR),
        (8, 6): lambda now: mariadb.start(),
        (10, 0): lambda now: month.unmount("BR00", now, 12 * HOUR),
        (10, 12): lambda now: month.mount("BR00"),
        (16, 12): lambda now: month.ship('op.execute("INSERT INTO nowhere VALUES (1)")', NEVER),
        (18, 12): mend,
        (20, 0): leave,
        (21, 12): lambda now: month.ship(insert, now),
    }


def check_times(month: Month) -> None:
    """Nothing ran outside a window, and the clock was what it should have been."""
    rows = month.office.headoffice(
        "SELECT started_at FROM branchmig_runs WHERE command = 'apply-all'"
    )
    started = {datetime.fromisoformat(at).replace(tzinfo=UTC) for (at,) in rows}
    assert started == {tick.replace(microsecond=0) for tick in month.ticks}
    outcomes = month.office.headoffice(
        "SELECT branch_code, finished_at, verdict FROM branchmig_outcomes"
        " WHERE verdict <> 'skipped'"
    )
    assert len([verdict for *_, verdict in outcomes if verdict == "migrated"]) > 25
    frozen_from, frozen_until, frozen_tag = FREEZE
    for code, text, _ in outcomes:
        at = datetime.fromisoformat(text).replace(tzinfo=UTC)
        branch = month.branches[code]
        assert any(start <= at < end for start, end in branch.windows()), (month.seed, code, text)
        frozen = branch.tag == frozen_tag and frozen_from <= at < frozen_until
        assert not frozen, (month.seed, code, text)


def check_telling(month: Month, pager: Receiver) -> None:
    """Each trouble was told once while it lasted, and its end once; and once a day how they are."""
    told = Counter(
        (topic, code)
        for letter in pager.letters
        for topic, pattern in TOLD.items()
        for code in codes(letter["title"] + "\n" + letter["message"], pattern)
    )
    assert told == expected(month), (month.seed, told, pager.titles)
    digests = [title for title in pager.titles if title == "branchmig: the digest"]
    assert len(digests) == len({tick.date() for tick in month.ticks if tick.hour >= 7})


TOLD = {"failure": r"failed\n", "manual": r"needs? a person\n", "recovery": ""}


def codes(text: str, pattern: str) -> list[str]:
    """The branches that a message is about, where it is of the kind that begins like this."""
    if not pattern:
        return re.findall(r"^(\w+) is Completed again$", text, re.MULTILINE)
    if not re.match(rf"branchmig: .*{pattern}", text):
        return []
    lines = text.split("\n\n", maxsplit=1)[0].splitlines()[1:]
    return [code for line in lines for code in line.partition(": ")[0].split(", ")]


def expected(month: Month) -> Counter[tuple[str, str]]:
    """What should have been told, by what HeadOffice has recorded of every branch in turn."""
    rows = month.office.headoffice(
        "SELECT branch_code, status FROM branchmig_outcomes ORDER BY finished_at, branch_code"
    )
    wanted: Counter[tuple[str, str]] = Counter()
    lasting: dict[str, set[str]] = {}
    for code, status in rows:
        topic = {"Failed": "failure", "RequiresManualIntervention": "manual"}.get(status)
        if topic and topic not in lasting.setdefault(code, set()):
            lasting[code].add(topic)
            wanted[topic, code] += 1
        if status == "Completed" and lasting.pop(code, None):
            wanted["recovery", code] += 1
    assert wanted
    return wanted
