"""Colours and number formats: one place, tested for three kinds of colour blindness with the palette.

A family's colour never stands alone: its two-letter code is always beside it. Productive time is quiet, so
that loss stands out.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from wellfed.analysis.causes import CAUSES, FAMILIES

__all__ = [
    "FAMILY",
    "INK",
    "LINES",
    "PRODUCTIVE",
    "SURFACE",
    "ago",
    "code",
    "colour",
    "count",
    "duration",
    "mix",
    "title",
]

SURFACE = "#151a23"
GRID = "#1f2733"
INK = "#e6ebf2"
INK_2 = "#a3afbf"
INK_3 = "#8391a5"
PRODUCTIVE = "#2a3947"
NO_DATA = "#1b212b"
OTHER = "#9aa5b5"
#: Signal lines are neutral: colour is for causes.
LINES = ("#e3eaf3", "#7d93ad", "#51647c")

#: Family -> colour on the dark surface. Families without one share OTHER.
FAMILY: Mapping[str, str] = {
    "storage": "#f8a812",
    "cpu": "#628600",
    "pcie": "#7c6697",
    "network": "#2b86fc",
    "straggler": "#6fe6d3",
    "checkpoint": "#f2f0ac",
    "throttle": "#8d675d",
    "hardware": "#fc638c",
    "idle": "#c1bafe",
}


def colour(family: str) -> str:
    """The colour of a family."""
    return FAMILY.get(family, OTHER)


def code(family: str) -> str:
    """The two-letter code of a family."""
    return FAMILIES[family].code if family in FAMILIES else "??"


def title(cause: str) -> str:
    """What a cause is called."""
    return CAUSES[cause].title if cause in CAUSES else cause


def family(cause: str) -> str:
    """The family of a cause."""
    return CAUSES[cause].family if cause in CAUSES else "unknown"


def mix(one: str, two: str, share: float) -> str:
    """A colour between two, share of the way from one to two."""
    pairs = ((int(one[i : i + 2], 16), int(two[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def count(value: float, digits: int = 3) -> str:
    """`1,234`, `12.3`, `0.04`: as many digits as carry meaning."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        hours, minutes = divmod(whole // 60, 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(whole // 3600, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def ago(moment: datetime, now: datetime) -> str:
    """How long ago, as `duration`."""
    return duration(max(0.0, (now - moment).total_seconds()))
