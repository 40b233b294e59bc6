"""One branch's own database: look at it, plan, migrate, validate. HeadOffice has no part in this.

Floor 4. Runs in the command's own process (`apply BRANCH`) or in a worker process (`apply-all`);
gives values and keeps nothing but the strategies and histories that it has loaded.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from .adoption import adopt
from .attempt import Work, ended, explained, root
from .config import Settings
from .descent import Aim, descend
from .errors import (
    BranchmigError,
    ConfigError,
    HistoryError,
    MultipleHeads,
    SecretMissing,
    UnknownRevision,
    UsageError,
)
from .fence import Fence
from .hooks import described, hook
from .model import (
    Attempt,
    Branch,
    Direction,
    Failure,
    FailureKind,
    Heads,
    Plan,
    Provider,
    Record,
    Resolution,
    Snapshot,
    Task,
    ValidationResult,
    VersionTable,
)
from .providers import (
    Limits,
    MigrationStrategy,
    provider_of,
    refuse_references,
    strategy_for,
)
from .references import blind, is_whole, remember_all, resolve
from .reversal import Rollback
from .revisions.environment import offline_sql
from .revisions.history import History
from .revisions.source import Source
from .scripts import MOMENTS, scripts

_PAUSE, _LONGEST_PAUSE = 0.5, 5.0
"""Seconds between two tries: the first, and what it doubles up to."""


class Migrator:
    """Strategies and histories of one process, each made once a provider."""

    def __init__(self, settings: Settings, warn: Callable[[str], object] | None = None) -> None:
        """`warn` is told once of what is doubtful about the history."""
        remember_all(settings)  # a worker was handed them
        self.settings = settings
        self._warn = warn
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

        Raises HistoryError: it cannot be loaded, or lacks the target of the settings.
        """
        if provider not in self._histories:
            strategy = self.strategy(provider)
            history = History.load(
                Source.of(self.settings),
                strategy.scratch_url,
                online=strategy.capabilities.scratch_in_memory,
            )
            _check_configured(history, self.settings.migrations.target)
            if self._warn and not self._histories:
                for warning in history.warnings:
                    self._warn(warning)
            self._histories[provider] = history
        return self._histories[provider]

    def knows(self, provider: Provider) -> bool:
        """Whether the history for a provider has been loaded."""
        return provider in self._histories

    def server(self, branch: Branch) -> str | None:
        """What a branch shares with others and must not be flooded; None: nothing but this host."""
        if branch.server:
            return branch.server
        with suppress(BranchmigError):
            return self.strategy(branch.provider).server(blind(branch.url))
        # Of a URL that is a secret as a whole the server is not known: each passes for its own.
        return blind(branch.url) if is_whole(branch.url) else None

    def reachable(self, branch: Branch) -> Branch:
        """A branch with the secrets in its URL: for whoever opens its database, and for nobody
        else. Raises SecretMissing, UsageError."""
        if "${" not in branch.url:
            return branch
        refuse_references(self.strategy(branch.provider), branch.url)
        url = resolve(branch.url, self.settings)
        if is_whole(branch.url) and _engine(url) is not branch.provider:
            # Without what it holds: that may be a secret meant for another place.
            raise SecretMissing(
                f"{branch.url} holds no URL of a database on {branch.provider}",
                "mend the secret, or name another one",
            )
        return replace(branch, url=url)

    # Looking ----------------------------------------------------------------------------------

    def look(self, branch: Branch) -> Snapshot:
        """What the branch stands at, changing nothing. Raises ProviderError, BranchBusy."""
        table = self.history(branch.provider).version_table
        return self.strategy(branch.provider).inspect(self.reachable(branch).url, table)

    def versions(self, branch: Branch) -> Snapshot:
        """As `look`, at the least cost: of the tables nothing."""
        table = self.history(branch.provider).version_table
        return self.strategy(branch.provider).versions(self.reachable(branch).url, table)

    def versions_together(self, branches: Sequence[Branch]) -> dict[str, Snapshot]:
        """As `versions`, by the ids of those of which one connection can tell."""
        found: dict[str, Snapshot] = {}
        for provider in {branch.provider for branch in branches}:
            by_url = dict(self._addresses(b for b in branches if b.provider is provider))
            table = self.history(provider).version_table
            told = self.strategy(provider).versions_together(list(by_url), table)
            found |= {by_url[url]: snapshot for url, snapshot in told.items()}
        return found

    def _addresses(self, branches: Iterable[Branch]) -> Iterator[tuple[str, str]]:
        """URLs and ids, as far as the secrets are there: an attempt tells of the others."""
        for branch in branches:
            with suppress(BranchmigError):
                yield self.reachable(branch).url, branch.id

    def failure(self, branch: Branch, error: BaseException) -> Failure:
        """What an attempt on a branch would make of an error."""
        strategy = self.strategy(branch.provider)
        found = explained(error, strategy, branch)
        return Failure.of(found, strategy.classify(root(error)))

    def plan(self, branch: Branch, target: str) -> Plan:
        """The way of a branch to `target`; for one without a database everything."""
        history = self.history(branch.provider)
        history.check_target(target)
        return history.plan(branch, self.look(branch).heads, target)

    def check_scripts(self, provider: Provider) -> None:
        """Raise ConfigError where the operator's SQL cannot be read, before a branch is blamed."""
        for moment in MOMENTS:
            scripts(self.settings, moment, provider)

    def descend(self, record: Record, aim: Aim) -> Rollback:
        """The way down of a branch and what it would lose, changing nothing.

        Raises as `descent.descend` does, the driver's exceptions as ProviderError.
        """
        provider = record.branch.provider
        strategy, history = self.strategy(provider), self.history(provider)
        try:
            opened = replace(record, branch=self.reachable(record.branch))
            found = descend(opened, aim, strategy, history)
            return replace(found, record=record, plan=replace(found.plan, branch=record.branch))
        except BranchmigError:
            raise
        except Exception as error:
            raise explained(error, strategy, record.branch) from error

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

        Whatever goes wrong is in the value: what landed, where the branch stands, why. Where only
        a lock was in the way it is tried again, `run.lock_tries` times in all.
        """
        started = time.monotonic()
        attempt = self._between_hooks(task, fence)
        if attempt.plan:
            # What an attempt gives back is kept and passed on: without the secrets of its URL.
            attempt = replace(attempt, plan=replace(attempt.plan, branch=task.branch))
        return replace(attempt, duration=timedelta(seconds=time.monotonic() - started))

    def _between_hooks(self, task: Task, fence: Fence) -> Attempt:
        """The commands are called under the lease, and without a lock on the branch: what they do
        to it, or to its tills, must not have to wait for us."""
        hooks = self.settings.hooks
        pending = self._pending(task) if hooks.before_branch or hooks.after_branch else ()
        if not pending:
            return self._tries(task, fence)
        direction = Direction.DOWNGRADE if task.reversal else Direction.UPGRADE
        document = {
            "branch": described(task.branch),
            "target": task.target,
            "direction": direction.value,
        }
        try:
            if before := hook(self.settings, "before_branch"):
                before.call({**document, "pendingMigrations": pending}, fence)
        except BranchmigError as error:
            return ended(task, None, None, error, fence)
        attempt = Attempt(reason="the attempt ended without a result")
        try:
            attempt = self._tries(task, fence)
        finally:
            # Whatever came of it: what was closed before has to be opened again.
            warning = self._after({**document, **_told(attempt)})
        return replace(attempt, warnings=(*attempt.warnings, *warning))

    def _after(self, document: dict[str, object]) -> tuple[str, ...]:
        """A fence of its own: neither a lost lease nor a stop takes its time away."""
        try:
            if after := hook(self.settings, "after_branch"):
                after.call(document, Fence())
        except BranchmigError as error:
            return (error.message,)
        return ()

    def _pending(self, task: Task) -> tuple[str, ...]:
        """The revisions before a branch; none where a look cannot tell."""
        if task.reversal:
            return tuple(step.revision for step in task.reversal.steps)
        try:
            return tuple(step.revision for step in self.plan(task.branch, task.target).steps)
        except BranchmigError:
            return ()

    def _tries(self, task: Task, fence: Fence) -> Attempt:
        attempt = self._attempt(task, fence)
        tries = self.settings.run.lock_tries
        if tries > 1 and _passes(attempt):
            attempt = self._tried_again(attempt, task, fence, tries)
        return attempt

    def _tried_again(self, first: Attempt, task: Task, fence: Fence, tries: int) -> Attempt:
        """Between the tries whoever waits behind the lock gets through, for a time that differs
        from branch to branch."""
        # Here, since it costs 27 ms, and few runs need it.
        import tenacity

        total = first

        def again() -> Attempt:
            nonlocal total
            total = _together(total, self._attempt(task, fence))
            return total

        def exhausted(state: tenacity.RetryCallState) -> Attempt:
            failure = total.failure
            assert failure is not None
            return replace(
                total, failure=replace(failure, message=f"{failure.message} (tried {tries} times)")
            )

        wait = tenacity.wait_exponential(_PAUSE, _LONGEST_PAUSE) + tenacity.wait_random(0, _PAUSE)
        fence.pause(random.uniform(_PAUSE, 2 * _PAUSE))
        return tenacity.Retrying(
            sleep=fence.pause,
            stop=tenacity.stop_after_attempt(tries - 1),
            wait=wait,
            retry=tenacity.retry_if_result(_passes),
            retry_error_callback=exhausted,
        )(again)

    def _attempt(self, task: Task, fence: Fence) -> Attempt:
        provider = task.branch.provider
        work: Work | None = None
        try:
            strategy, history = self.strategy(provider), self.history(provider)
            reachable = replace(task, branch=self.reachable(task.branch))
            work = Work(reachable, self.settings, strategy, history, fence)
            work.carry_out()
        except ConfigError:
            # The history is wrong, not the branch: no branch does better, and none is to blame.
            raise
        except BaseException as error:
            # A revision may raise even KeyboardInterrupt; real signals come through the fence.
            return ended(task, work, self._strategies.get(provider), error, fence)
        return work.result()

    def resolve(self, branch: Branch, resolution: Resolution, fence: Fence) -> str:
        """Settle, as a person says, a revision that broke half way; what was done, as a sentence.

        Raises UsageError where there is nothing to settle, ProviderError, BranchBusy.
        """
        strategy = self.strategy(branch.provider)
        try:
            url = self.reachable(branch).url
            with strategy.connect(url) as connection, strategy.lock(connection):
                fence.check_step()
                there = strategy.read(connection, VersionTable()).journaled
                return strategy.journal(connection, branch.code, there=there).resolve(resolution)
        except BranchmigError:
            raise
        except Exception as error:
            raise explained(error, strategy, branch) from error

    def baseline(self, branch: Branch, revision: str, fence: Fence) -> Heads:
        """Take over a database that another tool made, as standing at `revision`; its heads then.

        Raises as `adoption.adopt` does, ProviderError and BranchBusy.
        """
        strategy, history = self.strategy(branch.provider), self.history(branch.provider)
        try:
            return adopt(self.reachable(branch), revision, strategy, history, fence)
        except BranchmigError:
            raise
        except Exception as error:
            raise explained(error, strategy, branch) from error


def _engine(url: str) -> Provider | None:
    with suppress(UsageError):
        return provider_of(url)
    return None


def _passes(attempt: Attempt) -> bool:
    """Whether an attempt failed for something that passes by itself."""
    return attempt.failure is not None and attempt.failure.kind is FailureKind.TRANSIENT


def _told(attempt: Attempt) -> dict[str, object]:
    """An attempt as the hook after it is told of it."""
    return {
        "succeeded": attempt.heads is not None and not (attempt.failure or attempt.skip),
        "appliedMigrations": attempt.applied,
        "errorMessage": attempt.failure.message if attempt.failure else attempt.reason,
    }


def _together(before: Attempt, after: Attempt) -> Attempt:
    """Two tries as the one attempt that they are for the branch."""
    return replace(
        after,
        plan=before.plan or after.plan,
        applied=before.applied + after.applied,
        took=before.took + after.took,
        heads=before.heads if after.heads is None else after.heads,
        warnings=before.warnings + after.warnings,
    )


def _check_configured(history: History, target: str) -> None:
    """Several heads are no fault of the settings: a command may name one of them."""
    try:
        with suppress(MultipleHeads):
            history.check_target(target)
    except UnknownRevision as error:
        raise HistoryError(f"[migrations] target: {error.message}", error.hint) from None


def _fault(snapshot: Snapshot, missing: tuple[str, ...], pending: tuple[str, ...]) -> str | None:
    """Why a branch is not valid, as a sentence."""
    if not snapshot.exists:
        return "there is no database: never migrated, or gone"
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
