"""How a script is taken apart, as each engine's driver needs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from branchmig.model import Provider
from branchmig.providers import Limits, strategy_for

SQLITE, POSTGRESQL, MYSQL, SQLSERVER = (
    Provider.SQLITE, Provider.POSTGRESQL, Provider.MYSQL, Provider.SQLSERVER,
)  # fmt: skip


def statements(provider: Provider, script: str) -> list[str]:
    strategy = strategy_for(provider, Limits(), Path())
    return [" ".join(text.split()) for text in strategy.statements(script)]


@pytest.mark.parametrize("provider", [SQLITE, POSTGRESQL, MYSQL])
@pytest.mark.parametrize("nothing", ["", "  \n", ";;\n;", "-- only this", "/* and; this */ ;"])
def test_a_script_that_says_nothing_has_no_statement(provider: Provider, nothing: str) -> None:
    assert statements(provider, nothing) == []


@pytest.mark.parametrize("provider", [SQLITE, POSTGRESQL, MYSQL])
def test_semicolons_in_literals_and_comments_end_nothing(provider: Provider) -> None:
    script = "INSERT INTO a VALUES ('x;''y;'); /* ; */ UPDATE a SET b = ';' -- ;\nWHERE c = 1"
    first, second = statements(provider, script)
    assert first == "INSERT INTO a VALUES ('x;''y;')"
    assert second.endswith("WHERE c = 1")


@pytest.mark.parametrize(
    ("provider", "body"),
    [
        (SQLITE, "CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM b; DELETE FROM c; END"),
        (MYSQL, "CREATE DEFINER=`a`@`%` TRIGGER t AFTER INSERT ON a FOR EACH ROW "
                "BEGIN DELETE FROM b; DELETE FROM c; END;"),
        (POSTGRESQL, "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $x$ SELECT 1; SELECT 2 $x$"),
    ],
)  # fmt: skip
def test_what_has_a_body_is_one_statement(provider: Provider, body: str) -> None:
    assert statements(provider, f"SELECT 1; {body}") == ["SELECT 1", body]


def test_on_sql_server_a_line_with_go_ends_a_batch() -> None:
    script = "CREATE TABLE a (b int); SELECT 'GO'\ngo\nCREATE VIEW v AS SELECT 1\n  GO ;\n\nGO\n"
    assert statements(SQLSERVER, script) == [
        "CREATE TABLE a (b int); SELECT 'GO'",
        "CREATE VIEW v AS SELECT 1",
    ]
