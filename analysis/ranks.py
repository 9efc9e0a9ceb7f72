"""Ranks that report steps and have no GPU rows: CPU training, an unsupported device, a converted trace.

Such a rank is diagnosed from its own times: covered = the seconds of its steps, active = those it computed.
Its id in the output is `rank:<n>`.
"""

from __future__ import annotations

import polars as pl

__all__ = ["with_ranks"]


def with_ranks(
    gpu: pl.DataFrame, step: pl.DataFrame, seen: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """gpu with a row for each window of such a rank, step with its id as `gpu`, and the GPUs seen so far.

    Amounts on the grid. seen: host, gpu, _first (the window of a GPU's first row), as returned before.
    """
    first = gpu.group_by("host", "gpu").agg(pl.col("ts").min().alias("_first"))
    seen = pl.concat([seen, first]).group_by("host", "gpu", maintain_order=True).agg(pl.col("_first").min())
    known = pl.col("_first") <= pl.col("ts")
    named = step.join(seen, on=["host", "gpu"], how="left", maintain_order="left").with_columns(
        known.fill_null(False).alias("_known")
    )
    named = named.with_columns(
        pl.when("_known").then("gpu").otherwise(pl.format("rank:{}", "rank")).alias("gpu")
    )
    rows = named.filter(~pl.col("_known") & (pl.col("step_seconds") > 0)).select(
        "ts",
        "host",
        "gpu",
        "job",
        "rank",
        "dt",
        pl.lit(1.0).alias("processes"),
        pl.col("step_seconds").alias("observed_seconds"),
        pl.col("compute_seconds").alias("active_seconds"),
    )
    return pl.concat([gpu, rows], how="diagonal"), named.drop("_known", "_first"), seen
