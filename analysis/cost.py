"""Money and energy: what lost time cost, what it drew, and what the work cost in joules.

Prices are money for one GPU-hour, one for all or by model. joules_lost = the energy that a window drew beyond
what its productive seconds need at the power this GPU draws while fed (the median over its windows with at
most 5 % lost); without such a window the window's energy is divided by time. Hardware FLOP utilisation is
tensor-pipe activity x clock / maximum clock: the share of the tensor peak at which the pipes were kept busy,
recomputation and padding included, so it is an upper bound of the model's own (MFU).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from wellfed.prices import Prices

__all__ = ["DIGITS", "SUMMED", "USAGE", "efficiency", "fed", "mean_price", "priced", "tokens", "usage"]

#: A window that lost less than this share of its time shows what a fed GPU draws.
FED = 0.05

USAGE = pl.Schema(
    {
        "host": pl.String, "gpu": pl.String, "job": pl.String, "model": pl.String,
        "covered_seconds": pl.Float64, "lost_seconds": pl.Float64, "joules": pl.Float64,
        "joules_lost": pl.Float64, "observed_seconds": pl.Float64, "sm_seconds": pl.Float64,
        "tensor_seconds": pl.Float64, "tensor_peak_seconds": pl.Float64, "dram_seconds": pl.Float64,
        "active_seconds": pl.Float64, "idle_seconds": pl.Float64, "spin_seconds": pl.Float64,
    }
)  # fmt: skip
_KEYS = ("host", "gpu", "job")
_WHO = ("host", "gpu", "model")
#: What can be added up: columns of USAGE, and the digits after the point that count.
SUMMED = tuple(name for name in USAGE if name not in (*_KEYS, "model"))
DIGITS = {name: 3 if name.startswith("joules") else 6 for name in SUMMED}


def mean_price(prices: Prices | None, used: pl.DataFrame) -> float | None:
    """Money for an average GPU-hour of this usage; None where no model has a price."""
    if prices is None:
        return None
    total = paid = 0.0
    for model, seconds in used.group_by("model").agg(pl.col("covered_seconds").sum()).iter_rows():
        price = prices.of(model)
        if price is not None:
            total += seconds
            paid += seconds * price
    return paid / total if total > 0 else prices.default


def _cost(prices: Prices, used: pl.DataFrame) -> float | None:
    """Money that the lost seconds of this usage cost; None where no model has a price."""
    known = [
        seconds / 3600 * price
        for model, seconds in used.group_by("model").agg(pl.col("lost_seconds").sum()).iter_rows()
        if (price := prices.of(model)) is not None
    ]
    return sum(known) if known else None


def fed(rows: pl.LazyFrame) -> pl.LazyFrame:
    """host, gpu, job, fed: watts that a GPU draws for a job while it is fed; pairs without such a window are
    left out.
    """
    return (
        rows.filter(pl.col("lost_seconds") <= FED * pl.col("covered_seconds"))
        .group_by(_KEYS)
        .agg((pl.col("energy_joules") / pl.col("dt")).median().alias("fed"))
    )


def usage(rows: pl.LazyFrame, fed_by: pl.LazyFrame | None = None) -> pl.LazyFrame:
    """One row a GPU and job (columns of USAGE; null = not measured) from diagnosed windows.

    Amounts of a window are whole microseconds and millijoules, so that sums do not depend on their order.
    rows: as wellfed.analysis.split.scored gives them (fractions act, sm, tensor, dram, idle, spin). fed_by:
    what `fed` says of a longer time than theirs.
    """
    observed = pl.coalesce("observed_seconds", "dt")
    productive = (pl.col("covered_seconds") - pl.col("lost_seconds")).clip(lower_bound=0)
    who = list(_KEYS)
    watts = pl.col("fed")
    drawn = pl.col("energy_joules")
    by_time = drawn * (pl.col("lost_seconds") / pl.col("covered_seconds")).clip(0, 1)
    wasted = pl.when(watts.is_not_null()).then((drawn - productive * watts).clip(0)).otherwise(by_time)
    lost = pl.when(pl.col("lost_seconds") > 0).then(pl.min_horizontal(wasted, drawn)).otherwise(drawn * 0)
    clock = (pl.col("sm_clock_hertz") / pl.col("sm_clock_max_hertz")).clip(0, 1)
    parts = {"sm": "sm", "tensor": "tensor", "dram": "dram", "active": "act", "idle": "idle", "spin": "spin"}
    return (
        rows.join(fed(rows) if fed_by is None else fed_by, on=who, how="left", nulls_equal=True)
        .with_columns(
            drawn.alias("joules"),
            lost.alias("joules_lost"),
            (pl.col("tensor") * clock * observed).alias("tensor_peak_seconds"),
            *((pl.col(column) * observed).alias(f"{name}_seconds") for name, column in parts.items()),
            observed.alias("observed_seconds"),
        )
        .group_by(who)
        .agg(
            pl.col("model").drop_nulls().last(),
            *(pl.when(pl.col(c).count() > 0).then(pl.col(c).round(DIGITS[c]).sum()).alias(c) for c in SUMMED),
        )
        .select(USAGE.names())
        .sort(_KEYS)
    )


def tokens(step: pl.LazyFrame, server: pl.LazyFrame, used: pl.LazyFrame) -> pl.LazyFrame:
    """job and tokens: what each job's loops and servers counted, jobs without any left out.

    step, server: amounts on the grid. A server belongs to the job of the GPU that it names, else to the only
    job with GPUs on its host. Prompt and generated tokens both count.
    """
    trained = step.group_by("job").agg(pl.col("tokens").sum(), pl.col("tokens").count().alias("_n"))
    holders = used.filter(pl.col("job").is_not_null()).select("host", "gpu", "job").unique()
    alone = (
        holders.group_by("host")
        .agg(pl.col("job").unique().alias("_jobs"))
        .filter(pl.col("_jobs").list.len() == 1)
        .select("host", pl.col("_jobs").list.first().alias("_alone"))
    )
    served = (
        server.with_columns(
            pl.sum_horizontal("prompt_tokens", "generation_tokens").alias("_tokens"),
            pl.any_horizontal(pl.col("prompt_tokens", "generation_tokens").is_not_null()).alias("_known"),
        )
        .join(holders, on=["host", "gpu"], how="left")
        .join(alone, on="host", how="left")
        .with_columns(pl.coalesce("job", "_alone").alias("job"))
        .group_by("job")
        .agg(pl.col("_tokens").sum().alias("tokens"), pl.col("_known").sum().cast(pl.UInt32).alias("_n"))
    )
    return (
        pl.concat([trained, served], how="vertical_relaxed")
        .filter(pl.col("job").is_not_null() & (pl.col("_n") > 0))
        .group_by("job")
        .agg(pl.col("tokens").sum())
        .filter(pl.col("tokens") > 0)
    )


def efficiency(used: pl.DataFrame, told: float | None, prices: Prices | None) -> dict[str, Any]:
    """Figures of some GPUs' usage for the document; None = not measured. told: their tokens, if known."""
    joules, lost = (_total(used, c) for c in ("joules", "joules_lost"))
    pipes, observed = _total(used, "tensor_peak_seconds"), _total(used, "observed_seconds")
    return {
        "joules": joules,
        "joules_lost": lost,
        "cost_lost": _cost(prices, used) if prices else None,
        "tokens": told,
        "joules_per_token": joules / told if joules is not None and told else None,
        "tokens_per_joule": told / joules if joules and told else None,
        "hardware_flop_utilization": pipes / observed if pipes is not None and observed else None,
    }


def _total(used: pl.DataFrame, column: str) -> float | None:
    known = used[column].drop_nulls()
    return float(known.sum()) if len(known) else None


def priced(
    found: Sequence[Mapping[str, Any]], prices: Prices | None, used: pl.DataFrame
) -> list[dict[str, Any]]:
    """The findings with their cost: at the mean price of the GPUs they are about."""
    if prices is None:
        return [dict(finding) for finding in found]
    money = {(host, gpu): prices.of(model) for host, gpu, model in used.select(_WHO).unique().iter_rows()}
    out = []
    for finding in found:
        scope = finding["scope"]
        gpus, hosts = set(scope["gpus"]), set(scope["hosts"])
        known = [p for (host, gpu), p in money.items() if gpu in gpus and host in hosts and p is not None]
        mean = sum(known) / len(known) if known else None
        out.append({**finding, "cost": None if mean is None else finding["lost_gpu_seconds"] / 3600 * mean})
    return out
