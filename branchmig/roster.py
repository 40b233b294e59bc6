"""The list of branches as people write it: one at the command line, many in a CSV or JSON file.

Floor 4. Checks every word before HeadOffice hears of it, so that one bad line imports nothing.
"""

from __future__ import annotations

import csv
import io
import json
import re
import uuid
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from .errors import BranchmigError, UsageError
from .masking import has_password
from .model import Branch, Provider
from .providers import MigrationStrategy, provider_of, refuse_references
from .references import blind, check, is_whole

CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_COLUMNS = ("code", "name", "url", "provider", "server", "tags", "id")
_JSON_FORM = 'it has the form [{"code": "BR001", "url": "sqlite:///br001.db", "tags": ["north"]}]'

Listed = tuple[Branch, str]
"""A branch with the identity of its database."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is said of one branch; None: nothing is said, so an existing branch keeps its own."""

    code: str
    url: str | None = None
    name: str | None = None
    provider: str | None = None
    server: str | None = None
    tags: tuple[str, ...] | None = None
    id: str | None = None
    is_active: bool | None = None


@dataclass(frozen=True, slots=True)
class _Taken:
    """Ids and databases that belong to other branches, each with its branch's code."""

    ids: Mapping[str, str]
    identities: Mapping[str, str]

    def refuse(self, branch: Branch, identity: str) -> None:
        if branch.id in self.ids:
            raise UsageError(
                f"the branch {self.ids[branch.id]} has the id {branch.id}",
                "leave the id out, and one is made",
            )
        if identity in self.identities:
            raise UsageError(
                f"the branch {self.identities[identity]} is on the same database",
                "every branch needs a database of its own: mend the URL",
            )


class Registrar:
    """Makes branches out of entries.

    `strategy` gives the strategy of a provider; `headoffice` is the identity of HeadOffice's own
    database, on which no branch may be; `present` are the branches that there are.
    """

    def __init__(
        self,
        strategy: Callable[[Provider], MigrationStrategy],
        headoffice: str,
        present: Iterable[Branch] = (),
    ) -> None:
        self._strategy = strategy
        self._headoffice = headoffice
        self._present = {branch.code.lower(): branch for branch in present}

    def new(self, entry: Entry) -> Listed:
        """The branch that an entry makes beside those present. Raises UsageError."""
        if entry.code.lower() in self._present:
            raise UsageError(
                f"there is a branch {self._present[entry.code.lower()].code} already",
                "`branchmig branch update` changes it; codes that differ in case alone are one",
            )
        return self._apart(self._listed(entry, None), entry.code)

    def changed(self, entry: Entry, existing: Branch) -> Listed:
        """What an entry makes of one of the branches present. Raises UsageError."""
        return self._apart(self._listed(entry, existing), existing.code)

    def _apart(self, listed: Listed, code: str) -> Listed:
        self._taken({code.lower()}).refuse(*listed)
        return listed

    def roster(self, lines: Iterable[tuple[str, Entry]]) -> tuple[Listed, ...]:
        """The branches of a whole file. Raises UsageError that names the first bad line."""
        found: list[tuple[str, Listed]] = []
        codes: dict[str, str] = {}
        identities: dict[str, str] = {}
        for where, entry in lines:
            with _at(where):
                branch, identity = self._listed(entry, self._present.get(entry.code.lower()))
                _once(codes, branch.code.lower(), where, f"the code {branch.code}")
                _once(identities, identity, where, f"the database of {branch.code}")
                found.append((where, (branch, identity)))
        taken = self._taken(codes)
        for where, listed in found:
            with _at(where):
                taken.refuse(*listed)
        return tuple(listed for _, listed in found)

    def _taken(self, spoken_of: Container[str]) -> _Taken:
        """What the branches hold that are not spoken of. `spoken_of`: codes in lower case."""
        others = [b for code, b in self._present.items() if code not in spoken_of]
        identities = {}
        for other in others:
            # Found out anew: since it was added its file may have got another name (a hard link).
            # Where that cannot be done now, HeadOffice still knows what it was then.
            with suppress(BranchmigError):
                identities[self._identity(other)] = other.code
        return _Taken({other.id: other.code for other in others}, identities)

    def _listed(self, entry: Entry, existing: Branch | None) -> Listed:
        if not CODE.fullmatch(entry.code):
            raise UsageError(
                f"{entry.code!r} is not a branch code",
                "a code is 1 to 64 letters, digits, dots, dashes and underscores, "
                "beginning with a letter or digit",
            )
        url = existing.url if existing and entry.url is None else entry.url
        if not url:
            raise UsageError(f"{entry.code} has no URL", "for example sqlite:///branches/br001.db")
        branch = Branch(
            id=_id(entry.id, existing),
            code=existing.code if existing else entry.code,
            name=_first(entry.name, existing and existing.name, None) or entry.code,
            provider=_provider(url, entry.provider),
            url=url,
            server=_first(entry.server, existing and existing.server, None) or None,
            tags=_words(_first(entry.tags, existing and existing.tags, ())),
            is_active=_first(entry.is_active, existing and existing.is_active, True),
        )
        _refuse_control(branch)
        return branch, self._checked(branch)

    def _identity(self, branch: Branch) -> str:
        """References are compared as they are written: what they stand for may not be here."""
        if is_whole(branch.url):
            return branch.url
        return self._strategy(branch.provider).identity(blind(branch.url))

    def _checked(self, branch: Branch) -> str:
        """The identity of a branch whose URL may be used. Raises UsageError, ProviderError."""
        strategy = self._strategy(branch.provider)
        check(branch.url)
        refuse_references(strategy, branch.url)
        if not is_whole(branch.url):
            strategy.check_url(blind(branch.url))
        identity = self._identity(branch)
        if identity == self._headoffice:
            raise UsageError(
                f"{branch.code} is on HeadOffice's own database",
                "a branch needs a database of its own",
            )
        return identity


def refuse_typed_password(url: str) -> None:
    """A command line is in the process list and in the shell's history. Raises UsageError."""
    if has_password(url):
        raise UsageError(
            "a password on the command line can be read by everybody on this machine",
            "give the URL on standard input with `--url -`, or in a file with `branch import`",
        )


def read_entries(text: str) -> Iterator[tuple[str, Entry]]:
    """Each entry of a CSV file with a header, or of a JSON list, with the place it stands at.

    Raises UsageError for what is neither, and for unknown columns.
    """
    if text.lstrip().startswith(("[", "{")):
        yield from _json_entries(text)
    else:
        yield from _csv_entries(text)


def _csv_entries(text: str) -> Iterator[tuple[str, Entry]]:
    rows = csv.DictReader(io.StringIO(text, newline=""), restkey="", strict=True)
    _check_columns(rows.fieldnames or ())
    try:
        for row in rows:
            where = f"line {rows.line_num}"
            with _at(where):
                if "" in row:
                    raise UsageError(
                        f"there are more than {len(rows.fieldnames or ())} fields",
                        "quote fields that hold commas",
                    )
                said = {name: value.strip() for name, value in row.items() if value is not None}
                yield where, _entry(said)
    except csv.Error as error:
        # The rows counted are those read before this one.
        raise UsageError(
            f"line {rows.line_num + 1}: {error}", "quote fields that hold commas, and end quotes"
        ) from None


def _json_entries(text: str) -> Iterator[tuple[str, Entry]]:
    try:
        content = json.loads(text)
    except RecursionError:
        raise UsageError("the JSON is nested too deeply", "it is a list of flat objects") from None
    except json.JSONDecodeError as error:
        raise UsageError(
            f"line {error.lineno}, column {error.colno}: {error.msg}", _JSON_FORM
        ) from None
    if not isinstance(content, list):
        raise UsageError("the JSON document is not a list of branches", _JSON_FORM)
    for number, row in enumerate(content, 1):
        where = f"entry {number}"
        with _at(where):
            if not isinstance(row, dict):
                raise UsageError("it is not an object", _JSON_FORM)
            _check_columns(row)
            yield where, _entry({name: v for name, v in row.items() if v is not None})


def _check_columns(names: Iterable[str]) -> None:
    given = list(names)
    strange = [name for name in given if name not in _COLUMNS]
    missing = [name for name in ("code", "url") if name not in given]
    if strange or missing:
        problem = f"unknown column {strange[0]!r}" if strange else f"no column {missing[0]!r}"
        separator = "separate the columns by commas" if strange and ";" in strange[0] else None
        raise UsageError(
            problem, separator or f"columns: {', '.join(_COLUMNS)}; code and url are needed"
        )
    if len(set(given)) != len(given):
        raise UsageError("a column is there twice", f"columns: {', '.join(_COLUMNS)}")


def _entry(said: Mapping[str, Any]) -> Entry:
    tags = said.get("tags")
    words = {n: said[n] for n in _COLUMNS if n != "tags" and said.get(n)}
    if any(not isinstance(value, str) for value in words.values()):
        raise UsageError("every value but tags is a text", _JSON_FORM)
    if isinstance(tags, list) and not all(isinstance(tag, str) for tag in tags):
        raise UsageError("tags is a list of texts", _JSON_FORM)
    if not isinstance(tags, (list, str, type(None))):
        raise UsageError("tags is a list of texts, or one text", _JSON_FORM)
    return replace(Entry(code=""), tags=_tags(tags), **words)


def _tags(given: str | list[str] | None) -> tuple[str, ...] | None:
    """As a JSON list, or separated by semicolons."""
    if given is None or given == "":
        return None
    if isinstance(given, str) and given.startswith("["):
        try:
            given = json.loads(given)
        except json.JSONDecodeError:
            raise UsageError(
                "tags is neither a JSON list nor separated by semicolons", "for example north;big"
            ) from None
    return _words(given.split(";") if isinstance(given, str) else given)


def _words(tags: Iterable[str]) -> tuple[str, ...]:
    return tuple(tag.strip() for tag in tags if tag.strip())


def _provider(url: str, named: str | None) -> Provider:
    if is_whole(url):
        if named not in set(Provider):
            raise UsageError(
                f"{url} does not tell its engine",
                f"name the provider: one of {', '.join(Provider)}",
            )
        return Provider(named)
    provider = provider_of(url)
    if named and named != provider:
        known = ", ".join(Provider)
        raise UsageError(
            f"the provider {str(named)!r} contradicts the URL, which is for {provider}"
            if named in set(Provider)
            else f"unknown provider {str(named)!r}",
            f"leave the provider out, or name the right one of {known}",
        )
    return provider


def _id(given: str | None, existing: Branch | None) -> str:
    if not given:
        return existing.id if existing else str(uuid.uuid4())
    try:
        wanted = str(uuid.UUID(given))
    except ValueError:
        raise UsageError(f"{given!r} is not a UUID", "leave the id out, and one is made") from None
    if existing and existing.id != wanted:
        raise UsageError(
            f"the branch {existing.code} has the id {existing.id}, not {wanted}",
            "an id stays for good: leave it out, or mend it",
        )
    return wanted


def _first(given: Any, present: Any, default: Any) -> Any:
    return given if given is not None else present if present is not None else default


def _refuse_control(branch: Branch) -> None:
    for value in (branch.name, branch.url, branch.server or "", *branch.tags):
        if _CONTROL.search(value):
            raise UsageError(
                f"{branch.code}: control characters and line ends are not allowed",
                "look for them in its name, URL, server and tags",
            )
    if len(branch.name) > 200 or len(branch.server or "") > 255:
        raise UsageError(
            f"{branch.code}: a name has at most 200 characters, a server 255", "shorten it"
        )


def _once(seen: dict[str, str], key: str, where: str, what: str) -> None:
    if key in seen:
        raise UsageError(f"{what} is already in {seen[key]}", "take one of the two out")
    seen[key] = where


class _at:  # noqa: N801 - reads as a statement
    """Names the place of whatever goes wrong within."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        placed = not self._where or (
            isinstance(error, BranchmigError) and error.message.startswith(("line ", "entry "))
        )
        if isinstance(error, BranchmigError) and not placed:
            raise UsageError(f"{self._where}: {error.message}", error.hint) from None
