"""Prices of GPU time, as --price gives them: one for all GPUs or by model."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Prices"]


@dataclass(frozen=True, slots=True)
class Prices:
    """Money for one GPU-hour. default: of models not listed. models: (part of the model's name, price)."""

    default: float | None = None
    models: tuple[tuple[str, float], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Prices:
        """`2.50`, or `H100=2.98,A100=1.29,2.50` with the price of all others. Raises ValueError."""
        default: float | None = None
        models = []
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, equals, number = part.rpartition("=")
            try:
                price = float(number)
            except ValueError:
                raise ValueError("write a price such as 2.50, or H100=2.98,A100=1.29") from None
            if not 0 < price < float("inf"):
                raise ValueError("must be above 0")
            if equals and not name.strip():
                raise ValueError(f"{part!r} names no model")
            if not equals and default is not None:
                raise ValueError("only one price can be that of all other models")
            if equals:
                models.append((name.strip().lower(), price))
            else:
                default = price
        if default is None and not models:
            raise ValueError("write a price such as 2.50")
        return cls(default, tuple(models))

    def of(self, model: str | None) -> float | None:
        """The price of a model: of the first listed name that it contains, else the default."""
        name = (model or "").lower()
        return next((price for part, price in self.models if part in name), self.default)
