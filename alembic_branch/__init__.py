"""The schema of a branch database, and the history that led to it.

``schema`` is what the tables look like today, ``versions`` how they came to, ``env`` what plain
``alembic`` commands run. Copy the folder to begin a history of your own. On SQLite it needs 3.35,
the first that drops a column itself: no revision here rebuilds a table.
"""
