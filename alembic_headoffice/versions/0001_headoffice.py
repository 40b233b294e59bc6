"""Branches, their states, the audit trail of runs and outcomes, and rollouts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mssql, mysql

revision = "0001_headoffice"
down_revision = None
branch_labels = None
depends_on = None

MOMENT = (
    sa.DateTime()
    .with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    .with_variant(mssql.DATETIME2(), "mssql")
)


def upgrade() -> None:
    op.create_table(
        "branchmig_branches",
        sa.Column("id", sa.Unicode(36), nullable=False),
        sa.Column("code", sa.Unicode(64), nullable=False),
        sa.Column("code_key", sa.Unicode(64), nullable=False, comment="code in lower case"),
        sa.Column("name", sa.Unicode(200), nullable=False),
        sa.Column("provider", sa.Unicode(16), nullable=False),
        sa.Column("url", sa.UnicodeText(), nullable=False),
        sa.Column("database_key", sa.Unicode(64), nullable=False, comment="hash of the database"),
        sa.Column("server", sa.Unicode(255)),
        sa.Column("tags", sa.UnicodeText(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="branchmig_branches_pk"),
        sa.UniqueConstraint("code_key", name="branchmig_branches_code_uq"),
        sa.UniqueConstraint("database_key", name="branchmig_branches_database_uq"),
    )
    op.create_table(
        "branchmig_migration_states",
        sa.Column("branch_id", sa.Unicode(36), nullable=False),
        sa.Column("status", sa.Unicode(32), nullable=False),
        sa.Column("heads", sa.UnicodeText(), nullable=False),
        sa.Column("target", sa.Unicode(255)),
        sa.Column("retry_count", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", MOMENT),
        sa.Column("last_attempt_at", MOMENT),
        sa.Column("lock_owner", sa.Unicode(36)),
        sa.Column("lock_token", sa.BigInteger(), nullable=False),
        sa.Column("lock_expires_at", MOMENT),
        sa.Column("error", sa.UnicodeText()),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("branch_id", name="branchmig_migration_states_pk"),
        sa.ForeignKeyConstraint(
            ["branch_id"],
            ["branchmig_branches.id"],
            name="branchmig_migration_states_branch_fk",
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "branchmig_runs",
        sa.Column("id", sa.Unicode(36), nullable=False),
        sa.Column("command", sa.Unicode(64), nullable=False),
        sa.Column("trigger_kind", sa.Unicode(32), nullable=False, comment="operator, timer or ci"),
        sa.Column("actor", sa.Unicode(255), nullable=False),
        sa.Column("host", sa.Unicode(255), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column("target", sa.Unicode(255)),
        sa.Column("program", sa.Unicode(32), nullable=False, comment="version of branchmig"),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("finished_at", MOMENT),
        sa.Column("exit_code", sa.Integer()),
        sa.PrimaryKeyConstraint("id", name="branchmig_runs_pk"),
    )
    op.create_table(
        "branchmig_outcomes",
        sa.Column("run_id", sa.Unicode(36), nullable=False),
        # No foreign key: the trail outlives a branch that is removed.
        sa.Column("branch_id", sa.Unicode(36), nullable=False),
        sa.Column("branch_code", sa.Unicode(64), nullable=False),
        sa.Column("verdict", sa.Unicode(16), nullable=False),
        sa.Column("reason", sa.Unicode(32)),
        sa.Column("status", sa.Unicode(32), nullable=False),
        sa.Column("from_heads", sa.UnicodeText(), nullable=False),
        sa.Column("to_heads", sa.UnicodeText(), nullable=False),
        sa.Column("applied", sa.UnicodeText(), nullable=False),
        sa.Column("error", sa.UnicodeText()),
        sa.Column("finished_at", MOMENT, nullable=False),
        sa.Column("duration_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "branch_id", name="branchmig_outcomes_pk"),
        sa.ForeignKeyConstraint(
            ["run_id"], ["branchmig_runs.id"], name="branchmig_outcomes_run_fk"
        ),
    )
    op.create_index(
        "branchmig_outcomes_branch_ix", "branchmig_outcomes", ["branch_id", "finished_at"]
    )
    op.create_table(
        "branchmig_rollouts",
        sa.Column("id", sa.Unicode(36), nullable=False),
        sa.Column("target", sa.Unicode(255), nullable=False),
        sa.Column("content_hash", sa.Unicode(64), nullable=False),
        sa.Column("heads", sa.UnicodeText(), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("finished_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name="branchmig_rollouts_pk"),
        sa.UniqueConstraint("target", "content_hash", name="branchmig_rollouts_content_uq"),
    )


def downgrade() -> None:
    for table in ("rollouts", "outcomes", "runs", "migration_states", "branches"):
        op.drop_table(f"branchmig_{table}")
