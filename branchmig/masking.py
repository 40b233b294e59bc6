"""Secrets out of text: URLs and driver errors are masked before anything prints or stores them.

Floor 0. Two defences: the password of every URL that was parsed in this process is known and
replaced wherever it turns up, and whatever looks like a password in a URL or a DSN is starred out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from urllib.parse import quote, quote_plus, unquote, unquote_plus

STARS = "***"

# From the slashes on: a search for the scheme would be tried at every letter of a long word.
_URL_PASSWORD = re.compile(r"(?P<head>(?<=[\w+.-])://[^\s/:@'\"]*:)(?P<secret>[^\s'\"]+)@")
_WHOLE_URL = re.compile(r"[\w+.-]+://[^:/]*:(?P<secret>.+)@")
"""Of a text that is a URL and nothing else the password is known, whatever characters it has."""

_DSN_PASSWORD = re.compile(
    r"(?P<head>(?<![A-Za-z0-9])(?:(?:pg|ssl)?password|passwd|pwd|secret|api_?key)\s*[=:]\s*)"
    r"(?P<secret>\{(?:[^}]|\}\})*\}|'[^']*'|\"[^\"]*\"|[^\s;&,'\")]+)",
    re.IGNORECASE,
)

_SOME_USER = re.compile(r"/[^:/@]*:")
_SEPARATORS = re.compile(r"[,;\"]")
_ESCAPED = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")
_ENDS = 20
"""In how many places the password of a garbled URL may end."""
REFERENCE = re.compile(r"\$\{(?P<kind>env|file|credential):(?P<name>[^{}]*)\}")
"""Stands for a secret, and is none itself: it may be shown and stored. See `references`."""

_REFERENCES = re.compile(r"(?:\$\{(?:env|file|credential):[^{}]*\})+")
_SHELVED = re.compile("\ue000([0-9]+)\ue001")

_SHORTEST = 4

_SECRETIVE = re.compile(r"pass|pwd|secret|token|key|credential", re.IGNORECASE)
"""In the name of a variable: what it holds is not to be shown."""

_SPEAKS_OF_SECRETS = re.compile(
    r"identif\w*\s+(?:by|with)|pas+w|\bpwd\b|secret|token|credential|api_?key|\w://"
    r"|\bby\s*'|\b(?:create|alter|drop|set)\s+(?:or\s+replace\s+)?(?:user|role|login|server)\b",
    re.IGNORECASE,
)
"""Statements about accounts, also where what they say of a password is misspelt."""

_LITERAL = re.compile(
    r"'((?:[^'\\]|''|\\.)*)(?:'|\Z)|(?:by|password)\s*[=(]?\s*\"([^\"]*)(?:\"|\Z)",
    re.IGNORECASE | re.DOTALL,
)

_WORDY = 8
"""Letters from which on a part of an address is taken for a token, if not all of it is letters."""

_known: set[str] = set()
_lengths: dict[str, set[int]] = {}
"""How long the known secrets are, by their first characters: a fleet has thousands of them, and a
line of text must not be searched for each."""


def remember(secret: str | None) -> None:
    """Have `secret` masked from now on, also in the quoted forms that URLs and drivers use.

    Secrets shorter than four characters are left to the patterns: replacing them everywhere would
    garble every message without hiding anything.
    """
    if not secret or len(secret) < _SHORTEST or _REFERENCES.fullmatch(secret):
        return
    # What need not be quoted differs: SQLAlchemy leaves blanks and pluses.
    quoted = [quote(secret, safe=safe) for safe in ("", "/", " +")]
    # And so do the quotes that Python escapes: in a text that holds both, the single ones.
    written = (repr(secret)[1:-1], repr(f"{secret}'\"")[1:-4])
    for form in {secret, *quoted, quote_plus(secret), *written}:
        _known.add(form)
        _lengths.setdefault(form[:_SHORTEST], set()).add(len(form))


def remember_url(url: str) -> None:
    """Have the password within `url` masked from now on."""
    for secret in _passwords(url):
        remember(secret)
        remember(unquote(secret))
        remember(unquote_plus(secret))


def _passwords(url: str) -> Iterator[str]:
    """What stands in `url` as a password, as it is written; references to one are none."""
    shelved, kept = _shelved(url)
    match = _WHOLE_URL.match(shelved)
    dsns = _DSN_PASSWORD.finditer(f"{shelved} {unquote_plus(shelved)}")
    for found in [*([match] if match else []), *dsns]:
        if not _SHELVED.fullmatch(found["secret"]):
            yield _restored(found["secret"], kept)


def _shelved(text: str) -> tuple[str, list[str]]:
    """`text` without its references, and those: their colons are no ends of a user's name."""
    kept: list[str] = []

    def put(found: re.Match[str]) -> str:
        kept.append(found[0])
        return f"\ue000{len(kept) - 1}\ue001"

    return (_REFERENCES.sub(put, text) if "${" in text else text), kept


def _restored(text: str, kept: Sequence[str]) -> str:
    if not kept:
        return text
    return _SHELVED.sub(
        lambda found: kept[int(found[1])] if int(found[1]) < len(kept) else found[0], text
    )


def remember_words(url: str) -> None:
    """Have all of `url` masked from now on that may be a secret: the addresses of chats and pagers
    are secrets as a whole, and hold their tokens as host, path and query."""
    remember(url)
    remember_url(url)
    for word in _words(url):
        if len(word) >= _WORDY and not word.isalpha() and "." not in word:
            remember(word)


def remember_urls_in(text: str) -> None:
    """Have masked from now on what may be a password in a text that holds URLs, a table say, and
    that nobody can read: from the colon behind a user to each @ that follows on the line, with what
    separators leave of it."""
    plain = _ESCAPED.sub(lambda f: chr(int(f[1], 16)) if f[1] else f[2], text)  # JSON's
    for line in {*text.splitlines(), *plain.splitlines()}:
        for user in _SOME_USER.finditer(line):
            for end in islice(re.finditer("@", line[user.end() :]), _ENDS):
                secret = line[user.end() : user.end() + end.start()]
                for part in {secret, unquote(secret), *_SEPARATORS.split(secret)}:
                    remember(part)


def remember_variables(environ: Mapping[str, str]) -> None:
    """Have masked from now on what variables hold whose names speak of a secret, and the passwords
    of URLs in all others. For texts of programs that know this environment."""
    for name, value in environ.items():
        remember_url(value)
        if len(value) >= _WORDY and _SECRETIVE.search(name) and name not in ("PWD", "OLDPWD"):
            remember(value)


def speaks_of_secrets(statements: str) -> bool:
    """Whether SQL is about accounts or passwords."""
    return _SPEAKS_OF_SECRETS.search(statements) is not None


def mask_literals(text: str, statement: str) -> str:
    """`text`, in which a server quotes `statement`, cut anywhere, without the statement's literals
    where it is about accounts or passwords."""
    if not speaks_of_secrets(statement):
        return text
    for found in _LITERAL.finditer(statement):
        literal = " ".join((found[1] or found[2] or "").split())
        for form in {literal, literal.replace("''", "'"), re.sub(r"\\(.)", r"\1", literal)}:
            text = _without_parts(text, form)
    return text


def _without_parts(text: str, secret: str) -> str:
    """Without any part of `secret` that is four characters long or longer."""
    parts = []
    at = 0
    while at < len(text):
        end = at
        while end < len(text) and text[at : end + 1] in secret:
            end += 1
        long = end - at >= _SHORTEST
        parts.append(STARS if long else text[at])
        at = end if long else at + 1
    return "".join(parts)


_SCHEME = re.compile(r"[a-z0-9]{1,12}")
"""How services are spelt; what stands there by mistake may be the secret itself."""


def mask_address(url: str) -> str:
    """Of such an address what may be shown: the kind of service."""
    scheme = url.partition("://")[0]
    return f"{scheme}://{STARS}" if _SCHEME.fullmatch(scheme) else STARS


def mask_words(text: str, url: str) -> str:
    """`text`, in which somebody tells of `url` and perhaps quotes it, with every part of it but
    the scheme starred out."""
    for word in sorted(_words(url), key=len, reverse=True):
        if len(word) >= _SHORTEST:
            text = text.replace(word, STARS)
    return mask(text)


def _words(url: str) -> set[str]:
    rest = url.partition("://")[2]
    words = {rest, *re.split(r"[/?&=@:,;#]", rest)}
    return words | {unquote_plus(word) for word in words}


def mask(text: str) -> str:
    """`text` with every password that is known or looks like one replaced by stars."""
    text, kept = _shelved(_without_known(text))
    text = _URL_PASSWORD.sub(lambda found: _starred(found, "@"), text)
    return _restored(_DSN_PASSWORD.sub(lambda found: _starred(found, ""), text), kept)


def _starred(found: re.Match[str], end: str) -> str:
    return found[0] if _SHELVED.fullmatch(found["secret"]) else f"{found['head']}{STARS}{end}"


def _without_known(text: str) -> str:
    if not _known:
        return text
    parts = []
    end = 0
    places = range(len(text) - _SHORTEST + 1)
    for start in [i for i in places if text[i : i + _SHORTEST] in _lengths]:
        lengths = _lengths[text[start : start + _SHORTEST]]
        found = max((n for n in lengths if text[start : start + n] in _known), default=0)
        if not found:
            continue
        if start >= end:
            parts += [text[end:start], STARS]
        # One secret may begin within another, and end behind it.
        end = max(end, start + found)
    return "".join([*parts, text[end:]])


def mask_url(url: str) -> str:
    """A URL fit to be shown: its password, and any in its query, starred out."""
    remember_url(url)
    return mask(url)


def has_password(url: str) -> bool:
    """Whether `url` carries a password in the open."""
    return any(True for _ in _passwords(url))
