"""A shop has a city."""

import sqlalchemy as sa
from alembic import op

revision = "a2"
down_revision = "a1"


def upgrade():
    op.add_column("shops", sa.Column("city", sa.Unicode(80)))


def downgrade():
    with op.batch_alter_table("shops") as batch:
        batch.drop_column("city")
