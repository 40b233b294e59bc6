"""An env.py that passes all that it can."""

import sqlalchemy as sa
from alembic import context

heard = []


def hear(**told):
    heard.append(told["step"].up_revision_id)


context.config.attributes["heard"] = heard

engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=sa.NullPool)
with engine.connect() as connection:
    context.configure(
        connection=connection,
        version_table="our_version",
        version_table_schema="main",
        transaction_per_migration=False,
        transactional_ddl=False,
        on_version_apply=hear,
        user_module_prefix="ours.",
        sqlalchemy_module_prefix="sql.",
        colour="green",
    )
    with context.begin_transaction():
        context.run_migrations(season="autumn")
