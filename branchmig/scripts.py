"""SQL scripts of the operator's own, run on a branch before and after its revisions.

Floor 3. `before/*.sql` and `after/*.sql` in a folder are for every engine, those in a folder of an
engine's name within, such as `before/postgresql/*.sql`, for that one alone; by file name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .config import Settings
from .errors import ConfigError
from .model import Provider

Moment = Literal["before", "after"]
MOMENTS: tuple[Moment, ...] = ("before", "after")


@dataclass(frozen=True, slots=True)
class Script:
    """One file: its path below the folder, and its text."""

    name: str
    text: str


def scripts(settings: Settings, moment: Moment, provider: Provider) -> tuple[Script, ...]:
    """Those to be run, in their order. Raises ConfigError where one cannot be read."""
    if settings.hooks.scripts is None:
        return ()
    root = settings.folder / settings.hooks.scripts
    if not root.is_dir():
        raise ConfigError(
            f"[hooks] scripts: there is no folder {root}", "make it, or take the key out"
        )
    folders = (root / moment, root / moment / provider.value)
    # Hidden files are those of editors and of file servers.
    files = sorted((f for at in folders for f in at.glob("[!.]*.sql")), key=lambda f: (f.name, f))
    return tuple(_read(root, file) for file in files)


def _read(root: Path, file: Path) -> Script:
    try:
        return Script(str(file.relative_to(root)), file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"[hooks] scripts: {file} cannot be read: {why}", "let the user that runs this read it"
        ) from error
