"""The least that a survey of SQLite branches can be: one read of the version table each.

`python reads.py FILE`: the databases' paths, one a line.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path


def main() -> None:
    for path in Path(sys.argv[1]).read_text().splitlines():
        driver = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        driver.execute("SELECT version_num FROM alembic_version").fetchall()
        driver.close()


if __name__ == "__main__":
    main()
