"""Kernel text as samples of other names: which token becomes which sample is worked out once, then copied.

The number of a file goes to the page as the text it is: a power of ten becomes an exponent (`1234e-2`), so no
number is parsed at all, and nothing is decoded: formatting bytes takes half as long as formatting text.
Everything a scrape does for each number happens in C: split, pick, format. A layout is worked out anew as
soon as a token that tells what the others are has changed, or one that must be a number is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import truediv

from wellfed.collectors.exposition import Foreign, getter, labelled
from wellfed.collectors.names_node_tables import Field

__all__ = ["Block", "Labels", "Template"]

Labels = tuple[tuple[str, str], ...]
#: Number of a token, or a text that stands for itself.
Place = int | str


@dataclass(slots=True)
class Block:
    """Things of one kind: the fields that each may have, and where the tokens of each are.

    Missing places at the end are fields that this kernel does not have. keys: places of the tokens that tell
    what the others are.
    """

    fields: Sequence[Field]
    rows: list[tuple[Labels, Sequence[Place]]] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)

    def add(
        self, labels: Iterable[tuple[str, str]], places: Sequence[Place], keys: Iterable[int] = ()
    ) -> None:
        """One thing."""
        self.rows.append((tuple(labels), places))
        self.keys.extend(keys)


@dataclass(frozen=True, slots=True)
class _Known:
    """A layout: how many tokens, what the keys are, which tokens go where, which of those are converted.

    as_lines: it is for text, not for series. divisors: of the values as numbers, by their exponents.
    arrange: from the values, then constants, to the values of series; None where there is no constant.
    """

    as_lines: bool
    count: int
    pick_keys: Callable[[Sequence[bytes]], Sequence[bytes]]
    keys: Sequence[bytes]
    pick: Callable[[Sequence[bytes]], Sequence[bytes]]
    scaled: Mapping[Callable[[int], float], Sequence[int]]
    text: bytes
    series: Sequence[Foreign]
    divisors: Sequence[float]
    constants: Sequence[float]
    arrange: Callable[[Sequence[float]], Sequence[float]] | None


class Template:
    """Renders one file. layout: from its text to blocks; more: labels of every sample, as text."""

    def __init__(self, layout: Callable[[bytes], Iterable[Block]], openmetrics: bool, more: str) -> None:
        self._layout = layout
        self._openmetrics = openmetrics
        self._more = more
        self._known: _Known | None = None

    def render(self, text: bytes) -> bytes:
        """Complete lines without the last line's end, b"" where there is nothing. Raises ValueError."""
        known, values = self._values(text, lines=True)
        return known.text % values

    def points(self, text: bytes) -> tuple[Sequence[Foreign], Sequence[float]]:
        """The same as series, which are the same object while the same things are there, and their values."""
        known, values = self._values(text, lines=False)
        # A number divided by a power of ten is the float nearest to its text with that exponent.
        numbers = list(map(truediv, map(float, values), known.divisors))
        return known.series, known.arrange([*numbers, *known.constants]) if known.arrange else numbers

    def _values(self, text: bytes, *, lines: bool) -> tuple[_Known, tuple[bytes, ...]]:
        tokens = text.split()
        known = self._known
        if (
            known is None
            or known.as_lines != lines
            or len(tokens) != known.count
            or known.pick_keys(tokens) != known.keys
        ):
            known = self._known = self._learn(text, tokens, lines)
        values = known.pick(tokens)
        if not _numbers(values):
            known = self._known = self._learn(text, tokens, lines)
            values = known.pick(tokens)
        if known.scaled:
            values = list(values)
            for scale, places in known.scaled.items():
                whole = map(int, [values[place] for place in places])
                told = map(str.encode, map(repr, map(scale, whole)))
                for place, number in zip(places, told, strict=True):
                    values[place] = number
        return known, tuple(values)

    def _learn(self, text: bytes, tokens: Sequence[bytes], as_lines: bool) -> _Known:
        # Lines or series: nobody wants both of one template, and either takes half a megabyte.
        lines: list[str] = []
        series: list[Foreign] = []
        divisors: list[float] = []
        constants: list[float] = []
        order: list[int] = []
        keys: list[int] = []
        places: list[int] = []
        scaled: dict[Callable[[int], float], list[int]] = {}
        for block in self._layout(text):
            keys += block.keys
            family = ""
            for number, one in enumerate(block.fields):
                for labels, row in block.rows if one.family else ():
                    place = row[number] if number < len(row) else ""
                    if place == "" or (isinstance(place, int) and not _numbers([tokens[place]])):
                        continue
                    if as_lines and one.family != family:
                        family = one.family
                        lines += self._header(one)
                    if isinstance(place, int):
                        if one.scale is not None:
                            scaled.setdefault(one.scale, []).append(len(places))
                        order.append(len(places))
                        places.append(place)
                        divisors.append(float("1" + one.exponent.replace("e-", "e")))
                    else:
                        constants.append(float(place))
                        order.append(-len(constants))
                    if as_lines:
                        told = place if isinstance(place, str) else f"%s{one.exponent}"
                        lines.append(f"{self._name(one, labels)} {told}")
                    else:
                        series.append(_foreign(one, labels))
        pick = getter(keys)
        return _Known(
            as_lines,
            len(tokens),
            pick,
            pick(tokens),
            getter(places),
            scaled,
            "\n".join(lines).encode(),
            series,
            divisors,
            constants[::-1],
            getter(order) if constants else None,
        )

    def _name(self, one: Field, labels: Labels) -> str:
        inner = ",".join(filter(None, (labelled(labels), one.labels, self._more))).replace("%", "%%")
        return f"{one.family}{{{inner}}}" if inner else one.family

    def _header(self, one: Field) -> Iterator[str]:
        kind, family = one.kind, one.family
        if self._openmetrics:
            kind = "unknown" if kind == "untyped" else kind
            family = family.removesuffix("_total") if kind == "counter" else family
        yield f"# HELP {family} {one.help}".replace("%", "%%")
        yield f"# TYPE {family} {kind}"


def _foreign(one: Field, labels: Labels) -> Foreign:
    name, _, text = one.labels.partition("=")
    kind = "counter" if one.kind == "counter" else "gauge"
    # A label without text is none; most rows have none such, and all their series share one tuple.
    own = labels if all(text for _, text in labels) else tuple(pair for pair in labels if pair[1])
    return Foreign(one.family, kind, one.help, (*own, (name, text.strip('"'))) if name else own)


def _numbers(values: Sequence[bytes]) -> bool:
    """Whether every token is a whole number, as far as a look at all digits together can tell."""
    return b"".join(values).replace(b"-", b"").isdigit() or not values
