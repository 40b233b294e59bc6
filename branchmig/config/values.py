"""What settings may hold: checks of single values, with a sentence for whatever is none.

The message of each begins with "Input", in whose place the key is put (`file`).
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

DAY = 86_400
"""Seconds; longer than this nothing here can sensibly last."""

Names = Annotated[tuple[str, ...], BeforeValidator(lambda given: () if given == "" else given)]
"""A list of texts; an empty variable is an empty list."""


def _share(given: Any) -> Any:
    """A number that came as text, from a variable say."""
    return int(given) if isinstance(given, str) and given.isdecimal() else given


def _is_portion(share: Any) -> bool:
    """A number of branches, or a percentage."""
    if isinstance(share, str):
        return _PERCENTAGE.fullmatch(share) is not None
    return isinstance(share, int) and not isinstance(share, bool) and share >= 0


def _portion(given: Any) -> Any:
    if _is_portion(share := _share(given)):
        return share
    raise PydanticCustomError("portion", 'Input should be a number from 0, or "0%" to "100%"')


def _canary(given: Any) -> Any:
    """As `portion`, but not nothing; or a tag."""
    share = _share(given)
    is_tag = isinstance(share, str) and share.strip() and not share.endswith("%")
    if is_tag or (share not in (0, "0%", "00%") and _is_portion(share)):
        return share
    raise PydanticCustomError("canary", 'Input should be a number from 1, "1%" to "100%", or a tag')


def _percentages(given: Any) -> Any:
    """Percentages with or without their sign, rising."""
    if not isinstance(given, (list, tuple)):
        return given
    bare = [part.removesuffix("%") if isinstance(part, str) else part for part in given]
    return sorted(_share(part) for part in bare)


_PERCENTAGE = re.compile(r"(100|[0-9]{1,2})%")


def _cron(given: Any) -> Any:
    if not isinstance(given, str):
        return given
    from cronsim import CronSim, CronSimError

    try:
        if next(CronSim(given, datetime.now(UTC)), None):
            return given
    except CronSimError as error:
        raise PydanticCustomError(
            "cron", "Input should be a cron expression ({why})", {"why": str(error)}
        ) from None
    raise PydanticCustomError("cron", "Input should be a cron expression for a day that comes")


def _at_a_minute(given: str) -> str:
    """Of minutes that repeat within a given hour the rules for a change of clocks say nothing: a
    window would be left out in spring, and open twice in autumn."""
    minute, hour = given.split()[:2]
    if minute.startswith("*") and not hour.startswith("*"):
        raise PydanticCustomError(
            "minute", "Input should name the minute at which the window opens, such as 0 2 * * *"
        )
    return given


def _zone(given: Any) -> Any:
    from zoneinfo import ZoneInfo

    try:
        if isinstance(given, str):
            ZoneInfo(given)
        return given
    # A folder of zones, a file that is none, a name with a slash too many: each its own error.
    except (KeyError, ValueError, OSError):
        raise PydanticCustomError(
            "zone", "Input should be a time zone such as Europe/Berlin"
        ) from None


Zone = Annotated[str, BeforeValidator(_zone)]


def _day_or_moment(given: Any) -> Any:
    """Text, as a variable has it: only one with a time in it is a moment."""
    if not isinstance(given, str):
        return given
    try:
        return date.fromisoformat(given) if len(given) == 10 else datetime.fromisoformat(given)
    except ValueError:
        raise PydanticCustomError("day", "Input should be a day or a moment") from None


Day = Annotated[date | datetime, BeforeValidator(_day_or_moment)]


def _words(given: Any) -> Any:
    """A command as a list, or as a shell would split it."""
    if not isinstance(given, str):
        return given
    import shlex

    try:
        return tuple(shlex.split(given))
    except ValueError as error:
        raise PydanticCustomError(
            "command", "Input should be a command ({why})", {"why": str(error)}
        ) from None


Command = Annotated[tuple[str, ...], BeforeValidator(_words)]


def _textfile(given: str) -> str:
    if given.endswith(".prom"):
        return given
    raise PydanticCustomError("prom", "Input should end in .prom: the node exporter reads no other")


def _label(given: str) -> str:
    if re.fullmatch(r"(?!__)[A-Za-z_][A-Za-z0-9_]*", given) and given not in _OWN_LABELS:
        return given
    raise PydanticCustomError("label", "Input should be a name that Prometheus takes and is free")


_OWN_LABELS = ("status", "revision", "verdict")


Portion = Annotated[int | str, BeforeValidator(_portion)]
Canary = Annotated[int | str, BeforeValidator(_canary)]
Percentages = Annotated[
    tuple[Annotated[int, Field(ge=1, le=100)], ...], BeforeValidator(_percentages)
]
Cron = Annotated[str, BeforeValidator(_cron)]
WindowCron = Annotated[str, BeforeValidator(_cron), AfterValidator(_at_a_minute)]
Textfile = Annotated[str, AfterValidator(_textfile)]
Label = Annotated[str, AfterValidator(_label)]
