"""What a GPU was waiting on at each moment of a grid: the ribbon of its page, and the API's."""

from __future__ import annotations

import polars as pl

from wellfed.dashboard.data import Answer
from wellfed.dashboard.panes import GAP
from wellfed.dashboard.series import Array
from wellfed.dashboard.words import family

__all__ = ["states"]


def states(answer: Answer, host: str, gpu: str, stamps: Array) -> list[str | None]:
    """The most frequent family of causes in each bin; None for productive, GAP where nothing was told.

    stamps: milliseconds since the epoch, evenly spaced.
    """
    mine = (pl.col("host") == host) & (pl.col("gpu") == gpu)
    windows = answer.diagnosis.windows.lazy().filter(mine).sort("ts").select("ts", "cause").collect()
    causes = list(zip(windows["ts"].dt.epoch("ms").to_list(), windows["cause"].to_list(), strict=True))
    step = 1000 * float(answer.diagnosis.document["window_seconds"])
    width = float(stamps[1] - stamps[0]) if stamps.size > 1 else step
    out: list[str | None] = []
    at = 0
    for stamp in stamps.tolist():
        seen: list[str] = []
        while at < len(causes) and causes[at][0] < stamp + width:
            seen.append(causes[at][1] or "")
            at += 1
        most = max(set(seen), key=seen.count) if seen else GAP
        out.append(GAP if most == GAP else family(most) if most else None)
    return out
