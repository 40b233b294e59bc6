"""One branch's own database: look at it, plan, migrate, validate. HeadOffice has no part in this.

Floor 4. Runs in the command's own process (`apply BRANCH`) or in a worker process (`apply-all`);
gives values and keeps nothing but the strategies and histories that it has loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from .config import Settings
from .errors import (
    BranchBusy,
    BranchmigError,
    DatabaseMissing,
    DatabaseVanished,
    DriftDetected,
    LeaseLost,
    MigrationFailed,
    NeedsPerson,
    NotAdopted,
    Stopped,
    ValidationFailed,
)
from .fence import Fence, Fencing, stopped
from .model import (
    Attempt,
    Branch,
    Failure,
    FailureKind,
    Heads,
    Plan,
    Provider,
    Resolution,
    SkipReason,
    Snapshot,
    Step,
    Task,
    ValidationResult,
    heads_text,
)
from .providers import Limits, MigrationStrategy, NoJournal, strategy_for
from .revisions.environment import offline_sql, run, stamp
from .revisions.history import History
from .revisions.hooks import NoHooks
from .revisions.source import Source, place


class Migrator:
    """Strategies and histories of one process, each made once a provider."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._strategies: dict[Provider, MigrationStrategy] = {}
        self._histories: dict[Provider, History] = {}

    def strategy(self, provider: Provider) -> MigrationStrategy:
        """Raises UnsupportedProvider, DriverMissing."""
        if provider not in self._strategies:
            given = self.settings.run
            limits = Limits(given.connect_timeout, given.lock_timeout, given.statement_timeout)
            self._strategies[provider] = strategy_for(provider, limits, self.settings.folder)
        return self._strategies[provider]

    def history(self, provider: Provider = Provider.SQLITE) -> History:
        """The history of the branches, as its env.py sets it up for a provider.

        Raises HistoryError.
        """
        if provider not in self._histories:
            strategy = self.strategy(provider)
            self._histories[provider] = History.load(
                Source.of(self.settings),
                strategy.scratch_url,
                online=strategy.capabilities.scratch_in_memory,
            )
        return self._histories[provider]

    # Looking ----------------------------------------------------------------------------------

    def look(self, branch: Branch) -> Snapshot:
        """What the branch stands at, changing nothing. Raises ProviderError, BranchBusy."""
        table = self.history(branch.provider).version_table
        return self.strategy(branch.provider).inspect(branch.url, table)

    def plan(self, branch: Branch, target: str) -> Plan:
        """The way of a branch to `target`; for one without a database everything."""
        history = self.history(branch.provider)
        history.check_target(target)
        return history.plan(branch, self.look(branch).heads, target)

    def sql(self, plan: Plan) -> dict[str, str]:
        """The statements of a plan by revision, as they would be sent, without sending them."""
        provider = plan.branch.provider
        dialect = self.strategy(provider).dialect
        return offline_sql(self.history(provider), plan.steps, dialect)

    def applied(self, branch: Branch, heads: Heads) -> tuple[str, ...]:
        """The revisions that a branch at `heads` has had."""
        return self.history(branch.provider).applied(heads)

    def validate(self, branch: Branch) -> ValidationResult:
        """Whether a branch is at the configured target with every required table.

        What cannot be read is invalid, and says why.
        """
        settings = self.settings
        try:
            snapshot = self.look(branch)
            steps = self.history(branch.provider).steps(snapshot.heads, settings.migrations.target)
        except BranchmigError as error:
            return ValidationResult(branch, reason=error.message)
        missing = self.strategy(branch.provider).missing_tables(
            snapshot.tables, settings.required_tables
        )
        pending = tuple(step.revision for step in steps)
        return ValidationResult(branch, missing, pending, _fault(snapshot, missing, pending))

    # Migrating --------------------------------------------------------------------------------

    def attempt(self, task: Task, fence: Fence) -> Attempt:
        """Bring one branch to its target, on one connection and under its session lock.

        Whatever goes wrong is in the value: what landed, where the branch stands, why.
        """
        branch = task.branch
        work: _Work | None = None
        try:
            strategy = self.strategy(branch.provider)
            work = _Work(task, strategy, self.history(branch.provider), fence)
            with self._connection(task, strategy) as connection:
                work.migrate(connection)
                self._check(work, connection)
        except (Exception, SystemExit) as error:
            return self._ended(task, work, error, fence)
        return work.result()

    @contextmanager
    def _connection(self, task: Task, strategy: MigrationStrategy) -> Iterator[sa.Connection]:
        url = task.branch.url
        try:
            with strategy.connect(url) as connection:
                yield connection
                return
        except DatabaseMissing:
            if task.recorded and not task.create:
                raise _vanished(task) from None
            if not (self.settings.run.create_databases or task.create):
                raise
        strategy.create(url)
        with strategy.connect(url) as connection:
            yield connection

    def _check(self, work: _Work, connection: sa.Connection) -> None:
        """Completed means looked at: the heads reached and, at the configured target, its tables.

        Raises ValidationFailed; what was committed stays.
        """
        snapshot = work.strategy.read(connection, work.history.version_table)
        work.heads = snapshot.heads
        findings = []
        if work.plan and snapshot.heads != work.plan.target:
            findings.append(
                f"the version table holds {heads_text(snapshot.heads) or 'nothing'} "
                f"instead of {heads_text(work.plan.target)}"
            )
        target = self.settings.migrations.target
        if not target.startswith("+") and not work.history.steps(snapshot.heads, target):
            missing = work.strategy.missing_tables(snapshot.tables, self.settings.required_tables)
            if missing:
                findings.append(f"missing tables: {', '.join(missing)}")
        if findings:
            raise ValidationFailed(
                f"{work.task.branch.code} does not validate: {'; '.join(findings)}",
                "what landed stays; mend the history or [validation] required_tables",
                findings=findings,
            )

    def _ended(self, task: Task, work: _Work | None, error: BaseException, fence: Fence) -> Attempt:
        """An attempt that did not go through, as a value."""
        strategy = self._strategies.get(task.branch.provider)
        found = _explained(error, strategy, task.branch)
        if fence.state.lost and not isinstance(found, LeaseLost):
            found = LeaseLost(fence.state.lost)
        elif fence.state.interrupted and not isinstance(found, LeaseLost):
            found = stopped(fence.state.signum, "the revision in hand was rolled back")
        skip = next((reason for kind, reason in _SKIPS.items() if isinstance(found, kind)), None)
        result = work.result() if work else Attempt()
        if skip:
            return replace(result, skip=skip, reason=Failure.of(found).message)
        if isinstance(found, NeedsPerson):
            return replace(result, failure=Failure.of(found, FailureKind.MANUAL))
        kind = strategy.classify(_root(error)) if strategy else FailureKind.PERMANENT
        return replace(result, failure=Failure.of(found, kind))

    def resolve(self, branch: Branch, resolution: Resolution, fence: Fence) -> str:
        """Settle, as a person says, a revision that broke half way; what was done, as a sentence.

        Raises UsageError where there is nothing to settle, ProviderError, BranchBusy.
        """
        strategy = self.strategy(branch.provider)
        with strategy.connect(branch.url) as connection, strategy.lock(connection):
            fence.check_step()
            return strategy.journal(connection, branch.code).resolve(resolution)

    # Adopting ---------------------------------------------------------------------------------

    def baseline(self, branch: Branch, revision: str, fence: Fence) -> Heads:
        """Take over a database that another tool made, as standing at `revision`.

        Compares it with a scratch database brought to that revision. Gives the heads. Raises
        DriftDetected with what is missing, UnknownRevision, PlanError where it is versioned.
        """
        strategy, history = self.strategy(branch.provider), self.history(branch.provider)
        if revision != "base":
            history.check_target(revision)
        with strategy.connect(branch.url) as connection, strategy.lock(connection):
            fence.check_step()
            snapshot = strategy.read(connection, history.version_table)
            if snapshot.heads:
                raise NotAdopted(
                    f"{branch.code} has a version table already, at {heads_text(snapshot.heads)}",
                    "it needs no baseline; `branchmig plan` shows what is before it",
                )
            if revision != "base":
                missing = self._missing(branch, history, connection, revision)
                if missing:
                    raise DriftDetected(
                        f"{branch.code} is not at {revision}, it lacks {', '.join(missing)}",
                        "name an earlier revision, or add by hand what is missing",
                    )
            stamp(history, connection, revision)
            return strategy.read(connection, history.version_table).heads

    def _missing(
        self,
        branch: Branch,
        history: History,
        connection: sa.Connection,
        revision: str,
    ) -> list[str]:
        """Tables and columns that `revision` should have left and that are not there."""
        strategy = self.strategy(branch.provider)
        capabilities = strategy.capabilities
        with strategy.scratch(branch.url) as scratch:
            run(
                history,
                scratch,
                history.steps((), revision),
                NoHooks(),
                transactional_ddl=capabilities.transactional_ddl,
            )
            wanted = strategy.schema(scratch)
        found = {name.lower(): columns for name, columns in strategy.schema(connection).items()}
        missing = []
        for table, columns in sorted(wanted.items()):
            present = found.get(table.lower())
            if table == history.version_table.name:
                continue
            if present is None:
                missing.append(f"the table {table}")
                continue
            known = {name.lower() for name in present}
            missing += [f"{table}.{name}" for name in sorted(columns) if name.lower() not in known]
        return missing


_SKIPS = {
    BranchBusy: SkipReason.BUSY,
    LeaseLost: SkipReason.LEASED,
    Stopped: SkipReason.STOPPED,
}


class _Work(NoHooks):
    """The progress of one attempt; as hooks it stands between Alembic and the branch."""

    def __init__(
        self, task: Task, strategy: MigrationStrategy, history: History, fence: Fence
    ) -> None:
        self.task = task
        self.strategy = strategy
        self.history = history
        self.fence = fence
        self.plan: Plan | None = None
        self.heads: Heads | None = None
        self.applied: list[str] = []
        self.warnings: list[str] = []
        self.journal = NoJournal()
        self._connection: sa.Connection | None = None
        self._broken: Any = None
        self._running: str | None = None
        self._seen: set[int] = set()

    def result(self) -> Attempt:
        return Attempt(
            plan=self.plan,
            applied=tuple(self.applied),
            heads=self.heads,
            warnings=tuple(self.warnings),
        )

    def migrate(self, connection: sa.Connection) -> None:
        self._connection = connection
        with self.strategy.lock(connection):
            snapshot = self.strategy.read(connection, self.history.version_table)
            self._refuse_foreign(snapshot)
            self.heads = snapshot.heads
            self.plan = self.history.plan(self.task.branch, snapshot.heads, self.task.target)
            self.journal = self.strategy.journal(connection, self.task.branch.code)
            if not self.plan.steps:
                if snapshot.unfinished:
                    self.journal.settle(snapshot.heads)
                return
            sa.event.listen(connection, "before_cursor_execute", self._before_statement)
            sa.event.listen(connection.engine, "handle_error", self._on_error)
            with self.fence.watched(self._on_fence), self.journal.kept():
                self._run(connection, self.plan)

    def _run(self, connection: sa.Connection, plan: Plan) -> None:
        try:
            run(
                self.history,
                connection,
                plan.steps,
                self,
                transactional_ddl=self.strategy.capabilities.transactional_ddl,
            )
        except (LeaseLost, Stopped, MigrationFailed, NeedsPerson):
            raise
        except (Exception, SystemExit) as error:
            raise self._failed(error) from error

    def _failed(self, error: BaseException) -> BranchmigError:
        found = _explained(error, self.strategy, self.task.branch)
        foreign = id(_root(error)) not in self._seen and self._running is not None
        if isinstance(found, BranchBusy) and foreign:
            return MigrationFailed(
                f"the revision {self._running} failed: a connection of its own met the lock that "
                "the migration holds",
                "a revision must use op.get_bind() for everything",
                applied=self.applied,
                failed=self._running,
            )
        if isinstance(found, BranchBusy):
            return found
        step = self._running or "after the last step"
        whole = self.strategy.capabilities.transactional_ddl
        left = "was rolled back" if whole else "stands half way, journaled to go on from there"
        return MigrationFailed(
            f"the revision {step} failed and {left}: {found.message}",
            found.hint or "mend the revision or the data, then run it again",
            applied=self.applied,
            failed=self._running,
            cause=found.message,
        )

    def _refuse_foreign(self, snapshot: Snapshot) -> None:
        if snapshot.versioned:
            return
        if snapshot.tables:
            code = self.task.branch.code
            raise NotAdopted(
                f"{code} has {len(snapshot.tables)} tables but no version table: another tool "
                "made it",
                f"`branchmig baseline {code} --revision REV` takes it over as standing at REV; "
                "`--revision base` if the whole history is still to be applied",
            )
        if self.task.recorded and not self.task.create:
            raise _vanished(self.task)

    # Hooks ------------------------------------------------------------------------------------

    def before_step(self, step: Step) -> None:
        self.fence.check_step()
        self._running = step.revision

    def begun(self, step: Step) -> None:
        assert self._connection is not None
        now = self.strategy.read(self._connection, self.history.version_table).heads
        if now != step.from_heads:
            raise LeaseLost(
                f"another migrator moved {self.task.branch.code} to {heads_text(now)} meanwhile",
                "nothing was done on top of it; the next run goes on from there",
            )
        if self._broken is None:
            self._broken = self.strategy.integrity(self._connection)
        self.strategy.begin_watch(self._connection)
        self.journal.begun(step)

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
                "executescript or a commit on its bind): it went through, but a failure half way "
                "could not have been rolled back"
            )

    def stamped(self, step: Step) -> None:
        assert self._connection is not None
        self.strategy.check_integrity(self._connection, self._broken)
        self.journal.stamped(step)

    def landed(self, step: Step) -> None:
        self.journal.landed(step)
        self.applied.append(step.revision)
        self.heads = step.to_heads
        self._running = None

    # Events -----------------------------------------------------------------------------------

    def _before_statement(self, *_: Any) -> None:
        self.fence.check_statement()

    def _on_error(self, context: Any) -> None:
        self._seen.add(id(context.original_exception))

    def _on_fence(self, state: Fencing) -> None:
        if (state.lost or state.interrupted) and self._connection is not None:
            self.strategy.interrupt(self._connection)


def _fault(snapshot: Snapshot, missing: tuple[str, ...], pending: tuple[str, ...]) -> str | None:
    """Why a branch is not valid, as a sentence."""
    if not snapshot.exists:
        return "never migrated: there is no database"
    if not snapshot.versioned:
        return "never migrated: there is no version table"
    reasons = ["a revision is half applied"] if snapshot.unfinished else []
    if pending:
        reasons.append(
            f"behind by {len(pending)} revisions" if len(pending) > 1 else "behind by 1 revision"
        )
    if missing:
        reasons.append(f"missing tables: {', '.join(missing)}")
    return "; ".join(reasons) or None


def _vanished(task: Task) -> DatabaseVanished:
    return DatabaseVanished(
        f"the database of {task.branch.code} was at {heads_text(task.recorded)} and is gone",
        "is its disk or share mounted? If it is to start afresh: "
        f"`branchmig apply {task.branch.code} --create`",
    )


def _root(error: BaseException) -> BaseException:
    """The driver's exception, within SQLAlchemy's or beneath one of ours."""
    if isinstance(error, MigrationFailed) and error.__cause__ is not None:
        error = error.__cause__
    original = getattr(error, "orig", None)
    return original if isinstance(original, BaseException) else error


def _explained(
    error: BaseException, strategy: MigrationStrategy | None, branch: Branch
) -> BranchmigError:
    """Any exception as an error of the house."""
    if isinstance(error, BranchmigError):
        return error
    if isinstance(error, sa.exc.DBAPIError) or (strategy and strategy.is_own(error)):
        assert strategy is not None
        found = strategy.explain(error, branch.url)
        statement = getattr(error, "statement", None)
        if statement and not isinstance(found, BranchBusy):
            # The parameters stay out: they are the branch's data.
            found.message += f" [SQL: {' '.join(statement.split())[:400]}]"
        return found
    return MigrationFailed(place(error))
