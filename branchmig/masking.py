"""Secrets out of text: URLs and driver errors are masked before anything prints or stores them.

Floor 0. Two defences: the password of every URL that was parsed in this process is known and
replaced wherever it turns up, and whatever looks like a password in a URL or a DSN is starred out.
"""

from __future__ import annotations

import re
from urllib.parse import quote, quote_plus, unquote, unquote_plus

STARS = "***"

_URL_PASSWORD = re.compile(r"(?P<head>[A-Za-z][\w+.-]*://[^\s/:@'\"]*:)(?P<secret>[^\s'\"]+)@")
_DSN_PASSWORD = re.compile(
    r"(?P<head>\b(?:password|passwd|pwd|secret|api_?key)\s*[=:]\s*)"
    r"(?P<secret>\{(?:[^}]|\}\})*\}|'[^']*'|\"[^\"]*\"|[^\s;&,'\")]+)",
    re.IGNORECASE,
)

_known: set[str] = set()


def remember(secret: str | None) -> None:
    """Have `secret` masked from now on, also in the quoted forms that URLs and drivers use.

    Secrets shorter than four characters are left to the patterns: replacing them everywhere would
    garble every message without hiding anything.
    """
    if secret and len(secret) >= 4:
        _known.update({secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]})


def remember_url(url: str) -> None:
    """Have the password within `url` masked from now on."""
    match = _URL_PASSWORD.search(url)
    if match:
        remember(match["secret"])
        remember(unquote(match["secret"]))
        remember(unquote_plus(match["secret"]))
    for dsn in _DSN_PASSWORD.finditer(url):
        remember(dsn["secret"])
        remember(unquote_plus(dsn["secret"]))


def mask(text: str) -> str:
    """`text` with every password that is known or looks like one replaced by stars."""
    # Longest first: a secret may be a part of another one.
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, STARS)
    text = _URL_PASSWORD.sub(rf"\g<head>{STARS}@", text)
    return _DSN_PASSWORD.sub(rf"\g<head>{STARS}", text)


def mask_url(url: str) -> str:
    """A URL fit to be shown: its password, and any in its query, starred out."""
    remember_url(url)
    return mask(url)


def has_password(url: str) -> bool:
    """Whether `url` carries a password in the open."""
    return bool(_URL_PASSWORD.search(url) or _DSN_PASSWORD.search(url))
