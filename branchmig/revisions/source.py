"""Where a history is and what it needs; loading foreign code without being harmed by it."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
import warnings
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.util import CommandError

from .. import trust
from ..config import Settings, packaged
from ..errors import BranchmigError, HistoryError
from ..masking import mask


@dataclass(frozen=True, slots=True)
class Source:
    """Where a history is and what it needs to load, every path resolved.

    `script_location`: an absolute folder or `package:folder`. The fields are those of the section
    [migrations] of the settings.
    """

    script_location: str
    version_locations: tuple[str, ...] = ()
    version_table: str | None = None
    version_table_schema: str | None = None
    target_metadata: str | None = None
    preload: tuple[str, ...] = ()
    prepend_sys_path: tuple[str, ...] = ()
    x_args: tuple[str, ...] = ()
    ini: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    setup: str | None = None
    probe: bool = True

    @classmethod
    def of(cls, settings: Settings) -> Source:
        """The history that the settings name."""
        given = settings.migrations
        return cls(
            script_location=settings.script_location,
            version_locations=tuple(map(settings.resolve, given.version_locations)),
            prepend_sys_path=tuple(map(settings.resolve, given.prepend_sys_path)),
            ini=str(settings.folder / given.ini) if given.ini else None,
            **given.model_dump(
                include={
                    "version_table", "version_table_schema", "target_metadata", "preload",
                    "x_args", "attributes", "environ", "setup", "probe",
                }
            ),
        )  # fmt: skip


def check_trust(source: Source) -> Iterable[str]:
    """Only folders that settings name: a package is as trusted as this program beside it."""
    for location in (source.script_location, *source.version_locations):
        folder = Path(location)
        if folder.is_absolute() and folder.parent != packaged(""):
            yield from trust.check(trust.scripts(folder))


def prepare_process(source: Source) -> None:
    os.environ.update(source.environ)
    sys.path[:0] = [path for path in source.prepend_sys_path if path not in sys.path]
    for module in source.preload:
        importlib.import_module(module)


def make_config(source: Source, scratch_url: str) -> Config:
    if source.ini and not Path(source.ini).is_file():
        raise HistoryError(f"there is no file {source.ini}", "mend [migrations] ini")
    config = Config(source.ini) if source.ini else Config()
    config.set_main_option("script_location", source.script_location.replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", scratch_url.replace("%", "%%"))
    if source.version_locations:
        # Not the operating system's separator: a colon would split `package:folder`.
        config.set_main_option("path_separator", "newline")
        config.set_main_option(
            "version_locations", "\n".join(source.version_locations).replace("%", "%%")
        )
    config.attributes.update(source.attributes)
    # context.get_x_argument() looks here.
    config.cmd_opts = Namespace(x=list(source.x_args) or None)
    return config


def attribute(path: str) -> Any:
    """What `module:attribute` names."""
    module, colon, names = path.partition(":")
    if not colon:
        raise HistoryError(f"{path!r} is not of the form module:attribute")
    found = importlib.import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found


@contextmanager
def loading(source: Source) -> Iterator[None]:
    """Foreign code runs within: what it prints is no result, and it leaves no bytecode behind."""
    writes_bytecode = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        _refuse_warnings(caught)
    except BranchmigError:
        raise
    except Exception as error:
        raise HistoryError(
            f"the history {source.script_location} cannot be loaded: {place(error)}",
            "mend that file; `alembic history` meets the same error",
        ) from error
    finally:
        sys.dont_write_bytecode = writes_bytecode


def _refuse_warnings(caught: Iterable[warnings.WarningMessage]) -> None:
    """Alembic only warns of a revision that is there twice, or that names a parent that is not."""
    for warning in caught:
        text = str(warning.message)
        if "present more than once" in text or "is not present" in text:
            raise HistoryError(f"the history is inconsistent: {text}", "mend the revision files")


def place(error: BaseException) -> str:
    """An error in foreign code with file and line."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    text = mask(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    here = Path(inspect.getfile(CommandError)).parent.parent
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        path = Path(frame.filename)
        foreign = here not in path.parents and packaged("branchmig") not in path.parents
        if foreign and path.is_file() and "importlib" not in frame.filename:
            return f"{frame.filename}, line {frame.lineno}: {text}"
    return text
