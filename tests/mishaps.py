"""Offices in which something is wrong, by chance, and a secret in every place for one."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from urllib.parse import quote

from canaries import canary
from office import HISTORIES, query
from receiver import Receiver
from servers import Mariadb, Postgresql, free_port

USER, DATABASE = "till", "shop"

_ENV = (HISTORIES / "linear" / "env.py").read_text()

_REVISION = """
from alembic import op

revision = "r1"
down_revision = None


def upgrade():
    url = op.get_bind().engine.url
    shown = url.render_as_string(hide_password=False)
    password = url.password or "nothing"
    {body}


def downgrade():
    {body}
"""

_HOOK = """#!/bin/sh
cat >>told
printenv BACKUP_TOKEN PGPASSWORD BRANCHMIG_SECRET_HOOK MY_KEY
cat "$CREDENTIALS_DIRECTORY"/* secrets/*
exit {code}
"""
"""Says all that it knows."""

EVENTS = ("before_run", "after_run", "before_branch", "after_branch", "on_failure", "on_halt")


@dataclass(frozen=True)
class Town:
    """The servers that all offices share."""

    postgresql: Postgresql
    mariadb: Mariadb
    pager: Receiver

    def prepare(self) -> None:
        """A database and its account, on both servers."""
        for server in (self.postgresql, self.mariadb):
            server.add_user(USER, "changed before each use")
        self.postgresql.query(f"CREATE DATABASE {DATABASE} OWNER {USER}")
        self.mariadb.query(f"CREATE DATABASE {DATABASE}")
        self.mariadb.query(f"GRANT ALL ON {DATABASE}.* TO {USER}@'%'")

    def login(self, engine: str, password: str) -> None:
        """From now on this is the account's password."""
        text = password.replace("\\", "\\\\").replace("'", "''")
        if engine == "mysql":
            self.mariadb.query(f"ALTER USER {USER}@'%' IDENTIFIED BY '{text}'")
        else:
            self.postgresql.query(f"ALTER ROLE {USER} PASSWORD E'{text}'")


@dataclass
class Mishap:
    """One office: its settings, environment and branches as they are put together."""

    random: Random
    folder: Path
    town: Town
    secrets: list[str] = field(default_factory=list)
    settings: dict[str, list[str]] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, str]] = field(default_factory=list)
    plain: set[str] = field(default_factory=set)
    """URLs that are stored with their passwords, since somebody put them there so."""
    headoffice: Path | None = None

    def __post_init__(self) -> None:
        for name in ("secrets", "credentials", "logs", "history/versions", "scripts/before"):
            (self.folder / name).mkdir(parents=True)
        self.settings["secrets"] = ['directory = "secrets"']
        self.environ["CREDENTIALS_DIRECTORY"] = str(self.folder / "credentials")
        self.environ["LOGS_DIRECTORY"] = str(self.folder / "logs")

    # Secrets --------------------------------------------------------------------------------------

    def secret(self, awkward: bool | None = None) -> str:
        made = canary(self.random, self.chance(0.5) if awkward is None else awkward)
        self.secrets.append(made)
        return made

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def reference(self, text: str) -> str:
        """Put a secret where a reference finds it, and give that."""
        name = f"S{self.random.getrandbits(32):08x}"
        match self.random.choice(("env", "file", "credential")):
            case "env":
                self.environ[f"BRANCHMIG_SECRET_{name}"] = text
                return f"${{env:BRANCHMIG_SECRET_{name}}}"
            case "file":
                (self.folder / "secrets" / name).write_text(text + "\n")
                return f"${{file:{name}}}"
            case _:
                (self.folder / "credentials" / name).write_text(text)
                return f"${{credential:{name}}}"

    def held(self, secret: str) -> str:
        """What stands in a URL for a secret: itself, or a reference."""
        return quote(secret, safe="") if self.chance(0.4) else self.reference(secret)

    def branch(self, url: str, engine: str) -> None:
        """A branch under this URL, or under a reference to all of it."""
        if self.chance(0.2):
            bare = url
            for name, value in self.environ.items():
                bare = bare.replace(f"${{env:{name}}}", quote(value, safe=""))
            for kind, place in (("file", "secrets"), ("credential", "credentials")):
                for file in (self.folder / place).iterdir():
                    text = quote(file.read_text().removesuffix("\n"), safe="")
                    bare = bare.replace(f"${{{kind}:{file.name}}}", text)
            url = self.reference(bare)
        self.rows.append({"code": f"BR{len(self.rows)}", "url": url, "provider": engine})
        self.plain.add(url)

    # Branches that fail ---------------------------------------------------------------------------

    def postgresql(self) -> None:
        password, port = self.held(self.secret()), self.town.postgresql.port
        there = f"127.0.0.1:{port}/{DATABASE}{len(self.rows)}"
        url = self.random.choice((
            f"postgresql://{USER}:{password}@{there}",
            f"postgresql://{USER}:{password}@{there}x",
            f"postgresql://postgres:{password}@127.0.0.1:{port}/nowhere{len(self.rows)}",
            f"postgresql://{USER}:{password}@127.0.0.1:{free_port()}/x",
            f"postgresql://{USER}:{password}@{there}?sslmode=require",
            f"postgresql://{USER}:{password}@{there}?sslmode=verify-full&sslrootcert=/nowhere",
            f"postgresql://{there}?user={USER}&password={password}",
            f"postgresql://{USER}:{password}@{there}?nonsense=1",
            f"postgresql://{USER}:{password}@{there}?connect_timeout=x",
        ))  # fmt: skip
        self.branch(url, "postgresql")

    def mariadb(self) -> None:
        password, port = self.held(self.secret()), self.town.mariadb.port
        there = f"127.0.0.1:{port}/{DATABASE}{len(self.rows)}"
        url = self.random.choice((
            f"mysql://{USER}:{password}@{there}",
            f"mysql://{USER}:{password}@{there}x",
            f"mysql://{USER}:{password}@127.0.0.1:{free_port()}/x",
            f"mysql://{USER}:{password}@{there}?ssl_ca=/nowhere",
            f"mysql://{USER}:{password}@{there}?ssl_verify_cert=true",
            f"mysql://{there}?user={USER}&password={password}",
            f"mysql://{USER}:{password}@{there}?charset=nonsense",
            f"mysql://{USER}:{password}@{there}?nonsense=1",
        ))  # fmt: skip
        self.branch(url, "mysql")

    def sqlserver(self) -> None:
        password = self.held(self.secret())
        self.branch(f"mssql://sa:{password}@127.0.0.1:{free_port()}/shop", "sqlserver")

    def sqlite(self) -> None:
        self.secret()
        (self.folder / "a-file").write_text("this is no folder, and no database")
        self.branch(
            self.random.choice(("sqlite:///a-file", f"sqlite:///a-file/{len(self.rows)}.db")),
            "sqlite",
        )

    # Work that fails ------------------------------------------------------------------------------

    def working(self) -> str:
        """A branch that can be reached. Gives its password."""
        engine = self.random.choice(("postgresql", "mysql", "sqlite"))
        secret = self.secret()
        if engine == "sqlite" or any(row["provider"] == engine for row in self.rows):
            self.branch(f"sqlite:///branches/good{len(self.rows)}.db", "sqlite")
            return secret
        self.town.login(engine, secret)
        server = self.town.mariadb if engine == "mysql" else self.town.postgresql
        where = f"127.0.0.1:{server.port}/{DATABASE}"
        self.branch(f"{engine}://{USER}:{self.held(secret)}@{where}", engine)
        return secret

    def revision(self) -> None:
        self.working()
        # Of what has a meaning in literals, in SQLAlchemy's text and to the driver, nothing.
        literal = repr(self.secret().translate(dict.fromkeys(map(ord, "'\":\\%"))))
        plainly = "shown.replace('%', '%%')"
        padding = "x" * self.random.randrange(330, 400)
        body = self.random.choice((
            'raise RuntimeError(f"cannot work on {shown}")',
            "raise RuntimeError(repr(password))",
            "raise ValueError({'url': shown, 'password': password})",
            "raise type(shown, (Exception,), {})(password)",
            f"op.get_bind().exec_driver_sql('SELECT nothing FROM nowhere -- ' + {plainly})",
            f"op.get_bind().exec_driver_sql('SELECT x FROM nowhere -- {padding} ' + {plainly})",
            f'op.execute("ALTER USER nobody IDENTIFIED BY {literal}")',
            f'op.execute("ALTER ROLE nobody PASSWORD {literal} nonsense")',
            f'op.execute("CREATE USER nobody WITH PASSWORD = {literal} nonsense {padding}")',
        ))  # fmt: skip
        self.history(body)

    def history(self, body: str) -> None:
        self.settings["migrations"] = ['script_location = "history"']
        (self.folder / "history" / "env.py").write_text(_ENV)
        text = _REVISION.format(body=body)
        (self.folder / "history" / "versions" / "r1.py").write_text(text)

    def script(self) -> None:
        self.working()
        self.history("pass")
        literal = self.secret().replace("'", "''").replace("\\", "\\\\")
        statement = self.random.choice((
            "ALTER USER nobody IDENTIFIED BY '{}' nonsense",
            "ALTER ROLE nobody PASSWORD '{}' nonsense",
            "ALTER USER nobody IDENTIFED BY '{}'", "CREATE USER nobody PASWORD '{}' LOGIN",
            "CREATE ROLE x LOGIN PASSWORD '{}", "SET PASSWORD FOR nobody = PASSWORD('{}')",
            "INSERT INTO nowhere (password) VALUES ('{}')",
            "CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (USER 'u', PASSWORD '{}')",
            "SELECT 1; nonsense postgresql://u:{}@127.0.0.1/d",
        ))  # fmt: skip
        self.settings["hooks"] = ['scripts = "scripts"']
        (self.folder / "scripts" / "before" / "1.sql").write_text(statement.format(literal))

    def hook(self) -> None:
        self.working()
        self.history("pass" if self.chance(0.5) else 'raise RuntimeError(f"cannot: {shown}")')
        name = self.random.choice(("BACKUP_TOKEN", "PGPASSWORD", "BRANCHMIG_SECRET_HOOK", "MY_KEY"))
        self.environ[name] = self.secret()
        (self.folder / "credentials" / "hook").write_text(self.secret())
        (self.folder / "secrets" / "hook").write_text(self.secret() + "\n")
        hook = self.folder / "hook"
        hook.write_text(_HOOK.format(code=self.random.choice((0, 3, 3, 3))))
        hook.chmod(0o755)
        events = self.random.sample(EVENTS, self.random.randint(1, len(EVENTS)))
        self.settings["hooks"] = [f'{event} = ["./hook"]' for event in events]

    def notify(self) -> None:
        self.random.choice((self.sqlite, self.postgresql, self.mariadb))()
        port, token = self.town.pager.server_port, self.secret(awkward=False)
        self.town.pager.status = self.random.choice((200, 200, 403, 500))
        password = self.held(self.secret())
        urls = self.random.sample((
            f"json://user:{password}@127.0.0.1:{port}/{token}",
            f"json://127.0.0.1:{port}/{token}?x={password}",
            f"jsons://user:{password}@127.0.0.1:{port}/{token}",
            f"xml://user:{password}@127.0.0.1:{free_port()}/{token}",
            f"mailto://user:{password}@127.0.0.1:{free_port()}?to=a@example.com",
            f"slack://{token}", f"nonsense://{token}/{password}", f"json://user:{token}@127.0.0.1:x/",
            f"{token}", self.reference(f"json://u:{token}@127.0.0.1:{port}/"),
        ), self.random.randint(1, 3))  # fmt: skip
        on = ["failure", "manual", "halt", "recovery", "digest"]
        self.settings["notify"] = [
            f"urls = {json.dumps(urls)}", f"on = {json.dumps(on)}", 'digest = "* * * * *"',
            "timeout = 10",
        ]  # fmt: skip

    # HeadOffice and the settings themselves -------------------------------------------------------

    def no_headoffice(self) -> None:
        """Of another kind, and not to be had."""
        password = self.held(self.secret())
        loose = self.secret()
        url = self.random.choice((
            f"postgresql://{USER}:{password}@127.0.0.1:{self.town.postgresql.port}/{DATABASE}",
            f"postgresql://{USER}:{password}@127.0.0.1:{free_port()}/h",
            f"mysql://{USER}:{password}@127.0.0.1:{self.town.mariadb.port}/{DATABASE}",
            f"mysql://{USER}:{password}@127.0.0.1:{self.town.mariadb.port}/x?nonsense=1",
            f"mssql://sa:{password}@127.0.0.1:{free_port()}/h",
            f"postgresql://{USER}:{loose}@127.0.0.1:x/h", f"oracle://u:{loose}@127.0.0.1/h",
            f"postgresql//u:{loose}@127.0.0.1/h", f"sqlite://u:{loose}@127.0.0.1/h.db",
            f"postgresql://u:{loose}@[::1/h", f"postgresql+nonsense://u:{loose}@127.0.0.1/h",
        ))  # fmt: skip
        if self.chance(0.3):
            url = self.reference(url)
        if self.chance(0.3):
            self.environ["BRANCHMIG_HEADOFFICE_URL"] = url
        else:
            self.settings["headoffice"] = [f"url = {json.dumps(url)}"]

    def broken_headoffice(self) -> None:
        """It can be read, and takes nothing, or holds what this program never wrote."""
        self.random.choice((self.postgresql, self.mariadb))()
        assert self.headoffice
        broken = self.random.choice((
            *(
                f"CREATE TRIGGER broken BEFORE {what} ON branchmig_{table} "
                "BEGIN SELECT RAISE(FAIL, 'no'); END"
                for what in ("INSERT", "UPDATE") for table in ("branches", "runs", "outcomes")
            ),
            "UPDATE branchmig_version SET version_num = 'x'",
            "INSERT INTO branchmig_branches VALUES ('x', 'X1', 'x1', 'X1', 'nonsense', "
            f"'postgresql://u:{self.loose()}@h/d', 'x', NULL, '[]', 1, '2026-01-01', '2026-01-01')",
            "INSERT INTO branchmig_branches VALUES ('x', 'X1', 'x1', 'X1', 'postgresql', "
            f"'postgresql://u:{self.loose()}@127.0.0.1:x/d', 'x', NULL, '[]', 1, '2026-01-01', "
            "'2026-01-01')",
            "INSERT INTO branchmig_branches VALUES ('x', 'X1', 'x1', 'X1', 'mysql', "
            f"'mysql://u:{self.loose()}@127.0.0.1:1/d', 'x', NULL, '{{bad', 1, '2026-01-01', "
            "'nonsense')",
        ))  # fmt: skip
        query(self.headoffice, broken)

    def loose(self) -> str:
        """A secret in a URL that somebody wrote with another tool."""
        secret = self.secret(awkward=False)
        self.plain.add(secret)
        return secret

    def bad_settings(self) -> None:
        secret = self.secret()
        text = json.dumps(f"postgresql://{USER}:{secret}@127.0.0.1/h", ensure_ascii=False)
        bare, more = json.dumps(secret), json.dumps(f"x {secret}")
        section, *lines = self.random.choice((
            ("headoffice", f"url = {text} nonsense"), ("headoffice", f"url = {text[:-1]}"),
            ("headoffice", f"url = {text}", f"url = {text}"), ("headoffice", f"url {text}"),
            ("headoffice", f"url = {text}", "urll = 1"), ("headoffice", f"urll = {text}"),
            ("headoffice", f"url = [{text}]"), ("headoffice", f"url = {{a = {text}}}"),
            ("hedoffice", f"url = {text}"), ("headoffice", f"{text} = 1"),
            ("headoffice", f"url = {bare}"), ("headoffice", f"url = [{bare}]"),
            ("hooks", f"before_run = {{a = {text}}}"), ("hooks", f"on_halt = [[{more}]]"),
            ("hooks", f"timeout = {text}"), ("notify", f"on = [{text}]"),
            ("notify", f"urls = {text}"), ("notify", f"urls = {bare}"),
            ("notify", f"urls = [[{bare}]]"), ("notify", f"digest = {text}"),
            ("notify", f"urls = [{text}]", "url = 1"), ("migrations.environ", f"X = [{bare}]"),
            ("migrations", f"environ = {bare}"), ("migrations", f"x_args = {text}"),
            ("migrations", f"script_location = {text}"), ("metrics", f"textfile = {text}"),
            ("secrets", f"directory = {text}"), ("run", f"workers = {text}"),
            ("schedule", f"windows = [{text}]"), ("rollout", f"canary = {text}"),
        ))  # fmt: skip
        self.settings[section] = lines
        name, _, value = lines[0].partition(" = ")
        if self.chance(0.2) and section != "hooks" and name.isidentifier():
            self.settings.pop(section)
            self.environ[f"BRANCHMIG_{section}_{name}".upper().replace(".", "_")] = value

    # ----------------------------------------------------------------------------------------------

    def configure(self) -> None:
        """Write the settings, and remember what has been put there on purpose."""
        self.settings.setdefault("run", ["connect_timeout = 2"])
        retry = [f"max_attempts = {self.random.choice((1, 9))}", "backoff_seconds = 0"]
        self.settings.setdefault("retry", retry)
        if self.chance(0.2):
            self.settings["metrics"] = ['textfile = "metrics.prom"']
        if self.chance(0.2):
            self.settings["rollout"] = ["canary = 1", "max_failures = 0"]
        lines = [t for name, lines in self.settings.items() for t in (f"[{name}]", *lines)]
        file = self.folder / "branchmig.toml"
        file.write_text("\n".join([*lines, ""]))
        file.chmod(0o644 if self.chance(0.03) else 0o640)

    def garbage(self) -> str:
        """A list of branches that cannot be read, with a password in it."""
        secret = self.secret()
        spelt = self.random.choice((secret, quote(secret, safe="")))
        url = f"postgresql://{USER}:{spelt}@127.0.0.1/d"
        return self.random.choice((
            f"code,url\n{url},BR9\n", f"{url}\n", f"code;url\nBR9;{url}\n", f"BR9,{url}\n",
            f"code,url,provider\nBR9,sqlite:///a.db,{url}\n",
            f"code,url,id\nBR9,sqlite:///a.db,{url}\n", f"code,urll\nBR9,{url}\n",
            f'code,url\nBR9,"{url}\nBR8,x', f"code,url\nBR9,{url},x,y,z\n",
            f"code,url\nBR9,{url}\nBR9,{url}\n", f"code,url,tags\nBR9,{url},[{url}\n",
            f"code,url\nBR9,{url.replace('://', ':/')}\n", f"code,url\nBR9,x{url}\n",
            f"code,url,provider\nBR9,{url},mysql\n", f"code,url,name\nBR9,{url},\x07\n",
            json.dumps([{"code": url, "url": "x"}]), json.dumps({"code": "BR9", "url": url}),
            json.dumps([{"code": "BR9", "url": [url]}]), json.dumps([{"code": "BR9", url: 1}]),
            json.dumps([{"code": "BR9", "url": url}])[:-3], json.dumps([url]),
            json.dumps([{"code": "BR9", "url": url, "id": url}]),
            json.dumps([{"code": "BR9", "url": "sqlite:///a.db", "provider": url}]),
        ))  # fmt: skip

    def line(self) -> str:
        """One URL that is none."""
        secret = self.secret()
        spelt = self.random.choice((secret, quote(secret, safe="")))
        return self.random.choice((
            f"postgresql://u:{spelt}@127.0.0.1:x/d", f"postgresql://u:{spelt}@[::1/d",
            f"postgresql//u:{spelt}@127.0.0.1/d", f"oracle://u:{spelt}@127.0.0.1/d",
            f"postgresql+x://u:{spelt}@127.0.0.1/d", f"u:{spelt}@127.0.0.1/d", f" {spelt}",
            f"postgresql://u:{spelt}@127.0.0.1", f"sqlite://u:{spelt}@h/x.db",
            f"mssql:///?odbc_connect=Driver%3Dx%3BPWD%3D{quote(secret, safe='')}",
            f"postgresql://u:{spelt}@127.0.0.1/d?password={spelt}&x=${{env:PATH}}",
            f"postgresql://${{env:PATH}}:{spelt}@127.0.0.1/d", f"${{file:{spelt}",
        )) + "\n"  # fmt: skip

    def stored(self) -> list[tuple[str, str]]:
        """Every value that HeadOffice has kept, with its place; URLs that were put there are not
        among them."""
        found: list[tuple[str, str]] = []
        if not self.headoffice or not self.headoffice.exists():
            return found
        with closing(sqlite3.connect(self.headoffice)) as connection:
            listing = "SELECT name FROM sqlite_master WHERE type = 'table'"
            for (table,) in connection.execute(listing).fetchall():
                rows = connection.execute(f"SELECT * FROM {table}")
                names = [column[0] for column in rows.description]
                for row in rows.fetchall():
                    found += [
                        (f"{table}.{name}", str(value))
                        for name, value in zip(names, row, strict=True)
                        if (table, name) != ("branchmig_branches", "url")
                        or ("${" in str(value) and value not in self.plain)
                    ]
        return found


MISHAPS: tuple[tuple[Callable[[Mishap], None], int], ...] = (
    (Mishap.postgresql, 5),
    (Mishap.mariadb, 5),
    (Mishap.sqlserver, 1),
    (Mishap.sqlite, 1),
    (Mishap.revision, 6),
    (Mishap.script, 4),
    (Mishap.hook, 5),
    (Mishap.notify, 2),
    (Mishap.no_headoffice, 4),
    (Mishap.broken_headoffice, 3),
    (Mishap.bad_settings, 6),
)
"""What may be wrong, and how often."""


def environment(mishap: Mishap) -> dict[str, str]:
    """What a command of this office is started with."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    settings = str(mishap.folder / "branchmig.toml")
    return {**kept, "BRANCHMIG_CONFIG": settings, "BRANCHMIG_RUN_WORKERS": "1", **mishap.environ}
