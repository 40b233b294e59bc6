"""All settings of one program run, and the environment over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from .sections import (
    RETAIL_HISTORY,
    RETAIL_TABLES,
    HeadOfficeSettings,
    HookSettings,
    MetricsSettings,
    MigrationSettings,
    NotifySettings,
    RetrySettings,
    RolloutSettings,
    RunSettings,
    ScheduleSettings,
    SecretSettings,
    ValidationSettings,
)


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
        return {name: value for name, value in super().__call__().items() if name in SECTIONS}

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
    return Path(__file__).resolve().parents[2] / history


SECTIONS = tuple(name for name in Settings.model_fields if name != "file")
DEFAULTS = Settings.model_construct(file=Path(), rollout=RolloutSettings())
