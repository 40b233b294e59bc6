"""Its revisions lie elsewhere, which only env.py says."""

from pathlib import Path

import sqlalchemy as sa
from alembic import context

context.config.set_main_option("version_locations", str(Path(__file__).parent / "elsewhere"))
if context.config.get_main_option("by_hand"):
    context.script.version_locations = [str(Path(__file__).parent / "elsewhere")]

engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=sa.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
