"""Reading and writing HeadOffice. Every write of a state is conditional and counts its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    LeaseLost,
    StateConflict,
    UnknownBranch,
    UsageError,
)
from ..model import (
    Branch,
    BranchState,
    Lease,
    MigrationStatus,
    Outcome,
    Provider,
    Record,
    Run,
)
from .tables import branches, clock, outcomes, runs, states

Transition = Callable[[BranchState, datetime], BranchState]
"""From the state as it is and HeadOffice's time to the next state; see `transitions`."""

_STATE_COLUMNS = (
    "status", "heads", "target", "retry_count", "next_attempt_at", "last_attempt_at", "error",
    "pinned",
)  # fmt: skip


class Store:
    """HeadOffice behind one engine.

    `explain` turns an error of HeadOffice's driver into one with a sentence; it is the strategy's.
    Methods raise HeadOfficeUnreachable or HeadOfficeLocked where the database will not.
    """

    def __init__(
        self, engine: sa.Engine, explain: Callable[[BaseException], BranchmigError]
    ) -> None:
        self._engine = engine
        self._explain = explain

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
            return _now(connection)

    # Branches ---------------------------------------------------------------------------------

    def records(self) -> tuple[Record, ...]:
        """Every branch with its state, by code."""
        statement = _records().order_by(branches.c.code_key)
        with self._transaction() as connection:
            return tuple(_record(row) for row in connection.execute(statement))

    def record(self, name: str) -> Record:
        """The branch of this code (whatever its case) or id. Raises UnknownBranch."""
        by_code = _records().where(branches.c.code_key == name.lower())
        by_id = _records().where(branches.c.id == name.lower())
        with self._transaction() as connection:
            row = connection.execute(by_code).first() or connection.execute(by_id).first()
        if row is None:
            raise UnknownBranch(
                f"there is no branch {name!r}", "`branchmig branch list` shows every branch"
            )
        return _record(row)

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
                sa.delete(states).where(states.c.branch_id == branch.id, _free())
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
            state = _state_of(connection, branch.id)
            after = transition(state, _now(connection))
            done = connection.execute(
                sa.update(states)
                .where(
                    states.c.branch_id == branch.id,
                    states.c.lock_token == state.lock_token,
                    _free(),
                )
                .values(_state_values(after))
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
        row = connection.execute(_records().where(branches.c.id == branch.id)).first()
        if row is None:
            return UnknownBranch(f"the branch {branch.code} has been removed meanwhile")
        if row.lock_owner is not None:
            return _held(connection, branch, row.lock_owner, row.lock_expires_at)
        return StateConflict(f"{branch.code} was changed by somebody else meanwhile", "try again")

    # Leases -----------------------------------------------------------------------------------

    def acquire(self, branch: Branch, owner: str, seconds: float, transition: Transition) -> Lease:
        """Take the lease and write the state that `transition` gives, with one conditional UPDATE.

        An expired lease is taken over. Raises LeaseHeld with the holder's name, StateConflict
        where the branch is no longer the database that was read, UnknownBranch where it is gone.
        """
        with self._transaction() as connection:
            previous = self._state_of_same(connection, branch)
            after = transition(previous, _now(connection))
            lease = Lease(branch.id, owner, previous.lock_token + 1, previous)
            done = connection.execute(
                _ACQUIRE,
                _state_values(after)
                | {"lock_owner": owner, "lock_token": lease.token, "seconds": float(seconds)}
                | {"of_branch": branch.id, "of_token": previous.lock_token},
            )
            if done.rowcount != 1:
                raise self._conflict(connection, branch)
        return lease

    def _state_of_same(self, connection: sa.Connection, branch: Branch) -> BranchState:
        row = connection.execute(_RECORD, {"of_branch": branch.id}).first()
        if row is None or (row.url, row.is_active) != (branch.url, branch.is_active):
            raise self._conflict(connection, branch)
        return _state(row)

    def renew(self, lease: Lease, seconds: float) -> bool:
        """Move the expiry; False where the lease is no longer this one."""
        with self._transaction() as connection:
            done = connection.execute(_RENEW, _mine(lease) | {"seconds": float(seconds)})
            return done.rowcount == 1

    def conclude(
        self, lease: Lease, transition: Transition, run: Run, outcome: Outcome | None
    ) -> BranchState:
        """Write the result and give the lease back, in one transaction.

        `outcome` None: nothing worth a line in the audit trail. Its status is that of the state
        written. Raises LeaseLost, with nothing written, where the lease is no longer this one.
        """
        with self._transaction() as connection:
            row = connection.execute(_LEASED, _mine(lease)).first()
            if row is None:
                raise _lost()
            now = _now(connection)
            after = transition(_state(row), now)
            done = connection.execute(_CONCLUDE, _mine(lease) | _state_values(after))
            if done.rowcount != 1:
                raise _lost()
            if outcome is not None:
                connection.execute(sa.insert(outcomes), _outcome(run, outcome, after, now))
            return after

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


def _records() -> sa.Select[Any]:
    return sa.select(branches, states).join_from(
        branches, states, branches.c.id == states.c.branch_id
    )


def _record(row: sa.Row[Any]) -> Record:
    branch = Branch(
        id=row.id,
        code=row.code,
        name=row.name,
        provider=Provider(row.provider),
        url=row.url,
        server=row.server,
        tags=row.tags,
        is_active=row.is_active,
    )
    return Record(branch, _state(row))


def _state(row: sa.Row[Any]) -> BranchState:
    return BranchState(
        status=MigrationStatus(row.status),
        heads=row.heads,
        target=row.target,
        retry_count=row.retry_count,
        next_attempt_at=row.next_attempt_at,
        last_attempt_at=row.last_attempt_at,
        lock_owner=row.lock_owner,
        lock_token=row.lock_token,
        lock_expires_at=row.lock_expires_at,
        error=row.error,
        pinned=row.pinned,
    )


def _state_of(connection: sa.Connection, branch_id: str) -> BranchState:
    statement = sa.select(states).where(states.c.branch_id == branch_id)
    row = connection.execute(_locking(statement)).first()
    if row is None:
        raise UnknownBranch("the branch has been removed meanwhile")
    return _state(row)


def _locking(statement: sa.Select[Any]) -> sa.Select[Any]:
    """The same, holding the states that it finds until the transaction ends.

    T-SQL knows no FOR UPDATE and SQLAlchemy leaves it out there; a hint beside the table does it.
    """
    hint = "WITH (UPDLOCK, ROWLOCK)"
    return statement.with_for_update(of=states).with_hint(states, hint, "mssql")


def _state_values(state: BranchState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in _STATE_COLUMNS}


def _now(connection: sa.Connection) -> datetime:
    now: datetime = connection.execute(_NOW).scalar_one()
    return now


def _free() -> sa.ColumnElement[bool]:
    return sa.or_(states.c.lock_owner.is_(None), states.c.lock_expires_at <= clock())


def _mine(lease: Lease) -> dict[str, Any]:
    return {"of_branch": lease.branch_id, "of_owner": lease.owner, "of_token": lease.token}


# What a run sends for every branch, made once: the values of its columns come with the call.

_LATER = clock(sa.bindparam("seconds", type_=sa.Float()))
_OF_BRANCH = states.c.branch_id == sa.bindparam("of_branch")
_OF_TOKEN = states.c.lock_token == sa.bindparam("of_token")
_MINE = (_OF_BRANCH, _OF_TOKEN, states.c.lock_owner == sa.bindparam("of_owner"))
_NOW = sa.select(clock())
_RECORD = _locking(_records().where(_OF_BRANCH))
_LEASED = _locking(sa.select(states).where(*_MINE))
_ACQUIRE = sa.update(states).where(_OF_BRANCH, _OF_TOKEN, _free()).values(lock_expires_at=_LATER)
_RENEW = sa.update(states).where(*_MINE).values(lock_expires_at=_LATER)
_CONCLUDE = sa.update(states).where(*_MINE).values(lock_owner=None, lock_expires_at=None)


def _lost() -> LeaseLost:
    return LeaseLost(
        "the lease of this branch has gone to somebody else",
        "nothing was recorded; who holds it now records what is found",
    )


def _held(
    connection: sa.Connection, branch: Branch, owner: str, expires: datetime | None
) -> LeaseHeld:
    row = connection.execute(sa.select(runs).where(runs.c.id == owner)).first()
    who = f"{row.command} of {row.actor} on {row.host} (pid {row.pid})" if row else f"run {owner}"
    until = f" until {expires:%Y-%m-%dT%H:%M:%SZ}" if expires else ""
    return LeaseHeld(
        f"{branch.code} is leased by {who}{until}",
        "try again later; `branchmig unlock` clears a lease that nobody works under any more",
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
        sa.insert(states).values(branch_id=branch.id, lock_token=0, **_state_values(BranchState()))
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
                lock_owner=None,
                lock_expires_at=None,
                lock_token=states.c.lock_token + 1,
            )
        )
    return differing != {"database_key"}


def _outcome(run: Run, outcome: Outcome, after: BranchState, now: datetime) -> Mapping[str, Any]:
    return {
        "run_id": run.id,
        "branch_id": outcome.branch.id,
        "branch_code": outcome.branch.code,
        "verdict": outcome.verdict.value,
        "reason": outcome.reason.value if outcome.reason else None,
        "status": after.status.value,
        "from_heads": outcome.from_heads,
        "to_heads": outcome.to_heads,
        "applied": outcome.applied,
        "error": outcome.message,
        "finished_at": now,
        "duration_ms": round(outcome.duration.total_seconds() * 1000),
    }
