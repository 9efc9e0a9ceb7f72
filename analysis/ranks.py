"""Ranks that report steps and have no GPU rows: CPU training, an unsupported device, a converted trace.

Such a rank is diagnosed from its own times: covered = the seconds of its steps, active = those it computed.
Its id in the output is `rank:<n>`.
"""

from __future__ import annotations

import polars as pl

__all__ = ["with_ranks"]


def with_ranks(gpu: pl.LazyFrame, step: pl.LazyFrame) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """gpu with a row for each window of such a rank, and step with its id as `gpu`; amounts on the grid."""
    known = gpu.select("host", "gpu").unique().with_columns(pl.lit(True).alias("_known"))
    named = step.join(known, on=["host", "gpu"], how="left", maintain_order="left").with_columns(
        pl.when(pl.col("_known").is_null())
        .then(pl.format("rank:{}", "rank"))
        .otherwise(pl.col("gpu"))
        .alias("gpu")
    )
    rows = named.filter(pl.col("_known").is_null() & (pl.col("step_seconds") > 0)).select(
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
    return pl.concat([gpu, rows], how="diagonal"), named.drop("_known")
