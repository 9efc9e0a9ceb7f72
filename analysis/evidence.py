"""Evidence as ramps: what must hold, what speaks against, what supports a cause, and the score of all that.

score = product of the necessary ramps x product of (1 - contra) x weighted mean of the supporting ramps that
exist. A cause whose necessary signal is missing cannot be claimed. Every ramp keeps its value: it is the
explanation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

__all__ = ["Ramp", "Signature", "score"]


@dataclass(frozen=True, slots=True)
class Ramp:
    """0 at lo, 1 at hi, linear between. signal: what people call it. column: a feature, or an expression."""

    signal: str
    column: str | pl.Expr
    lo: float
    hi: float
    weight: float = 1.0

    def expr(self, stretch: float = 1.0) -> pl.Expr:
        """Value 0..1, null where the feature is. stretch: moves both ends (sensitivity tests).

        A share that ends near one has its distance to one multiplied, a yes or no stays, all else is scaled.
        """
        lo, hi = self.lo * stretch, self.hi * stretch
        if self.lo >= 0.5 and self.hi <= 1:
            lo, hi = 1 - (1 - self.lo) * stretch, 1 - (1 - self.hi) * stretch
        elif (self.lo, self.hi) == (0, 1):
            lo, hi = self.lo, self.hi
        return ((self.value() - lo) / (hi - lo)).clip(0, 1)

    def value(self) -> pl.Expr:
        """The feature itself."""
        # 0/0 is not measured, not a number: a ratio of two silent things says nothing.
        known = pl.col(self.column) if isinstance(self.column, str) else self.column
        return known.cast(pl.Float64).fill_nan(None)


@dataclass(frozen=True, slots=True)
class Signature:
    """One cause. why: the reason it must hold. any_of: groups of which the best ramp counts as necessary."""

    cause: str
    why: str = ""
    need: Sequence[Ramp] = ()
    any_of: Sequence[Sequence[Ramp]] = ()
    contra: Sequence[Ramp] = ()
    support: Sequence[Ramp] = ()

    @property
    def ramps(self) -> list[Ramp]:
        """All ramps that speak for the cause."""
        return [*self.need, *(r for group in self.any_of for r in group), *self.support]


def score(signature: Signature, stretch: float = 1.0) -> pl.Expr:
    """The score of a cause, 0..1, never null."""
    value: pl.Expr = pl.lit(1.0)
    for ramp in signature.need:
        value = value * ramp.expr(stretch).fill_null(0.0)
    for group in signature.any_of:
        value = value * pl.max_horizontal(*(r.expr(stretch) for r in group)).fill_null(0.0)
    for ramp in signature.contra:
        value = value * (1 - ramp.expr(stretch).fill_null(0.0))
    if signature.support:
        have = [(r.expr(stretch), r.weight) for r in signature.support]
        weight = sum((pl.when(e.is_not_null()).then(w).otherwise(0.0) for e, w in have), start=pl.lit(0.0))
        total = sum((e.fill_null(0.0) * w for e, w in have), start=pl.lit(0.0))
        # Without any supporting signal the necessary ones stand alone, and less sure.
        value = value * pl.when(weight > 0).then(0.7 + 0.3 * total / weight).otherwise(0.9)
    return value.alias(signature.cause)
