"""References to secrets in URLs: `${env:NAME}`, `${file:PATH}`, `${credential:NAME}`.

Floor 3. A URL is stored and passed on with its references; what they stand for is read at the last
moment, on the host that connects, and masked from then on. Whoever can write HeadOffice writes the
URLs of branches, and must not read this host by them: of the environment only what begins with
`BRANCHMIG_SECRET_`, of the files only those below `[secrets] directory`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from .config import Settings
from .errors import SecretMissing, UsageError
from .masking import REFERENCE, remember, remember_url, remember_words

PREFIX = "BRANCHMIG_SECRET_"

_CREDENTIAL = re.compile(r"[A-Za-z0-9._-]{1,255}")
"""A credential's name is a file's (systemd.exec(5)); nothing in it may lead out of its folder."""

_SECRET_NAME = re.compile(r"passw|pwd|token|api_?key|secret", re.IGNORECASE)

_LONGEST = 64 * 1024
"""Bytes of a secret; systemd lets no credential be longer than a megabyte, and a URL is short."""


def resolve(text: str, settings: Settings, environ: Mapping[str, str] = os.environ) -> str:
    """`text` with what its references stand for. Raises SecretMissing, which names no secret.

    A text that is one reference and nothing else becomes the secret as it is, a whole URL say;
    within a URL the secret is quoted, so that it may hold any character.
    """
    if "${" not in text:
        return text
    whole = REFERENCE.fullmatch(text)
    if whole:
        return _secret(whole, settings, environ)
    return REFERENCE.sub(lambda found: quote(_secret(found, settings, environ), safe=""), text)


def check(text: str) -> None:
    """Raise UsageError where a reference in `text` could be resolved by no host."""
    for found in REFERENCE.finditer(text):
        kind, name = found["kind"], found["name"]
        if kind == "env" and not name.startswith(PREFIX):
            raise UsageError(
                f"{found[0]} names a variable that is no secret for URLs",
                f"its name has to begin with {PREFIX}",
            )
        if kind == "file" and (not name or name.startswith("/") or ".." in name.split("/")):
            raise UsageError(
                f"{found[0]} does not stay in its folder", "name a file below [secrets] directory"
            )
        if kind == "credential" and not _CREDENTIAL.fullmatch(name):
            raise UsageError(f"{found[0]} is no name of a credential", "see LoadCredential=")


def remember_all(settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
    """Have every secret masked in this process that its settings and its environment hold: hooks
    inherit them and revisions see them, and both may print them."""
    for name, value in environ.items():
        if name.startswith(PREFIX):
            remember(value)
            remember_url(value)
    remember_url(settings.headoffice.url)
    for url in settings.notify.urls:
        remember_words(url)
    for name, value in settings.migrations.environ.items():
        remember_url(value)
        if _SECRET_NAME.search(name):
            remember(value)


def blind(text: str) -> str:
    """`text` with a number for each reference, the same for the same one: what can be known of a
    URL without the secrets in it."""
    return REFERENCE.sub(lambda found: str(_number(found[0])), text)


def is_whole(text: str) -> bool:
    """Whether nothing is known of a URL, since it is one reference."""
    return REFERENCE.fullmatch(text) is not None


def _number(reference: str) -> int:
    digest = hashlib.sha256(reference.encode()).digest()
    return 10**8 + int.from_bytes(digest[:4], "big")


def _secret(found: re.Match[str], settings: Settings, environ: Mapping[str, str]) -> str:
    kind, name = found["kind"], found["name"]
    match kind:
        case "env":
            secret = _variable(name, environ)
        case "file":
            secret = _file(name, settings)
        case _:
            secret = _credential(name, environ)
    remember(secret)
    remember_url(secret)
    return secret


def _variable(name: str, environ: Mapping[str, str]) -> str:
    what = f"${{env:{name}}}"
    if not name.startswith(PREFIX):
        raise SecretMissing(
            f"{what} names a variable that is no secret for URLs",
            f"its name has to begin with {PREFIX}",
        )
    if name not in environ:
        raise SecretMissing(
            f"{what} is not there: this process has no such variable",
            "set it where branchmig is started; for a service, in its unit",
        )
    return environ[name]


def _file(name: str, settings: Settings) -> str:
    what = f"${{file:{name}}}"
    if settings.secrets.directory is None:
        raise SecretMissing(
            f"{what} cannot be read: the settings allow no files",
            "name the folder that holds them: [secrets] directory",
        )
    folder = settings.folder / settings.secrets.directory
    try:
        # Links are followed before it is judged: one that leads out of the folder is refused.
        root, path = folder.resolve(strict=True), (folder / name).resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreadable(what, error) from None
    if not path.is_relative_to(root):
        raise SecretMissing(
            f"{what} lies outside of [secrets] directory", f"put the file below {folder}"
        )
    return _read(what, path)


def _credential(name: str, environ: Mapping[str, str]) -> str:
    what = f"${{credential:{name}}}"
    if not _CREDENTIAL.fullmatch(name) or name in (".", ".."):
        raise SecretMissing(f"{what} is no name of a credential", "see LoadCredential= of systemd")
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise SecretMissing(
            f"{what} is not there: systemd has given this process no credentials",
            "only a service has them (LoadCredential= in its unit); by hand, `systemd-run` gives "
            "them",
        )
    return _read(what, Path(folder, name))


def _read(what: str, path: Path) -> str:
    try:
        if not path.is_file():  # a pipe would wait for whoever writes it
            raise SecretMissing(f"{what} is no file", f"look at {path}")
        with path.open("rb") as file:
            content = file.read(_LONGEST + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(what, error) from None
    if len(content) > _LONGEST or "\0" in text:
        raise SecretMissing(f"{what} is no text for a URL", f"look at the file {path}")
    # Editors and `echo` put a line end there that nobody means.
    return text.removesuffix("\n").removesuffix("\r")


def _unreadable(what: str, error: Exception) -> SecretMissing:
    why = getattr(error, "strerror", None) or ("it is not UTF-8 text" if isinstance(
        error, UnicodeDecodeError) else "its path is none")  # fmt: skip
    return SecretMissing(
        f"{what} cannot be read: {why}", "let the user that runs this read the file"
    )
