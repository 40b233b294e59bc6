"""Who else may change a file that this program is about to run.

Floor 1. Settings and migration scripts are code. What strangers can write is refused for root,
who would run it with every right, and warned about for everybody else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import ConfigError


def open_to_others(path: Path) -> str | None:
    """Why somebody besides root and the current user can change `path`, or None.

    A folder counts as well: who can write it can replace what is in it, unless it is sticky.
    """
    try:
        info = path.stat()
    except OSError:
        return None
    sticky = stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX
    if info.st_mode & stat.S_IWOTH and not sticky:
        return "everybody can write it"
    if info.st_mode & stat.S_IWGRP and not sticky and os.geteuid() == 0 and info.st_gid != 0:
        return f"the group {info.st_gid} can write it"
    if info.st_uid not in (0, os.geteuid()):
        return f"it belongs to the user {info.st_uid}"
    return None


def check(paths: Iterable[Path]) -> Iterator[str]:
    """Yield a warning for each path that is open to others.

    Raises ConfigError instead where the current user is root.
    """
    for path in paths:
        reason = open_to_others(path)
        if reason is None:
            continue
        if os.geteuid() == 0:
            raise ConfigError(
                f"{path} is code that would run as root, and {reason}",
                "make it belong to root and take the write permission away from others "
                f"(chown root:root {path}; chmod go-w {path})",
            )
        yield f"{path} is code that runs here, and {reason}"


def scripts(folder: Path) -> Iterator[Path]:
    """The folder of a history, the folders below it and the Python files within."""
    if not folder.is_dir():
        return
    yield folder
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f != "__pycache__")
        for name in (*folders, *sorted(f for f in files if f.endswith(".py"))):
            yield Path(parent, name)
