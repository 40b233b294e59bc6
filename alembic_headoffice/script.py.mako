<%!
    import re

    def quoted(value):
        return repr(value).replace("'", '"')

    def portable(body):
        # SQL Server drops no column whose default is still there; the others ignore the option.
        return re.sub(r"(drop_column\([^()]*)\)", r"\1, mssql_drop_default=True)", body)
%>\
"""${message}"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
% if imports:
${imports}
% endif

revision: str = ${quoted(up_revision)}
down_revision: str | tuple[str, ...] | None = ${quoted(down_revision)}


def upgrade() -> None:
    ${portable(upgrades or "pass")}


def downgrade() -> None:
    ${portable(downgrades or "pass")}
