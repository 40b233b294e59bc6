"""The sections of the settings file and their keys, each with its default."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from .values import (
    DAY,
    Canary,
    Command,
    Cron,
    Day,
    Label,
    Names,
    Percentages,
    Portion,
    Textfile,
    WindowCron,
    Zone,
)

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
    connect_timeout: float = Field(10, gt=0, le=DAY)
    lock_timeout: float = Field(5, ge=0, le=DAY)
    lock_tries: int = Field(3, ge=1, le=100)
    statement_timeout: float = Field(0, ge=0, le=DAY)
    lease_seconds: float = Field(600, ge=1, le=DAY)
    max_minutes: float | None = Field(None, gt=0, le=DAY / 60)


class RetrySettings(_Section):
    """When a failed branch is tried again. `backoff_seconds` 0: at the next run."""

    max_attempts: int = Field(3, ge=1)
    backoff_seconds: float = Field(300, ge=0, le=DAY)
    unreachable: Literal["count", "wait"] = "count"


class RolloutSettings(_Section):
    """Waves. `canary`: a number, a percentage, or a tag; `waves`: percentages of the branches that
    are reached one after another; `max_failures` of each wave. Without this section no waves."""

    canary: Canary = 10
    waves: Percentages = ()
    max_failures: Portion = "10%"
    soak_seconds: float = Field(0, ge=0, le=30 * DAY)


class _Whom(_Section):
    """A rule for the branches with a tag, for the branch of a code, or for all."""

    tag: str | None = None
    branch: str | None = None
    tz: Zone = "UTC"

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.tag is not None and self.branch is not None:
            raise PydanticCustomError("whom", "Input should have a tag or a branch, not both")
        return self


class WindowSettings(_Whom):
    """A window: opened by `cron` in the time zone `tz`, for `hours` of elapsed time."""

    cron: WindowCron
    hours: float = Field(gt=0, le=7 * 24)


_LAST_YEAR = 9000
"""What is reckoned from a freeze must not come to the end of the calendar."""


class FreezeSettings(_Whom):
    """A freeze: from a day or a moment until another. A day counts whole, the last one too."""

    start: Day = Field(alias="from")
    until: Day

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
        if max(self.start.year, self.until.year) > _LAST_YEAR:
            raise PydanticCustomError("freeze", f"Input should be before the year {_LAST_YEAR + 1}")
        if self.ends <= self.begins:
            raise PydanticCustomError("freeze", "Input should end after it begins")
        return self


class ScheduleSettings(_Section):
    """When branches may be migrated by apply-all: in `windows`, and in no freeze."""

    windows: tuple[WindowSettings, ...] = ()
    freezes: tuple[FreezeSettings, ...] = ()


class HookSettings(_Section):
    """Commands run at certain moments, each for at most `timeout` seconds; and `scripts`, a folder
    with SQL to be run on branches."""

    before_run: Command = ()
    after_run: Command = ()
    before_branch: Command = ()
    after_branch: Command = ()
    on_failure: Command = ()
    on_halt: Command = ()
    timeout: float = Field(60, gt=0, le=DAY)
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
    digest: Cron = "0 7 * * *"
    tz: Zone = "UTC"
    timeout: float = Field(30, gt=0, le=300)


class MetricsSettings(_Section):
    """`textfile`: where an `apply-all` leaves its figures for Prometheus; `labels`: what each of
    them carries, to be told from those of another HeadOffice."""

    textfile: Textfile | None = None
    labels: dict[Label, str] = Field(default_factory=dict)
