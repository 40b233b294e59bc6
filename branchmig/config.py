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
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from . import trust
from .errors import ConfigError
from .masking import REFERENCE, has_password, mask, remember_url, remember_words

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
    """How a run behaves. Times in seconds. `workers` None: two for each core. `max_minutes`: after
    which a run begins no branch any more; None: no such limit."""

    workers: int | None = Field(None, ge=1, le=1000)
    per_server: int = Field(4, ge=1)
    survey_per_server: int = Field(32, ge=1)
    create_databases: bool = True
    connect_timeout: float = Field(10, gt=0, le=_DAY)
    lock_timeout: float = Field(5, ge=0, le=_DAY)
    lock_tries: int = Field(3, ge=1, le=100)
    statement_timeout: float = Field(0, ge=0, le=_DAY)
    lease_seconds: float = Field(600, ge=1, le=_DAY)
    max_minutes: float | None = Field(None, gt=0, le=_DAY / 60)


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


def _cron(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    from cronsim import CronSim, CronSimError

    try:
        if next(CronSim(given, datetime.now(UTC)), None):
            return given
    except CronSimError as error:
        raise PydanticCustomError(
            "cron", "Input should be a cron expression ({why})", {"why": str(error)}
        ) from None
    raise PydanticCustomError("cron", "Input should be a cron expression for a day that comes")


def _zone(given: Any) -> Any:
    from zoneinfo import ZoneInfo

    try:
        if isinstance(given, str):
            ZoneInfo(given)
        return given
    # A folder of zones, a file that is none, a name with a slash too many: each its own error.
    except (KeyError, ValueError, OSError):
        raise PydanticCustomError(
            "zone", "Input should be a time zone such as Europe/Berlin"
        ) from None


_Zone = Annotated[str, BeforeValidator(_zone)]


class _Whom(_Section):
    """A rule for the branches with a tag, for the branch of a code, or for all."""

    tag: str | None = None
    branch: str | None = None
    tz: _Zone = "UTC"

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.tag is not None and self.branch is not None:
            raise PydanticCustomError("whom", "Input should have a tag or a branch, not both")
        return self


class WindowSettings(_Whom):
    """A window: opened by `cron` in the time zone `tz`, for `hours` of elapsed time."""

    cron: Annotated[str, BeforeValidator(_cron)]
    hours: float = Field(gt=0, le=7 * 24)


def _day_or_moment(given: Any) -> Any:
    """Text, as a variable has it: only one with a time in it is a moment."""
    if not isinstance(given, str):
        return given
    try:
        return date.fromisoformat(given) if len(given) == 10 else datetime.fromisoformat(given)
    except ValueError:
        raise PydanticCustomError("day", "Input should be a day or a moment") from None


_Day = Annotated[date | datetime, BeforeValidator(_day_or_moment)]


class FreezeSettings(_Whom):
    """A freeze: from a day or a moment until another. A day counts whole, the last one too."""

    start: _Day = Field(alias="from")
    until: _Day

    @property
    def begins(self) -> datetime:
        return self._moment(self.start)

    @property
    def ends(self) -> datetime:
        day = not isinstance(self.until, datetime)
        return self._moment(self.until + timedelta(days=1) if day else self.until)

    def _moment(self, given: date | datetime) -> datetime:
        """In `tz`, unless it names a zone of its own."""
        from zoneinfo import ZoneInfo

        zone = ZoneInfo(self.tz)
        if isinstance(given, datetime):
            return given if given.tzinfo else given.replace(tzinfo=zone)
        return datetime.combine(given, datetime.min.time(), zone)

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if self.ends <= self.begins:
            raise PydanticCustomError("freeze", "Input should end after it begins")
        return self


class ScheduleSettings(_Section):
    """When branches may be migrated by apply-all: in `windows`, and in no freeze."""

    windows: tuple[WindowSettings, ...] = ()
    freezes: tuple[FreezeSettings, ...] = ()


def _words(given: Any) -> Any:
    """A command as a list, or as a shell would split it."""
    if not isinstance(given, str):
        return given
    import shlex

    try:
        return tuple(shlex.split(given))
    except ValueError as error:
        raise PydanticCustomError(
            "command", "Input should be a command ({why})", {"why": str(error)}
        ) from None


_Command = Annotated[tuple[str, ...], BeforeValidator(_words)]


class HookSettings(_Section):
    """Commands run at certain moments, each for at most `timeout` seconds; and `scripts`, a folder
    with SQL to be run on branches."""

    before_run: _Command = ()
    after_run: _Command = ()
    before_branch: _Command = ()
    after_branch: _Command = ()
    on_failure: _Command = ()
    on_halt: _Command = ()
    timeout: float = Field(60, gt=0, le=_DAY)
    scripts: str | None = None

    def code(self, folder: Path) -> Iterator[Path]:
        """The files that are run because of these settings, as far as they are named by a path."""
        events = (
            "before_run",
            "after_run",
            "before_branch",
            "after_branch",
            "on_failure",
            "on_halt",
        )
        for event in events:
            command: tuple[str, ...] = getattr(self, event)
            if command and "/" in command[0]:
                yield folder / command[0]
        if self.scripts is not None:
            root = folder / self.scripts
            yield from (root, *sorted(root.rglob("*")))


class SecretSettings(_Section):
    """`directory`: the folder whose files URLs may name with `${file:...}`; None: no file."""

    directory: str | None = None


class NotifySettings(_Section):
    """Who is told of what. `urls` as apprise takes them; each is a secret as a whole. `digest`: a
    cron expression, by the clocks of `tz`. `timeout`: seconds for all that a run has to send."""

    urls: Names = Field((), repr=False)
    on: Annotated[
        tuple[Literal["failure", "manual", "halt", "recovery", "digest"], ...],
        BeforeValidator(lambda given: () if given == "" else given),
    ] = ("manual", "halt", "recovery")
    digest: Annotated[str, BeforeValidator(_cron)] = "0 7 * * *"
    tz: _Zone = "UTC"
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
    schedule: ScheduleSettings = ScheduleSettings()
    hooks: HookSettings = HookSettings()
    secrets: SecretSettings = SecretSettings()

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
    if os.geteuid() != 0 and _is_in_current_folder():
        return Path(FILE_NAME).absolute()
    return SYSTEM_FILE if _is_file(SYSTEM_FILE) else None


def _is_in_current_folder() -> bool:
    """A folder that this user may not look into has none for him: root's home, say, from which
    somebody took the account of the service."""
    try:
        return stat.S_ISREG(Path(FILE_NAME).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False


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
    warnings = [*trust.check([file, file.parent])]
    content = _parsed(file)
    _refuse_unknown_sections(file, content)
    _refuse_readable_secrets(file, content)
    try:
        settings = Settings(**content, file=file)
    except ValidationError as error:
        raise _explain(file, error) from None
    remember_url(settings.headoffice.url)
    for url in settings.notify.urls:
        remember_words(url)
    warnings += trust.check(settings.hooks.code(settings.folder))
    return settings, tuple(warnings)


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


def _refuse_readable_secrets(file: Path, content: Mapping[str, Any]) -> None:
    """A file that everybody on this host can read is no place for a secret. The group may read it:
    that is how a service's own account gets at a file that belongs to root."""
    if not file.stat().st_mode & stat.S_IROTH:
        return
    secrets = [place for place, text in _texts(content) if has_password(text)]
    addresses = content.get("notify", {}).get("urls", ())
    secrets += ["notify.urls" for url in addresses if not REFERENCE.search(str(url))]
    if secrets:
        raise ConfigError(
            f"{file} holds a secret ({secrets[0]}), and everybody on this host can read it",
            f"chmod o-r {file}, or write a reference such as ${{credential:NAME}} in its place",
        )


def _texts(content: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text in the settings, and where it stands."""
    if isinstance(content, str):
        yield place, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _texts(value, f"{place}.{key}".lstrip("."))
    elif isinstance(content, list):
        for value in content:
            yield from _texts(value, place)


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
    given = mask(repr(first["input"]))
    if (section, key) == ("notify", "urls"):
        given = "what it says"  # a secret, whatever it looks like
    if len(path) > 1 and path[1].isdecimal():
        place = variable or f"{file}: [{section}] {key}"
        return _explain_entry(place, path[1:], first, given)
    if first["type"] == "extra_forbidden":
        where = variable or file
        known = list(type(defaults).model_fields)
        return ConfigError(f"{where}: [{section}] has no key {key!r}", _nearest(key, known))
    wanted = first["msg"].replace("Input", "it")
    for python, toml in (("valid dictionary", "table"), ("valid tuple", "list")):
        wanted = wanted.replace(python, toml)
    return ConfigError(
        f"{variable or f'{file}: [{section}] {key}'}: {wanted}, not {given}",
        "a list is written a,b,c here, a table as JSON"
        if variable
        else f"the default is {_toml(getattr(defaults, key))}",
    )


def _explain_entry(where: str, path: Sequence[str], wrong: ErrorDetails, given: str) -> ConfigError:
    """What is wrong with one entry of a list of tables."""
    position, *key = path
    at = f"{where}, entry {int(position) + 1}"
    if wrong["type"] in ("missing", "extra_forbidden") and key:
        lacks = "lacks" if wrong["type"] == "missing" else "may not have"
        return ConfigError(f"{at} {lacks} the key {key[0]!r}", "see the settings in the README")
    wanted = wrong["msg"].replace("Input", key[0] if key else "it")
    return ConfigError(f"{at}: {wanted}, not {given}", "see the settings in the README")


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
