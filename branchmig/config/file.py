"""The settings file: found, read and checked, with a sentence for whatever is wrong with it."""

from __future__ import annotations

import difflib
import json
import os
import stat
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from .. import trust
from ..errors import ConfigError
from ..masking import REFERENCE, has_password, mask, remember_url, remember_urls_in, remember_words
from .settings import DEFAULTS, SECTIONS, Settings

FILE_NAME = "branchmig.toml"
SYSTEM_FILE = Path("/etc/branchmig") / FILE_NAME

_SECRETIVE = (
    ("headoffice", "url"),
    ("notify", "urls"),
    ("migrations", "environ"),
    ("migrations", "x_args"),
)
"""What these say may be a secret, whatever it looks like; and so may the words of commands."""


def find(named: Path | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The settings file to use, or None where there is none.

    In order: the one named on the command line, `$BRANCHMIG_CONFIG`, `./branchmig.toml`, the
    system's. Root never takes the one in the current folder: whoever owns that folder would choose
    what root runs. Raises ConfigError where a named file does not exist.
    """
    chosen = named or (
        Path(environ["BRANCHMIG_CONFIG"]) if environ.get("BRANCHMIG_CONFIG") else None
    )
    if chosen is not None:
        if not _is_file(chosen):
            raise ConfigError(
                f"there is no settings file {chosen}",
                "name an existing file with --config or BRANCHMIG_CONFIG, "
                "or run `branchmig init` in the folder that shall hold it",
            )
        return chosen.absolute()
    if os.geteuid() != 0 and _is_in_current_folder():
        return Path(FILE_NAME).absolute()
    return SYSTEM_FILE if _is_file(SYSTEM_FILE) else None


def _is_in_current_folder() -> bool:
    """A folder that this user may not look into has none for him: root's home, say, from which
    somebody took the account of the service."""
    try:
        return stat.S_ISREG(Path(FILE_NAME).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False


def _is_file(path: Path) -> bool:
    """Raises ConfigError where this user may not even see whether there is one."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(file: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{file} cannot be read: {error.strerror}",
        "let the user that runs this read it, or name another one with --config",
    )


def load(file: Path) -> tuple[Settings, tuple[str, ...]]:
    """Read and check a settings file. Gives the settings and warnings about who can change it.

    Raises ConfigError: unreadable, malformed (with line and column), an unknown key (with the
    nearest known one), a wrong value, or open to strangers and run as root.
    """
    warnings = [*trust.check([file, file.parent])]
    content = _parsed(file)
    for _, text in _texts(content):
        remember_url(text)
    for name, text in os.environ.items():
        remember_url(text)
        if name.upper().startswith("BRANCHMIG_"):
            # As JSON, perhaps, in which lists are written.
            remember_urls_in(text)
    _refuse_unknown_sections(file, content)
    _refuse_readable_secrets(file, content)
    try:
        settings = Settings(**content, file=file)
    except ValidationError as error:
        raise _explain(file, error) from None
    for url in settings.notify.urls:
        remember_words(url)
    warnings += trust.check(settings.hooks.code(settings.folder))
    return settings, tuple(warnings)


def _parsed(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        return tomllib.loads(text)
    except OSError as error:
        raise _unreadable(file, error) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file} is not UTF-8 text: {error.reason} at byte {error.start}", "save it as UTF-8"
        ) from error
    except tomllib.TOMLDecodeError as error:
        lines = text.split("\n")
        end = f"at line {len(lines)}, column {len(lines[-1]) + 1}"
        raise ConfigError(
            f"{file} is not valid TOML: {str(error).replace('at end of document', end)}",
            "mend that line; see https://toml.io",
        ) from error


def _refuse_unknown_sections(file: Path, content: Mapping[str, Any]) -> None:
    for name, value in content.items():
        if name not in SECTIONS:
            raise ConfigError(f"{file}: unknown section [{mask(name)}]", _nearest(name, SECTIONS))
        if not isinstance(value, dict):
            raise ConfigError(
                f"{file}: {name} is a section, not a key", f"write [{name}] above its keys"
            )


def _refuse_readable_secrets(file: Path, content: Mapping[str, Any]) -> None:
    """A file that everybody on this host can read is no place for a secret. The group may read it:
    that is how a service's own account gets at a file that belongs to root."""
    if not file.stat().st_mode & stat.S_IROTH:
        return
    secrets = [place for place, text in _texts(content) if has_password(text)]
    addresses = content.get("notify", {}).get("urls", ())
    secrets += ["notify.urls" for url in addresses if not REFERENCE.search(str(url))]
    if secrets:
        raise ConfigError(
            f"{file} holds a secret ({secrets[0]}), and everybody on this host can read it",
            f"chmod o-r {file}, or write a reference such as ${{credential:NAME}} in its place",
        )


def _texts(content: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text in the settings, and where it stands."""
    if isinstance(content, str):
        yield place, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield place, key
            yield from _texts(value, f"{place}.{key}".lstrip("."))
    elif isinstance(content, list):
        for value in content:
            yield from _texts(value, place)


def _explain(file: Path, error: ValidationError) -> ConfigError:
    """The first thing wrong, as a sentence that names where it stands and what was expected."""
    first = error.errors()[0]
    section, *path = (str(part) for part in first["loc"])
    if not path:
        return ConfigError(
            f"BRANCHMIG_{section.upper()} is a section, not a key",
            f"set BRANCHMIG_{section.upper()}_<KEY> instead",
        )
    key = path[0]
    defaults = getattr(DEFAULTS, section)
    variable = _variable(section, key)
    given = mask(repr(first["input"]))
    if (section, key) in _SECRETIVE or (section == "hooks" and key not in ("timeout", "scripts")):
        given = "what it says"
    if len(path) > 1 and path[1].isdecimal():
        place = variable or f"{file}: [{section}] {key}"
        return _explain_entry(place, path[1:], first, given)
    if first["type"] == "extra_forbidden":
        where = variable or file
        known = list(type(defaults).model_fields)
        return ConfigError(f"{where}: [{section}] has no key {mask(key)!r}", _nearest(key, known))
    wanted = first["msg"].replace("Input", "it")
    for python, toml in (("valid dictionary", "table"), ("valid tuple", "list")):
        wanted = wanted.replace(python, toml)
    return ConfigError(
        f"{variable or f'{file}: [{section}] {key}'}: {wanted}, not {given}",
        "a list is written a,b,c here, a table as JSON"
        if variable
        else f"the default is {_toml(getattr(defaults, key))}",
    )


def _explain_entry(where: str, path: Sequence[str], wrong: ErrorDetails, given: str) -> ConfigError:
    """What is wrong with one entry of a list of tables."""
    position, *key = path
    at = f"{where}, entry {int(position) + 1}"
    if wrong["type"] in ("missing", "extra_forbidden") and key:
        lacks = "lacks" if wrong["type"] == "missing" else "may not have"
        return ConfigError(f"{at} {lacks} the key {key[0]!r}", "see the settings in the README")
    wanted = wrong["msg"].replace("Input", key[0] if key else "it")
    return ConfigError(f"{at}: {wanted}, not {given}", "see the settings in the README")


def _variable(section: str, key: str) -> str | None:
    """The environment variable that sets a key, as it is spelt, if one does."""
    wanted = f"branchmig_{section}_{key}".lower()
    return next((name for name in os.environ if name.lower() == wanted), None)


def _toml(default: Any) -> str:
    """A default as the settings file would have it; None is what no key stands for."""
    return "to leave it out" if default is None else json.dumps(default)


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"
