"""The list of branches as people write it: what it says, and where it is wrong."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from branchmig.errors import ProviderError, UnsupportedProvider, UsageError
from branchmig.model import Branch, Provider
from branchmig.providers import Limits, MigrationStrategy
from branchmig.providers.sqlite import SqliteStrategy
from branchmig.roster import Entry, Registrar, read_entries, refuse_typed_password

AN_ID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
NORTH = Branch(AN_ID, "North", "The North", Provider.SQLITE, "sqlite:///north.db", "host1", ("a",))


@pytest.fixture
def registrar(tmp_path: Path) -> Registrar:
    """One that knows the branch North, in a folder of its own."""
    return office(tmp_path, NORTH)


def office(folder: Path, *present: Branch) -> Registrar:
    sqlite = SqliteStrategy(Limits(), folder)

    def strategy(provider: Provider) -> MigrationStrategy:
        if provider is not Provider.SQLITE:
            raise UnsupportedProvider(f"no {provider} here")
        return sqlite

    return Registrar(strategy, sqlite.identity("sqlite:///headoffice.db"), present)


def entry(code: str = "South", url: str | None = "sqlite:///south.db", **said: object) -> Entry:
    return Entry(code, url, **said)  # type: ignore[arg-type]


def said(text: str) -> list[tuple[str, Entry]]:
    return list(read_entries(text))


# One branch ---------------------------------------------------------------------------------------


def test_a_new_branch_is_called_by_its_code_until_it_has_a_name(registrar: Registrar) -> None:
    branch, _ = registrar.new(entry())
    assert branch == Branch(branch.id, "South", "South", Provider.SQLITE, "sqlite:///south.db")
    assert str(uuid.UUID(branch.id)) == branch.id


def test_everything_that_is_said_of_a_new_branch_is_kept(registrar: Registrar) -> None:
    branch, _ = registrar.new(
        entry(name="Süd", provider="sqlite", server="h", tags=(" x ", "", "y"))
    )
    assert (branch.name, branch.server, branch.tags) == ("Süd", "h", ("x", "y"))


@pytest.mark.parametrize(
    "spelt",
    ["2B4E28BA-2FA1-11D2-883F-0016D3CCA427", "{2b4e28ba2fa111d2883f0016d3cca427}"],
)
def test_an_id_is_kept_in_lower_case(registrar: Registrar, spelt: str) -> None:
    branch, _ = registrar.new(entry(id=spelt))
    assert branch.id == "2b4e28ba-2fa1-11d2-883f-0016d3cca427"


@pytest.mark.parametrize("code", ["A", "0", "a.b-c_d", "x" * 64])
def test_a_code_may_be_what_a_shop_is_called(registrar: Registrar, code: str) -> None:
    assert registrar.new(entry(code))[0].code == code


@pytest.mark.parametrize(
    "code", ["", "a/b", "a\nb", "a\n", "-a", ".a", "_a", "a b", "x" * 65, "Ä", "a\0", "../a", "[a]"]
)
def test_a_code_that_is_none_is_refused(registrar: Registrar, code: str) -> None:
    with pytest.raises(UsageError, match="is not a branch code") as caught:
        registrar.new(entry(code))
    assert "1 to 64 letters" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (entry(url=None), "South has no URL"),
        (entry(url=""), "South has no URL"),
        (entry(url="south.db"), "not a database URL"),
        (entry(url="sqlite:/south.db"), "not a database URL"),
        (entry(url="oracle://h/d"), "unknown provider 'oracle' in the URL"),
        (entry(url="sqlite://"), "in-memory"),
        (entry(url="sqlite:///:memory:"), "in-memory"),
        (entry(url="sqlite://south.db"), "three slashes"),
        (entry(url="sqlite://h/south.db"), "three slashes"),
        (entry(url="sqlite:///south.db?mode=ro"), "takes no options"),
        (entry(url="sqlite:///file:south.db"), "takes no options"),
        (entry(url="sqlite+aiosqlite:///south.db"), "'sqlite\\+aiosqlite' is not one for SQLite"),
        (entry(url=f"sqlite:///{'x' * 300}.db"), "longer than a path may be"),
        (entry(url="sqlite:///."), "is a folder, not a database file"),
        (entry(url="sqlite:////dev/null"), "is a device or a pipe, not a database file"),
        (entry(url="sqlite:///a\nb.db"), "control characters and line ends"),
        (entry(name="a\x1bb"), "control characters and line ends"),
        (entry(tags=("a\nb",)), "control characters and line ends"),
        (entry(name="x" * 201), "at most 200 characters"),
        (entry(server="x" * 256), "a server 255"),
        (entry(provider="oracle"), "unknown provider 'oracle'"),
        (entry(provider="mysql"), "'mysql' contradicts the URL, which is for sqlite"),
        (entry(provider=Provider.MYSQL), "'mysql' contradicts the URL, which is for sqlite"),
        (entry(id="7"), "'7' is not a UUID"),
        (entry(id=AN_ID), f"the branch North has the id {AN_ID}"),
        (entry("north"), "there is a branch North already"),
        (entry(url="sqlite:///./x/../north.db"), "the branch North is on the same database"),
        (entry(url="sqlite:///headoffice.db"), "on HeadOffice's own database"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_a_branch_is_refused_with_a_hint(
    registrar: Registrar, tmp_path: Path, made: Entry, message: str
) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(UsageError, match=message) as caught:
        registrar.new(made)
    assert caught.value.hint


def test_a_database_is_the_same_by_a_symbolic_link_to_its_folder(
    registrar: Registrar, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="the branch North is on the same database"):
        registrar.new(entry(url="sqlite:///link/north.db"))


def test_a_database_is_the_same_by_a_hard_link_made_since(
    registrar: Registrar, tmp_path: Path
) -> None:
    (tmp_path / "north.db").touch()
    (tmp_path / "other.db").hardlink_to(tmp_path / "north.db")
    with pytest.raises(UsageError, match="the branch North is on the same database"):
        registrar.new(entry(url="sqlite:///other.db"))


def test_headoffice_is_the_same_by_a_hard_link(tmp_path: Path) -> None:
    (tmp_path / "headoffice.db").touch()
    (tmp_path / "other.db").hardlink_to(tmp_path / "headoffice.db")
    with pytest.raises(UsageError, match="on HeadOffice's own database"):
        office(tmp_path).new(entry(url="sqlite:///other.db"))


def test_a_branch_that_cannot_be_told_from_others_now_stands_in_nobodys_way(tmp_path: Path) -> None:
    elsewhere = Branch(AN_ID, "East", "East", Provider.POSTGRESQL, "postgresql://h/d")
    assert office(tmp_path, elsewhere).new(entry())[0].code == "South"


def test_a_provider_that_this_version_has_not_is_an_error_of_its_own(registrar: Registrar) -> None:
    with pytest.raises(ProviderError):
        registrar.new(entry(url="postgresql://h/d"))


# A branch that changes ----------------------------------------------------------------------------


def test_what_is_not_named_stays(registrar: Registrar) -> None:
    assert registrar.changed(Entry("North"), NORTH)[0] == NORTH


def test_what_is_named_is_changed_and_empty_words_take_away(registrar: Registrar) -> None:
    changed, _ = registrar.changed(
        Entry("North", "sqlite:///new.db", name="", server="", tags=(), is_active=False), NORTH
    )
    assert changed == Branch(
        AN_ID, "North", "North", Provider.SQLITE, "sqlite:///new.db", None, (), False
    )


@pytest.mark.parametrize("url", ["", "sqlite:///headoffice.db", "sqlite:///south.db"])
def test_a_branch_cannot_move_to_nowhere_or_to_where_another_is(tmp_path: Path, url: str) -> None:
    south = Branch("2", "South", "South", Provider.SQLITE, "sqlite:///south.db")
    with pytest.raises(UsageError):
        office(tmp_path, NORTH, south).changed(Entry("North", url), NORTH)


# Files --------------------------------------------------------------------------------------------


def test_a_csv_file_needs_code_and_url_alone_in_any_order() -> None:
    assert said("url,code\nsqlite:///a.db,A\n") == [("line 2", entry("A", "sqlite:///a.db"))]


def test_a_csv_file_may_say_everything() -> None:
    text = f"code,name,url,provider,server,tags,id\nA, The A ,u,sqlite,h,n; s;,{AN_ID}\n"
    assert said(text) == [
        ("line 2", Entry("A", "u", "The A", "sqlite", "h", ("n", "s"), AN_ID)),
    ]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_empty_cells_and_lines_say_nothing(line_end: str) -> None:
    text = line_end.join(["code,url,name,tags", "", "A,,,", "B", ""])
    assert said(text) == [("line 3", Entry("A")), ("line 4", Entry("B"))]


def test_a_cell_may_hold_commas_and_a_list_of_tags() -> None:
    text = 'code,url,name,tags\nA,u,"North, East","[""a;b"", ""c""]"\n'
    assert said(text) == [("line 2", entry("A", "u", name="North, East", tags=("a;b", "c")))]


def test_a_json_list_says_the_same() -> None:
    rows = [
        {"code": "A", "url": "u", "name": None, "tags": ["n", "s"]},
        {"url": "u", "code": "B", "tags": "n;s"},
    ]
    assert said(json.dumps(rows, indent=2)) == [
        ("entry 1", entry("A", "u", tags=("n", "s"))),
        ("entry 2", entry("B", "u", tags=("n", "s"))),
    ]


def test_an_empty_list_of_tags_takes_them_away() -> None:
    assert said('[{"code": "A", "url": "u", "tags": []}]') == [
        ("entry 1", entry("A", "u", tags=()))
    ]


@pytest.mark.parametrize("text", ["code,url\n", "[]"])
def test_a_file_may_be_empty_but_for_its_form(text: str) -> None:
    assert said(text) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'code'"),
        ("code,name\n", "no column 'url'"),
        ("code,url,city\n", "unknown column 'city'"),
        ("code;url\n", "unknown column 'code;url'"),
        ("code,url,code\n", "a column is there twice"),
        ("code,url\nA,u,x\n", "line 2: there are more than 2 fields"),
        ('code,url\nA,u\n"B,u\n', "line 3: unexpected end of data"),
        ('code,url,tags\nA,u,"[1"\n', "line 2: tags is neither a JSON list"),
        ('{"code": "A"}', "the JSON document is not a list of branches"),
        ('[{"code": "A",', "line 1, column 15: "),
        ('["A"]', "entry 1: it is not an object"),
        ('[{"code": "A"}]', "entry 1: no column 'url'"),
        ('[{"code": "A", "url": "u", "city": "x"}]', "entry 1: unknown column 'city'"),
        ('[{"code": "A", "url": 7}]', "entry 1: every value but tags is a text"),
        ('[{"code": "A", "url": "u", "tags": [7]}]', "entry 1: tags is a list of texts"),
        ('[{"code": "A", "url": "u", "tags": {"a": 1}}]', "entry 1: tags is a list of texts"),
        ('[{"code": "A", "url": "u", "tags": 7}]', "entry 1: tags is a list of texts"),
    ],
)
def test_a_file_that_cannot_be_read_names_the_place_and_the_form(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        said(text)
    assert caught.value.message.startswith(message)
    assert caught.value.hint


def test_semicolons_between_columns_are_told_as_that() -> None:
    with pytest.raises(UsageError) as caught:
        said("code;url\nA;u\n")
    assert caught.value.hint == "separate the columns by commas"


# A whole roster -----------------------------------------------------------------------------------


def test_a_roster_adds_and_changes(registrar: Registrar) -> None:
    text = "code,url,tags\nnorth,,b\nSouth,sqlite:///south.db,\n"
    north, south = (branch for branch, _ in registrar.roster(said(text)))
    assert north == Branch(
        AN_ID, "North", "The North", Provider.SQLITE, "sqlite:///north.db", "host1", ("b",)
    )
    assert south.code == "South"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("code,url\nA,sqlite:///a.db\nA/,sqlite:///b.db\n", "line 3: 'A/' is not a branch code"),
        (
            "code,url\nA,sqlite:///a.db\na,sqlite:///b.db\n",
            "line 3: the code a is already in line 2",
        ),
        (
            "code,url\nA,sqlite:///a.db\nB,sqlite:///./a.db\n",
            "line 3: the database of B is already in line 2",
        ),
        ("code,url\nA,sqlite:///a.db\nB,\n", "line 3: B has no URL"),
        ("code,url\nB,sqlite:///north.db\n", "line 2: the branch North is on the same database"),
        (
            f"code,url,id\nB,sqlite:///b.db,{AN_ID}\n",
            f"line 2: the branch North has the id {AN_ID}",
        ),
        ("code,url,id\nNorth,,7\n", "line 2: '7' is not a UUID"),
        (
            "code,url,id\nNorth,,2b4e28ba-2fa1-11d2-883f-0016d3cca427\n",
            f"line 2: the branch North has the id {AN_ID}, not 2b4e28ba",
        ),
        (
            '[{"code": "A", "url": "sqlite:///a.db"}, {"code": "B", "url": "x"}]',
            "entry 2: this is not a database URL",
        ),
    ],
)
def test_a_wrong_line_is_named_and_comes_with_a_hint(
    registrar: Registrar, text: str, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        registrar.roster(said(text))
    assert caught.value.message.startswith(message)
    assert caught.value.hint


def test_a_database_may_change_hands_within_one_roster(registrar: Registrar) -> None:
    text = "code,url\nNorth,sqlite:///new.db\nSouth,sqlite:///north.db\n"
    listed = registrar.roster(said(text))
    assert [branch.url for branch, _ in listed] == ["sqlite:///new.db", "sqlite:///north.db"]


# Passwords ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["postgresql://u:p@h/d", "postgresql://h/d?password=p", "mysql://u:@x@h/d"]
)
def test_a_password_that_was_typed_is_refused_with_what_to_do_instead(url: str) -> None:
    with pytest.raises(UsageError, match="can be read by everybody") as caught:
        refuse_typed_password(url)
    assert "--url -" in (caught.value.hint or "")


@pytest.mark.parametrize("url", ["postgresql://u@h:5432/d", "sqlite:////srv/a:b@c.db"])
def test_a_url_without_a_password_may_be_typed(url: str) -> None:
    refuse_typed_password(url)
