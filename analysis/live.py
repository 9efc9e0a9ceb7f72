"""The diagnosis window by window, as a hub sees it: constant state a GPU, one call a window.

`update` takes the rows of one window (or of a few at once) and tells what they say. It is the same code as
over history, so the sum over all windows is what `diagnose` says of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from wellfed.analysis.findings import Ledger
from wellfed.analysis.segment import State, map_segment
from wellfed.analysis.windows import STEP

__all__ = ["Live", "Verdict"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One window's answer. end: of the window, None when it had no GPU with a rate.

    windows: a row a GPU (ts, host, gpu, index, job, covered_seconds, lost_seconds, useful, reference).
    shares: its lost seconds by cause, long. findings: those open now, as the document has them, costliest
    first.
    """

    end: datetime | None
    windows: pl.DataFrame
    shares: pl.DataFrame
    findings: list[dict[str, Any]]


class Live:
    """State of a live diagnosis. step: seconds of a window; price: money for one GPU-hour."""

    def __init__(self, step: float = STEP, price: float | None = None) -> None:
        self.price = price
        self.state = State(step)
        self.ledger = Ledger.empty(step)

    def update(self, tables: Mapping[str, pl.LazyFrame]) -> Verdict:
        """The next window's rows of the catalog's tables; a missing table is one without rows."""
        partial = map_segment(tables, self.state)
        if partial is None:
            return Verdict(None, pl.DataFrame(), pl.DataFrame(), [])
        end = partial.windows["ts"].max()
        assert isinstance(end, datetime)
        self.ledger.add(partial.pieces)
        self.ledger.forget(end)
        found = self.ledger.findings(end, self.price)
        return Verdict(
            end, partial.windows, partial.shares, [finding for finding in found if finding["end"] is None]
        )
