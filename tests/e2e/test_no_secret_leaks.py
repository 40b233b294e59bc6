"""No secret in anything that leaves the program, wherever it was kept and whatever went wrong.

Canaries, words that occur nowhere else, stand in every place that can hold a secret. Commands are
run at random against branches each of which has a trouble of its own; then all that was printed and
written, every row of HeadOffice and the process list are searched for them.

A further place is one more entry of `PLACES`, and what reads it: settings, a branch, a file.
"""

from __future__ import annotations

import base64
import json
import os
import random
import secrets
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from office import Office
from processes import Family
from servers import Mariadb, Postgresql, Server, free_port
from zygote import Zygote

FAILURES = int(os.environ.get("TEST_FAILURES", "20"))
MANY = int(os.environ.get("TEST_FAILURES", "2000"))

PLACES = (
    "url", "query", "typed", "env", "env_url", "file", "credential", "credential_url",
    "headoffice", "environ", "notify", "script", "hook",
)  # fmt: skip
"""Where secrets are kept. Of "url" and "query", HeadOffice holds what was given to it to keep."""

STORED = ("url", "query", "typed")

SETTINGS = """
[headoffice]
url = {headoffice}
[migrations]
script_location = "linear"
[migrations.environ]
DATABASE_PASSWORD = "{environ}"
[run]
connect_timeout = 2
lock_timeout = 1
[retry]
backoff_seconds = 0
[secrets]
directory = "secrets"
[notify]
urls = ["json://user:{notify}@127.0.0.1:{port}/{notify}"]
on = ["failure", "manual", "recovery"]
timeout = 5
[hooks]
scripts = "scripts"
on_failure = ["/bin/sh", "-c", "env; exit 3"]
[metrics]
textfile = "figures.prom"
"""


def canaries() -> dict[str, str]:
    """By place: some plain, some of characters that URLs, shells and JSON have a use for."""
    ends = ("", "@/:?#", " +%25", "'\"\\", "ü€", "${x}&;")
    plain = ("environ", "notify", "script", "headoffice")
    return {
        place: f"Canary{secrets.token_hex(8)}" + ("" if place in plain else ends[n % len(ends)])
        for n, place in enumerate(PLACES)
    }


def forms(canary: str) -> set[bytes]:
    """A canary as it is, percent-encoded, as in a literal of JSON or Python, and in base64 at each
    of the three places where it can begin within a group."""
    texts = {canary, quote(canary, safe=""), quote(canary), quote_plus(canary)}
    texts |= {quote(canary, safe=" +"), json.dumps(canary)[1:-1], repr(canary)[1:-1]}
    texts |= {canary[:22]}  # what is cut off in the middle is known all the same
    found = {text.encode() for text in texts}
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + canary.encode())
        found.add(coded[(8 * shift + 5) // 6 : len(coded) // 4 * 4 - 4])
    return found


@dataclass
class Search:
    """Looks for canaries; `found` names place and where it was."""

    canaries: dict[str, str]
    found: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._forms = {place: forms(word) for place, word in self.canaries.items()}

    def look(self, where: str, content: bytes, *but: str) -> None:
        if b"Canary" not in content and not any(
            form in content for every in self._forms.values() for form in every
        ):
            return
        for place, every in self._forms.items():
            for form in every:
                at = content.find(form)
                if at >= 0 and place not in but:
                    self.found.append(
                        f"{place} in {where}: {content[max(0, at - 150) : at + 80]!r}"
                    )
                    break

    @contextmanager
    def process_list(self) -> Iterator[None]:
        """Within, what every process of this machine is called with, now and then."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.05):
                for file in Path("/proc").glob("[0-9]*/cmdline"):
                    with suppress(OSError):
                        self.look(f"{file}", file.read_bytes())

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@dataclass
class Den:
    """An office in which every place holds its canary, and one branch for each trouble."""

    office: Office
    servers: tuple[Server, ...]
    canaries: dict[str, str]
    rows: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        office, words = self.office, self.canaries
        office.use_history("linear")
        self.configure('"sqlite:///headoffice.db"')
        office.environ.update(
            BRANCHMIG_SECRET_PLAIN=words["env"],
            BRANCHMIG_SECRET_HOOK=words["hook"],
            BRANCHMIG_SECRET_URL=self.address(self.servers[0], words["env_url"]),
            CREDENTIALS_DIRECTORY=str(office.folder / "secrets" / "credentials"),
        )
        kept = office.folder / "secrets" / "credentials"
        kept.mkdir(parents=True)
        (kept.parent / "password").write_text(f"{words['file']}\n")
        (kept / "password").write_text(words["credential"])
        (kept / "url").write_text(self.address(self.servers[1], words["credential_url"]))
        scripts = office.folder / "scripts" / "before" / "postgresql"
        scripts.mkdir(parents=True)
        (scripts.parent / "login.sql").write_text(
            f"CREATE USER nobody IDENTIFIED BY PASSWORD '{words['script']}' AND NONSENSE;\n"
        )
        for server in self.servers:
            self._add_troubles(server)
        self._add("sqlite", "sqlite:////nowhere/at/all.db")
        (office.folder / "notes.db").write_text("no database, and longer than a header is " * 9)
        self._add("sqlite", "sqlite:///notes.db")
        self._add("sqlite", "sqlite:///whole.db")
        self.codes = [row["code"] for row in self.rows]

    def configure(self, headoffice: str) -> None:
        words = self.canaries
        self.office.configure(
            SETTINGS.format(
                headoffice=headoffice,
                environ=words["environ"],
                notify=words["notify"],
                port=free_port(),
            )
        )

    def address(
        self, server: Server, password: str, *, user: str = "leaky", port: int | None = None,
        database: str = "leaks", query: str = "",
    ) -> str:  # fmt: skip
        engine = "postgresql" if isinstance(server, Postgresql) else "mysql"
        login = f"{user}:{password if '${' in password[:2] else quote(password, safe='')}"
        return f"{engine}://{login}@127.0.0.1:{port or server.port}/{database}{query}"

    def _add_troubles(self, server: Server) -> None:
        words = self.canaries
        engine = "postgresql" if isinstance(server, Postgresql) else "mysql"
        kept = (
            words["url"], "${env:BRANCHMIG_SECRET_PLAIN}", "${file:password}",
            "${credential:password}", "${file:missing}", "${env:BRANCHMIG_SECRET_MISSING}",
        )  # fmt: skip
        unknown = quote(words["query"], safe="")
        tls = "?sslmode=verify-full" if engine == "postgresql" else "?ssl_verify_cert=true"
        for number, password in enumerate(kept):
            self._add(engine, self.address(server, password, database=f"leaks{number}"))
            self._add(engine, self.address(server, password, database=f"tls{number}", query=tls))
        # Who may log in without a password: these fail by something else, or not at all.
        root = "postgres" if engine == "postgresql" else "root"
        port = free_port()
        self._add(engine, self.address(server, words["url"], port=port))
        self._add(engine, self.address(server, "${file:password}", port=port, database="port"))
        self._add(engine, self.address(server, "${file:password}", user=root, database="right"))
        choking = "target_session_attrs" if engine == "postgresql" else "read_timeout"
        option = f"?password={unknown}&{choking}={unknown}"
        self._add(engine, self.address(server, words["url"], database="option", query=option))
        whole = "${env:BRANCHMIG_SECRET_URL}" if engine == "postgresql" else "${credential:url}"
        self._add(engine, whole)

    def _add(self, engine: str, url: str) -> None:
        self.rows.append({"code": f"B{len(self.rows):02}", "url": url, "provider": engine})

    def command(self, chance: random.Random) -> tuple[list[str], str]:
        """A command with its standard input."""
        code, typed = chance.choice(self.codes), self.canaries["typed"]
        server = chance.choice(self.servers)
        url = self.address(server, typed, database=f"typed{chance.randrange(1000)}")
        bad = chance.choice((url, url.replace("127.0.0.1:", "127.0.0.1:x"), f"no{url}", f"{url}\0"))
        choices: list[tuple[list[str], str]] = [
            *[(["apply", code], "")] * 4,
            (["apply", code, "--create"], ""),
            (["apply-all"], ""),
            *(([name], "") for name in ("pending", "status", "validate", "audit", "health")),
            *(([name, code], "") for name in ("history", "status", "validate", "plan", "retry")),
            (["plan", code, "--sql"], ""),
            (["baseline", code, "a1"], ""),
            (["unlock", code], ""),
            (["pin", code], ""),
            (["unpin", code], ""),
            (["resume"], ""),
            (["resolve", code, "--landed"], ""),
            (["doctor"], ""),
            (["notify"], ""),
            (["init"], ""),
            (["branch", "list"], ""),
            (["branch", "show", code], ""),
            (["branch", "update", code, "--url", "-"], f"{bad}\n"),
            (["branch", "add", f"N{chance.randrange(9999)}", "--url", "-"], f"{bad}\n"),
            (["branch", "import", "-"], json.dumps([{"code": "I1", "url": bad}])),
            (["branch", "import", "-"], json.dumps([*self.rows, {"code": "!", "url": url}])),
            (["branch", "import", "-"], f"code,url\nI2,{bad}\nI3"),
        ]
        arguments, stdin = chance.choice(choices)
        flags = [f for f in ("--json", "--debug") if chance.random() < 0.4]
        style = chance.choice(([], ["--log-format", "json"]))
        return [*style, *arguments, *flags], stdin


@contextmanager
def den(office: Office, *servers: Server) -> Iterator[tuple[Den, Search]]:
    """The accounts of the canaries, and in the end a search of everything written."""
    for server in servers:
        if not _has_account(server):
            server.add_user("leaky", secrets.token_hex(8))
    words = canaries()
    search = Search(words)
    made = Den(office, servers, words)
    office.run("branch", "import", "-", stdin=json.dumps(made.rows))
    own = {p for p in office.folder.rglob("*") if p.is_file()} - {office.folder / "headoffice.db"}
    with search.process_list():
        yield made, search
    for file in office.folder.rglob("*"):
        if file.is_file() and file not in own:
            stored = STORED if file.name.startswith("headoffice.db") else ()
            search.look(str(file), file.read_bytes(), *stored)
    _look_at_rows(office, search)
    assert not search.found, "\n".join(search.found[:10])


def _has_account(server: Server) -> bool:
    if isinstance(server, Postgresql):
        return bool(server.query("SELECT 1 FROM pg_roles WHERE rolname = 'leaky'"))
    return bool(server.query("SELECT 1 FROM mysql.user WHERE User = 'leaky'"))


def _look_at_rows(office: Office, search: Search) -> None:
    """Every row of HeadOffice; only the URL that was given to it holds what stood in it."""
    with closing(sqlite3.connect(office.folder / "headoffice.db")) as driver:
        names = driver.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in names:
            cursor = driver.execute(f"SELECT * FROM {table}")
            columns = [column[0] for column in cursor.description]
            for row in cursor:
                for column, value in zip(columns, row, strict=True):
                    stored = STORED if (table, column) == ("branchmig_branches", "url") else ()
                    search.look(f"{table}.{column}", str(value).encode(), *stored)


def _leaks_nothing(office: Office, family: Family, servers: tuple[Server, ...], times: int) -> None:
    seed = int(os.environ.get("TEST_SEED") or secrets.randbelow(2**32))
    sys.stdout.write(f"TEST_SEED={seed}\n")
    chance = random.Random(seed)
    codes: dict[int, int] = {}
    with den(office, *servers) as (made, search), Zygote(family.environ) as zygote:
        for _ in range(times):
            arguments, stdin = made.command(chance)
            kept = office.environment()
            code, printed = zygote.run(office.folder, arguments, kept, stdin)
            codes[code] = codes.get(code, 0) + 1
            search.look(f"what {arguments} printed", printed.encode())
            assert code != 70, (arguments, printed)
            assert not search.found, "\n".join(search.found)
    assert codes.keys() - {0}, "nothing has failed"


def test_no_secret_is_in_anything_that_leaves_the_program(
    office: Office, family: Family, postgresql: Postgresql, mariadb: Mariadb
) -> None:
    _leaks_nothing(office, family, (postgresql, mariadb), FAILURES)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_secret_is_in_anything_after_thousands_of_failures(
    office: Office, family: Family, postgresql: Postgresql, mariadb: Mariadb
) -> None:
    _leaks_nothing(office, family, (postgresql, mariadb), MANY)


def test_the_real_program_leaks_nothing_to_those_who_list_processes(
    office: Office, family: Family, postgresql: Postgresql, mariadb: Mariadb
) -> None:
    with den(office, postgresql, mariadb) as (made, search):
        for arguments in (["apply-all", "--debug"], ["apply", made.codes[2], "--json"]):
            done = office.run(*arguments, code=None)
            search.look(str(arguments), f"{done.stdout}{done.stderr}".encode())
            assert done.returncode == 1, done.stderr


def test_headoffices_own_password_is_in_nothing_that_is_said_of_it(
    office: Office, family: Family, postgresql: Postgresql, mariadb: Mariadb
) -> None:
    with den(office, postgresql, mariadb) as (made, search), Zygote(family.environ) as zygote:
        word = made.canaries["headoffice"]
        urls = [made.address(server, word) for server in made.servers]
        urls += [url.replace("127.0.0.1:", "127.0.0.1:x") for url in urls]
        urls += ["${credential:url}", "postgresql://leaky:${file:missing}@127.0.0.1/leaks"]
        for url in urls:
            made.configure(json.dumps(url))
            for arguments in (["status"], ["apply-all", "--debug"], ["init", "--json"], ["doctor"]):
                code, printed = zygote.run(office.folder, arguments, office.environment())
                search.look(f"{url}: {arguments}", printed.encode())
                assert code in (1, 69, 78), (code, printed)
