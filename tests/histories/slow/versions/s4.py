"""A last one."""

from alembic import op

revision = "s4"
down_revision = "s3_long"


def upgrade():
    op.execute("INSERT INTO rows VALUES ('s4')")
