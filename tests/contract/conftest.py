"""What the contracts are held against: one HeadOffice on each engine."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import sqlserver
from servers import Server

from branchmig.config import Settings
from branchmig.headoffice import open_store, upgrade
from branchmig.store import Store

OpenStore = Callable[[], Store]


@pytest.fixture(params=["sqlite", "postgresql", "mariadb", *sqlserver.DRIVERS])
def headoffice_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of each engine that HeadOffice may live on."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'headoffice.db'}"
    elif request.param in sqlserver.DRIVERS:
        url = sqlserver.server_url(request.param, f"h_{uuid.uuid4().hex}")
        yield url
        sqlserver.drop(url)
    else:
        server: Server = request.getfixturevalue(request.param)
        yield server.url(f"h_{uuid.uuid4().hex}")


@pytest.fixture
def another_store(headoffice_url: str, tmp_path: Path) -> Iterator[OpenStore]:
    """Opens HeadOffice as one more client, as another host or process would."""
    settings = Settings(
        file=tmp_path / "branchmig.toml",
        headoffice={"url": headoffice_url},
        run={"lock_timeout": 30},
    )
    upgrade(settings)
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(open_store(settings)))


@pytest.fixture
def store(another_store: OpenStore) -> Store:
    return another_store()
