"""Numbers, times and names as the pages say them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from wellfed.analysis.causes import CAUSES, FAMILIES

__all__ = [
    "Number",
    "ago",
    "amount",
    "code",
    "count",
    "duration",
    "evidence_text",
    "family",
    "hours",
    "money",
    "scope_text",
    "share",
    "title",
    "whole",
]


class Number(str):
    """A number in words that keeps the number. value: in `unit`, "" for a count or a share."""

    value: float
    unit: str

    def __new__(cls, text: str, value: float, unit: str = "") -> Number:
        """The text, which is all that a page shows."""
        made = super().__new__(cls, text)
        made.value, made.unit = value, unit
        return made


_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def code(family_id: str) -> str:
    """The two-letter code of a family."""
    return FAMILIES[family_id].code if family_id in FAMILIES else "??"


def title(cause: str) -> str:
    """What a cause is called."""
    return CAUSES[cause].title if cause in CAUSES else cause


def family(cause: str) -> str:
    """The family of a cause."""
    return CAUSES[cause].family if cause in CAUSES else "unknown"


def count(value: float, digits: int = 3) -> str:
    """`1,234`, `12.3`, `0.04`, `<0.001`: as many digits as carry meaning."""
    if value == 0:
        return Number("0", value)
    if abs(value) >= 100:
        return Number(f"{value:,.0f}", value)
    if abs(value) < 1e-3:
        return Number("<0.001", value)
    return Number(f"{value:.{digits}g}", value)


def whole(value: float, digits: int = 0) -> str:
    """`1,234`, with as many digits after the point as wanted."""
    return Number(f"{value:,.{digits}f}", value)


def hours(gpu_seconds: float) -> str:
    """GPU-seconds as GPU-hours."""
    return Number(count(gpu_seconds / 3600), gpu_seconds / 3600, "GPU-h")


def money(value: float | None) -> str:
    """`$1,234`, `$7.27`, or a dash where there is no price."""
    if value is None:
        return "–"
    return Number(f"${value:,.0f}" if abs(value) >= 100 else f"${value:.2f}", value, "$")


def share(value: float | None) -> str:
    """`71 %`, one digit below ten, or a dash where it was not measured."""
    if value is None or value != value:
        return "–"
    text = f"{100 * value:.0f} %" if abs(value) >= 0.1 or value == 0 else f"{100 * value:.1f} %"
    text = "<0.1 %" if 0 < value < 0.0005 else text
    return Number(text, value)


def amount(value: float | None, unit: str) -> str:
    """`2.1 GB/s`: scaled by thousands, or a dash where it was not measured."""
    if value is None or value != value:
        return "–"
    if abs(value) < 5e-4:
        return Number(f"0 {unit}".rstrip(), value, unit)
    for scale, prefix in _SCALES:
        if abs(value) >= scale:
            return Number(f"{value / scale:.3g} {prefix}{unit}".rstrip(), value, unit)
    return Number(f"{value:.3g} {unit}".rstrip(), value, unit)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    return Number(_duration(int(seconds)), seconds, "s")


def _duration(whole: int) -> str:
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        over, minutes = divmod(whole // 60, 60)
        return f"{over} h {minutes} min" if minutes else f"{over} h"
    days, over = divmod(whole // 3600, 24)
    return f"{days} d {over} h" if over else f"{days} d"


def ago(moment: datetime, now: datetime) -> str:
    """How long ago, as `duration`."""
    return duration(max(0.0, (now - moment).total_seconds()))


def scope_text(scope: Mapping[str, Any]) -> str:
    """`64 GPUs · r04-n01`, or the resource that is shared."""
    gpus, hosts = len(scope.get("gpus") or ()), list(scope.get("hosts") or ())
    where = scope.get("resource") or (hosts[0] if len(hosts) == 1 else f"{len(hosts)} hosts")
    return f"{gpus} GPU{'s' if gpus != 1 else ''} · {where}" if gpus else str(where)


def evidence_text(item: Mapping[str, Any]) -> str:
    """One piece of evidence in words."""
    value, expected = item["value"], item["expected"]
    shown = count(float(value)) if isinstance(value, int | float) else str(value)
    wanted = count(float(expected)) if isinstance(expected, int | float) else str(expected)
    return f"{item['signal']} {shown}, normal below {wanted}"
