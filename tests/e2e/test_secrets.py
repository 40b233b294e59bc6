"""Secrets that are kept elsewhere: URLs refer to them, and the process that connects resolves them.

On real servers that ask for the password, which is one of those that a URL cannot hold as it is.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from office import Office
from servers import Postgresql, Server

PASSWORD = "p@ss/w:rd?#%+ '\"ü"
SETTINGS = '[migrations]\nscript_location = "linear"\n[secrets]\ndirectory = "secrets"\n'
HEADOFFICE = "[headoffice]\nurl = {url}\n"


@pytest.fixture
def vault(office: Office) -> Path:
    """The folder of secrets of an office with a history."""
    office.use_history("linear")
    office.configure(SETTINGS)
    folder = office.folder / "secrets"
    folder.mkdir()
    return folder


@pytest.fixture(params=["postgresql", "mariadb"])
def guarded(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server on which the account `keeper` wants PASSWORD, and may do everything."""
    server: Server = request.getfixturevalue(request.param)
    server.add_user("keeper", PASSWORD)
    if isinstance(server, Postgresql):
        server.query("ALTER ROLE keeper SUPERUSER")
    else:
        server.query("GRANT ALL ON *.* TO keeper@'%'")
    yield server
    for database in server.databases():
        if database.startswith("kept"):
            server.query(f"DROP DATABASE {database}")
    server.query("DROP ROLE keeper" if isinstance(server, Postgresql) else "DROP USER keeper@'%'")


def address(server: Server, password: str, database: str) -> str:
    engine = "postgresql" if isinstance(server, Postgresql) else "mysql"
    return f"{engine}://keeper:{password}@127.0.0.1:{server.port}/{database}"


def stored(office: Office) -> bytes:
    with closing(sqlite3.connect(office.folder / "headoffice.db")) as driver:
        return "\n".join(driver.iterdump()).encode()


def test_each_kind_of_reference_opens_a_branch_and_none_is_stored(
    office: Office, vault: Path, guarded: Server
) -> None:
    (vault / "north").write_text(f"{PASSWORD}\n")
    office.environ.update(BRANCHMIG_SECRET_X=PASSWORD, CREDENTIALS_DIRECTORY=str(vault))
    kinds = ("${env:BRANCHMIG_SECRET_X}", "${file:north}", "${credential:north}")
    for number, reference in enumerate(kinds):
        url = address(guarded, reference, f"kept{number}")
        said = office.run("branch", "add", f"BR{number}", "--url", url)
        assert reference in said.stdout
        assert "in the clear" not in said.stderr
    (vault / "whole").write_text(
        f"{guarded.provider}://keeper@127.0.0.1:{guarded.port}/kept3".replace(
            "keeper", "keeper:p%40ss%2Fw%3Ard%3F%23%25%2B%20%27%22%C3%BC"
        )
    )
    office.run(
        "branch", "add", "BR3", "--url", "${file:whole}", "--provider", guarded.provider.value
    )
    report = office.json("apply-all", "--debug")
    assert [row["verdict"] for row in report["branches"]] == ["migrated"] * 4
    office.run("validate")
    office.run("plan", "BR0")
    for word in (PASSWORD.encode(), b"p%40ss"):
        assert word not in stored(office)


def test_a_secret_that_is_missing_fails_its_branch_and_counts_against_nobody(
    office: Office, vault: Path
) -> None:
    office.add("BR001", "BR002")
    url = "postgresql://u:${file:north}@127.0.0.1:1/db"
    office.run("branch", "add", "BR003", "--url", url)
    report = office.json("apply-all", code=1)
    found = {r["branchCode"]: r for r in report["branches"]}
    assert [found[c]["verdict"] for c in ("BR001", "BR002")] == ["migrated"] * 2
    assert "${file:north} cannot be read: No such file" in found["BR003"]["errorMessage"]
    assert office.status("BR003")["retryCount"] == 0


def test_a_missing_secret_of_headoffice_ends_with_78(office: Office, vault: Path) -> None:
    for url, command in (
        ("${env:BRANCHMIG_SECRET_NO}", "init"),
        ("postgresql://u:${env:BRANCHMIG_SECRET_NO}@127.0.0.1/db", "apply-all"),
        ("${credential:no}", "status"),
    ):
        office.configure(HEADOFFICE.format(url=json.dumps(url)) + SETTINGS)
        said = office.run(command, code=78).stderr
        assert "[headoffice] url: ${" in said
        assert "Hint: " in said


def test_headoffice_is_opened_by_a_url_that_is_kept_elsewhere(office: Office, vault: Path) -> None:
    office.configure(HEADOFFICE.format(url='"${credential:url}"') + SETTINGS)
    office.environ["CREDENTIALS_DIRECTORY"] = str(vault)
    (vault / "url").write_text("sqlite:///elsewhere.db\n")
    office.run("init")
    assert (office.folder / "elsewhere.db").exists()
    said = office.run("branch", "add", "B1", "--url", "sqlite:///elsewhere.db", code=2).stderr
    assert "HeadOffice's own database" in said
    (vault / "url").write_text("hunter2://s3cretword")
    said = office.run("status", code=78).stderr
    assert "${credential:url} holds no URL of a database" in said
    assert "hunter2" not in said


def test_a_branch_reads_no_file_of_this_host_by_its_url(office: Office, vault: Path) -> None:
    """Whoever can write HeadOffice writes what `branch add` would not take."""
    (office.folder / "outside").write_text("canary-outside")
    (vault / "link").symlink_to(office.folder / "outside")
    (vault / "inside").write_text("canary-inside")
    office.add("BR001")
    office.environ["BRANCHMIG_OTHER"] = "canary-variable"
    for url in (
        "sqlite:///${file:inside}.db",
        "sqlite:///${file:../outside}.db",
        "sqlite:///${env:BRANCHMIG_OTHER}.db",
        "${file:link}",
        "${file:inside}",
    ):
        office.headoffice("UPDATE branchmig_branches SET url = ?", [url])
        done = office.run("apply", "BR001", "--debug", code=1)
        assert "canary" not in f"{done.stdout}{done.stderr}"
        assert b"canary" not in stored(office)
    assert not list(office.folder.rglob("*canary*"))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://u:${env:HOME}@h/db", "a variable that is no secret"),
        ("postgresql://u:${file:../x}@h/db", "does not stay in its folder"),
        ("postgresql://u:${vault:x}@h/db", "a password on the command line"),
        ("sqlite:///${file:x}.db", "a path is no secret"),
        ("${file:x}", "does not tell its engine"),
        ("postgresql://u:half${file:x}@h/db", "a password on the command line"),
    ],
)
def test_what_no_host_could_resolve_is_not_added(office: Office, url: str, says: str) -> None:
    assert says in office.run("branch", "add", "BR001", "--url", url, code=2).stderr


def test_two_branches_on_one_database_are_refused_whatever_their_passwords(
    office: Office, vault: Path
) -> None:
    office.run("branch", "add", "B1", "--url", "postgresql://u:${file:a}@h/db")
    said = office.run("branch", "add", "B2", "--url", "postgresql://u:${file:b}@h/db", code=2)
    assert "B1 is on the same database" in said.stderr
    office.run("branch", "add", "B3", "--url", "${file:whole}", "--provider", "mysql")
    whole = ("branch", "add", "B4", "--url", "${file:whole}", "--provider", "mysql")
    assert "B3 is on the same database" in office.run(*whole, code=2).stderr


def test_a_plain_password_is_warned_about_once_for_a_command(office: Office) -> None:
    rows = "".join(f"B{n},postgresql://u:s3cretword@h/db{n}\n" for n in range(3))
    said = office.run("branch", "import", "-", stdin=f"code,url\n{rows}").stderr
    assert said.count("in the clear") == 1
    assert "B0 and 2 others" in said
    assert "${file:" in said
    url = "postgresql://u:s3cretword@h/other\n"
    said = office.run("branch", "update", "B1", "--url", "-", stdin=url).stderr
    assert said.count("in the clear") == 1
    assert "in the clear" not in office.run("status").stderr


def test_settings_with_a_password_that_everybody_can_read_end_with_78(office: Office) -> None:
    office.configure(HEADOFFICE.format(url='"postgresql://u:s3cretword@127.0.0.1:1/db"'))
    office.settings.chmod(0o644)
    said = office.run("status", code=78).stderr
    assert f"chmod o-r {office.settings}" in said
    assert "s3cretword" not in said
    office.settings.chmod(0o640)
    office.run("status", code=69)
