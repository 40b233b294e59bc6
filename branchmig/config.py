"""Settings: one TOML file, overridden by the environment, checked as a whole.

Floor 2. `load` finds the file, reads it and gives a frozen `Settings`; nothing later reads the
environment for settings. Every relative path in it counts from the file's folder.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from . import trust
from .errors import ConfigError
from .masking import mask, remember_url, remember_words

FILE_NAME = "branchmig.toml"
SYSTEM_FILE = Path("/etc/branchmig") / FILE_NAME

_DAY = 86_400
"""Seconds; longer than this nothing here can sensibly last."""

RETAIL_HISTORY = "alembic_branch"
RETAIL_TABLES = (
    "Users",
    "Categories",
    "Products",
    "ProductImages",
    "Customers",
    "Suppliers",
    "Sales",
    "SaleLineItems",
    "Purchases",
    "PurchaseLineItems",
    "Expenses",
    "ExpenseCategories",
    "Settings",
    "SyncQueue",
)
"""The tables that the reference history promises; the default of `validation.required_tables`."""


Names = Annotated[tuple[str, ...], BeforeValidator(lambda given: () if given == "" else given)]
"""A list of texts; an empty variable is an empty list."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class HeadOfficeSettings(_Section):
    """Where the list of branches and their states live."""

    url: str = "sqlite:///headoffice.db"


class MigrationSettings(_Section):
    """The Alembic history of the branches and what it needs to run without its own env.py."""

    script_location: str = RETAIL_HISTORY
    target: str = "head"
    version_locations: Names = ()
    version_table: str | None = None
    version_table_schema: str | None = None
    target_metadata: str | None = None
    preload: Names = ()
    prepend_sys_path: Names = ()
    x_args: Names = ()
    ini: str | None = None
    attributes: dict[str, Any] = Field(default_factory=dict)
    environ: dict[str, str] = Field(default_factory=dict)
    setup: str | None = None
    probe: bool = True


class ValidationSettings(_Section):
    """`required_tables`: None stands for the default of the history in use."""

    required_tables: Names | None = None


class RunSettings(_Section):
    """How a run behaves. Times in seconds. `workers` None: two for each core."""

    workers: int | None = Field(None, ge=1, le=1000)
    per_server: int = Field(4, ge=1)
    survey_per_server: int = Field(32, ge=1)
    create_databases: bool = True
    connect_timeout: float = Field(10, gt=0, le=_DAY)
    lock_timeout: float = Field(5, ge=0, le=_DAY)
    lock_tries: int = Field(3, ge=1, le=100)
    statement_timeout: float = Field(0, ge=0, le=_DAY)
    lease_seconds: float = Field(600, ge=1, le=_DAY)


class RetrySettings(_Section):
    """When a failed branch is tried again. `backoff_seconds` 0: at the next run."""

    max_attempts: int = Field(3, ge=1)
    backoff_seconds: float = Field(300, ge=0, le=_DAY)
    unreachable: Literal["count", "wait"] = "count"


def _share(given: Any) -> Any:
    """A number that came as text, from a variable say."""
    return int(given) if isinstance(given, str) and given.isdecimal() else given


def _is_portion(share: Any) -> bool:
    """A number of branches, or a percentage."""
    if isinstance(share, str):
        return _PERCENTAGE.fullmatch(share) is not None
    return isinstance(share, int) and not isinstance(share, bool) and share >= 0


def _portion(given: Any) -> Any:
    if _is_portion(share := _share(given)):
        return share
    raise PydanticCustomError("portion", 'Input should be a number from 0, or "0%" to "100%"')


def _canary(given: Any) -> Any:
    """As `_portion`, but not nothing; or a tag."""
    share = _share(given)
    is_tag = isinstance(share, str) and share.strip() and not share.endswith("%")
    if is_tag or (share not in (0, "0%", "00%") and _is_portion(share)):
        return share
    raise PydanticCustomError("canary", 'Input should be a number from 1, "1%" to "100%", or a tag')


def _percentages(given: Any) -> Any:
    """Percentages with or without their sign, rising."""
    if not isinstance(given, (list, tuple)):
        return given
    bare = [part.removesuffix("%") if isinstance(part, str) else part for part in given]
    return sorted(_share(part) for part in bare)


_PERCENTAGE = re.compile(r"(100|[0-9]{1,2})%")


class RolloutSettings(_Section):
    """Waves. `canary`: a number, a percentage, or a tag; `waves`: percentages of the branches that
    are reached one after another; `max_failures` of each wave. Without this section no waves."""

    canary: Annotated[int | str, BeforeValidator(_canary)] = 10
    waves: Annotated[
        tuple[Annotated[int, Field(ge=1, le=100)], ...], BeforeValidator(_percentages)
    ] = ()
    max_failures: Annotated[int | str, BeforeValidator(_portion)] = "10%"
    soak_seconds: float = Field(0, ge=0, le=30 * _DAY)


_MORNING = "0 7 * * *"


def _cron(given: str) -> str:
    """A cron expression with five fields; cronsim's sixth, the seconds, is no operator's."""
    if given == _MORNING:
        return given
    from cronsim import CronSim, CronSimError

    try:
        if len(given.split()) == 5:
            CronSim(given, datetime(2000, 1, 1, tzinfo=UTC))
            return given
    except CronSimError:
        pass
    raise PydanticCustomError("cron", 'Input should be a cron expression, such as "0 7 * * *"')


def _zone(given: str) -> str:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        ZoneInfo(given)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        message = 'Input should be a time zone, such as "Europe/Berlin"'
        raise PydanticCustomError("zone", message) from None
    return given


class NotifySettings(_Section):
    """Who is told of what. `urls` as apprise takes them; each is a secret as a whole. `digest`: a
    cron expression, by the clocks of `tz`. `timeout`: seconds for all that a run has to send."""

    urls: Names = Field((), repr=False)
    on: Annotated[
        tuple[Literal["failure", "manual", "halt", "recovery", "digest"], ...],
        BeforeValidator(lambda given: () if given == "" else given),
    ] = ("manual", "halt", "recovery")
    digest: Annotated[str, AfterValidator(_cron)] = _MORNING
    tz: Annotated[str, AfterValidator(_zone)] = "UTC"
    timeout: float = Field(30, gt=0, le=300)


def _textfile(given: str) -> str:
    if given.endswith(".prom"):
        return given
    raise PydanticCustomError("prom", "Input should end in .prom: the node exporter reads no other")


def _label(given: str) -> str:
    if re.fullmatch(r"(?!__)[A-Za-z_][A-Za-z0-9_]*", given) and given not in _OWN_LABELS:
        return given
    raise PydanticCustomError("label", "Input should be a name that Prometheus takes and is free")


_OWN_LABELS = ("status", "revision", "verdict")


class MetricsSettings(_Section):
    """`textfile`: where an `apply-all` leaves its figures for Prometheus; `labels`: what each of
    them carries, to be told from those of another HeadOffice."""

    textfile: Annotated[str, AfterValidator(_textfile)] | None = None
    labels: dict[Annotated[str, AfterValidator(_label)], str] = Field(default_factory=dict)


class Settings(BaseSettings):
    """All settings of one program run; picklable, so that worker processes get the same.

    `file` is the settings file; its folder is what relative paths count from.
    """

    model_config = SettingsConfigDict(
        env_prefix="BRANCHMIG_",
        env_nested_delimiter="_",
        env_nested_max_split=1,
        extra="forbid",
        frozen=True,
    )

    file: Path = Field(exclude=True)
    headoffice: HeadOfficeSettings = HeadOfficeSettings()
    migrations: MigrationSettings = MigrationSettings()
    validation: ValidationSettings = ValidationSettings()
    run: RunSettings = RunSettings()
    retry: RetrySettings = RetrySettings()
    rollout: RolloutSettings | None = None
    notify: NotifySettings = NotifySettings()
    metrics: MetricsSettings = MetricsSettings()

    @property
    def folder(self) -> Path:
        return self.file.parent

    @property
    def script_location(self) -> str:
        """The history as Alembic takes it: an absolute folder, or `package:folder`.

        The reference history is the folder of its name beside the settings where there is one,
        and the copy that came with the program otherwise.
        """
        location = self.migrations.script_location
        if location == RETAIL_HISTORY and not (self.folder / location).is_dir():
            return str(packaged(RETAIL_HISTORY))
        return self.resolve(location)

    @property
    def required_tables(self) -> tuple[str, ...]:
        if self.validation.required_tables is not None:
            return self.validation.required_tables
        retail = Path(self.script_location).name == RETAIL_HISTORY
        return RETAIL_TABLES if retail else ()

    def resolve(self, location: str) -> str:
        """A folder counted from the settings file; `package:folder` is left as it is."""
        if ":" in location and not Path(location).is_absolute():
            return location
        return str(self.folder / location)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The environment wins over the file, whose content arrives as initial values.
        return _Environment(settings_cls), init_settings


class _Environment(EnvSettingsSource):
    """Environment variables, with lists separated by commas as operators write them."""

    def __call__(self) -> dict[str, Any]:
        # Only sections: `file` is no setting, and BRANCHMIG_FILE no variable of ours.
        return {name: value for name, value in super().__call__().items() if name in _SECTIONS}

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        if isinstance(value, str) and not value.lstrip().startswith(("[", "{")):
            return [part.strip() for part in value.split(",") if part.strip()]
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            # As it is, it is no list and no table: the check that follows names the variable.
            return value


def packaged(history: str) -> Path:
    """The folder of a history that is installed beside this package."""
    return Path(__file__).resolve().parent.parent / history


def find(named: Path | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The settings file to use, or None where there is none.

    In order: the one named on the command line, `$BRANCHMIG_CONFIG`, `./branchmig.toml`, the
    system's. Root never takes the one in the current folder: whoever owns that folder would choose
    what root runs. Raises ConfigError where a named file does not exist.
    """
    chosen = named or (
        Path(environ["BRANCHMIG_CONFIG"]) if environ.get("BRANCHMIG_CONFIG") else None
    )
    if chosen is not None:
        if not _is_file(chosen):
            raise ConfigError(
                f"there is no settings file {chosen}",
                "name an existing file with --config or BRANCHMIG_CONFIG, "
                "or run `branchmig init` in the folder that shall hold it",
            )
        return chosen.absolute()
    if os.geteuid() != 0 and _is_file(Path(FILE_NAME)):
        return Path(FILE_NAME).absolute()
    return SYSTEM_FILE if _is_file(SYSTEM_FILE) else None


def _is_file(path: Path) -> bool:
    """Raises ConfigError where this user may not even see whether there is one."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(file: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{file} cannot be read: {error.strerror}",
        "let the user that runs this read it, or name another one with --config",
    )


def load(file: Path) -> tuple[Settings, tuple[str, ...]]:
    """Read and check a settings file. Gives the settings and warnings about who can change it.

    Raises ConfigError: unreadable, malformed (with line and column), an unknown key (with the
    nearest known one), a wrong value, or open to strangers and run as root.
    """
    warnings = tuple(trust.check([file, file.parent]))
    content = _parsed(file)
    _refuse_unknown_sections(file, content)
    try:
        settings = Settings(**content, file=file)
    except ValidationError as error:
        raise _explain(file, error) from None
    remember_url(settings.headoffice.url)
    for url in settings.notify.urls:
        remember_words(url)
    return settings, warnings


def _parsed(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        return tomllib.loads(text)
    except OSError as error:
        raise _unreadable(file, error) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file} is not UTF-8 text: {error.reason} at byte {error.start}", "save it as UTF-8"
        ) from error
    except tomllib.TOMLDecodeError as error:
        lines = text.split("\n")
        end = f"at line {len(lines)}, column {len(lines[-1]) + 1}"
        raise ConfigError(
            f"{file} is not valid TOML: {str(error).replace('at end of document', end)}",
            "mend that line; see https://toml.io",
        ) from error


def _refuse_unknown_sections(file: Path, content: Mapping[str, Any]) -> None:
    for name, value in content.items():
        if name not in _SECTIONS:
            raise ConfigError(f"{file}: unknown section [{name}]", _nearest(name, _SECTIONS))
        if not isinstance(value, dict):
            raise ConfigError(
                f"{file}: {name} is a section, not a key", f"write [{name}] above its keys"
            )


def _explain(file: Path, error: ValidationError) -> ConfigError:
    """The first thing wrong, as a sentence that names where it stands and what was expected."""
    first = error.errors()[0]
    section, *path = (str(part) for part in first["loc"])
    if not path:
        return ConfigError(
            f"BRANCHMIG_{section.upper()} is a section, not a key",
            f"set BRANCHMIG_{section.upper()}_<KEY> instead",
        )
    key = path[0]
    defaults = getattr(_DEFAULTS, section)
    variable = _variable(section, key)
    if first["type"] == "extra_forbidden":
        where = variable or file
        known = list(type(defaults).model_fields)
        return ConfigError(f"{where}: [{section}] has no key {key!r}", _nearest(key, known))
    given = "what it says" if (section, key) == ("notify", "urls") else mask(repr(first["input"]))
    wanted = first["msg"].replace("Input", "it")
    for python, toml in (("valid dictionary", "table"), ("valid tuple", "list")):
        wanted = wanted.replace(python, toml)
    return ConfigError(
        f"{variable or f'{file}: [{section}] {key}'}: {wanted}, not {given}",
        "a list is written a,b,c here, a table as JSON"
        if variable
        else f"the default is {_toml(getattr(defaults, key))}",
    )


def _variable(section: str, key: str) -> str | None:
    """The environment variable that sets a key, as it is spelt, if one does."""
    wanted = f"branchmig_{section}_{key}".lower()
    return next((name for name in os.environ if name.lower() == wanted), None)


def _toml(default: Any) -> str:
    """A default as the settings file would have it; None is what no key stands for."""
    return "to leave it out" if default is None else json.dumps(default)


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"


_SECTIONS = tuple(name for name in Settings.model_fields if name != "file")
_DEFAULTS = Settings.model_construct(file=Path(), rollout=RolloutSettings())
