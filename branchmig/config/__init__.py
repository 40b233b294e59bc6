"""Settings: one TOML file, overridden by the environment, checked as a whole.

Floor 2. `load` finds the file, reads it and gives a frozen `Settings`; nothing later reads the
environment for settings. Every relative path in it counts from the file's folder.
"""

from __future__ import annotations

from .file import FILE_NAME, SYSTEM_FILE, find, load
from .sections import (
    RETAIL_TABLES,
    FreezeSettings,
    HeadOfficeSettings,
    NotifySettings,
    RolloutSettings,
    ScheduleSettings,
    WindowSettings,
)
from .settings import Settings, packaged

__all__ = [
    "FILE_NAME",
    "RETAIL_TABLES",
    "SYSTEM_FILE",
    "FreezeSettings",
    "HeadOfficeSettings",
    "NotifySettings",
    "RolloutSettings",
    "ScheduleSettings",
    "Settings",
    "WindowSettings",
    "find",
    "load",
    "packaged",
]
