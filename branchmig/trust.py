"""Who else may change a file that this program is about to run.

Floor 1. Settings and migration scripts are code. What strangers can write is refused for root,
who would run it with every right, and warned about for everybody else.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import ConfigError


def open_to_others(path: Path, user: int) -> str | None:
    """Why somebody besides root and `user`, who runs this, can change `path`, or None.

    A folder counts as well: who can write it can replace what is in it, unless it is sticky.
    """
    try:
        info = path.stat()
    except OSError:
        return None
    sticky = stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX
    if info.st_mode & stat.S_IWOTH and not sticky:
        return "everybody can write it"
    if info.st_mode & stat.S_IWGRP and not sticky and user == 0 and info.st_gid != 0:
        return f"the group {info.st_gid} can write it"
    if info.st_uid not in (0, user):
        return f"it belongs to the user {info.st_uid}"
    return None


def check(paths: Iterable[Path], user: int | None = None) -> Iterator[str]:
    """Yield a warning for each path that is open to others. `user` None: whoever runs this.

    Raises ConfigError instead where that is root.
    """
    user = os.geteuid() if user is None else user
    for path in paths:
        reason = open_to_others(path, user)
        if reason is None:
            continue
        what = f"{path} {'holds' if path.is_dir() else 'is'} code that"
        if user == 0:
            quoted = shlex.quote(str(path))
            raise ConfigError(
                f"{what} would run as root, and {reason}",
                "make it belong to root and take the write permission away from others "
                f"(chown root:root {quoted}; chmod go-w {quoted})",
            )
        yield f"{what} runs here, and {reason}"


def scripts(folder: Path) -> Iterator[Path]:
    """The folder of a history, the folders below it and the Python files within."""
    if not folder.is_dir():
        return
    yield folder
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f != "__pycache__")
        for name in (*folders, *sorted(f for f in files if f.endswith(".py"))):
            yield Path(parent, name)
