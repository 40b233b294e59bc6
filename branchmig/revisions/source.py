"""Where a history is and what it needs; loading foreign code without being harmed by it."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import sysconfig
import traceback
import warnings
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import alembic
import sqlalchemy
from alembic.config import Config

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
    for path in (*source.prepend_sys_path, *([source.ini] if source.ini else [])):
        yield from trust.check([Path(path)])


def prepare_process(source: Source) -> None:
    os.environ.update(source.environ)
    sys.path[:0] = [path for path in source.prepend_sys_path if path not in sys.path]
    for module in source.preload:
        importlib.import_module(module)


def make_config(source: Source, scratch_url: str) -> Config:
    folder = Path(source.script_location)
    if folder.is_absolute() and not folder.is_dir():
        raise HistoryError(
            f"there is no folder {folder}", "mend [migrations] script_location in the settings"
        )
    if source.ini and not Path(source.ini).is_file():
        raise HistoryError(f"there is no file {source.ini}", "mend [migrations] ini")
    # What a history has Alembic print is no result of ours.
    config = Config(source.ini, stdout=sys.stderr) if source.ini else Config(stdout=sys.stderr)
    config.set_main_option("script_location", source.script_location.replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", scratch_url.replace("%", "%%"))
    if source.version_locations:
        use_locations(config, source)
    config.attributes.update(source.attributes)
    # context.get_x_argument() looks here.
    config.cmd_opts = Namespace(x=list(source.x_args) or None)
    return config


def use_locations(config: Config, source: Source) -> None:
    """Have the revisions looked for where the settings say."""
    # Not the operating system's separator: a colon would split `package:folder`.
    config.set_main_option("path_separator", "newline")
    config.set_main_option(
        "version_locations", "\n".join(source.version_locations).replace("%", "%%")
    )


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
    try:
        with (
            no_bytecode(),
            redirect_stdout(sys.stderr),
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            yield
        _refuse_warnings(caught)
    except BranchmigError:
        raise
    except (Exception, SystemExit) as error:
        # What Alembic warned of before tells more than the error that it met then.
        _refuse_warnings(caught)
        raise HistoryError(
            f"the history {source.script_location} cannot be loaded: {place(error)}",
            "mend that file; `alembic history` meets the same error",
        ) from error


@contextmanager
def no_bytecode() -> Iterator[None]:
    """Within, importing writes no bytecode: a history is not ours to write to."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


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
    at = where(error)
    return f"{at}: {text}" if at else text


def where(error: BaseException) -> str | None:
    """File and line of the last foreign code that an exception came through.

    That is a history or what it calls: not this program, nor what runs or serves histories.
    """
    # The package that the exception is from: a driver, whose insides tell nobody anything.
    origin = type(getattr(error, "orig", None) or error).__module__.partition(".")[0]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not _is_machinery(path, origin):
            return f"{frame.filename}, line {frame.lineno}"
    return None


def _is_machinery(path: Path, origin: str) -> bool:
    packages = (Path(inspect.getfile(package)).parent for package in (alembic, sqlalchemy))
    if any(folder in path.parents for folder in (packaged("branchmig"), *packages)):
        return True
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    if installed and origin in path.parts:
        return True
    return not installed and Path(sysconfig.get_path("stdlib")) in path.parents
