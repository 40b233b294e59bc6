"""What the journal must know of MySQL and MariaDB: its table, and how to look at the schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .marks import TABLE
from .mysql_statements import Reader, landed, looks_back, quoted, shown, tokens
from .statements import Fact, Kind, Landed, Query, Statement

_ABSENT = {1049, 1146, 1305, 1347, 1360, 1539, 4091}
"""Errors of SHOW CREATE that say: no such object."""

_TAKEN_BACK = {1020, 1047, 1180, 1205, 1206, 1213, 1412, 1614, 3101}
"""Errors after which the whole transaction may be gone, not their statement alone; a lock wait that
timed out is one under innodb_rollback_on_timeout."""

_NO_ANSWER = {0, 1053, 1927, 2006, 2012, 2013, 2014, 2055}

_LOOSE = (
    "SELECT t.table_name FROM information_schema.tables t "
    "JOIN information_schema.engines e ON e.engine = t.engine "
    "WHERE t.table_schema = %s AND t.table_type = 'BASE TABLE' "
    "AND COALESCE(e.transactions, 'NO') <> 'YES'"
)


class MysqlLanguage:
    """For one session in one database."""

    transactional = False

    def __init__(self, database: str) -> None:
        self._reader = Reader(database)
        self._loose: set[str] | None = None
        self.table = f"{quoted(database)}.{quoted(TABLE)}"
        self.create = (
            f"CREATE TABLE IF NOT EXISTS {self.table} ("
            "revision VARCHAR(255) NOT NULL, direction VARCHAR(16) NOT NULL, number INT NOT NULL, "
            "hash CHAR(64) NOT NULL, state VARCHAR(16) NOT NULL, statement LONGTEXT NOT NULL, "
            "details LONGTEXT NOT NULL, PRIMARY KEY (revision, direction, number)"
            ") ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        )
        self.put = (
            f"REPLACE INTO {self.table} "
            "(revision, direction, number, hash, state, statement, details) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s)"
        )

    def read(self, text: str) -> Statement:
        read = self._reader.read(text)
        if read.kind is Kind.SCHEMA:
            self._loose = None  # it may make such a table
        return read

    def looks_back(self, text: str) -> bool:
        return looks_back(text)

    def is_loose(self, query: Query, text: str) -> bool:
        if self._loose is None:
            rows = query(_LOOSE, (self._reader.database,))
            self._loose = {str(row[0]).upper() for row in rows}
        if not self._loose:
            return False
        return any(t.text.upper() in self._loose for t in tokens(text))

    def look(self, query: Query, statement: Statement) -> tuple[Fact, ...]:
        try:
            return tuple(
                Fact(target.kind, target.name, target.fate.value, _shown(query, *target[:2]))
                for target in statement.targets
            )
        except Exception as error:
            if _number(error) is None or not self.is_refusal(error):
                raise
            return ()  # no right to look

    def landed(self, query: Query, text: str, facts: tuple[Fact, ...]) -> Landed:
        return landed(text, facts, [_shown(query, fact.kind, fact.name) for fact in facts])

    def take_away(self, query: Query, facts: tuple[Fact, ...]) -> None:
        """A statement takes effect as a whole or not at all."""

    def found(self, query: Query, facts: tuple[Fact, ...]) -> str:
        said = []
        for fact in facts:
            now = _shown(query, fact.kind, fact.name)
            what = f"{fact.kind.lower()} {fact.name}"
            if now is None:
                said.append(f"{what} is not there")
            elif now == fact.before:
                said.append(f"{what} is as before")
            else:
                said.append(f"{what} is now {' '.join(now.split())}")
        return "; ".join(said)[:1000] or "its kind leaves nothing that can be looked at"

    def undid_transaction(self, error: BaseException) -> bool:
        return _number(error) in _TAKEN_BACK

    def is_refusal(self, error: BaseException) -> bool:
        number = _number(error)
        return number is not None and number not in _NO_ANSWER

    def commits_each(self, driver: Any) -> bool:
        return bool(driver.get_autocommit())

    @contextmanager
    def overheard(self, driver: Any, heard: Callable[[str], None]) -> Iterator[None]:
        own = driver.query

        def query(sql: Any, *arguments: Any, **options: Any) -> Any:
            heard(sql if isinstance(sql, str) else bytes(sql).decode(errors="replace"))
            return own(sql, *arguments, **options)

        driver.query = query
        try:
            yield
        finally:
            del driver.query


def _shown(query: Query, kind: str, name: str) -> str | None:
    try:
        (row,) = query(f"SHOW CREATE {kind} {name}")
    except Exception as error:
        if _number(error) in _ABSENT:
            return None
        raise
    # A table's or view's text is the second column; of the others the whole row tells more.
    return shown(str(row[1])) if kind == "TABLE" else repr(row)


def _number(error: BaseException) -> Any:
    first = error.args[0] if error.args else None
    return first if isinstance(first, int) else None
