"""The order of a page's tables, as the address tells it: `sort=-lost,who.read`.

One part a table: a minus for descending, the table's name and a point unless it is the page's main one, the
column's key. Ties stay as the page had them; what was not measured comes last, either way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from wellfed.dashboard.heat import natural
from wellfed.dashboard.view import View
from wellfed.dashboard.words import Number

__all__ = ["Sort"]

_T = TypeVar("_T")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")


@dataclass(frozen=True, slots=True)
class Sort:
    """One table's order. default: as the page has it without being asked, "" for an order that no column
    tells. of: the table's name in the address, "" for the page's main one.
    """

    view: View
    default: str = ""
    of: str = ""

    @property
    def asked(self) -> bool:
        """Whether the address sorts this table."""
        return self.of in _parts(self.view)

    def by(self, keys: Iterable[str]) -> tuple[str, bool]:
        """(key, descending) as the address asks for, or the default; "" for the order that is there."""
        wanted = _parts(self.view).get(self.of, "")
        chosen = wanted if wanted.lstrip("-") in set(keys) else self.default
        return chosen.lstrip("-"), chosen.startswith("-")

    def apply(self, items: Iterable[_T], keys: Mapping[str, Callable[[_T], object]]) -> list[_T]:
        """The items in this order. keys: values that order them: numbers, texts, None where there is none."""
        listed = list(items)
        key, down = self.by(keys)
        if key not in keys:
            return listed
        ranks = [_rank(keys[key](item)) for item in listed]
        numbers, texts, missing = ([n for n, rank in enumerate(ranks) if kind(rank)] for kind in _KINDS)
        for known in (numbers, texts):
            known.sort(key=ranks.__getitem__, reverse=down)
        order = [*texts, *numbers, *missing] if down else [*numbers, *texts, *missing]
        return [listed[n] for n in order]

    def href(self, key: str) -> str:
        """The address that sorts this table by a key and leaves the others as they are."""
        parts = {**_parts(self.view), self.of: key}
        texts = [f"-{_name(of, k[1:])}" if k.startswith("-") else _name(of, k) for of, k in parts.items()]
        return self.view.here(sort=",".join(texts))


def _name(of: str, key: str) -> str:
    return f"{of}.{key}" if of else key


def _parts(view: View) -> dict[str, str]:
    """Table -> key, with its minus."""
    found = {}
    for part in filter(None, view.query.get("sort", "").split(",")):
        table, _, key = part.lstrip("-").rpartition(".")
        found[table] = f"-{key}" if part.startswith("-") else key
    return found


def _rank(value: object) -> Any:
    """A number as it is, of a text its letters and the numbers in them, None where there is none.

    Numbers stay bare: ten thousand pairs at once wake the garbage collector.
    """
    if isinstance(value, Number):
        return value.value
    if isinstance(value, float | int):
        return value if value == value else None
    return None if value in (None, "", "–") else natural(_THOUSANDS.sub("", str(value).casefold()))


#: Of ranks: numbers, texts, what is missing.
_KINDS: tuple[Callable[[Any], bool], ...] = (
    lambda rank: isinstance(rank, float | int),
    lambda rank: isinstance(rank, tuple),
    lambda rank: rank is None,
)
