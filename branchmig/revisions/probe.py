"""What a history's env.py would pass to Alembic, found out by executing it once.

Its calls of `configure`, `run_migrations` and `begin_transaction` are recorded instead of obeyed;
it meets a scratch database, never a branch. Real histories depend on what is set up there: a naming
convention in the metadata changes the schema without a word.
"""

from __future__ import annotations

import contextlib
import logging
import logging.config
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

from ..errors import HistoryError
from .source import Source, attribute, place

DROPPED = frozenset(
    {
        "connection", "url", "dialect_name", "dialect_opts", "fn", "script", "as_sql",
        "output_buffer", "output_encoding", "literal_binds", "starting_rev", "tag", "purge",
        "transactional_ddl", "transaction_per_migration",
    }
)  # fmt: skip
"""Arguments of `configure` that are ours to decide: where, in which transactions, to what."""


@dataclass(slots=True)
class Recording:
    """`configure`: keyword arguments for EnvironmentContext.configure; `run_arguments`: those that
    run_migrations hands to every upgrade() and downgrade()."""

    configure: dict[str, Any] = field(default_factory=dict)
    run_arguments: dict[str, Any] = field(default_factory=dict)
    ran: bool = False


def configured(
    source: Source, config: Config, script: ScriptDirectory, *, online: bool
) -> Recording:
    """What env.py says, where it is probed, with what the settings say laid over it.

    Raises HistoryError where env.py fails.
    """
    recording = _probe(config, script, online) if source.probe else Recording()
    recording.configure = {k: v for k, v in recording.configure.items() if k not in DROPPED}
    for name in ("version_table", "version_table_schema"):
        value = getattr(source, name)
        if value is not None:
            recording.configure[name] = value
    if source.target_metadata:
        recording.configure["target_metadata"] = attribute(source.target_metadata)
    return recording


def _probe(config: Config, script: ScriptDirectory, online: bool) -> Recording:
    """Online on the scratch database; without one, or where that fails, offline."""
    failures = []
    for offline in (False, True) if online else (True,):
        recording = Recording()
        try:
            _execute(config, script, recording, offline)
        except (Exception, SystemExit) as error:
            failures.append(error)
            continue
        if recording.ran or not offline:
            return recording
    raise HistoryError(
        f"the history's env.py fails when it is executed as a probe: {place(failures[0])}",
        "mend it, or set [migrations] probe = false and say by settings what it set up: "
        "target_metadata, version_table, version_table_schema, preload, prepend_sys_path, x_args, "
        "ini, attributes, environ, setup",
    ) from failures[0]


def _execute(config: Config, script: ScriptDirectory, recording: Recording, offline: bool) -> None:
    # Never a subclass: the proxies of alembic.context are found by the exact class. They look up
    # names on the instance, so attributes set there override its methods.
    env: Any = EnvironmentContext(
        config, script, fn=lambda heads, context: [], destination_rev="heads", as_sql=offline
    )

    def configure(
        connection: Any = None, url: Any = None, dialect_name: Any = None, **arguments: Any
    ) -> None:
        recording.configure.update(arguments)

    def run_migrations(**arguments: Any) -> None:
        recording.run_arguments = arguments
        recording.ran = True

    env.configure = configure
    env.run_migrations = run_migrations
    env.begin_transaction = contextlib.nullcontext
    env.execute = lambda *arguments, **options: None
    with _logging_kept(), env:
        script.run_env()


@contextlib.contextmanager
def _logging_kept() -> Iterator[None]:
    """env.py usually configures logging, which would replace this program's own."""
    loggers = [logging.root, *_loggers()]
    before = [(lg, lg.handlers[:], lg.level, lg.disabled, lg.propagate) for lg in loggers]
    file_config, dict_config = logging.config.fileConfig, logging.config.dictConfig
    logging.config.fileConfig = lambda *arguments, **options: None
    logging.config.dictConfig = lambda *arguments, **options: None
    try:
        yield
    finally:
        logging.config.fileConfig, logging.config.dictConfig = file_config, dict_config
        for logger, handlers, level, disabled, propagate in before:
            logger.handlers[:] = handlers
            logger.level, logger.disabled, logger.propagate = level, disabled, propagate
        logging.root.manager._clear_cache()  # type: ignore[attr-defined]


def _loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict.values()
    return [logger for logger in known if isinstance(logger, logging.Logger)]
