"""What a journal must know of PostgreSQL.

DDL is rolled back with its transaction; a revision can break half way only where it commits before
its end, as `autocommit_block` does. Of what the server refuses to run within a transaction only the
making and dropping of an index can be looked up afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import BranchUnusable
from .marks import TABLE
from .statements import Fact, Fate, Kind, Landed, Query, Statement, Target

_IDENTIFIER = r'(?:"(?:[^"]|"")*"|[\w$]+)'

_START = re.compile(r"[\s(]*([A-Za-z]+)")

_PIECE = re.compile(
    r"""
    (?P<comment>--[^\n]* | /\*.*?\*/)
    | (?P<end>;)
    | (?P<text>\b[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*"
        | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ | .)
    """,
    re.VERBOSE | re.DOTALL,
)

_CREATE_INDEX = re.compile(
    rf"\s*CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?"
    rf"(?P<name>{_IDENTIFIER})\s+ON\s+(?:ONLY\s+)?"
    rf"(?P<table>(?:{_IDENTIFIER}\s*\.\s*)?{_IDENTIFIER})",
    re.IGNORECASE,
)
_DROP_INDEX = re.compile(
    rf"\s*DROP\s+INDEX\s+CONCURRENTLY\s+(?:IF\s+EXISTS\s+)?"
    rf"(?P<whole>(?:{_IDENTIFIER}\s*\.\s*)?(?P<name>{_IDENTIFIER}))\s*(?:CASCADE|RESTRICT)?\s*$",
    re.IGNORECASE,
)
_TEMPORARY = re.compile(
    rf"\s*CREATE\s+(?:GLOBAL\s+|LOCAL\s+)?TEMP(?:ORARY)?\s+(?:TABLE|VIEW|SEQUENCE)\s+"
    rf"(?:IF\s+NOT\s+EXISTS\s+)?(?P<name>{_IDENTIFIER})",
    re.IGNORECASE,
)
_WRITTEN = re.compile(
    rf"\s*(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM|TRUNCATE(?:\s+TABLE)?|COPY)\s+(?:ONLY\s+)?"
    rf"(?:pg_temp\s*\.\s*)?(?P<name>{_IDENTIFIER})",
    re.IGNORECASE,
)

_ALONE = re.compile(
    r"\s*(?:(?:CREATE|DROP)\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY"
    r"|(?:CREATE|DROP)\s+(?:DATABASE|TABLESPACE|SUBSCRIPTION)|ALTER\s+(?:SYSTEM|SUBSCRIPTION)"
    r"|ALTER\s+TABLE\b.*\bDETACH\s+PARTITION\b.*\bCONCURRENTLY)\b",
    re.IGNORECASE | re.DOTALL,
)
"""What the server refuses within a transaction (PreventInTransactionBlock in its source)."""

_LOOKS_BACK = re.compile(r"\b(lastval|currval)\s*\(", re.IGNORECASE)

_READS = {"SELECT", "SHOW", "VALUES", "TABLE", "FETCH", "MOVE", "LOCK", "NOTIFY"}
_SESSION = {"SET", "RESET", "DISCARD", "LISTEN", "UNLISTEN", "PREPARE", "DEALLOCATE", "DECLARE",
            "CLOSE", "LOAD", "CHECKPOINT", "VACUUM", "ANALYZE", "REINDEX", "CLUSTER"}  # fmt: skip
"""Those of maintenance too: they can be repeated, and some cannot run within a transaction."""
_TRANSACTION = {"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE"}
_ENDS = {"END": "COMMIT", "ABORT": "ROLLBACK"}

_NO_ANSWER = ("08", "57P01", "57P02", "57P03")


class PostgresqlLanguage:
    """For one session; `schema` is where its tables are made."""

    transactional = True

    def __init__(self, schema: str) -> None:
        self._temporary: set[str] = set()
        self.table = f"{_quoted(schema)}.{_quoted(TABLE)}"
        self.create = (
            f"CREATE TABLE IF NOT EXISTS {self.table} ("
            "revision varchar(255) NOT NULL, direction varchar(16) NOT NULL, "
            "number integer NOT NULL, hash char(64) NOT NULL, state varchar(16) NOT NULL, "
            "statement text NOT NULL, details text NOT NULL, "
            "PRIMARY KEY (revision, direction, number))"
        )
        self.put = (
            f"INSERT INTO {self.table} "
            "(revision, direction, number, hash, state, statement, details) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (revision, direction, number) "
            "DO UPDATE SET hash = excluded.hash, state = excluded.state, "
            "statement = excluded.statement, details = excluded.details"
        )

    def read(self, text: str) -> Statement:
        found = [self._read_one(statement) for statement in statements(text)]
        if len(found) == 1:
            return found[0]
        # A text without parameters may hold several; the server takes them for one.
        kinds = {read.kind for read in found}
        if any(read.kind is Kind.TRANSACTION and read.savepoint is None for read in found):
            return Statement(Kind.WRITE, "", refused="ends its transaction among other statements")
        kind = Kind.SESSION if kinds <= {Kind.READ, Kind.SESSION} else Kind.WRITE
        return Statement(kind if found else Kind.READ, "")

    def _read_one(self, text: str) -> Statement:
        start = _START.match(text)
        verb = start[1].upper() if start else ""
        if verb in _TRANSACTION:
            return _transaction(_ENDS.get(verb, verb), text)
        if verb in _SESSION:
            return Statement(Kind.SESSION, verb)
        if verb in _READS | {"WITH", "EXPLAIN"}:
            return Statement(Kind.WRITE if _writes(verb, text) else Kind.READ, verb)
        temporary = _TEMPORARY.match(text)
        if temporary:
            self._temporary.add(_folded(temporary["name"]))
            return Statement(Kind.SESSION, verb)
        if _ALONE.match(text):
            return Statement(Kind.SCHEMA, verb, tuple(_targets(text)))
        return self._write(verb, text)

    def _write(self, verb: str, text: str) -> Statement:
        """A temporary table is filled anew in each attempt, as it is made anew."""
        if self._temporary:
            target = _WRITTEN.match(text)
            if target and _folded(target["name"]) in self._temporary:
                return Statement(Kind.SESSION, verb)
            words = {_folded(word) for word in re.findall(_IDENTIFIER, text)}
            if not target and words & self._temporary:
                return Statement(Kind.WRITE, verb, unskippable="it may change a temporary table")
        return Statement(Kind.WRITE, verb)

    def looks_back(self, text: str) -> bool:
        return bool(_LOOKS_BACK.search(text))

    def is_loose(self, query: Query, text: str) -> bool:
        return False

    def look(self, query: Query, statement: Statement) -> tuple[Fact, ...]:
        """Raises BranchUnusable for an index that is there and invalid: whoever makes it with IF
        NOT EXISTS would be told that all is well."""
        facts = tuple(_fact(query, target) for target in statement.targets)
        for fact in facts:
            if fact.fate == Fate.APPEARS and _is_invalid(fact.before):
                raise BranchUnusable(
                    f"the index {fact.name} is there and invalid, as a CREATE INDEX CONCURRENTLY "
                    "that failed leaves it",
                    f"DROP INDEX CONCURRENTLY {fact.name}, then run it again",
                )
        return facts

    def landed(self, query: Query, text: str, facts: tuple[Fact, ...]) -> Landed:
        if not facts:
            return Landed.UNKNOWN
        (fact,) = facts
        now = _shown(query, fact.name)
        if now == fact.before:
            return Landed.NO
        if fact.fate == Fate.VANISHES:
            # One that was interrupted leaves the index invalid, and can be repeated.
            return Landed.YES if now is None else Landed.NO
        if now is None or fact.before is not None:
            return Landed.UNKNOWN
        return Landed.PARTLY if _is_invalid(now) else Landed.YES

    def take_away(self, query: Query, facts: tuple[Fact, ...]) -> None:
        for fact in facts:
            if _is_invalid(_shown(query, fact.name)):
                query(f"DROP INDEX CONCURRENTLY {fact.name}")

    def found(self, query: Query, facts: tuple[Fact, ...]) -> str:
        said = [
            f"index {fact.name}: {_shown(query, fact.name) or 'is not there'}" for fact in facts
        ]
        return "; ".join(said)[:1000] or "its kind leaves nothing that can be looked at"

    def undid_transaction(self, error: BaseException) -> bool:
        """A failed transaction says so at every further statement."""
        return False

    def is_refusal(self, error: BaseException) -> bool:
        state = getattr(error, "sqlstate", None)
        return state is not None and not state.startswith(_NO_ANSWER)

    def commits_each(self, driver: Any) -> bool:
        return bool(driver.autocommit)

    @contextmanager
    def overheard(self, driver: Any, heard: Callable[[str], None]) -> Iterator[None]:
        own: Any = driver.cursor_factory

        class Cursor(own):  # type: ignore[misc]
            def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
                heard(_text(query, driver))
                return super().execute(query, *arguments, **options)

            def executemany(self, query: Any, *arguments: Any, **options: Any) -> None:
                heard(_text(query, driver))
                super().executemany(query, *arguments, **options)

            def copy(self, statement: Any, *arguments: Any, **options: Any) -> Any:
                heard(_text(statement, driver))
                return super().copy(statement, *arguments, **options)

        driver.cursor_factory = Cursor
        try:
            yield
        finally:
            driver.cursor_factory = own


def statements(text: str) -> list[str]:
    """The statements of a text, without comments."""
    found = [""]
    for piece in _PIECE.finditer(text):
        if piece.lastgroup == "end":
            found.append("")
        else:
            found[-1] += " " if piece.lastgroup == "comment" else piece[0]
    return [statement for statement in found if statement.strip()]


def _transaction(verb: str, text: str) -> Statement:
    words = re.findall(_IDENTIFIER, text)
    to = verb == "ROLLBACK" and re.match(r"\s*ROLLBACK\s+(\w+\s+)?TO\b", text, re.IGNORECASE)
    named = verb in ("SAVEPOINT", "RELEASE") or to
    return Statement(Kind.TRANSACTION, verb, savepoint=_folded(words[-1]) if named else None)


def _writes(verb: str, text: str) -> bool:
    """A SELECT may make a table, and the parts of a WITH may change rows."""
    words = {word.upper() for word in re.findall(r"\w+", text)}
    if verb in ("SELECT", "WITH", "TABLE", "VALUES") and "INTO" in words:
        return True
    if verb == "EXPLAIN":
        return "ANALYZE" in words
    return verb == "WITH" and bool(words & {"INSERT", "UPDATE", "DELETE", "MERGE"})


def _targets(text: str) -> Iterator[Target]:
    """The index that a statement makes or drops; one without a name cannot be looked up.

    `kind` is the relation whose schema it is in: its table, or the index itself.
    """
    made, dropped = _CREATE_INDEX.match(text), _DROP_INDEX.match(text)
    if made and made["name"].upper() != "ON":
        yield Target(made["table"], made["name"], Fate.APPEARS)
    elif dropped:
        yield Target(dropped["whole"], dropped["name"], Fate.VANISHES)


def _fact(query: Query, target: Target) -> Fact:
    """With the schema in its name: who looks again may have another search path."""
    rows = query(
        "SELECT quote_ident(nspname) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE pg_class.oid = to_regclass(%s)",
        (target.kind,),
    )
    name = f"{rows[0][0]}.{target.name}" if rows else target.name
    return Fact("INDEX", name, target.fate.value, _shown(query, name))


def _shown(query: Query, name: str) -> str | None:
    """An index as the server shows it, None where it is not there."""
    rows = query(
        "SELECT indisvalid AND indisready, pg_get_indexdef(indexrelid) FROM pg_index "
        "WHERE indexrelid = to_regclass(%s)",
        (name,),
    )
    return f"{'valid' if rows[0][0] else 'invalid'}, {rows[0][1]}" if rows else None


def _is_invalid(shown: str | None) -> bool:
    return shown is not None and shown.startswith("invalid")


def _folded(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(query: Any, driver: Any) -> str:
    if isinstance(query, str):
        return query
    if isinstance(query, bytes):
        return query.decode(errors="replace")
    return str(query.as_string(driver))
