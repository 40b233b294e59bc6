"""What holds for the whole session."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import sqlserver
from office import Office
from processes import Family
from servers import MISSING, Mariadb, Postgresql, private

from branchmig import masking

LONGEST = (
    *("test_real_histories.py", "test_chaos.py", "test_two_machines.py"),
    *("test_kills.py", "test_server_kills.py", "test_bad_servers.py"),
    *("test_systemd.py", "test_going_back.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest come first, or the run would end with one process waiting for another."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Under CI=true a skipped test fails the session: there, everything can be tested but what
    needs a server that nobody can install."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or os.environ.get("CI") != "true":
        return
    skipped = sum(sqlserver.LEFT_OUT not in reason(r) for r in reporter.stats.get("skipped", ()))
    if skipped:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"CI=true allows no skips, and there were {skipped}", red=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """However many tests a missing server leaves out, its reason is one line of the summary."""
    report = yield
    for sign, place in ((MISSING, "tests/servers.py"), (sqlserver.LEFT_OUT, "tests/sqlserver.py")):
        if report.skipped and sign in reason(report):
            report.longrepr = (place, 0, reason(report))
    return report


def reason(report: pytest.TestReport) -> str:
    """Why a test was left out."""
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password of one test, a common word, must not be masked in what the next one reads."""
    monkeypatch.setattr(masking, "_known", set())
    monkeypatch.setattr(masking, "_lengths", {})


@pytest.fixture(scope="session")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What `init` makes, once for all tests that begin with it."""
    office = Office(tmp_path_factory.mktemp("office"))
    office.configure()
    office.init()
    return (office.folder / "headoffice.db").read_bytes()


@pytest.fixture
def office(tmp_path: Path, initialised: bytes) -> Office:
    """An initialised HeadOffice on SQLite without branches, and default settings."""
    office = Office(tmp_path)
    office.configure()
    (tmp_path / "headoffice.db").write_bytes(initialised)
    return office


@pytest.fixture
def family(office: Office) -> Iterator[Family]:
    """The processes that `office` starts. None may outlive the test."""
    family = Family()
    office.environ.update(family.environ)
    yield family
    try:
        family.gone()
    finally:
        family.end()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    """A PostgreSQL server of our own; databases in it are the tests' to make."""
    with private(Postgresql) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Mariadb]:
    """A MariaDB server of our own; databases in it are the tests' to make."""
    with private(Mariadb) as server:
        yield server


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]
