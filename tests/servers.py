"""Real database servers of our own: on loopback, on free ports, in a temporary directory."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self, TypeVar

from processes import children, lives, until

from branchmig.model import Provider


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find(program: str, *folders: str) -> Path | None:
    """A program on the path or where Debian puts it; of several versions the newest."""
    found = shutil.which(program)
    if found:
        return Path(found).resolve()
    for pattern in folders:
        matches = sorted(
            Path("/").glob(f"{pattern}/{program}"),
            key=lambda p: [int(n) for n in p.parts if n.isdigit()],
        )
        if matches:
            return matches[-1]
    return None


MISSING = "is not installed"


def leave_out(server: str, package: str) -> NoReturn:
    """Leave out the test that needs a server which is not there."""
    import pytest

    pytest.skip(f"{server} {MISSING}: apt install {package}")


@dataclass(frozen=True)
class Ran:
    """A statement that a server has run: in which session, and when, in seconds."""

    session: int
    began: float
    ended: float
    text: str


class Server:
    """One server process; `stop`, `kill` and `start` may be called at will."""

    provider: ClassVar[Provider]
    sessions: ClassVar[str]
    """What every session runs at this moment: columns id, db and info."""
    listing: ClassVar[str]

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._options = options
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def elsewhere(cls, port: int) -> Self:
        """A server that another process has started, to be asked only."""
        server = cls.__new__(cls)
        server.port = port
        return server

    def command(self) -> list[str]:
        raise NotImplementedError

    def connect(self, database: str | None = None, **options: Any) -> Any:
        raise NotImplementedError

    def query(self, statement: str, database: str | None = None) -> list[Any]:
        raise NotImplementedError

    def ready(self) -> bool:
        raise NotImplementedError

    @contextmanager
    def watched(self, database: str) -> Iterator[Callable[[], list[Ran]]]:
        """Within, sessions that begin in a database have their statements noted by the server."""
        raise NotImplementedError
        yield

    def databases(self) -> set[str]:
        """The names of those that there are."""
        return {str(name) for (name,) in self.query(self.listing)}

    def url(self, database: str) -> str:
        raise NotImplementedError

    def add_user(self, name: str, password: str) -> None:
        raise NotImplementedError

    def start(self) -> None:
        log = (self.folder / "server.log").open("ab")
        with log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, **self.account(),
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no server: {(self.folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.05)

    def account(self) -> dict[str, Any]:
        return {}

    def stop(self, signum: int = signal.SIGTERM) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signum)
            self.process.wait(60)

    def kill(self) -> None:
        """Every process of it, before any can end in good order."""
        if self.process and self.process.poll() is None:
            # Frozen, it starts no more; PostgreSQL's own are not in its group.
            os.kill(self.process.pid, signal.SIGSTOP)
            others = children(self.process.pid)
            for pid in (*others, self.process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(60)
            until(lambda: not any(map(lives, others)), "the end of the server's processes")


_LOGGED = re.compile(
    r"^(?P<ended>\S+ \S+) \S+ \[(?P<pid>\d+)\] LOG:  duration: (?P<duration>[\d.]+) ms  "
    r"(?:statement|execute [^:]*):\s+(?P<text>.*)$",
    re.MULTILINE,
)
"""Of a log_line_prefix as it is by default."""


class Postgresql(Server):
    """PostgreSQL; it refuses to run as root, so root lends it an account."""

    provider = Provider.POSTGRESQL
    host = "127.0.0.1"
    """Where a raw connection goes: an address, or the folder of a socket."""
    listing = "SELECT datname FROM pg_database"
    sessions = (
        "(SELECT pid AS id, datname AS db, query AS info FROM pg_stat_activity "
        "WHERE state = 'active' AND pid <> pg_backend_pid()) sessions"
    )

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder, *options)
        postgres = find("postgres", "usr/lib/postgresql/*/bin")
        initdb = find("initdb", "usr/lib/postgresql/*/bin")
        if not postgres or not initdb:
            leave_out("PostgreSQL", "postgresql")
        self._postgres = postgres
        self._data = folder / "data"
        if "user" in self.account():
            shutil.chown(folder, *self.account().values())
        subprocess.run(
            [initdb, "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync",
             "--locale=C.UTF-8"],
            check=True, stdout=subprocess.DEVNULL, cwd=folder, **self.account(),
        )  # fmt: skip
        # The first line that fits decides; everybody else is trusted.
        logins = self._data / "pg_hba.conf"
        guarded = "local all +guarded scram-sha-256\nhost all +guarded all scram-sha-256\n"
        logins.write_text(guarded + logins.read_text())

    def account(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        known = {entry.pw_name: entry for entry in pwd.getpwall()}
        entry = known.get("postgres") or known["nobody"]
        return {"user": entry.pw_uid, "group": entry.pw_gid}

    def command(self) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 200,
            "fsync": "off",
        }
        return [
            str(self._postgres), "-D", str(self._data),
            *(word for k, v in options.items() for word in ("-c", f"{k}={v}")),
            *self._options,
        ]  # fmt: skip

    def become_standby(self) -> None:
        """To be called while it is stopped: it starts as a replica that has lost its primary."""
        mark = self._data / "standby.signal"
        mark.touch()
        if "user" in self.account():
            shutil.chown(mark, *self.account().values())

    def connect(self, database: str | None = None, **options: Any) -> Any:
        """A raw connection of the driver's, in autocommit."""
        import psycopg

        return psycopg.connect(
            host=self.host, port=self.port, user="postgres", dbname=database or "postgres",
            autocommit=True, connect_timeout=5, **options,
        )  # fmt: skip

    def query(self, statement: str, database: str | None = None) -> list[Any]:
        """Run one statement as the superuser; rows as tuples."""
        with self.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def add_user(self, name: str, password: str) -> None:
        """An account that has to log in by its password, and may do nothing."""
        if not self.query("SELECT 1 FROM pg_roles WHERE rolname = 'guarded'"):
            self.query("CREATE ROLE guarded")
        quoted = password.replace("'", "''")
        self.query(f"CREATE ROLE {name} LOGIN IN ROLE guarded PASSWORD '{quoted}'")

    def ready(self) -> bool:
        import psycopg

        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    @contextmanager
    def watched(self, database: str) -> Iterator[Callable[[], list[Ran]]]:
        log = self.folder / "server.log"
        before = log.stat().st_size
        self.query(f"ALTER DATABASE {database} SET log_min_duration_statement = 0")

        def ran() -> list[Ran]:
            text = log.read_bytes()[before:].decode()
            found = []
            for line in _LOGGED.finditer(text):
                ended = datetime.fromisoformat(line["ended"]).timestamp()
                began = ended - float(line["duration"]) / 1000
                found.append(Ran(int(line["pid"]), began, ended, line["text"]))
            return found

        try:
            yield ran
        finally:
            self.query(f"ALTER DATABASE {database} RESET log_min_duration_statement")

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"


S = TypeVar("S", bound=Server)


@contextmanager
def running(server: S) -> Iterator[S]:
    """The server, started, and ended by its process id whatever happens."""
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def private(kind: type[S], *options: str) -> Iterator[S]:
    """A server of one's own, running; in a folder that no other session of tests clears or closes
    to its account."""
    folder = Path(tempfile.mkdtemp(prefix=f"{kind.__name__.lower()}-", dir="/tmp"))
    try:
        folder.chmod(0o755)
        with running(kind(folder, *options)) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Mariadb(Server):
    """MariaDB with a root that needs no password, on TCP and on a socket in its own folder."""

    provider = Provider.MYSQL
    listing = "SHOW DATABASES"
    sessions = "information_schema.processlist"

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder, *options)
        server = find("mariadbd", "usr/sbin", "usr/libexec")
        install = find("mariadb-install-db", "usr/bin")
        if not server or not install:
            leave_out("MariaDB", "mariadb-server")
        self._server = server
        self._data = folder / "data"
        # Of its own: several that are installed at once would remove each other's files there.
        self._scratch = folder / "tmp"
        self._scratch.mkdir()
        # Without this option the only way in would be the socket of the account that installs.
        subprocess.run(
            [install, "--no-defaults", f"--datadir={self._data}", "--skip-test-db",
             f"--tmpdir={self._scratch}", "--auth-root-authentication-method=normal",
             *self._account()],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder,
        )  # fmt: skip

    def _account(self) -> list[str]:
        return ["--user=root"] if os.geteuid() == 0 else []

    def command(self) -> list[str]:
        return [
            str(self._server), "--no-defaults", f"--datadir={self._data}",
            f"--tmpdir={self._scratch}", f"--socket={self.folder / 's.sock'}",
            f"--pid-file={self.folder / 'server.pid'}",
            f"--port={self.port}", "--bind-address=127.0.0.1", "--max-connections=200",
            # A killed server must still have what it committed; a power cut is not tested.
            "--innodb-flush-log-at-trx-commit=2", "--skip-log-bin",
            "--innodb-buffer-pool-size=64M", "--skip-name-resolve", "--performance-schema=OFF",
            *self._account(), *self._options,
        ]  # fmt: skip

    def connect(self, database: str = "", **options: Any) -> Any:
        """A raw connection of the driver's, in autocommit."""
        import pymysql

        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", database=database or None,
            autocommit=True, connect_timeout=5, ssl_disabled=True, **options,
        )  # fmt: skip

    def query(self, statement: str, database: str = "") -> list[Any]:
        """Run one statement as root; rows as tuples."""
        with self.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def add_user(self, name: str, password: str) -> None:
        """An account that has to log in by its password, and may do nothing."""
        import pymysql

        quoted = pymysql.converters.escape_string(password)
        self.query(f"CREATE USER {name}@'%' IDENTIFIED BY '{quoted}'")

    def ready(self) -> bool:
        import pymysql

        try:
            self.connect().close()
        except pymysql.MySQLError:
            return False
        return True

    @contextmanager
    def watched(self, database: str) -> Iterator[Callable[[], list[Ran]]]:
        settings = {"log_output": "'TABLE'", "slow_query_log": "1", "long_query_time": "0"}
        before = {name: self.query(f"SELECT @@global.{name}")[0][0] for name in settings}
        for name, value in settings.items():
            self.query(f"SET GLOBAL {name} = {value}")

        def ran() -> list[Ran]:
            rows = self.query(
                "SELECT thread_id, unix_timestamp(start_time), time_to_sec(query_time), sql_text "
                f"FROM mysql.slow_log WHERE db = '{database}'"
            )
            return [Ran(int(r[0]), float(r[1]), float(r[1] + r[2]), str(r[3])) for r in rows]

        try:
            yield ran
        finally:
            for name, value in before.items():
                self.query(f"SET GLOBAL {name} = {value!r}")

    def url(self, database: str) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/{database}"
