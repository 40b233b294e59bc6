"""Reading and writing HeadOffice. Every write of a state is conditional and counts its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ..errors import (
    BranchBusy,
    BranchmigError,
    HeadOfficeLocked,
    HeadOfficeUnreachable,
    LeaseHeld,
    UnknownBranch,
    UsageError,
)
from ..model import (
    Branch,
    BranchState,
    Lease,
    MigrationStatus,
    Outcome,
    Record,
    Run,
)
from . import rows
from .durations import Durations
from .leases import Conclusion, Leases, Wanted, changed, held
from .notices import Notices
from .past import Past
from .rollouts import Rollouts
from .rows import Transition
from .tables import branches, clock, outcomes, runs, states
from .trail import Trail


class Store:
    """HeadOffice behind one engine; its leases, rollouts, durations and audit trail are
    rooms of their own.

    `explain` turns an error of HeadOffice's driver into one with a sentence; it is the strategy's.
    Methods raise HeadOfficeUnreachable or HeadOfficeLocked where the database will not.
    """

    def __init__(
        self, engine: sa.Engine, explain: Callable[[BaseException], BranchmigError]
    ) -> None:
        self._engine = engine
        self._explain = explain
        self.leases = Leases(self._transaction)
        self.rollouts = Rollouts(self._transaction)
        self.notices = Notices(self._transaction, self.rollouts.latest)
        self.durations = Durations(self._transaction)
        self.trail = Trail(self._transaction)
        self.past = Past(self._transaction)

    def close(self) -> None:
        """Give back every connection."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except BranchmigError:
            raise
        except (
            sa.exc.DBAPIError,
            sa.exc.TimeoutError,
            self._engine.dialect.loaded_dbapi.Error,
        ) as error:
            if isinstance(error, sa.exc.IntegrityError):
                raise
            found = self._explain(error)
            kind = HeadOfficeLocked if isinstance(found, BranchBusy) else HeadOfficeUnreachable
            raise kind(f"HeadOffice: {found.message}", found.hint) from error

    def now(self) -> datetime:
        """HeadOffice's time, the only one by which leases are judged."""
        with self._transaction() as connection:
            return rows.now(connection)

    # Branches ---------------------------------------------------------------------------------

    def records(self) -> tuple[Record, ...]:
        """Every branch with its state, by code."""
        statement = rows.records().order_by(branches.c.code_key)
        with self._transaction() as connection:
            return tuple(rows.record(row) for row in connection.execute(statement))

    def added(self) -> dict[str, datetime]:
        """When each branch was added, by id."""
        with self._transaction() as connection:
            found = connection.execute(sa.select(branches.c.id, branches.c.created_at))
            return {row.id: row.created_at for row in found}

    def record(self, name: str) -> Record:
        """The branch of this code (whatever its case) or id. Raises UnknownBranch."""
        by_code = rows.records().where(branches.c.code_key == name.lower())
        by_id = rows.records().where(branches.c.id == name.lower())
        with self._transaction() as connection:
            row = connection.execute(by_code).first() or connection.execute(by_id).first()
        if row is None:
            raise UnknownBranch(
                f"there is no branch {name!r}", "`branchmig branch list` shows every branch"
            )
        return rows.record(row)

    def add(self, branch: Branch, identity: str) -> None:
        """Add one branch. Raises UsageError where its code or its database is taken."""
        with self._unique(branch), self._transaction() as connection:
            self._refuse_taken(connection, branch, identity)
            _insert(connection, branch, identity)

    def update(self, branch: Branch, identity: str) -> bool:
        """Write a branch over the one of the same id; whether anything differed.

        A branch that now points elsewhere keeps its recorded heads, so that an empty database in
        its place is found out; it has to be looked at again, so it is Pending. Whoever migrates
        the former database loses the lease: what is found there is no news of this one.
        """
        with self._unique(branch), self._transaction() as connection:
            before = connection.execute(
                sa.select(branches).where(branches.c.id == branch.id)
            ).first()
            if before is None:
                raise UnknownBranch(f"the branch {branch.code} has been removed meanwhile")
            return _overwrite(connection, branch, identity, before)

    def put(self, wanted: Sequence[tuple[Branch, str]]) -> tuple[int, int]:
        """Add the branches whose code is new and update the others, all or none.

        Gives how many were added and how many changed. Raises UsageError.
        """
        added = changed = 0
        with self._transaction() as connection:
            rows = {row.id: row for row in connection.execute(sa.select(branches))}
            present = {row.code_key for row in rows.values()}
            for branch, identity in wanted:
                if branch.code.lower() in present:
                    _vacate(connection, branch, identity)
            for branch, identity in wanted:
                try:
                    if branch.code.lower() in present:
                        changed += _overwrite(connection, branch, identity, rows[branch.id])
                    else:
                        _insert(connection, branch, identity)
                        added += 1
                except sa.exc.IntegrityError:
                    raise self._taken(branch) from None
        return added, changed

    def remove(self, branch: Branch) -> None:
        """Forget a branch and its state; its outcomes stay. Raises LeaseHeld while it is leased."""
        with self._transaction() as connection:
            gone = connection.execute(
                sa.delete(states).where(states.c.branch_id == branch.id, rows.free())
            )
            if gone.rowcount != 1:
                raise LeaseHeld(f"{branch.code} is being migrated", "try again when that has ended")
            connection.execute(sa.delete(branches).where(branches.c.id == branch.id))

    @contextmanager
    def _unique(self, branch: Branch) -> Iterator[None]:
        try:
            yield
        except sa.exc.IntegrityError:
            raise self._taken(branch) from None

    def _taken(self, branch: Branch) -> UsageError:
        return UsageError(
            f"{branch.code}: its code, its id or its database already belongs to a branch",
            "`branchmig branch list` shows every branch; two branches cannot share a database",
        )

    def _refuse_taken(self, connection: sa.Connection, branch: Branch, identity: str) -> None:
        """The same as the constraints say, but naming the other branch."""
        other = connection.execute(
            sa.select(branches.c.code, branches.c.code_key).where(
                sa.or_(
                    branches.c.code_key == branch.code.lower(),
                    branches.c.database_key == _key(identity),
                )
            )
        ).first()
        if other is None:
            return
        if other.code_key == branch.code.lower():
            raise UsageError(
                f"there is a branch {other.code} already",
                "`branchmig branch update` changes it; codes that differ in case alone are one",
            )
        raise UsageError(
            f"the branch {other.code} is on the same database",
            "every branch needs a database of its own: mend the URL",
        )

    # States -----------------------------------------------------------------------------------

    def change(self, branch: Branch, transition: Transition) -> BranchState:
        """Move the state of a branch that nobody is migrating. Raises LeaseHeld, StateConflict."""
        with self._transaction() as connection:
            row = connection.execute(_LOCKED, {"of_branch": branch.id}).first()
            if row is None:
                raise UnknownBranch("the branch has been removed meanwhile")
            state = rows.state(row, branch.code)
            after = transition(state, rows.now(connection))
            done = connection.execute(
                sa.update(states)
                .where(
                    states.c.branch_id == branch.id,
                    states.c.lock_token == state.lock_token,
                    rows.free(),
                )
                .values(rows.state_values(after))
            )
            if done.rowcount != 1:
                raise self._conflict(connection, branch)
            return after

    def set_pinned(self, branch: Branch, pinned: bool) -> None:
        """Hold a branch at its revision, or let it go; leased or not."""
        with self._transaction() as connection:
            done = connection.execute(
                sa.update(states).where(states.c.branch_id == branch.id).values(pinned=pinned)
            )
            if done.rowcount != 1:
                raise self._conflict(connection, branch)

    def unlock(self, branch: Branch, *, live: bool) -> bool:
        """Clear an expired lease, with `live` also one that is not; whether there was one.

        The token rises, so that whoever held it can write nothing more.
        """
        which = [states.c.branch_id == branch.id, states.c.lock_owner.is_not(None)]
        if not live:
            which.append(states.c.lock_expires_at <= clock())
        with self._transaction() as connection:
            done = connection.execute(
                sa.update(states)
                .where(*which)
                .values(lock_owner=None, lock_expires_at=None, lock_token=states.c.lock_token + 1)
            )
            return done.rowcount == 1

    def _conflict(self, connection: sa.Connection, branch: Branch) -> BranchmigError:
        row = connection.execute(rows.records().where(branches.c.id == branch.id)).first()
        if row is None:
            return UnknownBranch(f"the branch {branch.code} has been removed meanwhile")
        if row.lock_owner is not None:
            return held(connection, branch, row.lock_owner, row.lock_expires_at)
        return changed(branch)

    # Leases -----------------------------------------------------------------------------------

    def acquire(self, branch: Branch, owner: str, seconds: float, transition: Transition) -> Lease:
        """Take the lease of one branch; see `Leases.acquire`, whose errors this raises."""
        (given,) = self.leases.acquire([Wanted(branch, transition)], owner, seconds)
        if isinstance(given, Lease):
            return given
        raise given

    def renew(self, lease: Lease, seconds: float) -> bool:
        """Move the expiry; False where the lease is no longer this one."""
        return not self.leases.renew([lease], seconds)

    def conclude(
        self, lease: Lease, transition: Transition, run: Run, outcome: Outcome | None
    ) -> BranchState:
        """Give one lease back with its result; see `Leases.conclude`. Raises LeaseLost."""
        (state,) = self.leases.conclude([Conclusion(lease, transition, outcome)], run)
        if isinstance(state, BranchState):
            return state
        raise state

    # The audit trail --------------------------------------------------------------------------

    def begin_run(self, run: Run, program: str) -> None:
        """Open the record of a run. `program`: the version of branchmig."""
        with self._transaction() as connection:
            connection.execute(
                sa.insert(runs).values(
                    id=run.id,
                    command=run.command,
                    trigger_kind=run.trigger,
                    actor=run.actor,
                    host=run.host,
                    pid=run.pid,
                    target=run.target,
                    login=run.login,
                    program=program,
                    started_at=clock(),
                )
            )

    def finish_run(self, run: Run, exit_code: int) -> None:
        """Close the record of a run."""
        with self._transaction() as connection:
            connection.execute(
                sa.update(runs)
                .where(runs.c.id == run.id)
                .values(finished_at=clock(), exit_code=exit_code)
            )

    def last_migration(self, branch: Branch) -> datetime | None:
        """When revisions last landed on a branch by this tool; None: never, or by another."""
        statement = sa.select(sa.func.max(outcomes.c.finished_at)).where(
            outcomes.c.branch_id == branch.id, outcomes.c.applied != ()
        )
        with self._transaction() as connection:
            found: datetime | None = connection.execute(statement).scalar()
            return found


_LOCKED = rows.locking(
    sa.select(*rows.STATE).where(states.c.branch_id == sa.bindparam("of_branch"))
)


def _key(identity: str) -> str:
    """A database's identity in a width that every engine can index."""
    return hashlib.sha256(identity.encode()).hexdigest()


def _branch_values(branch: Branch, identity: str) -> dict[str, Any]:
    return {
        "code": branch.code,
        "code_key": branch.code.lower(),
        "name": branch.name,
        "provider": branch.provider.value,
        "url": branch.url,
        "database_key": _key(identity),
        "server": branch.server,
        "tags": branch.tags,
        "is_active": branch.is_active,
    }


def _insert(connection: sa.Connection, branch: Branch, identity: str) -> None:
    connection.execute(
        sa.insert(branches).values(
            id=branch.id,
            created_at=clock(),
            updated_at=clock(),
            **_branch_values(branch, identity),
        )
    )
    connection.execute(
        sa.insert(states).values(
            branch_id=branch.id, lock_token=0, **rows.state_values(BranchState())
        )
    )


def _vacate(connection: sa.Connection, branch: Branch, identity: str) -> None:
    """Free the key of a database that a branch leaves, so that branches may swap theirs."""
    connection.execute(
        sa.update(branches)
        .where(branches.c.id == branch.id, branches.c.database_key != _key(identity))
        .values(database_key=branch.id)
    )


def _overwrite(
    connection: sa.Connection, branch: Branch, identity: str, before: sa.Row[Any]
) -> bool:
    values = _branch_values(branch, identity)
    differing = {name for name, value in values.items() if getattr(before, name) != value}
    if not differing:
        return False
    changed = connection.execute(
        sa.update(branches).where(branches.c.id == branch.id).values(updated_at=clock(), **values)
    )
    if changed.rowcount != 1:
        raise UnknownBranch(f"the branch {branch.code} has been removed meanwhile")
    # A key that changes under one URL is the same file seen anew: a link was made, a mount moved.
    if {"url", "database_key"} <= differing:
        connection.execute(
            sa.update(states)
            .where(states.c.branch_id == branch.id)
            .values(
                status=MigrationStatus.PENDING.value,
                retry_count=0,
                next_attempt_at=None,
                error=None,
                rollout_id=None,
                wave=None,
                failed_revision=None,
                lock_owner=None,
                lock_expires_at=None,
                lock_token=states.c.lock_token + 1,
            )
        )
    return differing != {"database_key"}
