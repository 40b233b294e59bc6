"""What holds for the whole session."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from office import Office
from servers import Mariadb, Postgresql, running


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Under CI=true a skipped test fails the session: there, everything can be tested."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or os.environ.get("CI") != "true":
        return
    skipped = len(reporter.stats.get("skipped", ()))
    if skipped:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"CI=true allows no skips, and there were {skipped}", red=True)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """An initialised HeadOffice on SQLite without branches, and default settings."""
    office = Office(tmp_path)
    office.configure()
    office.init()
    return office


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgresql]:
    """A PostgreSQL server of our own; databases in it are the tests' to make."""
    folder = tmp_path_factory.mktemp("postgresql")
    # The account that the server runs as has to come through to its folder.
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    with running(Postgresql(folder)) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mariadb]:
    """A MariaDB server of our own; databases in it are the tests' to make."""
    server = Mariadb(tmp_path_factory.mktemp("mariadb"))
    with running(server):
        yield server


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]
