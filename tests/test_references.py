"""What references in URLs stand for, and what they can never be made to give away."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from branchmig.config import Settings
from branchmig.errors import SecretMissing
from branchmig.masking import has_password, mask, mask_url
from branchmig.references import blind, is_whole, resolve

AWKWARD = "p@ss:w/o?r#d%40 +&é"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "secrets").mkdir()
    return Settings(file=tmp_path / "branchmig.toml", secrets={"directory": "secrets"})


def resolved(text: str, settings: Settings, **environ: str) -> str:
    return resolve(text, settings, environ)


def refused(text: str, settings: Settings, **environ: str) -> SecretMissing:
    with pytest.raises(SecretMissing) as caught:
        resolve(text, settings, environ)
    assert caught.value.hint
    return caught.value


def secret(settings: Settings, name: str, text: str = AWKWARD) -> Path:
    file = settings.folder / "secrets" / name
    file.write_text(text)
    return file


def test_a_url_without_references_is_left_alone(settings: Settings) -> None:
    url = "postgresql://u:p%40@h/d?x=$y&z={a}"
    assert resolved(url, settings) == url


def test_a_secret_within_a_url_may_hold_any_character(settings: Settings) -> None:
    secret(settings, "north", AWKWARD + "\n")
    for reference, environ in (
        ("${file:north}", {}),
        ("${env:BRANCHMIG_SECRET_NORTH}", {"BRANCHMIG_SECRET_NORTH": AWKWARD}),
        ("${credential:north}", {"CREDENTIALS_DIRECTORY": str(settings.folder / "secrets")}),
    ):
        url = make_url(resolved(f"postgresql://u:{reference}@h/d", settings, **environ))
        assert (url.username, url.password, url.host, url.database) == ("u", AWKWARD, "h", "d")


def test_a_whole_url_may_be_a_secret_and_is_taken_as_it_is(settings: Settings) -> None:
    secret(settings, "url", "mysql://u:p%40ss@h/d\r\n")
    assert resolved("${file:url}", settings) == "mysql://u:p%40ss@h/d"
    assert "p%40ss" not in mask("failed: p%40ss")
    assert "p@ss" not in mask("failed: p@ss")


def test_what_was_resolved_is_masked_from_then_on(settings: Settings) -> None:
    secret(settings, "north", "canary-7f3a")
    resolved("postgresql://u:${file:north}@h/d", settings)
    assert mask("login failed: canary-7f3a") == "login failed: ***"


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "branchmig_secret_x", "BRANCHMIG_HEADOFFICE_URL", "", "PGPASSWORD"]
)
def test_of_the_environment_only_secrets_can_be_named(settings: Settings, name: str) -> None:
    error = refused(f"sqlite:///${{env:{name}}}", settings, **({name: "taboo"} if name else {}))
    assert "BRANCHMIG_SECRET_" in (error.hint or "")
    assert "taboo" not in error.message


@pytest.mark.parametrize(
    "path",
    [
        "../branchmig.toml", "/etc/passwd", "a/../../branchmig.toml", "link", "deep/link",
        "%2e%2e/branchmig.toml", "", ".", "nowhere", "no\0thing",
    ],
)  # fmt: skip
def test_no_file_outside_of_the_folder_can_be_named(settings: Settings, path: str) -> None:
    settings.file.write_text("taboo")
    folder = settings.folder / "secrets"
    (folder / "a").mkdir()
    (folder / "deep").symlink_to(settings.folder)
    (settings.folder / "link").write_text("taboo")
    (folder / "link").symlink_to(settings.file)
    assert "taboo" not in refused(f"${{file:{path}}}", settings).message


def test_a_link_within_the_folder_is_followed(settings: Settings) -> None:
    secret(settings, "2026", "fresh")
    (settings.folder / "secrets" / "current").symlink_to("2026")
    assert resolved("${file:current}", settings) == "fresh"


@pytest.mark.parametrize("name", ["../north", "a/b", "..", ".", ""])
def test_no_credential_leads_out_of_its_folder(settings: Settings, name: str) -> None:
    secret(settings, "north", "taboo")
    (settings.folder / "secrets" / "sub").mkdir()
    folder = str(settings.folder / "secrets" / "sub")
    refused(f"${{credential:{name}}}", settings, CREDENTIALS_DIRECTORY=folder)


def test_without_a_folder_no_file_can_be_named(tmp_path: Path) -> None:
    given = Settings(file=tmp_path / "branchmig.toml")
    assert "[secrets] directory" in (refused("${file:x}", given).hint or "")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a\0b", b"x" * 70_000])
def test_what_is_no_text_for_a_url_is_refused_without_being_quoted(
    settings: Settings, content: bytes
) -> None:
    (settings.folder / "secrets" / "odd").write_bytes(content)
    assert "x" * 50 not in str(refused("${file:odd}", settings).message)


def test_a_missing_secret_is_named_by_its_reference(settings: Settings) -> None:
    for reference in ("${env:BRANCHMIG_SECRET_X}", "${file:x}", "${credential:x}"):
        assert reference in refused(f"mysql://u:{reference}@h/d", settings).message


def test_a_reference_is_no_password_and_may_be_shown() -> None:
    url = "postgresql://u:${credential:north}@h/d"
    assert not has_password(url)
    assert mask_url(url) == url
    assert mask(f"added {url}") == f"added {url}"
    assert has_password("postgresql://u:x${credential:north}@h/d")
    assert has_password("postgresql://h/d?password=plain")
    assert not has_password("postgresql://h/d?password=${file:north}")


def test_of_a_url_the_rest_is_known_without_its_secrets() -> None:
    one, other = (blind(f"mysql://u:p@${{env:H{n}}}:3306/d") for n in (1, 2))
    assert make_url(one).database == "d"
    assert one != other
    assert blind("${file:a}") == blind("${file:a}")
    assert is_whole("${file:a}")
    assert not is_whole("mysql://u:${file:a}@h/d")


@pytest.mark.parametrize("text", ["$", "${", "${x:y}", "${env}", "$${", "${file:${file:a}}"])
def test_what_only_looks_like_a_reference_ends_well(settings: Settings, text: str) -> None:
    try:
        assert resolved(text, settings) == text
    except SecretMissing as error:
        assert "a" in error.message  # noqa: PT017


# By the program -----------------------------------------------------------------------------------


def test_a_branch_is_migrated_with_a_secret_of_this_host_which_headoffice_never_sees(
    office: Any, postgresql: Any
) -> None:
    name, user = f"r_{os.getpid()}", f"u{os.urandom(4).hex()}"
    postgresql.add_user(user, AWKWARD.replace("é", "e"))
    postgresql.query(f'CREATE DATABASE "{name}" OWNER "{user}"')
    address = make_url(postgresql.url(name))
    url = f"postgresql://{user}:${{env:BRANCHMIG_SECRET_TILL}}@{address.host}:{address.port}/{name}"
    assert "Warning" not in office.run("branch", "add", "BR001", "--url", url).stderr
    (stored,) = office.headoffice("SELECT url FROM branchmig_branches")
    assert stored == (url,)
    given = {"BRANCHMIG_SECRET_TILL": AWKWARD.replace("é", "e")}
    assert office.json("apply-all", **given)["success"]
    assert office.json("validate", "BR001", **given)["isValid"]
    assert office.json("branch", "show", "BR001")["url"] == url
    (row,) = office.json("plan", "--all", code=1)
    assert "${env:BRANCHMIG_SECRET_TILL} is not there" in row["error"]["message"]


def test_a_missing_secret_fails_its_branch_alone_and_counts_against_nobody(office: Any) -> None:
    office.add("BR001")
    office.run("branch", "add", "BR002", "--provider", "postgresql", "--url", "${file:nowhere}")
    rows = {row["branchCode"]: row for row in office.json("apply-all", code=1)["branches"]}
    assert rows["BR001"]["verdict"] == "migrated"
    assert (rows["BR002"]["verdict"], rows["BR002"]["errorType"]) == ("failed", "SecretMissing")
    state = office.status("BR002")
    assert (state["status"], state["retryCount"], state["isLocked"]) == ("Pending", 0, False)


def test_a_host_without_the_secret_leaves_a_healthy_fleet_as_it_is(
    office: Any, postgresql: Any
) -> None:
    url = "${env:BRANCHMIG_SECRET_URL}"
    office.run("branch", "add", "BR001", "--provider", "postgresql", "--url", url)
    given = {"BRANCHMIG_SECRET_URL": postgresql.url(f"r_{os.urandom(4).hex()}")}
    office.run("apply-all", **given)
    for _ in range(3):
        assert "is not there" in office.run("apply-all", code=1).stderr
        assert office.run("apply", "BR001", code=1)
    state = office.status("BR001")
    assert (state["status"], state["retryCount"]) == ("Completed", 0)
    assert office.json("apply-all", **given)["success"]


def test_headoffice_itself_may_be_a_secret(office: Any, postgresql: Any) -> None:
    office.configure('[headoffice]\nurl = "${env:BRANCHMIG_SECRET_HEADOFFICE}"\n')
    document = office.json("status", code=78)
    assert document["error"]["message"].startswith("[headoffice] url: ${env:BRANCHMIG_SECRET_")
    given = {"BRANCHMIG_SECRET_HEADOFFICE": postgresql.url(f"h_{os.urandom(4).hex()}")}
    office.run("init", **given)
    assert office.json("status", **given) == []


def test_two_branches_with_one_reference_are_on_one_database(office: Any) -> None:
    office.run("branch", "add", "A", "--provider", "mysql", "--url", "${file:north}")
    done = office.run("branch", "add", "B", "--provider", "mysql", "--url", "${file:north}", code=2)
    assert "on the same database" in done.stderr
    done = office.run("branch", "add", "C", "--url", "${file:south}", code=2)
    assert "does not tell its engine" in done.stderr
