"""The shipped history: what it builds, what it keeps, and that plain ``alembic`` can work on it."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, nullcontext
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import sqlglot
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlglot import ErrorLevel, exp

import alembic_branch
from alembic_branch.schema import metadata, sales
from branchmig.config import Settings
from branchmig.migrator import Migrator
from branchmig.model import Branch, Plan, Provider

HISTORY = Path(alembic_branch.__file__).parent
REVISIONS = [
    "20251206_InitialCreate",
    "20251206_AddCustomerFields",
    "20251206_AddProductIndex",
    "20251206_UpdateSalesTable",
]
BEFORE_THE_SPLIT, THE_SPLIT = REVISIONS[-2:]

DROPPED_DEFAULT = re.compile(
    r"declare @const_name varchar\(256\)\n"
    r"select @const_name = QUOTENAME\(\[name\]\) from sys.default_constraints\n"
    r"where parent_object_id = object_id\('\w+'\)\n"
    r"and col_name\(parent_object_id, parent_column_id\) = '\w+'\n"
    r"exec\('alter table (\[\w+\]) drop constraint ' \+ @const_name\)"
)
"""How Alembic drops a default on SQL Server, which the parser of the tests does not know."""

A_SHOP = """
INSERT INTO "Users" VALUES (1, 'ada', 'x', 'Ada', 'till', 1, '2025-12-06 08:00:00.000000');
INSERT INTO "Categories" VALUES (1, NULL, 'Tea');
INSERT INTO "Products" VALUES (1, 1, 'T1', NULL, 'Assam', NULL, 1, 1, 20, 5, 1,
    '2025-12-06 08:00:00.000000', '2025-12-06 08:00:00.000000');
INSERT INTO "Sales" ("Id", "Number", "UserId", "SoldAt", "PaymentMethod", "Total") VALUES
    (1, 'S1', 1, '2025-12-06 09:00:00.000000', 'cash', 9999999999999.99),
    (2, 'S2', 1, '2025-12-06 09:01:00.000000', 'card', 0.30),
    (3, 'S3', 1, '2025-12-06 09:02:00.000000', 'card', 5);
INSERT INTO "SaleLineItems" VALUES
    (1, 1, 1, 1, 1, 1.10, 1), (2, 1, 1, 1, 1, 2.20, 1), (3, 2, 1, 0.125, 1, 0.10, 0.30);
"""

A_REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "20260101_Next"
down_revision = "20251206_UpdateSalesTable"


def upgrade() -> None:
    {body}


def downgrade() -> None:
    pass
"""

A_LOYALTY_CARD = """
customers.append_column(Column("Points", Integer, nullable=False, server_default=text("0")))
Table(
    "LoyaltyCards",
    metadata,
    Column("Id", Integer, primary_key=True),
    Column("CustomerId", ForeignKey("Customers.Id"), nullable=False, index=True),
    Column("Notes", TEXT),
    Column("Bonus", MONEY, nullable=False),
    Column("IssuedAt", MOMENT, nullable=False),
)
"""


class Shop:
    """One SQLite branch, and the alembic command on it with the history in ``scripts``."""

    def __init__(self, folder: Path, scripts: Path) -> None:
        self.scripts = scripts
        self.file = folder / "branch.db"
        self.url = f"sqlite:///{self.file}"
        self.ini = folder / "alembic.ini"
        self.set_options()

    def set_options(self, *options: str) -> None:
        lines = (
            "[alembic]",
            f"script_location = {self.scripts}",
            "file_template = %%(rev)s",
            *options,
        )
        self.ini.write_text("\n".join(lines), encoding="utf-8")

    def alembic(self, *arguments: str) -> str:
        done = alembic(self.ini, "-x", f"url={self.url}", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def open_for_business(self) -> None:
        self.alembic("upgrade", BEFORE_THE_SPLIT)
        with closing(sqlite3.connect(self.file)) as connection:
            connection.executescript(A_SHOP)

    def add_revision(self, body: str) -> None:
        text = A_REVISION.format(body=body)
        (self.scripts / "versions" / "20260101_Next.py").write_text(text, encoding="utf-8")

    def add_loyalty(self) -> None:
        with (self.scripts / "schema.py").open("a", encoding="utf-8") as schema:
            schema.write(A_LOYALTY_CARD)
        self.alembic(
            "revision", "--autogenerate", "--rev-id", "20260115_AddLoyalty", "-m", "loyalty points"
        )

    def rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.file)) as connection:
            return connection.execute(query).fetchall()

    def engine(self) -> sa.Engine:
        return sa.create_engine(self.url, poolclass=sa.NullPool)


def alembic(ini: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    ours = {name: value for name, value in os.environ.items() if name != "BRANCH_URL"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "alembic", "-c", str(ini), *arguments],
        env=ours | {"PYTHONDONTWRITEBYTECODE": "1"} | environ,
        cwd=ini.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def schema_of(engine: sa.Engine) -> dict[str, Any]:
    """All that reflection sees, in an order that does not tell how it came about."""
    inspector = sa.inspect(engine)
    return {
        table: {
            "columns": sorted(
                (column["name"], str(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(table)
            ),
            "primary key": inspector.get_pk_constraint(table),
            "foreign keys": sorted(map(str, inspector.get_foreign_keys(table))),
            "unique": sorted(map(str, inspector.get_unique_constraints(table))),
            "indexes": sorted(map(str, inspector.get_indexes(table))),
        }
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


def history() -> ScriptDirectory:
    return ScriptDirectory(HISTORY)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path, HISTORY)


@pytest.fixture
def own_shop(tmp_path: Path) -> Shop:
    """A shop with a copy of the history, which the test may add to."""
    copy = tmp_path / "alembic_branch"
    shutil.copytree(HISTORY, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return Shop(tmp_path, copy)


# The history


def test_the_revisions_form_one_line() -> None:
    found = [script.revision for script in history().walk_revisions()]
    assert found[::-1][: len(REVISIONS)] == REVISIONS
    assert len(history().get_heads()) == 1


def test_a_revision_lives_in_the_file_of_its_name_and_its_id_fits_the_version_table() -> None:
    for script in history().walk_revisions():
        assert Path(script.path).stem == script.revision
        assert len(script.revision) <= 32


def test_every_revision_says_what_it_does_and_goes_both_ways() -> None:
    for script in history().walk_revisions():
        assert script.doc
        assert callable(script.module.upgrade)
        assert callable(script.module.downgrade)


def test_no_revision_reads_the_metadata_that_moves_on() -> None:
    for script in history().walk_revisions():
        assert "alembic_branch" not in Path(script.path).read_text(encoding="utf-8")


def test_head_is_what_the_metadata_describes(shop: Shop) -> None:
    shop.alembic("upgrade", "head")
    with shop.engine().connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []


def test_head_is_what_the_metadata_creates_down_to_the_names_of_constraints(shop: Shop) -> None:
    shop.alembic("upgrade", "head")
    created = sa.create_engine(f"sqlite:///{shop.file}.created", poolclass=sa.NullPool)
    metadata.create_all(created)
    assert schema_of(shop.engine()) == schema_of(created)


def test_each_downgrade_gives_back_the_schema_before_its_upgrade(shop: Shop) -> None:
    before = {}
    for revision in REVISIONS:
        shop.alembic("upgrade", revision)
        before[revision] = schema_of(shop.engine())
    for revision in reversed(REVISIONS[:-1]):
        shop.alembic("downgrade", revision)
        assert schema_of(shop.engine()) == before[revision]


def test_up_down_to_base_and_up_again_gives_an_equal_schema(shop: Shop) -> None:
    shop.alembic("upgrade", "head")
    first = schema_of(shop.engine())
    shop.alembic("downgrade", "base")
    assert schema_of(shop.engine()) == {}
    shop.alembic("upgrade", "head")
    assert schema_of(shop.engine()) == first


# The rows


def test_the_split_takes_a_sales_tax_from_its_lines(shop: Shop) -> None:
    shop.open_for_business()
    shop.alembic("upgrade", THE_SPLIT)
    columns = sales.c["Id", "NetTotal", "TaxTotal"]
    with shop.engine().connect() as connection:
        rows = connection.execute(sa.select(*columns).order_by(sales.c.Id)).all()
    assert rows == [
        (1, Decimal("9999999999996.69"), Decimal("3.30")),
        (2, Decimal("0.20"), Decimal("0.10")),
        (3, Decimal("5.00"), Decimal("0.00")),
    ]


def test_no_row_changes_on_the_way_up_and_down(shop: Shop) -> None:
    shop.open_for_business()
    queries = [
        'SELECT "Id", "Number", "UserId", "SoldAt", "Total" FROM "Sales" ORDER BY "Id"',
        'SELECT * FROM "SaleLineItems" ORDER BY "Id"',
        'SELECT * FROM "Products"',
    ]
    before = [shop.rows(query) for query in queries]
    shop.alembic("upgrade", "head")
    shop.alembic("downgrade", BEFORE_THE_SPLIT)
    assert [shop.rows(query) for query in queries] == before


# Plain alembic


@pytest.mark.parametrize(
    ("url", "moment"),
    [
        ("sqlite://", "DATETIME"),
        ("postgresql://", "TIMESTAMP WITH TIME ZONE"),
        ("mysql://", "DATETIME(6)"),
        ("mariadb://", "DATETIME(6)"),
        ("mssql://", "DATETIME2"),
    ],
)
def test_the_history_compiles_offline(shop: Shop, url: str, moment: str) -> None:
    shop.url = url
    up = shop.alembic("upgrade", "head", "--sql")
    down = shop.alembic("downgrade", "head:base", "--sql")
    assert f" {moment} NOT NULL" in up
    for table in metadata.tables:
        assert f"CREATE TABLE {table}" in up.translate(str.maketrans("", "", '"`[]'))
        assert f"DROP TABLE {table}" in down.translate(str.maketrans("", "", '"`[]'))
    assert "NTEXT" not in up


def test_every_statement_is_t_sql_both_ways(shop: Shop, tmp_path: Path) -> None:
    """Up as `plan --sql` shows it, down by plain alembic."""
    url = "mssql://ada@h/d"
    branch = Branch("1", "BR001", "Leiden", Provider.SQLSERVER, url)
    settings = Settings(file=tmp_path / "branchmig.toml")
    migrator = Migrator(settings)
    steps = migrator.history(branch.provider).steps((), "head")
    shown = migrator.sql(Plan(branch, (), (THE_SPLIT,), steps))
    assert list(shown) == REVISIONS
    shop.url = url
    down = shop.alembic("downgrade", "head:base", "--sql")
    up = "\n".join(shown.values())
    for script in (up, down):
        assert "NTEXT" not in script
        kinds = {type(statement) for statement in parsed(script)}
        assert exp.Command not in kinds, "what sqlglot does not understand"
        assert {exp.Create, exp.Drop, exp.Alter, exp.Update} & kinds
    assert up.count("DATETIME2") > 8


def parsed(script: str) -> Iterator[exp.Expression]:
    """The statements of a T-SQL script. Raises ParseError."""
    for batch in re.split(
        r"(?m)^GO\s*$", DROPPED_DEFAULT.sub(r"ALTER TABLE \1 DROP CONSTRAINT [its]", script)
    ):
        for statement in sqlglot.parse(batch, dialect="tsql", error_level=ErrorLevel.RAISE):
            if statement is not None:
                yield statement


def test_the_offline_script_builds_what_alembic_builds(shop: Shop) -> None:
    script = shop.alembic("upgrade", "head", "--sql")
    with closing(sqlite3.connect(shop.file)) as connection:
        connection.executescript(script)
    scripted = schema_of(shop.engine())
    shop.file.unlink()
    shop.alembic("upgrade", "head")
    assert scripted == schema_of(shop.engine())


def test_the_url_comes_from_x_then_the_settings_then_the_environment(shop: Shop) -> None:
    def databases() -> set[str]:
        return {file.name for file in shop.ini.parent.glob("*.db")}

    alembic(shop.ini, "upgrade", "head", BRANCH_URL="sqlite:///env.db")
    assert databases() == {"env.db"}
    shop.set_options("sqlalchemy.url = sqlite:///settings.db")
    alembic(shop.ini, "upgrade", "head", BRANCH_URL="sqlite:///env.db")
    assert databases() == {"env.db", "settings.db"}
    alembic(shop.ini, "-x", "url=sqlite:///x.db", "upgrade", "head", BRANCH_URL="sqlite:///env.db")
    assert databases() == {"env.db", "settings.db", "x.db"}


def test_without_a_url_alembic_names_the_three_places_for_it(shop: Shop) -> None:
    done = alembic(shop.ini, "upgrade", "head")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    for place in ("-x url=", "BRANCH_URL", "sqlalchemy.url"):
        assert place in done.stdout + done.stderr


def test_at_head_there_is_nothing_to_generate(own_shop: Shop) -> None:
    own_shop.alembic("upgrade", "head")
    own_shop.alembic("check")
    own_shop.alembic("revision", "--autogenerate", "--rev-id", "20260115_Nothing", "-m", "nothing")
    generated = own_shop.scripts / "versions" / "20260115_Nothing.py"
    lines = generated.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "###" not in line] == [
        '"""nothing"""',
        "",
        "from __future__ import annotations",
        "",
        "import sqlalchemy as sa",
        "from alembic import op",
        "",
        'revision: str = "20260115_Nothing"',
        'down_revision: str | tuple[str, ...] | None = "20251206_UpdateSalesTable"',
        "",
        "",
        "def upgrade() -> None:",
        "    pass",
        "",
        "",
        "def downgrade() -> None:",
        "    pass",
    ]


def test_a_change_of_the_metadata_becomes_a_revision_that_works(own_shop: Shop) -> None:
    own_shop.alembic("upgrade", "head")
    before = schema_of(own_shop.engine())
    own_shop.add_loyalty()
    own_shop.alembic("upgrade", "20260115_AddLoyalty")
    own_shop.alembic("check")
    own_shop.alembic("downgrade", "-1")
    assert schema_of(own_shop.engine()) == before


def test_a_revision_generated_on_sqlite_suits_the_other_engines(own_shop: Shop) -> None:
    own_shop.alembic("upgrade", "head")
    own_shop.add_loyalty()
    down = ("downgrade", f"20260115_AddLoyalty:{THE_SPLIT}", "--sql")

    own_shop.url = "mssql://"
    script = own_shop.alembic("upgrade", "head", "--sql")
    assert "[IssuedAt] DATETIME2 NOT NULL" in script
    assert "[Notes] NVARCHAR(max) NULL" in script
    assert "= 'Points'\nexec('alter table [Customers] drop constraint" in own_shop.alembic(*down)

    own_shop.url = "mysql://"
    script = own_shop.alembic(*down)
    assert "DROP TABLE `LoyaltyCards`" in script
    assert "DROP INDEX" not in script


def test_rebuilding_a_parent_table_keeps_its_children(own_shop: Shop) -> None:
    own_shop.open_for_business()
    own_shop.add_revision(
        'with op.batch_alter_table("Sales", recreate="always") as batch:\n'
        '        batch.add_column(sa.Column("Note", sa.Unicode(100)))'
    )
    own_shop.alembic("upgrade", "head")
    assert own_shop.rows('SELECT count(*) FROM "Sales"') == [(3,)]
    assert own_shop.rows('SELECT count(*) FROM "SaleLineItems"') == [(3,)]


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("""op.execute('DELETE FROM "Users"')""", "the first from Sales (rowid 1) to Users"),
        ("op.execute('SELECT missing')", "no such column: missing"),
    ],
)
def test_a_revision_that_fails_leaves_nothing_behind(
    own_shop: Shop, trouble: str, message: str
) -> None:
    own_shop.open_for_business()
    own_shop.alembic("upgrade", "head")
    before = schema_of(own_shop.engine())
    own_shop.add_revision(f'op.create_table("Left", sa.Column("Id", sa.Integer()))\n    {trouble}')
    done = alembic(own_shop.ini, "-x", f"url={own_shop.url}", "upgrade", "head")
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert schema_of(own_shop.engine()) == before
    assert own_shop.rows('SELECT count(*) FROM "Users"') == [(1,)]
    assert own_shop.rows("SELECT version_num FROM alembic_version") == [(THE_SPLIT,)]


def test_probing_the_environment_shows_its_options_and_touches_nothing(
    own_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRANCH_URL", own_shop.url)
    config = Config()
    config.set_main_option("script_location", str(own_shop.scripts))
    scripts = ScriptDirectory.from_config(config)
    probe = EnvironmentContext(config, scripts, as_sql=True)
    told: dict[str, Any] = {}
    for name, stand_in in {
        "configure": lambda **options: told.update(options),
        "run_migrations": lambda **_: None,
        "begin_transaction": nullcontext,
    }.items():
        setattr(probe, name, stand_in)
    handlers = list(logging.root.handlers)

    with probe:
        scripts.run_env()

    assert told["target_metadata"].naming_convention == metadata.naming_convention
    assert logging.root.handlers == handlers
    assert not own_shop.file.exists()
