"""The journal of a revision that can break half way, because not all of it is one transaction.

Every statement of a revision is written down in the branch itself, in `branchmig_journal`: what a
rollback would undo in one transaction with its mark, what it would not as begun before it and as
done after it. Where DDL can be rolled back, that writing waits for the first commit within a
revision (`autocommit_block`), and most revisions never need the table. An attempt that finds a
journal runs the revision again, passes over what landed, and goes on behind it; nothing that
landed is repeated. Where that cannot be certain it executes nothing more and asks for a person.

Statements are caught where SQLAlchemy hands them to the driver. A SELECT is not journaled but
executed again, and sees what has landed meanwhile; a revision that then does something else than
before has diverged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import sqlalchemy as sa

from ..errors import (
    JournalDiverged,
    NeedsPerson,
    PlanError,
    RevisionRefused,
    StatementUnknown,
    UsageError,
)
from ..model import Direction, Heads, Resolution, Step
from .marks import Mark, PassedOver, State, columns, digest
from .statements import Kind, Landed, Language, Statement

RESOLVE = "`branchmig resolve {} --landed`, `--not-landed` or `--discard`"


class NoJournal:
    """For engines on which a failed revision leaves nothing behind.

    `holds`: something that a revision did stays in the branch though the revision failed;
    `warnings`: what a person should know, as sentences.
    """

    def __init__(self) -> None:
        self.holds = False
        self.warnings: list[str] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within, revisions run."""
        yield

    def broken_off(self, heads: Heads) -> tuple[str, Direction] | None:
        """The revision, and its direction, that broke half way in a branch at `heads`. A read."""
        return None

    def settle(self, heads: Heads) -> None:
        """No revision is to run: clear away what a kill left of the journal.

        Raises JournalDiverged where a revision is half applied.
        """

    def begun(self, step: Step) -> None:
        """A revision begins. Raises NeedsPerson where it cannot go on."""

    def executed(self, step: Step) -> None:
        """Its function has returned; the version row comes next."""

    def stamped(self, step: Step) -> None:
        """The version row is written and about to be committed."""

    def landed(self, step: Step) -> None:
        """It is committed."""

    def resolve(self, resolution: Resolution) -> str:
        """Do as a person says; what was done, as a sentence. Raises UsageError."""
        raise UsageError(
            "this branch's engine keeps no journal: a failed revision leaves nothing behind",
            "`branchmig apply BRANCH` attempts it again",
        )


class Journal(NoJournal):
    """The journal of one branch, on the connection that migrates it and holds its lock."""

    def __init__(
        self, connection: sa.Connection, language: Language, name: str, *, there: bool
    ) -> None:
        """`there`: the branch has the journal's table; `name`: the branch's, for messages."""
        super().__init__()
        self._language = language
        self._name = name
        self._there = there
        self._driver: Any = connection.connection.dbapi_connection
        self._engine = connection.engine
        self._step: Step | None = None
        self._rows: dict[int, Mark] = {}
        self._remains: dict[int, Mark] = {}
        self._pending: list[Mark] = []
        self._savepoints: dict[str, int] = {}
        self._number = 0
        self._active = False  # between a revision's first statement and its commit
        self._closing = False  # its function has returned
        self._cleared = False  # its rows are deleted, not yet committed
        self._ours = False  # what reaches the driver now came through here
        self._passed = False
        self._beside: str | None = None  # went round the journal, in a transaction still open
        self._ended: PlanError | None = None

    # A run ------------------------------------------------------------------------------------

    @contextmanager
    def kept(self) -> Iterator[None]:
        if not self._language.transactional:
            self._make()
        events = (
            ("do_execute", self._on_execute),
            ("do_executemany", self._on_executemany),
            ("do_execute_no_params", self._on_execute_no_params),
        )
        for event, listener in events:
            sa.event.listen(self._engine, event, listener)
        with self._guarded_driver():
            try:
                yield
            except BaseException:
                self._active = False
                self.holds = self._there
                with suppress(Exception):  # the next attempt looks at the schema instead
                    self._keep_what_landed()
                    self._drop_if_empty()
                raise
            self._active = False
            self._drop_if_empty()

    @contextmanager
    def _guarded_driver(self) -> Iterator[None]:
        """Whatever reaches the driver passes here, also what does not come from SQLAlchemy."""
        driver = self._driver
        own = {"commit": driver.commit, "rollback": driver.rollback}

        def commit() -> None:
            there = self._there
            try:
                if self._active and not self._cleared:
                    self._flush()
                own["commit"]()
            except BaseException:
                if self._language.transactional:
                    self._there = there  # its making is undone with the rest
                raise

        def rollback() -> None:
            self._forget_undone()
            own["rollback"]()

        driver.commit, driver.rollback = commit, rollback
        try:
            with self._language.overheard(driver, self._overhear):
                yield
        finally:
            for name in own:
                delattr(driver, name)

    def _overhear(self, text: str) -> None:
        if self._active and not self._ours:
            self._bypassed(text)

    def _keep_what_landed(self) -> None:
        """After a failure: the data of this transaction is gone, its DDL is not."""
        self._driver.rollback()
        if self._step is not None:
            self._flush()
            self._driver.commit()
        self.holds = any(mark.state in (State.BEGUN, State.DONE) for _, mark in self._load())
        if not self.holds:
            self._clear()
            self._driver.commit()

    def _make(self) -> None:
        if not self._there:
            self._query(self._language.create)
            self._there = True

    def _clear(self) -> None:
        if self._there:
            self._query(f"DELETE FROM {self._language.table}")

    def _drop_if_empty(self) -> None:
        if self._there and not self._load():
            self._query(f"DROP TABLE {self._language.table}")
            self._driver.commit()
            self._there = False

    # A step -----------------------------------------------------------------------------------

    def broken_off(self, heads: Heads) -> tuple[str, Direction] | None:
        try:
            found = self._load()
        finally:
            self._driver.rollback()
        if not found or _has_landed(found, heads):
            return None
        (revision, direction), _ = found[-1]
        return revision, Direction(direction)

    def settle(self, heads: Heads) -> None:
        found = self._unsettled(heads)
        if found:
            raise self._half_applied(found, "the branch is to stay where it is")
        self._drop_if_empty()

    def begun(self, step: Step) -> None:
        found = self._unsettled(step.from_heads)
        wanted = (step.revision, step.direction.value)
        if any(key != wanted for key, _ in found):
            raise self._half_applied(found, f"the {step.direction} of {step.revision} is to run")
        self._rows = {mark.number: mark for _, mark in found}
        self._step, self._number, self._pending, self._savepoints = step, 0, [], {}
        self._passed, self._beside, self._ended = False, None, None
        self._remains = {}
        for mark in found:
            self._decide(mark[1])
        self._active, self._closing, self._cleared = True, False, False

    def executed(self, step: Step) -> None:
        if self._ended:
            raise self._ended
        if self._number < max(self._rows, default=0):
            self._diverge(f"it ends after {self._number} statements, the journal has more")
        self._closing = True

    def stamped(self, step: Step) -> None:
        self._clear()
        self._cleared = True

    def landed(self, step: Step) -> None:
        self._active, self._step, self._pending = False, None, []

    def _load(self) -> list[tuple[tuple[str, str], Mark]]:
        if not self._there:
            return []
        rows = self._query(
            "SELECT revision, direction, number, hash, state, statement, details "
            f"FROM {self._language.table} ORDER BY revision, direction, number"
        )
        return [((row[0], row[1]), Mark.of(row)) for row in rows]

    def _unsettled(self, heads: Heads) -> list[tuple[tuple[str, str], Mark]]:
        """The journal, unless its revision landed as a whole after all."""
        found = self._load()
        if found and _has_landed(found, heads):
            self._clear()
            return []
        return found

    def _half_applied(
        self, found: list[tuple[tuple[str, str], Mark]], instead: str
    ) -> JournalDiverged:
        (revision, direction), mark = found[-1]
        how = " with `branchmig rollback`" if direction == Direction.DOWNGRADE else ""
        return JournalDiverged(
            f"{self._name}: the {direction} of {revision} broke half way at its statement "
            f"{mark.number}, and now {instead}",
            f"finish {revision} first{how}; or put the schema in order by hand, then "
            f"`branchmig resolve {self._name} --discard`",
        )

    def _decide(self, mark: Mark) -> None:
        """A statement that was begun: is it in the schema? Raises StatementUnknown."""
        if mark.state is not State.BEGUN:
            return
        landed = self._language.landed(self._query, mark.statement, mark.facts)
        if landed is Landed.UNKNOWN:
            assert self._step is not None
            raise StatementUnknown(
                f"{self._name}: statement {mark.number} of {self._step.revision} "
                f"({self._step.direction}) was begun, and whether it landed is unknown: "
                f"{_one_line(mark.statement)} [found: "
                f"{self._language.found(self._query, mark.facts)}]",
                f"look whether it is there, then {RESOLVE.format(self._name)}",
            )
        if landed is Landed.YES:
            mark.state = State.DONE
            self._pending.append(mark)
            return
        del self._rows[mark.number]
        if landed is Landed.PARTLY:
            self._remains[mark.number] = mark

    # A person ---------------------------------------------------------------------------------

    def resolve(self, resolution: Resolution) -> str:
        found = self._load()
        try:
            return self._resolve(resolution, found)
        finally:
            self._driver.commit()
            self._drop_if_empty()

    def _resolve(self, resolution: Resolution, found: list[tuple[tuple[str, str], Mark]]) -> str:
        if not found:
            raise UsageError(f"{self._name} has no journal: no revision broke half way there")
        if resolution is Resolution.DISCARD:
            self._clear()
            return "the journal is gone; the revision begins anew"
        (revision, direction), mark = next(
            ((key, mark) for key, mark in found if mark.state is State.BEGUN), found[-1]
        )
        if mark.state is not State.BEGUN:
            raise UsageError(
                f"no statement of {revision} is in doubt",
                f"the next attempt goes on, `branchmig resolve {self._name} --discard` begins anew",
            )
        mark.state = State.DONE if resolution is Resolution.LANDED else State.REFUSED
        step = Step(revision, Direction(direction), (), ())
        self._query(self._language.put, mark.row(step))
        taken = "as landed" if resolution is Resolution.LANDED else "as not landed"
        return f"statement {mark.number} of {revision} is taken {taken}"

    # Statements -------------------------------------------------------------------------------

    def _on_execute(self, cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
        def send() -> None:
            self._engine.dialect.do_execute(cursor, statement, parameters, context)

        return self._statement(send, cursor, statement, parameters, context)

    def _on_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
        def send() -> None:
            self._engine.dialect.do_executemany(cursor, statement, parameters, context)

        return self._statement(send, cursor, statement, parameters, context)

    def _on_execute_no_params(self, cursor: Any, statement: str, context: Any) -> bool:
        def send() -> None:
            self._engine.dialect.do_execute_no_params(cursor, statement, context)

        return self._statement(send, cursor, statement, (), context)

    def _statement(
        self, send: Callable[[], None], cursor: Any, text: str, parameters: Any, context: Any
    ) -> bool:
        """Whether this statement has been dealt with here; otherwise SQLAlchemy sends it."""
        if not self._active:
            return False
        if self._ended:
            raise self._ended
        read = self._language.read(text)
        if read.refused:
            self._refuse(f"{read.refused}: {_one_line(text)}")
        if read.kind is Kind.SCHEMA and self._closing:
            self._refuse("changes the schema after its function has returned: " + _one_line(text))
        if self._passed and self._language.looks_back(text):
            self._diverge(f"it reads the result of a statement that is passed over: {text}")
        if self._closing or read.kind is Kind.READ:
            self._send(send)
        elif read.kind in (Kind.SESSION, Kind.TRANSACTION):
            self._control(send, read, text, cursor)
        else:
            self._journaled(send, read, text, parameters, (cursor, context))
        return True

    def _control(self, send: Callable[[], None], read: Statement, text: str, cursor: Any) -> None:
        """A statement that changes the session or its transaction: executed each time."""
        if read.verb == "ROLLBACK" and read.savepoint is None:
            self._forget_undone()
        elif read.savepoint is None and (read.commits or read.kind is Kind.TRANSACTION):
            self._driver.commit()
        if read.verb == "LOCK":
            # Under LOCK TABLES only what it names can be used.
            self._send(lambda: cursor.execute(f"{text.rstrip(' ;')}, {self._language.table} WRITE"))
            return
        self._send(send)
        if read.verb == "SAVEPOINT":
            self._savepoints[str(read.savepoint)] = len(self._pending)
        elif read.verb == "ROLLBACK" and read.savepoint is not None:
            for mark in self._pending[self._savepoints.get(read.savepoint, 0) :]:
                mark.state = mark.state if mark.schema else State.UNDONE

    def _journaled(
        self,
        send: Callable[[], None],
        read: Statement,
        text: str,
        parameters: Any,
        target: tuple[Any, Any],
    ) -> None:
        self._number += 1
        schema = read.kind is Kind.SCHEMA
        mark = Mark(self._number, digest(text, parameters), State.DONE, text, schema)
        if self._number <= max(self._rows, default=0):
            before = self._rows.get(self._number)
            if before is None or before.hash != mark.hash:
                was = _one_line(before.statement) if before else "none"
                self._diverge(
                    f"its statement {self._number} was {was} and is now {_one_line(text)} "
                    "(the text or a parameter differs)"
                )
            if before.state is State.DONE:
                self._pass_over(read, before, *target)
                return
            if before.state is State.REFUSED and self._number < max(self._rows):
                self._refuse_again(before)
        if self._stays(schema, text):
            mark.schema = True
            self._change_schema(send, read, mark, target[0])
        else:
            self._change_data(send, mark, target[0])

    def _stays(self, schema: bool, text: str) -> bool:
        """Whether a rollback would leave what a statement did."""
        if self._language.transactional:
            # Within a transaction the server refuses what cannot be rolled back.
            return schema and self._language.commits_each(self._driver)
        return schema or self._language.is_loose(self._query, text)

    def _change_data(self, send: Callable[[], None], mark: Mark, cursor: Any) -> None:
        """Data and its mark share one transaction, also where each statement would be one."""
        alone = self._language.commits_each(self._driver)
        if alone:
            self._query("BEGIN")
        try:
            self._send(send)
        except Exception as error:
            self._failed(mark, error)
            if alone and self._language.transactional:
                self._query("ROLLBACK")
            raise
        finally:
            mark.columns = columns(cursor)
            self._pending.append(mark)
            if alone:
                self._driver.commit()

    def _change_schema(
        self, send: Callable[[], None], read: Statement, mark: Mark, cursor: Any
    ) -> None:
        remains = self._remains.pop(self._number, None)
        if remains is not None:
            self._language.take_away(self._query, remains.facts)
        mark.facts, mark.state = self._language.look(self._query, read), State.BEGUN
        self._pending.append(mark)
        self._driver.commit()
        try:
            self._send(send)
        except Exception as error:
            # Without an answer the server may still be at it: the next attempt looks.
            if self._language.is_refusal(error):
                self._refused(mark, error)
            raise
        mark.state, mark.columns = State.DONE, columns(cursor)
        self._pending.append(mark)
        if self._language.commits_each(self._driver):
            self._driver.commit()

    def _refused(self, mark: Mark, error: Exception) -> None:
        landed = self._language.landed(self._query, mark.statement, mark.facts)
        if landed is Landed.NO or not mark.facts:
            self._failed(mark, error)
            self._pending.append(mark)
        elif landed is Landed.PARTLY:
            self.warnings.append(
                f"a statement that failed left something of no use behind "
                f"({self._language.found(self._query, mark.facts)}); the next attempt takes it "
                f"away and begins the statement anew: {_one_line(mark.statement)}"
            )

    def _failed(self, mark: Mark, error: BaseException) -> None:
        mark.state = State.REFUSED
        mark.error = [type(error).__name__, *(str(a) if a.__class__ is not int else a
                                              for a in error.args)]  # fmt: skip
        if self._language.undid_transaction(error):
            self._pending = [m for m in self._pending if m.schema]
            self._ended = RevisionRefused(
                f"the server rolled the transaction back ({error}), and the revision went on",
                "do not catch such an error in a revision: it runs again from where it stands",
            )

    def _refuse_again(self, mark: Mark) -> NoReturn:
        """The server refused it, and the revision went on: it must take the same way again."""
        self._pending.append(mark)
        name, *arguments = mark.error or ["OperationalError"]
        driver: Any = self._engine.dialect.loaded_dbapi
        kind = getattr(driver, name, None) or getattr(driver.errors, name)
        raise kind(*arguments)

    def _pass_over(self, read: Statement, mark: Mark, cursor: Any, context: Any) -> None:
        if read.unskippable:
            self._diverge(
                f"its statement {mark.number} landed and cannot be passed over, because "
                f"{read.unskippable}: {_one_line(mark.statement)}"
            )
        self._passed = True
        cursor.close()
        why = (
            f"it reads the result of its statement {mark.number}, which landed in an earlier "
            f"attempt: {_one_line(mark.statement)}"
        )
        asked = not getattr(context, "_is_implicit_returning", False)
        context.cursor = PassedOver(mark.columns, asked, lambda: self._diverge(why))

    def _diverge(self, why: str) -> NoReturn:
        """Nothing more is executed, whatever the revision does with the error."""
        assert self._step is not None
        if not isinstance(self._ended, NeedsPerson):
            self._ended = JournalDiverged(
                f"{self._name}: the {self._step.direction} of {self._step.revision} broke half "
                f"way and differs from its journal now: {why}",
                "mend the revision so that it repeats what it did; or finish or undo it by hand, "
                f"then `branchmig resolve {self._name} --discard`",
            )
        raise self._ended

    def _refuse(self, what: str) -> NoReturn:
        assert self._step is not None
        self._ended = RevisionRefused(
            f"the revision {self._step.revision} {what}",
            "mend the revision: on this engine every statement must go through op.execute or "
            "op.get_bind(), so that it can be journaled",
        )
        raise self._ended

    # The driver -------------------------------------------------------------------------------

    def _send(self, send: Callable[[], Any]) -> None:
        self._ours, before = True, self._ours
        try:
            send()
        finally:
            self._ours = before

    def _query(self, statement: str, parameters: Any = None) -> list[Any]:
        cursor = self._driver.cursor()
        try:
            self._send(lambda: cursor.execute(statement, parameters))
            return list(cursor.fetchall()) if cursor.description else []
        finally:
            cursor.close()

    def _flush(self) -> None:
        """Write the marks that wait for a commit into the transaction that is committed."""
        if self._beside:
            self._refuse(f"goes round its journal with a cursor of the driver: {self._beside}")
        marks, self._pending = {mark.number: mark for mark in self._pending}, []
        self._savepoints = {}
        if marks:
            assert self._step is not None
            self._make()
            rows = [mark.row(self._step) for mark in marks.values()]
            with_cursor = self._driver.cursor()
            try:
                self._send(lambda: with_cursor.executemany(self._language.put, rows))
            finally:
                with_cursor.close()

    def _forget_undone(self) -> None:
        """A rollback: what it undid has no mark. A revision that goes on after it is refused."""
        kept = [mark for mark in self._pending if mark.schema]
        undone = any(m.state is State.DONE for m in self._pending if not m.schema)
        self._pending, self._beside = kept, None
        if undone and self._active and self._ended is None:
            assert self._step is not None
            self._ended = RevisionRefused(
                f"the revision {self._step.revision} rolled back what it had done",
                "take the ROLLBACK (or session.rollback()) out of the revision",
            )

    def _bypassed(self, text: str) -> None:
        """Something reached the driver that did not come through here, if only SQLAlchemy's own."""
        read = self._language.read(text)
        if read.kind is Kind.TRANSACTION and read.savepoint is None:
            self._forget_undone() if read.verb == "ROLLBACK" else self._flush()
        elif read.kind in (Kind.READ, Kind.SESSION, Kind.TRANSACTION):
            return
        elif self._language.transactional and not self._language.commits_each(self._driver):
            # It has done no harm unless the revision commits before its end.
            self._beside = self._beside or _one_line(text)
        else:
            self._refuse(f"goes round its journal with a cursor of the driver: {_one_line(text)}")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:400]


def _has_landed(found: list[tuple[tuple[str, str], Mark]], heads: Heads) -> bool:
    """Whether the version rows say that what a journal is about landed as a whole after all."""
    return all(
        (revision in heads) is (direction == Direction.UPGRADE)
        for (revision, direction), _ in found
    )
