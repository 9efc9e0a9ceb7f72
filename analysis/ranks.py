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
    named = _by_rank(step, gpu).join(seen, on=["host", "gpu"], how="left", maintain_order="left")
    named = named.with_columns(known.fill_null(False).alias("_known"))
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


def _by_rank(step: pl.DataFrame, gpu: pl.DataFrame) -> pl.DataFrame:
    """step with the GPU that holds the same rank of the job, where the loop does not say which it uses.

    A loop whose host reports GPUs of its job, but none with its rank, is left out: it is one of them.
    """
    held = gpu.filter(pl.col("job").is_not_null())
    ranked = held.select("host", "job", "rank", "ts", pl.col("gpu").alias("_gpu")).drop_nulls()
    told = step.join(
        ranked.unique(["host", "job", "rank", "ts"], keep="first", maintain_order=True),
        on=["host", "job", "rank", "ts"],
        how="left",
        maintain_order="left",
    ).with_columns(pl.coalesce("gpu", "_gpu").alias("gpu"))
    some = held.select("host", "job", "ts", pl.lit(True).alias("_some")).unique()
    told = told.join(some, on=["host", "job", "ts"], how="left", maintain_order="left")
    lost = pl.col("gpu").is_null() & pl.col("_some").fill_null(False)
    return told.filter(~lost).drop("_gpu", "_some")
