"""What every command shares: its options, the settings, HeadOffice, and where results go."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import pwd
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import BranchmigError, ConfigError, UsageError

if TYPE_CHECKING:
    from ..config import Settings
    from ..manager import BranchMigrationManager
    from ..migrator import Migrator
    from ..model import Run
    from ..render.page import Page

log = logging.getLogger("branchmig")

LogFormat = Literal["human", "json"]

_NOBODY = 2**32 - 1
"""The audit login id of what no login began."""


@dataclass(frozen=True)
class Session:
    """One invocation of the program."""

    json: bool = False
    debug: bool = False
    config: Path | None = None
    log_format: LogFormat = "human"

    @cached_property
    def settings(self) -> Settings:
        """Raises ConfigError: none found, or wrong."""
        from .. import config

        file = config.find(self.config)
        if file is None:
            root = os.geteuid() == 0
            raise ConfigError(
                "no settings file was found",
                f"run `branchmig init`, or name one with --config or BRANCHMIG_CONFIG; looked for "
                f"{'' if root else f'./{config.FILE_NAME} and '}{config.SYSTEM_FILE}"
                + (f" (root does not take ./{config.FILE_NAME})" if root else ""),
            )
        return self.load(file)

    def load(self, file: Path) -> Settings:
        """Read one settings file; what is doubtful about it goes to the log."""
        from .. import config

        settings, warnings = config.load(file)
        for warning in warnings:
            log.warning(warning)
        return settings

    @cached_property
    def migrator(self) -> Migrator:
        """The one of this process, so that a history is loaded once."""
        from ..migrator import Migrator

        return Migrator(self.settings, log.warning)

    # HeadOffice -------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[BranchMigrationManager]:
        """A manager that cannot write to HeadOffice."""
        from ..headoffice import open_reader

        with self._manager(open_reader, "read") as manager:
            yield manager

    @contextmanager
    def writing(self, command: str, target: str | None = None) -> Iterator[BranchMigrationManager]:
        """A manager for a command that changes something."""
        from ..headoffice import open_store
        from ..sinks import of_run

        with self._manager(open_store, command, target) as manager:
            of_run(manager.run.id)
            yield manager

    @contextmanager
    def _manager(
        self, opener: Any, command: str, target: str | None = None
    ) -> Iterator[BranchMigrationManager]:
        from ..fence import Fence
        from ..manager import BranchMigrationManager

        store = opener(self.settings)
        try:
            yield BranchMigrationManager(
                self.settings, store, self.migrator, _run(command, target), Fence()
            )
        finally:
            store.close()

    # Results ----------------------------------------------------------------------------------

    def show(self, document: Callable[[], object], page: Callable[[], Page]) -> None:
        """Print a result: one JSON document, or a page for people."""
        with self.printing():
            if self.json:
                from ..render import documents

                print(documents.dumps(document()))
            else:
                from ..render.page import print_table

                print_table(page(), sys.stdout)

    @contextmanager
    def printing(self) -> Iterator[None]:
        """Within, a result is printed. Raises BranchmigError where it cannot be; that nobody reads
        of it any more is none."""
        from .failures import silence

        try:
            yield
            sys.stdout.flush()
        except OSError as error:
            # What was asked for is done, whether or not somebody still reads of it.
            silence(sys.stdout)
            if not isinstance(error, BrokenPipeError):
                raise BranchmigError(
                    f"the result cannot be written to standard output: {error.strerror}",
                    "what was asked for is done all the same",
                ) from None

    def tell(self, document: Callable[[], object], sentence: str) -> None:
        """Print a result that is one sentence for people."""
        from ..render.page import Line, Page

        self.show(document, lambda: Page(Line(sentence)))

    def confirm(self, question: str, yes: bool) -> None:
        """Ask before something destructive. Raises UsageError where nobody can answer."""
        if yes:
            return
        if not sys.stdin.isatty() or self.json:
            raise UsageError(f"{question} Nobody is here to answer", "add --yes if it is meant")
        if not typer.confirm(question, err=True):
            raise typer.Abort


@contextmanager
def stdout_kept() -> Iterator[None]:
    """Within, whatever revisions and their child processes print goes to standard error.

    Standard output carries the result alone; a child inherits the descriptor, not `sys.stdout`.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def recorded(manager: BranchMigrationManager) -> Iterator[Callable[[int], None]]:
    """The record of a run in HeadOffice, from before its first change to its end.

    Gives a function that takes the exit code; without it the run ends as failed. Who is to be told
    is told when all is recorded: that changes nothing of the run any more.
    """
    manager.store.begin_run(manager.run, program_version())
    codes = [1]
    try:
        yield codes.append
    except BranchmigError as error:
        codes.append(error.exit_code)
        raise
    finally:
        try:
            manager.store.finish_run(manager.run, codes[-1])
        except BranchmigError as error:
            if sys.exc_info()[0] is None or len(codes) == 1:
                raise
            log.warning("the end of this run could not be recorded: %s", error)
    if manager.settings.notify.urls and manager.run.command in _TOLD:
        from ..telling import tell

        tell(manager)


_TOLD = ("apply", "apply-all", "rollback")
"""Commands after which people are told of what has come of it, or of others before it."""


def program_version() -> str:
    """The version of branchmig that is installed."""
    from importlib import metadata

    return metadata.version("branchmig")


def _run(command: str, target: str | None) -> Run:
    import uuid

    from ..model import Run

    return Run(
        id=str(uuid.uuid4()),
        command=command,
        trigger=_trigger(),
        actor=_account(os.geteuid()),
        login=_login(),
        host=os.uname().nodename,
        pid=os.getpid(),
        target=target,
    )


def _trigger() -> str:
    """systemd sets INVOCATION_ID for what it starts, CI systems set CI (systemd.exec(5))."""
    if os.environ.get("INVOCATION_ID") and not sys.stderr.isatty():
        return "timer"
    return "ci" if os.environ.get("CI") else "operator"


def _login() -> str | None:
    """Whose session this is, by the audit login id, which the kernel keeps through `sudo` and `su`
    (pam_loginuid(8)); variables such as SUDO_USER can say anything. None: nobody's."""
    try:
        uid = int(Path("/proc/self/loginuid").read_text())
    except (OSError, ValueError):
        return None
    return None if uid == _NOBODY else _account(uid)


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


# Registering ------------------------------------------------------------------------------------

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug lines.")]


def command(app: typer.Typer, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
    """Register a function `(session, ...)` as a command that also takes --json and --debug."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        given = inspect.signature(function, eval_str=True)

        @functools.wraps(function)
        def invoke(context: typer.Context, json: bool, debug: bool, **arguments: Any) -> None:
            session: Session = context.obj or Session()
            session = replace(session, json=session.json or json, debug=session.debug or debug)
            _set_up_logging(session)
            function(session, **arguments)

        kind = inspect.Parameter.KEYWORD_ONLY
        parameters = [p.replace(kind=kind) for n, p in given.parameters.items() if n != "session"]
        parameters += [
            inspect.Parameter("context", kind, annotation=typer.Context),
            inspect.Parameter("json", kind, default=False, annotation=Json),
            inspect.Parameter("debug", kind, default=False, annotation=Debug),
        ]
        invoke.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        invoke.__annotations__ = {p.name: p.annotation for p in parameters}
        del invoke.__wrapped__
        app.command(name, **options)(invoke)
        return function

    return register


def _set_up_logging(session: Session) -> None:
    from ..sinks import configure_logging

    configure_logging(session.log_format, session.debug)
