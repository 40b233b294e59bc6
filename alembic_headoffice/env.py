"""For plain `alembic` commands on a HeadOffice, by the alembic.ini beside this file.

branchmig runs this history in an environment of its own and never executes this file.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import context

from branchmig.store import VERSION_TABLE, metadata


def run() -> None:
    """Run against `-x url=...`."""
    url = context.get_x_argument(as_dictionary=True).get("url")
    if not url:
        raise SystemExit("say which HeadOffice: alembic -x url=sqlite:///headoffice.db ...")
    options: dict[str, Any] = {"target_metadata": metadata, "version_table": VERSION_TABLE.name}
    if context.is_offline_mode():
        context.configure(url=url, literal_binds=True, **options)
        with context.begin_transaction():
            context.run_migrations()
        return
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        context.configure(connection=connection, include_name=_ours, **options)
        with context.begin_transaction():
            context.run_migrations()


def _ours(name: str | None, kind: str, parents: object) -> bool:
    """HeadOffice may share its database with a company's own tables."""
    return kind != "table" or (name or "").startswith("branchmig_")


run()
