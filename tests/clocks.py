"""What clocks on walls show, worked out apart from the program."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo


def first_at_or_after(day: date, hour: int, minute: int, zone: str) -> datetime:
    """The first minute of a day, by a clock on the wall, that is no earlier than this time."""
    moment = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=15)
    wanted = (day, (hour, minute))
    # A change of clocks is never greater than a few hours, and a zone never further than this off.
    for _ in range(45 * 60):
        wall = moment.astimezone(ZoneInfo(zone))
        if wall.date() == day and (wall.hour, wall.minute) >= (hour, minute):
            return moment
        moment += timedelta(minutes=1)
    raise AssertionError(f"there is no {wanted} in {zone}")
