"""One attempt: bring one branch's own database to a target, on one connection and under its lock.

Floor 4, below `migrator`. `Work` stands between Alembic and the branch: it is asked before each
revision, watches over its transaction, and knows at any moment what landed and where the branch
stands. Whatever goes wrong ends as a value.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from .config import Settings
from .errors import (
    BranchBusy,
    BranchmigError,
    BranchUnreachable,
    ConfigError,
    DatabaseMissing,
    DatabaseVanished,
    HookFailed,
    LeaseLost,
    MigrationFailed,
    NeedsPerson,
    NotAdopted,
    NotFound,
    PlanError,
    RollbackRefused,
    SecretMissing,
    Stopped,
    ValidationFailed,
    WindowClosed,
)
from .fence import Fence, Fencing, stopped
from .forfeits import losses
from .masking import mask, mask_literals, speaks_of_secrets
from .model import (
    Attempt,
    Branch,
    Failure,
    FailureKind,
    Heads,
    Plan,
    Reversal,
    SkipReason,
    Snapshot,
    Step,
    Task,
    heads_text,
)
from .providers import MigrationStrategy, NoJournal
from .revisions.environment import run, stamp
from .revisions.history import History
from .revisions.hooks import NoHooks
from .revisions.source import place, where
from .scripts import Moment, Script, scripts

_SKIPS = {
    BranchBusy: SkipReason.BUSY,
    LeaseLost: SkipReason.LEASED,
    Stopped: SkipReason.STOPPED,
    WindowClosed: SkipReason.WINDOW,
}


class Work(NoHooks):
    """The work of one attempt and its progress. `carry_out` once, then ask for the `result`."""

    def __init__(
        self,
        task: Task,
        settings: Settings,
        strategy: MigrationStrategy,
        history: History,
        fence: Fence,
    ) -> None:
        self.task = task
        self.settings = settings
        self.strategy = strategy
        self.history = history
        self.fence = fence
        self.plan: Plan | None = None
        self.heads: Heads | None = None
        self.applied: list[str] = []
        self.took: list[float] = []
        self.warnings: list[str] = []
        self.journal = NoJournal()
        self._connection: sa.Connection | None = None
        self._broken: Any = None
        self._running: str | None = None
        self._expected = dict(task.expected)
        self._since = 0.0
        self._kept = False
        self._seen: set[int] = set()
        self._interrupted = False

    def result(self) -> Attempt:
        return Attempt(
            plan=self.plan,
            applied=tuple(self.applied),
            took=tuple(self.took),
            heads=self.heads,
            warnings=(*self.warnings, *self.journal.warnings),
        )

    @property
    def revision(self) -> str | None:
        """The one in hand, or else the last that landed: what it left was found wanting."""
        return self._running or (self.applied[-1] if self.applied else None)

    def carry_out(self) -> None:
        """Connect, migrate, and look at what came of it.

        Raises MigrationFailed, ValidationFailed, LeaseError, Stopped, PlanError, ProviderError or
        an exception of the driver.
        """
        with self._connected() as connection:
            self._migrate(connection)
            self._check(connection)

    @contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        url = self.task.branch.url
        with ExitStack() as stack:
            try:
                connection = stack.enter_context(self.strategy.connect(url))
            except DatabaseMissing:
                if self.task.recorded and not self.task.create:
                    raise _vanished(self.task) from None
                if self.task.reversal:
                    raise
                if not (self.settings.run.create_databases or self.task.create):
                    raise
                # Asked to stop already, it leaves not so much as a new database behind.
                if self.fence.state.signum is not None:
                    self.fence.check_step()
                self.strategy.create(url)
                connection = stack.enter_context(self.strategy.connect(url))
            yield connection

    # Migrating --------------------------------------------------------------------------------

    def _migrate(self, connection: sa.Connection) -> None:
        self._connection = connection
        with self.strategy.lock(connection):
            snapshot = self.strategy.read(connection, self.history.version_table)
            self._refuse_foreign(snapshot)
            self.heads = snapshot.heads
            self.plan = self._planned(snapshot.heads)
            self.journal = self.strategy.journal(
                connection, self.task.branch.code, there=snapshot.journaled
            )
            if not self.plan.steps:
                self.journal.settle(snapshot.heads)
                return
            sa.event.listen(connection, "before_cursor_execute", self._before_statement)
            sa.event.listen(connection.engine, "handle_error", self._on_error)
            try:
                with self.fence.watched(self._on_fence):
                    self._carry_out(connection, snapshot, self.plan)
            finally:
                # It hangs on the dialect, which may outlive this attempt.
                sa.event.remove(connection.engine, "handle_error", self._on_error)

    def _carry_out(self, connection: sa.Connection, snapshot: Snapshot, plan: Plan) -> None:
        if self.task.reversal:
            self._refuse_losses(connection, self.task.reversal)
            self._run(connection, plan)
            return
        self._prepare(connection, snapshot)
        self._run(connection, plan)
        self._finish(connection)

    def _planned(self, heads: Heads) -> Plan:
        """Raises LeaseLost where the branch has left the way down that was agreed to."""
        branch, back = self.task.branch, self.task.reversal
        if back is None:
            return self.history.plan(branch, heads, self.task.target)
        steps = back.left(heads)
        if steps is None:
            raise LeaseLost(
                f"{branch.code} was moved to {heads_text(heads) or 'base'} after the rollback was "
                "planned",
                "nothing was done; plan it anew",
            )
        return Plan(branch, heads, back.target, steps)

    def _refuse_losses(self, connection: sa.Connection, back: Reversal) -> None:
        """Raises RollbackRefused where data has come since a person agreed to losing none."""
        assert self.plan is not None
        ahead = {step.revision for step in self.plan.steps}
        try:
            found = losses(connection, [e for e in back.spares if e.revision in ahead])
        finally:
            if connection.in_transaction():
                connection.rollback()
        if found:
            raise RollbackRefused(
                f"{self.task.branch.code} would lose data that has come since the rollback was "
                f"planned: {', '.join(map(str, found))}",
                "nothing was done; plan it anew",
            )

    def _run(self, connection: sa.Connection, plan: Plan) -> None:
        try:
            with self.journal.kept():
                run(
                    self.history,
                    connection,
                    plan.steps,
                    self,
                    transactional_ddl=self.strategy.capabilities.transactional_ddl,
                )
        except (LeaseLost, Stopped, WindowClosed, MigrationFailed, NeedsPerson):
            raise
        except BaseException as error:
            raise self._failed(error) from error

    def _scripts(self, moment: Moment) -> tuple[Script, ...]:
        return scripts(self.settings, moment, self.task.branch.provider)

    def _prepare(self, connection: sa.Connection, snapshot: Snapshot) -> None:
        """The scripts before the revisions."""
        preceding = self._scripts("before")
        if preceding and not snapshot.versioned:
            # Or what they make would pass for the work of another tool, were this to end here.
            if connection.in_transaction():
                connection.commit()
            with connection.begin():
                stamp(self.history, connection, "base")
        for script in preceding:
            self._execute(connection, script)

    def _execute(self, connection: sa.Connection, script: Script) -> None:
        """One script in a transaction of its own. Raises HookFailed, BranchBusy, LeaseError."""
        number = 0
        try:
            if connection.in_transaction():
                connection.commit()
            with connection.begin():
                for statement in self.strategy.statements(script.text):
                    number += 1
                    connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        except BranchmigError:
            raise
        except Exception as error:
            found = self.strategy.explain(root(error), self.task.branch.url)
            if isinstance(found, BranchBusy):
                raise found from error
            message = found.message
            if speaks_of_secrets(script.text):
                # Servers quote the statement that failed, or a part of it, cut anywhere.
                message = (
                    "(what the server says is left out, since the script speaks of a password)"
                )
            raise HookFailed(
                f"the script {script.name} failed at its statement {number}: {message}",
                "mend the script; the next attempt runs all of them again",
            ) from error

    def _finish(self, connection: sa.Connection) -> None:
        """The scripts after the revisions, which have landed whatever becomes of these."""
        try:
            following = self._scripts("after")
        except ConfigError as error:
            self.warnings.append(error.message)
            return
        for script in following:
            try:
                self._execute(connection, script)
            except (HookFailed, BranchBusy) as error:
                self.warnings.append(error.message)

    def _failed(self, error: BaseException) -> BranchmigError:
        found = explained(error, self.strategy, self.task.branch)
        if isinstance(found, BranchBusy):
            if found is error or id(root(error)) in self._seen:
                return found
            found = MigrationFailed(
                f"{where(error) or 'it'}: a connection of its own met the lock that the migration "
                "holds",
                "a revision must use op.get_bind() for everything",
            )
        if self._running is None:
            what = "the work after the last revision failed"
        elif self.strategy.classify(root(error)) is FailureKind.UNREACHABLE:
            # Even a COMMIT may have reached the server, and only its answer got lost.
            lost = f"the connection was lost in {self._in_hand}"
            what = f"{lost}, and the next run sees whether it landed"
        else:
            what = f"{self._in_hand} failed {self.left()}"
        return MigrationFailed(
            f"{what}: {found.message}",
            found.hint or "mend the revision or the data, then run it again",
            applied=self.applied,
            failed=self._running,
            cause=found.message,
        )

    @property
    def _in_hand(self) -> str:
        kind = "downgrade of" if self.task.reversal else "revision"
        return f"the {kind} {self._running}"

    @property
    def keeps_unknown(self) -> bool:
        """Whether a revision that broke has committed something that no journal knows of."""
        return self._kept and not self.journal.holds

    def left(self) -> str:
        """What a revision that broke has left in the branch."""
        if self.journal.holds:
            return "half way, journaled to go on from there"
        if self._kept:
            return "half way, and what it had committed stays"
        return "and was rolled back"

    def _refuse_foreign(self, snapshot: Snapshot) -> None:
        if snapshot.versioned:
            return
        if snapshot.tables:
            code, count = self.task.branch.code, len(snapshot.tables)
            raise NotAdopted(
                f"{code} has {count} table{'s' * (count > 1)} but no version table: another tool "
                "made it",
                f"`branchmig baseline {code} --revision REV` takes it over as standing at REV; "
                "`--revision base` if the whole history is still to be applied",
            )
        if self.task.recorded and not self.task.create:
            raise _vanished(self.task)

    # Looking at what came of it ---------------------------------------------------------------

    def _check(self, connection: sa.Connection) -> None:
        """Completed means looked at: the heads reached and, at the configured target, its tables.

        Raises ValidationFailed; what was committed stays.
        """
        snapshot = self.strategy.read(connection, self.history.version_table)
        self.heads = snapshot.heads
        findings = []
        if self.plan and snapshot.heads != self.plan.target:
            findings.append(
                f"the version table holds {heads_text(snapshot.heads) or 'nothing'} "
                f"instead of {heads_text(self.plan.target)}"
            )
        if self._at_configured_target(snapshot.heads):
            missing = self.strategy.missing_tables(snapshot.tables, self.settings.required_tables)
            if missing:
                findings.append(f"missing tables: {', '.join(missing)}")
        if findings:
            raise ValidationFailed(
                f"{self.task.branch.code} does not validate: {'; '.join(findings)}",
                "what landed stays; mend the history or [validation] required_tables",
                findings=findings,
            )

    def _at_configured_target(self, heads: Heads) -> bool:
        target = self.settings.migrations.target
        try:
            return self.history.target_heads(target) is not None and not self.history.steps(
                heads, target
            )
        except (PlanError, NotFound):
            # The target of this attempt was named by hand; the configured one leads nowhere.
            return False

    # Hooks ------------------------------------------------------------------------------------

    def before_step(self, step: Step) -> None:
        self.fence.check_step(self._expected.get(step.revision, 0))
        self._running = step.revision
        self._since = time.monotonic()

    def begun(self, step: Step) -> None:
        assert self._connection is not None
        now = self.strategy.read(self._connection, self.history.version_table).heads
        if now != step.from_heads:
            raise LeaseLost(
                f"another migrator moved {self.task.branch.code} to {heads_text(now) or 'base'} "
                "meanwhile",
                "nothing was done on top of it; the next run goes on from there",
            )
        if self._broken is None:
            self._broken = self.strategy.integrity(self._connection)
        self.strategy.begin_watch(self._connection)
        self.journal.begun(step)

    def broken(self, step: Step) -> None:
        assert self._connection is not None
        ended = self.strategy.end_watch(self._connection, failed=True)
        self._kept = self._kept or ended == "COMMIT"

    def executed(self, step: Step) -> None:
        assert self._connection is not None
        self.journal.executed(step)
        ended = self.strategy.end_watch(self._connection)
        if ended == "ROLLBACK":
            raise MigrationFailed(
                f"the revision {step.revision} rolled its transaction back itself; what it did "
                "before that is gone, and it was not recorded as applied",
                "take the ROLLBACK (or session.rollback()) out of the revision",
                applied=self.applied,
                failed=step.revision,
            )
        if ended:
            self.warnings.append(
                f"the revision {step.revision} ended its transaction itself (COMMIT, "
                "executescript, autocommit_block or a commit on its bind): it went through, but a "
                "failure half way could not have been rolled back"
            )

    def stamped(self, step: Step) -> None:
        assert self._connection is not None
        self.strategy.check_integrity(self._connection, self._broken)
        self.journal.stamped(step)

    def landed(self, step: Step) -> None:
        self.journal.landed(step)
        self.applied.append(step.revision)
        self.took.append(time.monotonic() - self._since)
        self.heads = step.to_heads
        self._running = None

    # Events -----------------------------------------------------------------------------------

    def _before_statement(self, *_: Any) -> None:
        self.fence.check_statement()

    def _on_error(self, context: Any) -> None:
        self._seen.add(id(context.original_exception))

    def _on_fence(self, state: Fencing) -> None:
        if (state.lost or state.interrupted) and self._connection and not self._interrupted:
            # Once, and beside: it asks the server, and whoever tells of a fence must not wait.
            self._interrupted = True
            threading.Thread(
                target=self.strategy.interrupt, args=(self._connection,), daemon=True
            ).start()


# Errors -----------------------------------------------------------------------------------------


def ended(
    task: Task,
    work: Work | None,
    strategy: MigrationStrategy | None,
    error: BaseException,
    fence: Fence,
) -> Attempt:
    """An attempt that did not go through, as a value: what landed, where the branch stands, why."""
    found = explained(error, strategy, task.branch)
    if fence.state.lost and not isinstance(found, LeaseLost):
        found = LeaseLost(fence.state.lost)
    elif fence.state.interrupted and not isinstance(found, LeaseLost):
        left = work.left() if work else "and was rolled back"
        found = stopped(fence.state.signum, f"the revision in hand was interrupted {left}")
    skip = next((reason for kind, reason in _SKIPS.items() if isinstance(found, kind)), None)
    result = work.result() if work else Attempt()
    if skip:
        return replace(result, skip=skip, reason=Failure.of(found).message)
    kind = strategy.classify(root(error)) if strategy else FailureKind.PERMANENT
    if isinstance(found, NeedsPerson) or (work and work.keeps_unknown):
        # Of the latter another attempt would do again what was committed: nothing says what.
        kind = FailureKind.MANUAL
    if isinstance(found, SecretMissing):
        kind = FailureKind.HOST
    # A lost connection counts too: some revisions bring their server down.
    revision = work.revision if work else None
    return replace(result, failure=replace(Failure.of(found, kind), revision=revision))


def explained(
    error: BaseException, strategy: MigrationStrategy | None, branch: Branch
) -> BranchmigError:
    """Any exception as an error of the house, with the file and line of a revision's fault.

    The parameters of a statement stay out: they are the branch's data.
    """
    error = _loss(error)
    if isinstance(error, BranchmigError):
        return error
    original = root(error)
    if isinstance(original, BranchmigError):
        # SQLAlchemy wraps what is raised while it asks for another connection.
        return original
    if isinstance(error, sa.exc.DBAPIError) or (strategy and strategy.is_own(error)):
        assert strategy is not None
        found = strategy.explain(error, branch.url)
        if isinstance(found, BranchBusy):
            return found
        at = where(error)
        found.message = f"{at}: {found.message}" if at else found.message
        statement = getattr(error, "statement", None)
        if statement:
            # Masked before it is cut: of a part of a secret nobody can tell that it is one.
            shown = mask(mask_literals(" ".join(statement.split()), statement))
            said = mask_literals(found.message, statement)
            found.message = f"{said} [SQL: {shown[:400]}]"
        return found
    return MigrationFailed(place(error))


def root(error: BaseException) -> BaseException:
    """The driver's exception, within SQLAlchemy's or beneath one of ours."""
    if isinstance(error, MigrationFailed) and error.__cause__ is not None:
        error = error.__cause__
    error = _loss(error)
    original = getattr(error, "orig", None)
    return original if isinstance(original, BaseException) else error


def _loss(error: BaseException) -> BaseException:
    """The driver's word for the loss of the connection, where an error only tells of it.

    SQLAlchemy asks for another connection while it cleans up after the loss, and is refused.
    """
    if not isinstance(getattr(error, "orig", error), BranchUnreachable):
        return error
    chain, seen = [error], set()
    while chain:
        link = chain.pop()
        seen.add(id(link))
        if isinstance(link, sa.exc.DBAPIError) and link.connection_invalidated:
            return link
        chain += [e for e in (link.__cause__, link.__context__) if e and id(e) not in seen]
    return error


def _vanished(task: Task) -> DatabaseVanished:
    return DatabaseVanished(
        f"the database of {task.branch.code} was at {heads_text(task.recorded)} and is gone",
        "is its disk or share mounted? If it is to start afresh: "
        f"`branchmig apply {task.branch.code} --create`",
    )
