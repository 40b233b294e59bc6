"""Waves: how far a rollout has come, what halted it, and which branches it has brought on."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mssql, mysql

revision = "0002_rollouts"
down_revision = "0001_headoffice"
branch_labels = None
depends_on = None

MOMENT = (
    sa.DateTime()
    .with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    .with_variant(mssql.DATETIME2(), "mssql")
)

STATES, RUNS, ROLLOUTS = (
    f"branchmig_{table}" for table in ("migration_states", "runs", "rollouts")
)
INDEX = "branchmig_migration_states_rollout_ix"


def added() -> dict[str, list[sa.Column[Any]]]:
    """The new columns of each table, made anew for each use."""
    counts = [
        sa.Column(name, sa.Integer(), nullable=False, server_default="0")
        for name in ("wave", "attempted", "passed", "failed")
    ]
    return {
        STATES: [
            sa.Column("rollout_id", sa.Unicode(36)),
            sa.Column("wave", sa.Integer()),
            sa.Column("failed_revision", sa.Unicode(255)),
        ],
        RUNS: [sa.Column("rollout_id", sa.Unicode(36))],
        ROLLOUTS: [
            *counts,
            sa.Column("halted_at", MOMENT),
            sa.Column("halted_by", sa.Unicode(36)),
            sa.Column("halt_reason", sa.UnicodeText()),
            sa.Column("resumed_at", MOMENT),
            sa.Column("resumed_by", sa.Unicode(255)),
        ],
    }


def upgrade() -> None:
    for table, columns in added().items():
        for column in columns:
            op.add_column(table, column)
    op.create_index(INDEX, STATES, ["rollout_id"])


def downgrade() -> None:
    op.drop_index(INDEX, STATES)
    for table, columns in added().items():
        for column in reversed(columns):
            op.drop_column(table, column.name, mssql_drop_default=True)
