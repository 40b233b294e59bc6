"""What a statement of MySQL or MariaDB does, as far as its text tells. Pure: asks no server.

A journal needs to know three things: whether a statement changes data, schema, the session or
nothing; which objects it makes, changes or drops; and, from what the server showed of those before
and shows now, whether it landed. What is not known for certain is said to be unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import NamedTuple

from .statements import Fact, Fate, Kind, Landed, Statement, Target


class Token(NamedTuple):
    """`kind` is word, name (in backquotes), text (a literal) or sign; words are upper case."""

    kind: str
    text: str
    raw: str


_TOKEN = re.compile(
    r"""
    (?P<space>\s+ | --(?=\s|$)[^\n]* | \#[^\n]* | /\*(?!M?!).*?\*/ | /\*M?!\d* | \*/)
    | (?P<text>'(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*")
    | `(?P<name>(?:[^`]|``)*)`
    | (?P<word>[\w$@]+)
    | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)

_LOOKS_BACK = re.compile(
    r"\b(LAST_INSERT_ID|ROW_COUNT|FOUND_ROWS)\s*\(|@@(SESSION\.)?(IDENTITY|LAST_INSERT_ID)\b",
    re.IGNORECASE,
)

_READS = {"SELECT", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "VALUES", "TABLE", "HELP", "CHECKSUM"}
_WRITES = {"INSERT", "UPDATE", "DELETE", "REPLACE", "LOAD"}
_KINDS = {"TABLE", "TABLES", "INDEX", "VIEW", "TRIGGER", "PROCEDURE", "FUNCTION", "EVENT",
          "SEQUENCE"}  # fmt: skip
_BODIES = {"TRIGGER", "PROCEDURE", "FUNCTION", "EVENT"}
_BEFORE_A_TARGET = {"LOW_PRIORITY", "HIGH_PRIORITY", "DELAYED", "QUICK", "IGNORE", "INTO", "FROM",
                    "TABLE", "ONLINE", "IF", "NOT", "EXISTS", "TEMPORARY"}  # fmt: skip

_UNSEEN = {"EXCHANGE", "TRUNCATE", "DISCARD", "IMPORT", "COALESCE", "REORGANIZE", "SELECT"}
"""Words of statements whose work SHOW CREATE TABLE does not show."""

_HEAD = 12
"""Words of a statement among which CREATE ... TRIGGER stands, behind its definer."""

_OPTIONS = {"ENGINE", "COMMENT", "CHARSET", "CHARACTER", "COLLATE", "CONVERT", "ROW_FORMAT"}

_NEXT_NUMBER = re.compile(r" AUTO_INCREMENT=\d+")
_IDENTIFIER = re.compile(r"`((?:[^`]|``)*)`")


def tokens(text: str) -> Iterator[Token]:
    """The words, names, literals and signs of a statement; comments are left out."""
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind == "space":
            continue
        raw = match[kind]
        yield Token(kind, raw.upper() if kind == "word" else raw.replace("``", "`"), raw)


def statements(script: str) -> list[str]:
    """The statements of a script. What has a body (a trigger, say) reaches to the end of it."""
    found, words = [""], list[str]()
    for match in _TOKEN.finditer(script):
        ends = match["sign"] == ";" and not (words[:1] == ["CREATE"] and _BODIES & set(words))
        if ends:
            found.append("")
            words.clear()
            continue
        found[-1] += match[0]
        if match["word"] and len(words) < _HEAD:
            words.append(match["word"].upper())
    return [text.strip() for text in found if any(tokens(text))]


def looks_back(text: str) -> bool:
    """Whether a statement asks for the row count or the last id of one before it."""
    return bool(_LOOKS_BACK.search(text))


class Reader:
    """Reads the statements of one session, in order: it must know its temporary tables and USE."""

    def __init__(self, database: str) -> None:
        self.database = database
        self._temporary: set[str] = set()

    def read(self, text: str) -> Statement:
        """What a statement does."""
        found = [t for t in islice(tokens(text), 12) if t.text != "("]
        verb = found[0].text if found else ""
        second = found[1].text if len(found) > 1 else ""
        if verb == "SET" and second == "STATEMENT":
            # MariaDB: SET STATEMENT variable = value FOR another statement.
            rest = re.split(r"\bFOR\b", text, maxsplit=1, flags=re.IGNORECASE)
            return self.read(rest[1]) if len(rest) == 2 else Statement(Kind.SCHEMA, verb)
        if verb in ("COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "START", "BEGIN"):
            return self._transaction(verb, found)
        if verb in _READS | {"WITH"}:
            return self._reading(text, verb)
        if verb in ("SET", "USE", "LOCK", "UNLOCK") and not _several(text):
            return self._session(verb, found)
        if verb in _WRITES and not _several(text):
            return self._write(text, verb, found)
        return self._schema(text, verb)

    def _transaction(self, verb: str, found: list[Token]) -> Statement:
        words = [t.text for t in found]
        if verb == "BEGIN" and "NOT" in words:
            return Statement(Kind.SCHEMA, verb)  # MariaDB's BEGIN NOT ATOMIC: a block of anything
        names = [t.text for t in found[1:] if t.text not in ("TO", "WORK", "SAVEPOINT", ";")]
        to = verb in ("SAVEPOINT", "RELEASE") or (verb == "ROLLBACK" and "TO" in words)
        return Statement(Kind.TRANSACTION, verb, savepoint=names[-1].upper() if to else None)

    def _reading(self, text: str, verb: str) -> Statement:
        if _several(text):
            return Statement(Kind.SCHEMA, verb)
        words = {t.text for t in tokens(text) if t.kind == "word"} if verb == "WITH" else set()
        writes = bool(words & {"UPDATE", "DELETE", "INSERT"})
        return Statement(Kind.WRITE if writes else Kind.READ, verb)

    def _session(self, verb: str, found: list[Token]) -> Statement:
        words = {t.text for t in found}
        if verb == "USE" and len(found) > 1:
            self.database = _plain(found[1])
        commits = verb in ("LOCK", "UNLOCK") or bool(words & {"AUTOCOMMIT", "@@AUTOCOMMIT"})
        return Statement(Kind.SESSION, verb, commits=commits or "PASSWORD" in words)

    def _write(self, text: str, verb: str, found: list[Token]) -> Statement:
        words = {t.text for t in tokens(text)} if self._temporary or "RETURNING" in text.upper() \
            else set()  # fmt: skip
        if "RETURNING" in words:
            return Statement(Kind.WRITE, verb, unskippable="it returns rows")
        if words & {name.upper() for name in self._temporary}:
            target = next((t for t in found[1:] if t.text not in _BEFORE_A_TARGET), None)
            simple = verb in ("INSERT", "REPLACE") or not words & {"JOIN", ","}
            if simple and target and _plain(target).lower() in self._temporary:
                return Statement(Kind.SESSION, verb)
            if not simple:
                return Statement(Kind.WRITE, verb, unskippable="it may fill a temporary table")
        return Statement(Kind.WRITE, verb)

    def _schema(self, text: str, verb: str) -> Statement:
        found = list(tokens(text))
        position = next((i for i, t in enumerate(found[:14]) if t.text in _KINDS), None)
        if verb not in ("CREATE", "ALTER", "DROP", "RENAME", "TRUNCATE") or position is None:
            return Statement(Kind.SCHEMA, verb)
        kind = found[position].text
        names = _names(found, position, kind, verb)
        if "TEMPORARY" in {t.text for t in found[:position]}:
            plain = {_last_part(name) for name in names}
            self._temporary = self._temporary - plain if verb == "DROP" else self._temporary | plain
            return Statement(Kind.SESSION, verb)
        if names and {_last_part(name) for name in names} <= self._temporary:
            if verb == "DROP" and kind == "TABLE":
                self._temporary -= {_last_part(name) for name in names}
            return Statement(Kind.SESSION, verb, commits=True)
        words = {t.text for t in found if t.kind == "word"}
        unseen = kind in ("TABLE", "INDEX") and bool(words & _UNSEEN)
        if unseen or (kind not in _BODIES and _several(text)):
            return Statement(Kind.SCHEMA, verb)
        targets = tuple(_targets(verb, kind, [self._qualified(name) for name in names]))
        return Statement(Kind.SCHEMA, verb, targets)

    def _qualified(self, name: tuple[str, ...]) -> str:
        parts = name if len(name) > 1 else (self.database, *name)
        return ".".join(quoted(part) for part in parts)


def quoted(name: str) -> str:
    """A name as an identifier."""
    return "`" + name.replace("`", "``") + "`"


def _several(text: str) -> bool:
    """Whether there is more than one statement in the text."""
    if ";" not in text.rstrip().rstrip(";"):
        return False
    found = list(tokens(text))
    ends = [i for i, t in enumerate(found) if t == Token("sign", ";", ";")]
    return any(i < len(found) - 1 for i in ends)


def _plain(token: Token) -> str:
    return token.raw.replace("``", "`")


def _last_part(name: tuple[str, ...]) -> str:
    return name[-1].lower()


def _names(found: list[Token], position: int, kind: str, verb: str) -> list[tuple[str, ...]]:
    """The names after a kind of object, each as (name) or (database, name).

    For an index that of its table; for a table that is renamed by ALTER also the new one.
    """
    if kind == "INDEX":
        on = next((i for i, t in enumerate(found) if t.text == "ON" and t.kind == "word"), None)
        return [_name(found, on + 1)[0]] if on is not None else []
    start = position + 1
    while start < len(found) and found[start].text in ("IF", "NOT", "EXISTS"):
        start += 1
    names: list[tuple[str, ...]] = []
    while start < len(found):
        name, start = _name(found, start)
        names.append(name)
        if start >= len(found) or found[start].text not in (",", "TO"):
            break
        if verb not in ("DROP", "RENAME"):
            break
        start += 1
    if verb == "ALTER":
        names += _renamed(found, start)
    return names


def _name(found: list[Token], start: int) -> tuple[tuple[str, ...], int]:
    parts = [_plain(found[start])] if start < len(found) else [""]
    start += 1
    while start + 1 < len(found) and found[start].text == ".":
        parts.append(_plain(found[start + 1]))
        start += 2
    return tuple(parts), start


def _renamed(found: list[Token], start: int) -> Iterator[tuple[str, ...]]:
    for i in range(start, len(found) - 1):
        follows = found[i + 1].text
        if found[i].kind == "word" and found[i].text == "RENAME":
            if follows in ("COLUMN", "INDEX", "KEY", "CONSTRAINT"):
                continue
            yield _name(found, i + 2 if follows in ("TO", "AS", "=") else i + 1)[0]


def _targets(verb: str, kind: str, names: list[str]) -> Iterator[Target]:
    show = "TABLE" if kind in ("INDEX", "TABLES") else kind
    if verb == "RENAME" or (verb == "ALTER" and len(names) > 1):
        for i, name in enumerate(names):
            yield Target(show, name, Fate.APPEARS if i % 2 else Fate.VANISHES)
        return
    whole = {"CREATE": Fate.APPEARS, "DROP": Fate.VANISHES}
    for name in names if verb != "TRUNCATE" else ():
        yield Target(show, name, Fate.CHANGES if kind == "INDEX" else whole.get(verb, Fate.CHANGES))


# Whether it landed ------------------------------------------------------------------------------


def shown(text: str) -> str:
    """What SHOW CREATE says of an object, without what merely counts its rows."""
    return _NEXT_NUMBER.sub("", text)


def landed(statement: str, facts: tuple[Fact, ...], now: list[str | None]) -> Landed:
    """Whether a statement landed, from its targets as they were before it and as they are now.

    Such a statement takes effect as a whole or not at all (InnoDB; atomic DDL). Unknown: among
    others where something has changed that the statement does not name.
    """
    if not facts:
        return Landed.UNKNOWN
    if all(fact.before == after for fact, after in zip(facts, now, strict=True)):
        return Landed.NO
    renames = {Fate.VANISHES, Fate.APPEARS} <= {fact.fate for fact in facts}
    for fact, after in zip(facts, now, strict=True):
        if not _as_meant(statement, fact, after, renames):
            return Landed.UNKNOWN
    return Landed.YES


def _as_meant(statement: str, fact: Fact, after: str | None, renames: bool) -> bool:
    if fact.fate == Fate.VANISHES:
        return fact.before is not None and after is None
    if after is None or after == fact.before:
        return False
    if fact.fate == Fate.CHANGES and fact.before is None:
        return False
    if renames:
        return fact.before is None
    return fact.kind != "TABLE" or _is_work_of(statement, fact.before or "", after)


def _is_work_of(statement: str, before: str, after: str) -> bool:
    """Whether every line in which a table differs is about something that the statement names."""
    named = {t.text.lower() for t in tokens(statement) if t.kind in ("word", "name")}
    old, new = ([line.strip().rstrip(",") for line in t.splitlines()] for t in (before, after))
    changed = set(old) ^ set(new)
    if sum("FOREIGN KEY" in line for line in changed) < _foreign_keys(statement):
        # A server that is killed may come back with the key of one, and not with its constraint.
        return False
    if not changed:
        return bool(named & {"after", "first"})  # the same columns in another order
    return all(_is_named(line, named) for line in changed)


def _foreign_keys(statement: str) -> int:
    """How many a statement adds and drops by these words."""
    words = [token.text for token in tokens(statement)]
    return sum(pair == ("FOREIGN", "KEY") for pair in pairwise(words))


def _is_named(line: str, named: set[str]) -> bool:
    if line.startswith(")"):
        return "create" in named or bool(named & {word.lower() for word in _OPTIONS})
    if line.startswith("PRIMARY KEY") and "primary" in named:
        return True
    subject, *rest = [name.replace("``", "`").lower() for name in _IDENTIFIER.findall(line)] or [""]
    return subject in named or (bool(rest) and set(rest) <= named)
