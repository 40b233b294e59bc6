"""How the history `slow` is held up and waited for, by files beside the branch's database."""

from __future__ import annotations

from pathlib import Path

from office import Office
from processes import until

REVISIONS = ("s1", "s2_many", "s3_long", "s4")


def mark(office: Office, code: str, name: str) -> Path:
    return Path(f"{office.database(code)}.{name}")


def prepare(office: Office, *codes: str) -> None:
    """Use the history for new branches of these codes."""
    office.use_history("slow")
    office.add(*codes)
    (office.folder / "branches").mkdir()


def hold(office: Office, code: str) -> None:
    """The revision of many statements will go on until `release`."""
    mark(office, code, "hold").touch()


def release(office: Office, code: str) -> None:
    mark(office, code, "hold").unlink()


def lengthen(office: Office, code: str) -> None:
    """The revision of one long statement will not end by itself."""
    mark(office, code, "long").touch()


def shorten(office: Office, code: str) -> None:
    """Take `lengthen` back for the next attempt."""
    mark(office, code, "long").unlink()


def begun(office: Office, code: str, revision: str) -> None:
    """Wait until a revision has begun: its transaction is open."""
    until(mark(office, code, revision).exists, f"the begin of {revision} on {code}")


def head(office: Office, code: str) -> str | None:
    """What a branch's version table holds."""
    rows = office.query(code, "SELECT version_num FROM alembic_version")
    return rows[0][0] if rows else None
