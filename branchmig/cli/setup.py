"""`init`: HeadOffice and the settings file."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from ..errors import ConfigError
from .session import Session, command


def register(app: typer.Typer) -> None:
    command(app, "init")(init)


def init(session: Session) -> None:
    """Create or upgrade HeadOffice, and write a commented branchmig.toml where there is none.

    Safe to repeat, and for two to do at once.

    Example: branchmig init
    """
    file, written, applied = initialise(session)
    document = {
        "success": True,
        "settingsFile": str(file),
        "settingsWritten": written,
        "appliedMigrations": list(applied),
    }
    wrote = "Wrote the settings" if written else "Settings"
    did = "created or upgraded" if applied else "up to date"
    session.tell(lambda: document, f"{wrote} {file}; HeadOffice is {did}.")


def initialise(session: Session) -> tuple[Path, bool, tuple[str, ...]]:
    """Write settings where there are none, and bring HeadOffice to this program's version.

    Gives the settings file, whether it was written, and the revisions applied to HeadOffice.
    """
    from .. import config, headoffice

    file = _chosen(session) or config.find(None)
    if file is None:
        file = Path(config.FILE_NAME).absolute()
        if file.exists():
            raise ConfigError(
                f"there is a {file}, but root does not take settings from the current folder",
                f"name it if it is meant: branchmig --config {file} init",
            )
    written = not file.exists()
    if written:
        headoffice.write_settings(file)
        if os.geteuid() == 0 and not _chosen(session):
            from .session import log

            log.warning(
                "root does not take settings from the current folder: export BRANCHMIG_CONFIG=%s",
                file,
            )
    return file, written, headoffice.upgrade(session.load(file))


def _chosen(session: Session) -> Path | None:
    """The file that the command line or the environment names, whether it exists or not."""
    named = session.config or os.environ.get("BRANCHMIG_CONFIG")
    return Path(named).absolute() if named else None
