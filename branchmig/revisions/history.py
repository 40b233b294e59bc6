"""One Alembic history as loaded into this process: its revisions, and the way between two."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.util import module_from_spec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from alembic.config import Config
from alembic.runtime.migration import HeadMaintainer, RevisionStep
from alembic.script import Script, ScriptDirectory
from alembic.script import revision as alembic_revision
from alembic.util import CommandError

from ..errors import (
    BranchmigError,
    HistoryError,
    MigrationFailed,
    MultipleHeads,
    UnknownHeads,
    UnknownRevision,
)
from ..model import (
    Branch,
    Direction,
    Heads,
    HistoryReport,
    Plan,
    Revision,
    Step,
    VersionTable,
    heads_text,
)
from .probe import Recording, configured
from .source import (
    Source,
    attribute,
    check_trust,
    loading,
    make_config,
    no_bytecode,
    prepare_process,
    use_locations,
)

VERSION_WIDTH = 32
"""Characters that fit Alembic's version table: its column is VARCHAR(32)."""

_NAME_ANOTHER = "name a revision, head, heads, LABEL@head or +N"

_RELATIVE = re.compile(r"(?:(?P<label>.+?)@)?(?P<symbol>\w+)?(?P<steps>[+-]\d+)")
"""Alembic's own form of a place that is counted from another one."""


class History:
    """A loaded history. Make it with `load`; it belongs to one process and is never pickled.

    `configure` and `run_arguments` are what its env.py passes to Alembic, as far as they concern
    the schema; `warnings` are sentences for the log.
    """

    def __init__(self, config: Config, script: ScriptDirectory, recording: Recording) -> None:
        self.config = config
        self.script = script
        self.configure = recording.configure
        self.run_arguments = recording.run_arguments
        self.warnings: tuple[str, ...] = ()
        self._steps: dict[tuple[Heads, str], tuple[Step, ...]] = {}
        self._code: dict[str, CodeType] = {}

    @classmethod
    def load(cls, source: Source, scratch_url: str, *, online: bool = True) -> History:
        """Load every revision and probe env.py; `online`: `scratch_url` may be connected to.

        Raises HistoryError: cannot be loaded, is empty, its env.py fails, or strangers can write
        it and it would run as root.
        """
        with loading(source):
            warned = tuple(check_trust(source))
            prepare_process(source)
            config = make_config(source, scratch_url)
            if source.setup:
                attribute(source.setup)(config, scratch_url)
            script = ScriptDirectory.from_config(config)
            locations = config.get_main_option("version_locations")
            recording = configured(source, config, script, online=online)
            if source.version_locations:
                use_locations(config, source)
            if config.get_main_option("version_locations") != locations:
                script = ScriptDirectory.from_config(config)
            for folder in script._version_locations:
                if not Path(folder).is_dir():
                    raise HistoryError(
                        f"there is no folder {folder}", "mend [migrations] version_locations"
                    )
            history = cls(config, script, recording)
            history.warnings = warned
            if not history.revisions:
                raise HistoryError(
                    f"the history {source.script_location} holds no revisions",
                    "look at [migrations] script_location and version_locations",
                )
        return history

    # What there is ----------------------------------------------------------------------------

    @cached_property
    def version_table(self) -> VersionTable:
        return VersionTable(
            self.configure.get("version_table") or "alembic_version",
            self.configure.get("version_table_schema"),
        )

    @cached_property
    def revisions(self) -> tuple[Revision, ...]:
        """Every revision, base first."""
        scripts = list(self.script.walk_revisions())
        return tuple(
            Revision(
                id=script.revision,
                down=_tuple(script.down_revision),
                depends_on=_tuple(script.dependencies),
                description=script.doc or "",
                path=script.path,
            )
            for script in reversed(scripts)
        )

    @cached_property
    def content(self) -> str:
        """A hash of everything in the folders of the history: another one is another rollout."""
        folders = {Path(self.script.dir), *map(Path, self.script._version_locations)}
        files = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
        # By name and not by place: hosts may keep the scripts where they like.
        parts = sorted(
            path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest()
            for path in files
            if "__pycache__" not in path.parts
        )
        return hashlib.sha256(b"".join(parts)).hexdigest()

    @cached_property
    def heads(self) -> Heads:
        return tuple(sorted(self.script.get_heads()))

    @cached_property
    def _ids(self) -> frozenset[str]:
        return frozenset(revision.id for revision in self.revisions)

    def knows(self, heads: Heads) -> bool:
        """Whether every one of `heads` is a revision of this history."""
        return self._ids.issuperset(heads)

    def report(self, target: str) -> HistoryReport:
        """Whether this history can be trusted to bring every branch to `target`."""
        return HistoryReport(self.heads, tuple(self._findings(target)))

    def _findings(self, target: str) -> Iterator[str]:
        if len(self.heads) > 1 and target == "head":
            yield str(_multiple_heads(self.heads).message)
        for revision in self.revisions:
            if len(revision.id) > VERSION_WIDTH:
                yield (
                    f"{revision.id} has {len(revision.id)} characters; "
                    f"the version table holds {VERSION_WIDTH}"
                )
            for direction in Direction:
                if not self.has(revision.id, direction):
                    yield f"{revision.id} has no {direction}()"

    # The way ----------------------------------------------------------------------------------

    def check_target(self, target: str) -> None:
        """Raise UnknownRevision or MultipleHeads where `target` names no place in this history."""
        self.target_heads(target)

    def target_heads(self, target: str) -> Heads | None:
        """The revisions that `target` names; None where it is relative to the branch."""
        if target in ("base", ""):
            raise UnknownRevision(
                f"{target or 'an empty name'!r} is no revision to go up to", _NAME_ANOTHER
            )
        if target == "head" and len(self.heads) > 1:
            raise _multiple_heads(self.heads)
        relative = _RELATIVE.fullmatch(target)
        with self._resolving(target):
            if relative and not relative["symbol"]:
                if relative["steps"].startswith("-"):
                    raise UnknownRevision(f"{target!r} goes down, not up", _NAME_ANOTHER)
                if relative["label"]:
                    self.script.get_revisions(relative["label"])
                return None
            found = (
                self.script.revision_map._parse_upgrade_target((), target, True)
                if relative
                else self.script.get_revisions(target)
            )
            heads = [script.revision for script in found if isinstance(script, Script)]
            if not heads:
                raise self._unknown(target)
            return tuple(sorted(heads))

    def check_heads(self, heads: Heads) -> None:
        """Raise UnknownHeads where a version row names a revision that is not in this history."""
        strange = [head for head in heads if head not in self._ids]
        if strange:
            raise UnknownHeads(
                f"the version table holds {', '.join(strange)}, which this history does not know",
                "these scripts are older than the branch, or the branch belongs to another "
                "history: update the scripts",
            )

    def steps(self, current: Heads, target: str) -> tuple[Step, ...]:
        """The upgrades from `current` to `target`, in order; none where it has been reached.

        Raises UnknownHeads, UnknownRevision, MultipleHeads.
        """
        key = (current, target)
        if key not in self._steps:
            self._steps[key] = tuple(self._upgrades(current, target))
        return self._steps[key]

    def _upgrades(self, current: Heads, target: str) -> Iterator[Step]:
        self.check_heads(current)
        heads = _Heads(current)
        for script in self._lacking(current, target):
            before = tuple(sorted(heads.heads))
            heads.update_to_step(RevisionStep(self.script.revision_map, script, True))
            yield Step(
                revision=script.revision,
                direction=Direction.UPGRADE,
                from_heads=before,
                to_heads=tuple(sorted(heads.heads)),
                description=script.doc or "",
            )

    def _lacking(self, current: Heads, target: str) -> list[Script]:
        wanted = self.target_heads(target)
        if wanted is not None and set(wanted) <= self._below(current):
            return []
        with self._resolving(target):
            found = self.script.iterate_revisions(target, current, implicit_base=True)
            return list(reversed([script for script in found if script is not None]))

    def descent(self, current: Heads, target: str) -> tuple[Step, ...]:
        """The downgrades from `current` to `target`, in order; none where it stands there already.

        `target`: a revision at or below `current`, "base", "-1" or "LABEL@base". Raises
        UnknownHeads, UnknownRevision.
        """
        self.check_heads(current)
        if target.startswith("+") or not target:
            raise UnknownRevision(f"{target!r} goes up, not down", "name a revision, base or -N")
        self._refuse_above(current, target)
        if not current:
            return ()
        with self._resolving(target):
            found = self.script.iterate_revisions(
                current, target, select_for_downgrade=True, assert_relative_length=True
            )
            scripts = [script for script in found if script is not None]
        return tuple(self._downgrades(current, scripts))

    def _refuse_above(self, current: Heads, target: str) -> None:
        """Raises UnknownRevision where `target` names a revision that the branch has not had, or
        does not say from which of several heads it counts."""
        relative = _RELATIVE.fullmatch(target)
        if relative and not relative["label"] and not relative["symbol"] and len(current) > 1:
            raise UnknownRevision(
                f"{target!r} is ambiguous: the branch stands at {heads_text(current)}",
                "name a revision, or LABEL@base",
            )
        if relative or target.partition("@")[2] == "base" or target == "base":
            return
        with self._resolving(target):
            wanted = {script.revision for script in self.script.get_revisions(target) if script}
        if not wanted <= self._under(current):
            raise self._above(current, target)

    def descent_to(self, current: Heads, heads: Heads) -> tuple[Step, ...]:
        """The downgrades after which a database at `current` stands at exactly `heads`.

        Raises UnknownHeads, and UnknownRevision where `heads` are not below `current`.
        """
        self.check_heads(current)
        self.check_heads(heads)
        below, kept = self._under(current), self._under(heads)
        scripts = [self._script(r.id) for r in reversed(self.revisions) if r.id in below - kept]
        steps = tuple(self._downgrades(current, scripts))
        if not kept <= below or (steps[-1].to_heads if steps else current) != heads:
            raise self._above(current, heads_text(heads) or "base")
        return steps

    def is_between(self, heads: Heads, lower: Heads, upper: Heads) -> bool:
        """Whether `heads` lie on the way from `lower` up to `upper`."""
        if not (self.knows(heads) and self.knows(lower) and self.knows(upper)):
            return False
        return self._under(lower) <= self._under(heads) <= self._under(upper)

    def _downgrades(self, current: Heads, scripts: Iterable[Script]) -> Iterator[Step]:
        heads = _Heads(current)
        for script in scripts:
            before = tuple(sorted(heads.heads))
            heads.update_to_step(self._bare_step(script, Direction.DOWNGRADE))
            yield Step(
                revision=script.revision,
                direction=Direction.DOWNGRADE,
                from_heads=before,
                to_heads=tuple(sorted(heads.heads)),
                description=script.doc or "",
            )

    def _above(self, current: Heads, target: str) -> UnknownRevision:
        return UnknownRevision(
            f"{target} is not below {heads_text(current) or 'base'}, where the branch stands",
            "`branchmig apply --to` goes up",
        )

    def _under(self, heads: Heads) -> set[str]:
        return self._below(heads) if heads else set()

    def _below(self, heads: Heads) -> set[str]:
        """`heads` and everything that they descend from or depend on."""
        nodes = self.script.revision_map._get_ancestor_nodes(
            self.script.revision_map.get_revisions(heads), include_dependencies=True
        )
        return {node.revision for node in nodes}

    def applied(self, current: Heads) -> tuple[str, ...]:
        """The revisions that a database at `current` has had, base first."""
        self.check_heads(current)
        below = self._under(current)
        return tuple(revision.id for revision in self.revisions if revision.id in below)

    def plan(self, branch: Branch, current: Heads, target: str) -> Plan:
        """The way of one branch from `current` to `target`."""
        steps = self.steps(current, target)
        return Plan(branch, current, steps[-1].to_heads if steps else current, steps)

    # Its scripts ------------------------------------------------------------------------------

    def has(self, revision: str, direction: Direction) -> bool:
        """Whether a revision can be run in a direction."""
        return callable(getattr(self._script(revision).module, direction, None))

    def fresh_step(self, step: Step) -> RevisionStep:
        """An Alembic step whose module is executed anew.

        A module that holds Column objects gives them to the first database it runs on; on the
        second they already belong to a table.
        """
        script = self._script(step.revision)
        module = self._execute(script)
        function = getattr(module, step.direction, None)
        if not callable(function):
            raise MigrationFailed(
                f"the revision {step.revision} has no {step.direction}()", failed=step.revision
            )
        fresh = self._bare_step(script, step.direction)
        fresh.migration_fn = function
        return fresh

    def _bare_step(self, script: Script, direction: Direction) -> RevisionStep:
        """A step without its function, which Alembic would ask of every module at once."""
        bare = RevisionStep.__new__(RevisionStep)
        bare.revision_map = self.script.revision_map
        bare.revision = script
        bare.is_upgrade = direction is Direction.UPGRADE
        return bare

    def _execute(self, script: Script) -> ModuleType:
        spec = script.module.__spec__
        assert spec is not None
        module = module_from_spec(spec)
        if script.path not in self._code:
            with no_bytecode():
                self._code[script.path] = spec.loader.get_code(spec.name)  # type: ignore[union-attr]
        exec(self._code[script.path], module.__dict__)
        return module

    def _script(self, revision: str) -> Script:
        script = self.script.get_revision(revision)
        assert script is not None
        return script

    # Errors -----------------------------------------------------------------------------------

    @contextmanager
    def _resolving(self, target: str) -> Iterator[None]:
        """Alembic's errors about names as ours."""
        try:
            yield
        except BranchmigError:
            raise
        except (CommandError, alembic_revision.RevisionError, AssertionError) as error:
            cause = error.__cause__ or error
            if isinstance(cause, alembic_revision.MultipleHeads):
                raise _multiple_heads(self.heads) from None
            # Alembic asserts that a malformed name, such as "@", does not come to it.
            if isinstance(cause, (alembic_revision.ResolutionError, AssertionError)):
                raise self._unknown(target) from None
            raise UnknownRevision(f"{target!r} cannot be reached: {error}") from None

    def _unknown(self, target: str) -> UnknownRevision:
        similar = [i for i in sorted(self._ids) if target and target in i]
        if len(similar) > 1:
            return UnknownRevision(
                f"{target!r} is not one revision", f"did you mean one of {', '.join(similar[:5])}?"
            )
        return UnknownRevision(
            f"there is no revision {target!r} in this history",
            f"its heads are {', '.join(self.heads)}",
        )


class _Heads(HeadMaintainer):
    """Alembic's own reckoning of version rows, without a database."""

    def __init__(self, heads: Iterable[str]) -> None:
        self.heads = set(heads)

    def _insert_version(self, version: str) -> None:
        self.heads.add(version)

    def _delete_version(self, version: str) -> None:
        self.heads.remove(version)

    def _update_version(self, from_: str, to_: str) -> None:
        self.heads.remove(from_)
        self.heads.add(to_)


def _multiple_heads(heads: Heads) -> MultipleHeads:
    return MultipleHeads(
        f"the history has {len(heads)} heads and one is wanted: {', '.join(heads)}",
        'merge them (`alembic merge heads`), or set [migrations] target = "heads"',
    )


def _tuple(value: Any) -> Heads:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
