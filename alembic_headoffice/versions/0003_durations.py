"""How long revisions take, what people have been told, and who was logged in when a run began."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mssql, mysql

revision = "0003_durations"
down_revision = "0002_rollouts"
branch_labels = None
depends_on = None

MOMENT = (
    sa.DateTime()
    .with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    .with_variant(mssql.DATETIME2(), "mssql")
)

RUNS, DURATIONS, NOTICES = (f"branchmig_{table}" for table in ("runs", "durations", "notices"))
INDEX = "branchmig_runs_started_ix"


def upgrade() -> None:
    op.add_column(RUNS, sa.Column("login", sa.Unicode(255)))
    op.create_index(INDEX, RUNS, ["started_at"])
    op.create_table(
        DURATIONS,
        sa.Column("provider", sa.Unicode(16), nullable=False),
        sa.Column("revision", sa.Unicode(255), nullable=False),
        sa.Column("longest_ms", sa.BigInteger(), nullable=False),
        sa.Column("measured_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("provider", "revision", name=f"{DURATIONS}_pk"),
    )
    op.create_table(
        NOTICES,
        sa.Column("kind", sa.Unicode(32), nullable=False),
        sa.Column("subject", sa.Unicode(64), nullable=False),
        sa.Column("detail", sa.UnicodeText()),
        sa.Column("since", MOMENT, nullable=False),
        sa.Column("told_at", MOMENT),
        sa.PrimaryKeyConstraint("kind", "subject", name=f"{NOTICES}_pk"),
    )


def downgrade() -> None:
    op.drop_table(NOTICES)
    op.drop_table(DURATIONS)
    op.drop_index(INDEX, RUNS)
    op.drop_column(RUNS, "login", mssql_drop_default=True)
