"""What a URL may have a driver do, and what a server that lies gets of this host: nothing."""

from __future__ import annotations

import socket
import struct
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from office import Office
from servers import Mariadb, Postgresql

from branchmig.errors import BranchmigError, BranchUnusable, UsageError
from branchmig.model import VersionTable
from branchmig.providers import Limits, MigrationStrategy, provider_of, strategy_for
from branchmig.providers.mysql import MysqlStrategy

VERSION = VersionTable()

REFUSED = {
    "mysql://u@h/d?local_infile=1": "local_infile",
    "mysql://u@h/d?charset=utf8mb4&local_infile=0": "local_infile",
    "mysql://u@h/d?LOCAL_INFILE=1": "LOCAL_INFILE",
    "mysql://u@h/d?%6cocal_infile=1": "local_infile",
    "mysql://u@h/d?local_infile=1&local_infile=1": "local_infile",
    "mysql://u@h/d?read_default_file=/etc/shadow": "read_default_file",
    "mysql://u@h/d?read_default_group=client": "read_default_group",
    "mysql://u@h/d?init_command=SELECT": "init_command",
    "mysql://u@h/d?client_flag=128": "client_flag",
    "mysql://u@h/d?host=other": "host",
    "mysql://u@h/d?plugin=some": "plugin",
    "mysql+mysqldb://u@h/d?local_infile=1": "local_infile",
    "mysql+mysqlconnector://u@h/d": "mysqlconnector",
    "mariadb+mariadbconnector://u@h/d": "mariadbconnector",
    "mysql+pyodbc://u@h/d?odbc_connect=Driver=/x.so": "pyodbc",
    "postgresql://u@h/d?passfile=/home/other/.pgpass": "passfile",
    "postgresql://u@h/d?hostaddr=192.0.2.1": "hostaddr",
    "postgresql://u@h/d?service=other": "service",
    "postgresql://u@h/d?options=-csearch_path%3Dother": "options",
    "postgresql://u@h/d?dbname=other": "dbname",
    "postgresql+psycopg2://u@h/d?dsn=service%3Dother": "dsn",
    "postgresql://u@h/d?sslkey=dynamic:/x": "sslkey",
    "mssql://u@h/d?driver=/tmp/x.so": "driver",
    "mssql://u@h/d?Driver=/tmp/x.so": "Driver",
    "mssql://u@h/d?driver=../x.so": "driver",
    "mssql://u@h/d?driver=FreeTDS%7D;DumpFile%3D/x": "driver",
    "mssql://u@h/d?DumpFile=/tmp/x": "DumpFile",
    "mssql://u@h/d?DSN=other": "DSN",
    "mssql://u@h/d?odbc_connect=Driver%3D/tmp/x.so;Server%3Dh;Database%3Dd": "driver",
    "mssql://u@h/d?odbc_connect=Server%3Dh;Database%3Dd;DumpFile%3D/tmp/x": "DumpFile",
    "mssql://u@h/d?odbc_connect=Server%3Dh&odbc_connect=Database%3Dd": "odbc_connect",
}


def strategy_of(url: str) -> MigrationStrategy:
    return strategy_for(provider_of(url), Limits(connect_timeout=5, lock_timeout=1), Path())


@pytest.mark.parametrize(("url", "option"), REFUSED.items())
def test_what_could_give_away_a_file_or_load_a_library_is_refused_given_or_found(
    url: str, option: str
) -> None:
    strategy = strategy_of(url)
    with pytest.raises(UsageError, match=f"'{option}'") as given:
        strategy.check_url(url)
    assert given.value.hint
    strategy.identity(url)  # of one that is there already others can still be told apart
    for engine in (strategy.engine, strategy.read_engine):
        with pytest.raises(BranchUnusable, match=f"'{option}'"):
            engine(url)
    with pytest.raises(BranchUnusable, match=f"'{option}'"):
        strategy.inspect(url, VERSION)
    with pytest.raises(BranchUnusable, match=f"'{option}'"), strategy.connect(url):
        pass


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u@h/d?ssl_ca=/a.pem&ssl_cert=/c.pem&ssl_key=/k.pem&ssl_verify_cert=true",
        "mariadb+pymysql://u@/d?unix_socket=/run/s&charset=utf8mb4&connect_timeout=5",
        "mysql+mysqldb://u@h/d?ssl_mode=VERIFY_IDENTITY",
        "postgresql://u@/d?host=/run/postgresql&port=5433&application_name=x",
        "postgresql://u@/d?host=a:1&host=b:2&target_session_attrs=read-write",
        "postgresql://u@h/d?sslmode=verify-full&sslrootcert=/a&sslcert=/c&sslkey=/k",
        "postgresql+psycopg2://u@h/d?connect_timeout=5",
        "mssql://u@h/d?driver=ODBC+Driver+18+for+SQL+Server&Encrypt=strict",
        "mssql://u@h/d?driver=FreeTDS&tds_version=7.4&TrustServerCertificate=yes&port=1",
        "mssql://u@h/d?driver=mssql-python-odbc&ServerCertificate=/a.pem",
    ],
)
def test_what_a_url_says_of_sockets_time_and_tls_is_taken(url: str) -> None:
    strategy_of(url).check_url(url)


def test_the_command_line_names_the_option_and_those_that_are_known(office: Office) -> None:
    url = "mysql://u@127.0.0.1:1/d?local_infile=1"
    refused = office.run("branch", "add", "EV", "--url", url, code=2)
    assert "'local_infile'" in refused.stderr
    assert "ssl_ca" in refused.stderr
    office.run("branch", "import", "-", stdin=f"code,url\nEV,{url}\n", code=2)
    office.run(
        "branch", "add", "EV", "--url", "mysql://u@127.0.0.1:1/d?charset=${env:BRANCHMIG_SECRET_X}"
    )
    office.run("branch", "update", "EV", "--url", url, code=2)
    office.configure(f'[headoffice]\nurl = "{url}"\n')
    assert "'local_infile'" in office.run("status", code=78).stderr


def test_one_of_many_with_a_refused_option_is_not_looked_at_together(
    mariadb: Mariadb,
) -> None:
    urls = [f"{mariadb.url(name)}?local_infile=1" for name in ("mysql", "sys")]
    assert strategy_of(urls[0]).versions_together(urls, VERSION) == {}


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_the_name_of_a_database_is_no_list_of_options(
    postgresql: Postgresql, tmp_path: Path, driver: str
) -> None:
    name = f"host=127.0.0.2 passfile={tmp_path}/pass"
    url = sa.URL.create(
        f"postgresql+{driver}", "postgres", host="127.0.0.1", port=postgresql.port, database=name
    ).render_as_string()
    assert not strategy_of(url).inspect(url, VERSION).exists


def test_a_revision_cannot_send_a_file_of_this_host(mariadb: Mariadb, tmp_path: Path) -> None:
    url = mariadb.url(f"t_{uuid.uuid4().hex}")
    strategy = strategy_of(url)
    strategy.create(url)
    file = tmp_path / "rows.csv"
    file.write_text("private\n")
    with strategy.connect(url) as connection:
        connection.exec_driver_sql("CREATE TABLE t (a VARCHAR(20))")
        with pytest.raises(sa.exc.DBAPIError) as failed:
            connection.exec_driver_sql(f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE t")
        assert connection.exec_driver_sql("SELECT count(*) FROM t").scalar() == 0
    said = strategy.explain(failed.value, url)
    assert isinstance(said, BranchUnusable)
    assert "LOAD DATA LOCAL is never allowed" in said.message
    assert "bulk_insert" in str(said.hint)


@pytest.mark.parametrize("key", ["password", "sslpassword"])
def test_a_password_among_the_options_is_masked_wherever_it_turns_up(key: str) -> None:
    url = f"postgresql://u@127.0.0.1:1/d?target_session_attrs=correct-horse&{key}=correct-horse"
    with pytest.raises(BranchmigError, match="invalid target_session_attrs") as failed:
        strategy_of(url).inspect(url, VERSION)
    assert "correct-horse" not in failed.value.message


# A server that lies ------------------------------------------------------------------------------

_HANDSHAKE = (
    b"\x0a8.0.36\0" + struct.pack("<I", 1) + b"12345678\0" + b"\xff\xf7\xff\x02\0\xff\xc1\x15"
    + b"\0" * 10 + b"123456789012\0mysql_native_password\0"
)  # fmt: skip
_OK = b"\0\0\0\2\0\0\0"


@dataclass
class Rogue:
    """Lets everybody in and answers what it is asked, from the question `patience` on, by asking
    for a file."""

    file: Path
    patience: int
    listener: socket.socket = field(
        default_factory=lambda: socket.create_server(("127.0.0.1", 0), backlog=8)
    )
    asked: int = 0
    got: bytes = b""

    @property
    def url(self) -> str:
        return f"mysql://u@127.0.0.1:{self.listener.getsockname()[1]}/d"

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return  # closed: the test is over
            with client, client.makefile("rwb") as stream:
                self._answer(stream)

    def _answer(self, stream: Any) -> None:
        self._send(stream, 0, _HANDSHAKE)
        self._receive(stream)
        self._send(stream, 2, _OK)
        questions = 0
        while self._receive(stream):
            questions += 1
            if questions <= self.patience:
                self._send(stream, 1, _OK)
                continue
            self.asked += 1
            self._send(stream, 1, b"\xfb" + str(self.file).encode())
            while sent := self._receive(stream):
                self.got += sent
            return

    def _receive(self, stream: Any) -> bytes:
        try:
            head = stream.read(4)
            return bytes(stream.read(int.from_bytes(head[:3], "little"))) if head else b""
        except OSError:
            return b""

    def _send(self, stream: Any, number: int, body: bytes) -> None:
        stream.write(struct.pack("<I", len(body))[:3] + bytes([number]) + body)
        stream.flush()


@pytest.fixture(params=range(4))
def rogue(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Rogue]:
    (tmp_path / "private").write_text("private")
    made = Rogue(tmp_path / "private", request.param)
    thread = threading.Thread(target=made.serve, daemon=True)
    thread.start()
    with closing(made.listener):
        yield made
        made.listener.shutdown(socket.SHUT_RDWR)
    thread.join(30)


def test_a_server_that_asks_for_a_file_gets_none(rogue: Rogue) -> None:
    strategy = MysqlStrategy(Limits(connect_timeout=2, lock_timeout=1), Path())
    with suppress(BranchmigError):
        strategy.inspect(rogue.url, VERSION)
    with suppress(BranchmigError, sa.exc.DBAPIError), strategy.connect(rogue.url) as connection:
        for _ in range(4):
            connection.exec_driver_sql("UPDATE t SET a = 1")
    assert rogue.asked
    assert b"private" not in rogue.got


@pytest.mark.parametrize("rogue", [0], indirect=True)
def test_a_server_that_asks_for_a_file_is_named(rogue: Rogue) -> None:
    with pytest.raises(BranchUnusable, match="asked for a file of this host and got none") as found:
        strategy_of(rogue.url).inspect(rogue.url, VERSION)
    assert found.value.hint
    assert rogue.url.partition("@")[2].partition(":")[0] in found.value.message
