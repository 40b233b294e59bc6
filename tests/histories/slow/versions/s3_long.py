"""One statement that takes minutes where the file DATABASE.long is there."""

from pathlib import Path

from alembic import op

revision = "s3_long"
down_revision = "s2_many"


def upgrade():
    database = op.get_bind().exec_driver_sql("PRAGMA database_list").first()[2]
    count = 1_000_000_000 if Path(f"{database}.long").exists() else 10
    Path(f"{database}.s3_long").touch()
    op.execute(
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
        "INSERT INTO rows SELECT 's3_long' FROM n WHERE i % 1000000 = 1"
    )
