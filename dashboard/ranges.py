"""Ranges of time as the URL says them: `from=6h` stays relative, `from=` and `to=` in ISO 8601 are fixed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

__all__ = ["DEFAULT", "RANGES", "Range", "parse_range", "readable"]

#: Ranges offered in the head of every page.
RANGES = ("15m", "1h", "6h", "24h", "7d", "30d")
DEFAULT = "1h"

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class Range:
    """A range of time. text: as the page says it; live: it ends now and moves on."""

    text: str
    start: datetime
    end: datetime
    live: bool

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end - self.start).total_seconds()


def parse_range(start: str | None, end: str | None, now: datetime) -> Range:
    """The range of a URL. A relative `from` needs no `to`; anything unreadable is the default."""
    match = re.fullmatch(r"(\d{1,4})([mhd])", start or DEFAULT)
    if match and not end and int(match[1]):
        return Range(match[0], now - timedelta(**{_UNITS[match[2]]: int(match[1])}), now, live=True)
    try:
        begin, finish = (datetime.fromisoformat(text or "") for text in (start, end))
    except ValueError:
        return parse_range(None, None, now)
    begin, finish = (t if t.tzinfo else t.replace(tzinfo=UTC) for t in (begin, finish))
    if not begin < finish:
        return parse_range(None, None, now)
    return Range(_told(begin.astimezone(UTC), finish.astimezone(UTC)), begin, finish, live=False)


def readable(start: str | None, end: str | None) -> bool:
    """Whether parse_range takes this as it is written, and not for the default."""
    if start is None and end is None:
        return True
    now = datetime.now(UTC)
    return parse_range(start, end, now) != parse_range(None, None, now) or (start == DEFAULT and not end)


def _told(begin: datetime, finish: datetime) -> str:
    """`2026-03-02 09:00 – 12:00`: the day once where one is enough."""
    whole = not (begin.second or finish.second)
    clock = "%H:%M" if whole else "%H:%M:%S"
    until = f"{finish:{clock}}" if begin.date() == finish.date() else f"{finish:%Y-%m-%d {clock}}"
    return f"{begin:%Y-%m-%d {clock}} – {until}"
