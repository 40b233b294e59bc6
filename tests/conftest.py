"""What holds for the whole session."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from office import Office
from processes import Family


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
