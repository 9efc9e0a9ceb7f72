"""What really happened: lost seconds by cause for every GPU and window, and who was to blame.

Lost is the time that the same steps would not have taken in the rerun without the fault. Counted besides,
each as its own cause: checkpoints, evaluations (the part of their time in which the GPU does less than in a
training step), start-up. Not counted: exposed communication, input waits and idle moments that the healthy
job has too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from wellfed.analysis.scenarios.usage import Loss
from wellfed.analysis.schema import TS

__all__ = ["CULPRITS", "TRUTH", "truth_rows"]

#: `cause` is what this GPU waited for, `root` what pays in the end.
TRUTH = pl.Schema(
    {
        "ts": TS, "host": pl.String(), "gpu": pl.String(), "job": pl.String(),
        "cause": pl.String(), "root": pl.String(), "lost_seconds": pl.Float64(),
    }
)  # fmt: skip

#: Who is to blame for a finding of `cause` on `job` between start and end.
CULPRITS = pl.Schema(
    {
        "job": pl.String(), "cause": pl.String(), "root": pl.String(), "host": pl.String(),
        "gpu": pl.String(), "rank": pl.String(), "start": TS, "end": TS,
    }
)  # fmt: skip

#: Losses below this are noise of the arithmetic.
LEAST = 1e-3


def truth_rows(
    losses: Sequence[Loss],
    hosts: NDArray[np.str_],
    gpus: NDArray[np.str_],
    job: str | None,
    ts: NDArray[np.int64],
    window: float,
) -> pl.DataFrame:
    """Rows of a job's truth; hosts, gpus: by rank. Losses of a GPU never exceed the window."""
    if not losses:
        return pl.DataFrame(schema=TRUTH)
    dense = np.stack([np.outer(loss.seconds, loss.ranks) for loss in losses])
    total = dense.sum(axis=0)
    dense *= np.minimum(1.0, window / np.maximum(total, 1e-12))[None]
    found = []
    for loss, seconds in zip(losses, dense, strict=True):
        row, rank = np.nonzero(seconds > LEAST)
        if len(row) == 0:
            continue
        found.append(
            pl.DataFrame(
                {
                    "ts": pl.Series(ts[row]).cast(TS),
                    "host": pl.Series(hosts).gather(rank),
                    "gpu": pl.Series(gpus).gather(rank),
                    "job": pl.Series([job], dtype=pl.String()).gather(np.zeros_like(rank)),
                    "cause": pl.repeat(loss.cause, len(row), eager=True),
                    "root": pl.repeat(loss.root, len(row), eager=True),
                    "lost_seconds": seconds[row, rank],
                },
                schema=TRUTH,
            )
        )
    if not found:
        return pl.DataFrame(schema=TRUTH)
    keys = ["ts", "host", "gpu", "job", "cause", "root"]
    return pl.concat(found).group_by(keys, maintain_order=True).agg(pl.col("lost_seconds").sum())
