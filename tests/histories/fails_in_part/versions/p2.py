"""A shop has a city; fails where the number in the name of the branch's file says so."""

import re
import time

import sqlalchemy as sa
from alembic import op

revision = "p2"
down_revision = "p1"

FAILING = range(0)
PAUSE = 0


def upgrade():
    file = op.get_bind().engine.url.database or ""
    number = int(re.findall(r"\d+", file)[-1])
    time.sleep(PAUSE)
    op.add_column("shops", sa.Column("city", sa.Unicode(80)))
    if number in FAILING:
        raise ValueError("the cities are not in order")


def downgrade():
    with op.batch_alter_table("shops") as batch:
        batch.drop_column("city")
