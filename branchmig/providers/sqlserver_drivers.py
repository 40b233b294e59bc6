"""Which ODBC driver leads to SQL Server, and what a URL has to say to each of them.

The first found of Microsoft's drivers 18 and 17, the copy of 18 that a Python package carries, and
FreeTDS. Certificate checks are never switched off here: what a URL says of TLS goes to the driver.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import platform
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL

from ..errors import DriverMissing, UsageError
from ..masking import remember
from .connections import parsed

CHOICES = (
    "pip install 'branchmig[sqlserver]' (Microsoft's driver 18, under its licence) with Debian's "
    "unixodbc libkrb5-3 libgssapi-krb5-2 libltdl7; or Microsoft's msodbcsql18; or FreeTDS: "
    "apt install unixodbc tdsodbc"
)

_MICROSOFT = ("ODBC Driver 18 for SQL Server", "ODBC Driver 17 for SQL Server")
_FREETDS = "FreeTDS"

PACKAGED = "mssql-python-odbc"
"""What the package's driver is called in a URL: by the path of its library none is taken there."""

_PACKAGE = "mssql_python_odbc"
_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
_FAMILIES = (
    ("alpine", ("alpine",)),
    ("rhel", ("rhel", "fedora", "centos")),
    ("suse", ("suse", "sles", "opensuse")),
)
"""The package's folders by what os-release(5) calls a distribution; any other: debian_ubuntu."""

_ENCRYPTION = {
    "yes": "require",
    "true": "require",
    "mandatory": "require",
    "strict": "strict",
    "no": "request",
    "false": "request",
    "optional": "request",
}
"""Microsoft's words for `Encrypt` in FreeTDS's, which would pass over a keyword it does not know
and go on in the clear."""

_ODBC_NAMES = {
    "server": "host",
    "address": "host",
    "addr": "host",
    "database": "database",
    "uid": "username",
    "user": "username",
    "pwd": "password",
    "password": "password",
    "port": "port",
}

_PAIR = re.compile(r"\s*(?P<key>[^=;]+?)\s*=\s*(?P<value>\{(?:[^}]|\}\})*\}|[^;]*)\s*(?:;|$)")


@dataclass(frozen=True, slots=True)
class Driver:
    """An ODBC driver by its name in odbcinst.ini, or by the path of its library."""

    name: str

    @property
    def is_freetds(self) -> bool:
        name = self.name.lower()
        return "freetds" in name or "tdsodbc" in name


def load_odbc() -> Any:
    """The module that all of it goes through. Raises DriverMissing."""
    try:
        module: Any = importlib.import_module("pyodbc")
    except ImportError as error:
        raise DriverMissing(
            f"what leads to SQL Server is not installed: {error}", CHOICES
        ) from None
    # The driver manager would keep closed sessions, and with them their locks.
    module.pooling = False
    return module


def driver_of(url: URL) -> Driver:
    """The driver that a URL names, otherwise the first found. Raises DriverMissing."""
    named = url.query.get("driver")
    if named == PACKAGED:
        library = packaged()
        if library is None:
            raise DriverMissing(f"the driver of {PACKAGED} is not installed", CHOICES)
        return Driver(str(library))
    if isinstance(named, str) and named:
        return Driver(named)
    return discovered()


@cache
def discovered() -> Driver:
    """The first driver of this machine. Raises DriverMissing."""
    return choose(load_odbc().drivers(), packaged())


def choose(registered: Sequence[str], library: Path | None) -> Driver:
    """The best of the drivers that unixODBC knows and the library of the package.

    Raises DriverMissing.
    """
    microsoft = next((name for name in _MICROSOFT if name in registered), None)
    if microsoft:
        return Driver(microsoft)
    unloadable = _unloadable(library) if library else None
    if library and not unloadable:
        return Driver(str(library))
    if _FREETDS in registered:
        return Driver(_FREETDS)
    found = f": {library} cannot be loaded: {unloadable}" if unloadable else ""
    raise DriverMissing(f"no ODBC driver for SQL Server was found{found}", CHOICES)


def packaged() -> Path | None:
    """The library of Microsoft's driver in the Python package, where that is installed."""
    found = importlib.util.find_spec(_PACKAGE)
    machine = _MACHINES.get(platform.machine().lower())
    if found is None or found.origin is None or machine is None:
        return None
    libraries = Path(found.origin).parent / "libs" / "linux" / _family() / machine / "lib"
    return max(libraries.glob("libmsodbcsql-*.so.*"), default=None)


def _family() -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    words = f"{release.get('ID', '')} {release.get('ID_LIKE', '')}".lower()
    for folder, names in _FAMILIES:
        if any(name in words for name in names):
            return folder
    return "debian_ubuntu"


def _unloadable(library: Path) -> str | None:
    """Why a library cannot be loaded: most often it needs others that are not there."""
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return None


# URLs -------------------------------------------------------------------------------------------


def address(url: str) -> URL:
    """A URL in its parts, also where it carries an ODBC connection string. Raises UsageError."""
    given = parsed(url, "pyodbc")
    if given.get_driver_name() != "pyodbc":
        raise UsageError(
            f"unknown driver in the URL: {given.drivername}", "mssql:// or mssql+pyodbc://"
        )
    text = given.query.get("odbc_connect")
    return from_connection_string(text) if isinstance(text, str) else given


def from_connection_string(text: str) -> URL:
    """What an ODBC connection string says, as a URL. Raises UsageError: it hides the server."""
    parts: dict[str, Any] = {}
    query: dict[str, str] = {}
    for pair in _PAIR.finditer(text):
        key, value = pair["key"].lower(), pair["value"].strip()
        if value.startswith("{"):
            value = value[1:-1].replace("}}", "}")
        if key == "driver":
            query["driver"] = value
        elif key in ("dsn", "filedsn"):
            raise UsageError(
                "a DSN does not say which server and database it means",
                "name both in the URL: mssql://USER@HOST/DATABASE",
            )
        elif key in _ODBC_NAMES:
            parts[_ODBC_NAMES[key]] = value
        elif key != "trusted_connection":
            query[pair["key"]] = value
    remember(parts.get("password"))
    host, _, port = str(parts.get("host", "")).partition(",")
    parts["host"] = host.strip().removeprefix("tcp:") or None
    parts["port"] = _number(port.strip() or parts.get("port"))
    return URL.create("mssql+pyodbc", query=query, **parts)


def _number(text: str | None) -> int | None:
    if not text:
        return None
    if not text.isdigit():
        raise UsageError(f"the port is no number: {text}", "mssql://USER@HOST:1433/DATABASE")
    return int(text)


def port_of(url: URL) -> int:
    given = url.query.get("port")
    return url.port or (int(given) if isinstance(given, str) and given.isdigit() else 1433)


def for_driver(url: URL, driver: Driver) -> URL:
    """The URL as the driver wants it; what it says itself is left as it is."""
    query: Mapping[str, Any] = {"APP": "branchmig", **url.query, "driver": driver.name}
    if not driver.is_freetds:
        # Driver 17 and 18 reconnect an idle session on their own, and would go on without a lock.
        return url.set(query={"ConnectRetryCount": "0", **query})
    given = {key.lower(): key for key in query}
    settings = {"TDS_Version": "7.4", "ClientCharset": "UTF-8"}
    missing = {key: value for key, value in settings.items() if key.lower() not in given}
    rest = {key: value for key, value in query.items() if key.lower() != "encrypt"}
    if "encrypt" in given and "encryption" not in given:
        said = str(query[given["encrypt"]]).lower()
        rest["Encryption"] = _ENCRYPTION.get(said, said)
    # As a keyword of its own: FreeTDS does not understand HOST,PORT.
    return url.set(port=None, query={**rest, **missing, "port": str(port_of(url))})


# Connecting -------------------------------------------------------------------------------------


def within(seconds: float, connect: Callable[[], Any], late: Callable[[], Exception]) -> Any:
    """What `connect` gives, or raises; `late` makes what is raised after `seconds`.

    The drivers' own limit does not hold always: not with `Encrypt=strict` against a server that
    cannot, not with a version of the protocol that FreeTDS has to find out. A connection that comes
    too late is closed.
    """
    results: list[Any] = []
    failures: list[BaseException] = []
    given_up = threading.Event()
    ended = threading.Event()
    turn = threading.Lock()

    def run() -> None:
        try:
            opened = connect()
        except BaseException as error:
            failures.append(error)
        else:
            with turn:
                results.append(opened)
                if given_up.is_set():
                    with closing(opened):
                        pass
        ended.set()

    threading.Thread(target=run, name="connecting", daemon=True).start()
    ended.wait(seconds)
    with turn:
        if results:
            return results[0]
        given_up.set()
    raise failures[0] if failures else late()
