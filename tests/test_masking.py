"""No secret in any text: what is known to be one, and what looks like one."""

from __future__ import annotations

import pytest

from branchmig import masking
from branchmig.masking import has_password, mask, mask_url, remember, remember_url
from branchmig.model import Branch, Failure, Provider


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test remembers, the next does not know."""
    monkeypatch.setattr(masking, "_known", set())


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://u:hunter2@h/d", "postgresql://u:***@h/d"),
        ("mysql+pymysql://u:p@h:3306/d?x=1", "mysql+pymysql://u:***@h:3306/d?x=1"),
        ("postgresql://u:p@ss:w/rd@h/d", "postgresql://u:***@h/d"),
        ("postgresql://:hunter2@h/d", "postgresql://:***@h/d"),
        ("cannot reach postgresql://u:p@h/d, sorry", "cannot reach postgresql://u:***@h/d, sorry"),
        ("host=h password=hunter2 dbname=d", "host=h password=*** dbname=d"),
        ("PWD=hunter2;UID=u", "PWD=***;UID=u"),
        ("PWD={a;b}}c};UID=u", "PWD=***;UID=u"),
        ("password = 'a b' user=u", "password = *** user=u"),
        ('password: "a b", user: u', "password: ***, user: u"),
        (
            "postgresql://h/d?user=u&password=hunter2&x=1",
            "postgresql://h/d?user=u&password=***&x=1",
        ),
    ],
)
def test_what_looks_like_a_password_is_starred_out(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:///branches/br001.db",
        "sqlite:////srv/a:b@c.db",
        "postgresql://h:5432/d",
        "postgresql://u@h:5432/d",
        "C:/data at 12:30, mail a@b.example",
        "no such column: password",
        "",
    ],
)
def test_what_holds_no_password_is_left_as_it_is(text: str) -> None:
    assert mask(text) == text
    assert not has_password(text)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@h/d",
        "postgresql://:p@h/d",
        "postgresql://h/d?user=u&password=p",
        "postgresql://u@h/d?sslkey=/k&sslpassword=p",
        "mysql://u@h/d?ssl_key=/k&ssl_key_password=p",
        "mssql+pyodbc://?odbc_connect=Driver=x;PWD=p",
    ],
)
def test_a_password_in_a_url_is_seen(url: str) -> None:
    assert has_password(url)


@pytest.mark.parametrize(
    "spelt",
    ["a b/c@d+e", "a%20b%2Fc%40d%2Be", "a+b%2Fc%40d%2Be", "a%20b/c%40d%2Be", "a b%2Fc%40d+e"],
)
def test_a_password_is_known_again_in_every_way_of_quoting_it(spelt: str) -> None:
    remember_url("postgresql://u:a%20b%2Fc%40d%2Be@h/d")
    assert mask(f"the server said: {spelt} is wrong") == "the server said: *** is wrong"


def test_a_password_in_the_query_of_a_url_is_known_again() -> None:
    remember_url("mysql://h/d?password=hunter2%21")
    assert mask("hunter2! or hunter2%21") == "*** or ***"


def test_a_password_with_a_line_end_is_known_again_where_python_shows_it() -> None:
    remember("two\nlines")
    assert mask(repr("two\nlines")) == "'***'"


def test_a_password_is_known_again_whichever_quotes_python_has_to_escape() -> None:
    remember("it's mine")
    assert mask(repr("it's mine")) == '"***"'
    assert mask(repr('"it\'s mine"')) == "'\"***\"'"


def test_the_longer_of_two_secrets_is_masked_whole() -> None:
    remember("secret")
    remember("secretary")
    assert mask("secretary, secret") == "***, ***"


@pytest.mark.parametrize("secret", [None, "", "abc"])
def test_a_secret_too_short_to_be_told_from_other_text_garbles_nothing(secret: str | None) -> None:
    remember(secret)
    assert mask("abc: the alphabet's beginning") == "abc: the alphabet's beginning"


def test_a_masked_url_makes_its_password_known() -> None:
    assert mask_url("postgresql://u:hunter2@h/d") == "postgresql://u:***@h/d"
    assert mask("hunter2") == "***"


def test_a_branch_never_shows_its_password() -> None:
    branch = Branch("1", "BR001", "North", Provider.POSTGRESQL, "postgresql://u:hunter2@h/d")
    for shown in (repr(branch), str(branch), branch.masked_url):
        assert "hunter2" not in shown


def test_a_failure_made_of_an_error_holds_no_password() -> None:
    remember("hunter2")
    failure = Failure.of(ValueError("login failed with hunter2"))
    assert (failure.type, failure.message) == ("ValueError", "login failed with ***")


# Texts that quote what was given ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER ROLE u PASSWORD 'hunter2-long'", "LINE 1: ...ROLE u PASSWORD 'hunter2-..."),
        ("ALTER USER u IDENTIFIED BY 'hunter2-long' x", "near ''hunter2-long' x' at line 1"),
        ("CREATE USER u PASWORD 'hunter2-long'", "near 'PASWORD 'hunter2-long'' at line 1"),
        ("SET PASSWORD = PASSWORD('hunter2-long", "unterminated: 'hunter2-long"),
        ("CREATE ROLE u PASSWORD 'hun''ter2-long'", "at hun'ter2-long or hun''ter2"),
        ('ALTER USER u IDENTIFIED BY "hunter2-long"', "near '\"hunter2-l' at line 1"),
    ],
)
def test_what_a_server_quotes_of_a_statement_about_a_password_holds_no_part_of_it(
    statement: str, said: str
) -> None:
    shown = masking.mask_literals(said, statement)
    assert not [part for part in ("hunter2", "hun", "ter2", "long") if part in shown]
    assert "***" in shown


def test_other_statements_are_quoted_as_they_are() -> None:
    said = "no such column: \"Name\" in 'hunter2-long'"
    assert masking.mask_literals(said, "INSERT INTO \"T\" VALUES ('hunter2-long')") == said
    said = 'relation "Users" does not exist'
    assert masking.mask_literals(said, 'ALTER TABLE "Users" ADD "PasswordHash" TEXT') == said


def test_what_variables_with_secretive_names_hold_is_masked() -> None:
    masking.remember_variables(
        {
            "BACKUP_TOKEN": "hunter2-long",
            "PWD": "/srv/shop",
            "USE_TOKEN": "true",
            "U": "x://u:pa55@h",
        }
    )
    assert mask("hunter2-long /srv/shop true pa55") == "*** /srv/shop true ***"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:hun,ter2-long@h/d,x",
        "BR1;postgresql:/u:hun,ter2-long@h/d",
        "x//u:hun,ter2-long@",
        '[{"url": "postgresql://u:hun,ter2-long@h/d", "id": "postgresql://u:hun,ter2-long@h/d"}]',
    ],
)
def test_passwords_of_urls_in_a_garbled_table_are_masked_also_in_part(text: str) -> None:
    masking.remember_urls_in(text)
    assert mask("line 2: 'hun,ter2-long' or 'ter2-long'") == "line 2: '***' or '***'"


# Addresses of people ------------------------------------------------------------------------------


def test_of_an_address_only_the_kind_of_service_is_shown() -> None:
    assert masking.mask_address("slack://T0kenA/T0kenB") == "slack://***"
    assert masking.mask_address("T0kenA/T0kenB") == "***"
    assert masking.mask_address("${credential:pager}") == "***"
    assert masking.mask_address("OPR7l17uebVYe47CrMe://h") == "***"


def test_tokens_of_an_address_are_masked_wherever_they_turn_up_and_plain_words_are_not() -> None:
    masking.remember_words(
        "json://hq.example.com/services/T0ken%2FOf9/x?to=north-1234&mode=insecure"
    )
    said = "POST http://hq.example.com/services/T0ken/Of9 (T0ken%2FOf9) to north-1234"
    assert masking.mask(said) == "POST http://hq.example.com/services/*** (***) to ***"


def test_what_a_library_says_of_an_address_quotes_nothing_of_it() -> None:
    url = "mailtos://ann:s3cret@mail.example.com?to=ops@example.com"
    said = "cannot reach mail.example.com:587 as ann with s3cret for ops@example.com"
    assert masking.mask_words(said, url) == "cannot reach ***:587 as ann with *** for ops@***"
