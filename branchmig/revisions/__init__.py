"""Alembic histories: loading, planning, running. Floor 3; the only room that imports alembic.

branchmig is the Alembic environment: it builds the EnvironmentContext itself, with its own
connection, transactions and options. A history's env.py is executed once, as a probe.

Alembic takes a quarter of a second to import, so import from the modules and where it is needed.
"""
