"""The history `witnessed`: it grows, and tells who ran its revisions where no rollback reaches."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from office import Office

REVISION = '''"""One more booking."""

from witness import book

revision = {name!r}
down_revision = {last!r}


def upgrade():
    book(revision, down_revision)
'''


@dataclass
class Witnessed:
    """The history in an office's folder; its first revision is there from the beginning."""

    folder: Path
    revisions: list[str] = field(default_factory=lambda: ["w0001"])

    @classmethod
    def of(cls, office: Office) -> Witnessed:
        history = cls(office.use_history("witnessed", prepend_sys_path=["witnessed"]))
        (history.folder / "witnesses").mkdir()
        return history

    @property
    def head(self) -> str:
        return self.revisions[-1]

    def grow(self, count: int) -> None:
        """Write so many revisions more."""
        for _ in range(count):
            name = f"w{len(self.revisions) + 1:04}"
            file = self.folder / "versions" / f"{name}.py"
            file.write_text(REVISION.format(name=name, last=self.head))
            self.revisions.append(name)

    def ledger(self) -> list[str]:
        """What a branch's ledger holds at head, if everything landed once."""
        booked = [f"{name} {what}" for name in self.revisions[1:] for what in ("begins", "ends")]
        return ["w0001 ends", *booked]

    def witnesses(self) -> dict[str, list[dict[str, Any]]]:
        """What has been told of each branch since `forget`; by the name of its database."""
        return {
            file.stem: [json.loads(line) for line in file.read_text().splitlines()]
            for file in (self.folder / "witnesses").iterdir()
        }

    def forget(self) -> None:
        """To be called when nobody is at work."""
        for file in (self.folder / "witnesses").iterdir():
            file.unlink()

    def figures(self) -> Counter[str]:
        """How often revisions began, ended, broke, overlapped, or were cut off by a kill."""
        found = Counter(
            f"revisions: {line['event']}" for lines in self.witnesses().values() for line in lines
        )
        found["revisions: cut off"] = (
            found["revisions: begins"] - found["revisions: ends"] - found["revisions: breaks"]
        )
        return found
