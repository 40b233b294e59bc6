"""HeadOffice: its tables and every statement on them. Floor 3; the only writer."""

from __future__ import annotations

from .store import Store
from .tables import REVISIONS, VERSION_TABLE, metadata

__all__ = ["REVISIONS", "VERSION_TABLE", "Store", "metadata"]
