"""`make services`: the servers of the tests for a person's own use."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from office import Office
from processes import until

SERVICES = Path(__file__).parent.parent / "services.py"


@pytest.mark.usefixtures("postgresql", "mariadb")
def test_the_urls_that_are_shown_serve_a_fleet_until_the_servers_are_ended(office: Office) -> None:
    with subprocess.Popen(
        [sys.executable, SERVICES], stdout=subprocess.PIPE, text=True
    ) as services:
        assert services.stdout is not None
        try:
            urls = [services.stdout.readline().strip() for _ in range(2)]
            for number, url in enumerate(urls):
                office.run("branch", "add", f"BR{number}", "--url", url.replace("NAME", "shop"))
            assert office.json("apply-all")["branchesSucceeded"] == 2
        finally:
            services.send_signal(signal.SIGINT)
    for url in urls:
        port = sa.make_url(url).port
        assert port is not None
        until(lambda port=port: not listens(port), "the end of the servers")  # type: ignore[misc]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
