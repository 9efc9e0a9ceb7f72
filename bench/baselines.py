"""What common practice says of each simulated GPU, beside which `make score` puts the diagnosis.

threshold: utilisation below 30 % for five minutes is sick, without a cause. promql: utilisation below 10 % with
iowait above 50 % is storage, with CPU above 90 % is cpu. isolation forest: windows whose utilisation, memory,
power and host load are rare among all windows of the cluster are sick, without a cause.
"""

from __future__ import annotations

import polars as pl
from sklearn.ensemble import IsolationForest

from wellfed.analysis.causes import UNKNOWN
from wellfed.analysis.scenarios import Simulation
from wellfed.analysis.score import HEALTHY

__all__ = ["baselines"]

#: Share of windows the forest calls rare, and of a GPU's windows that make it sick.
RARE, SICK = 0.1, 0.2


def baselines(simulation: Simulation) -> dict[str, dict[tuple[str, str], str]]:
    """Method -> (host, gpu) -> family that it names, `unknown` when sick without one, `healthy`."""
    both = _windows(simulation)
    if both.is_empty():
        return {}
    low = (pl.col("util") < 0.3).cast(pl.Int8).rolling_min(30).over("host", "gpu") == 1
    idle = pl.col("util") < 0.1
    pair = pl.when(idle & (pl.col("iowait") > 0.5)).then(pl.lit("storage"))
    named = pair.when(idle & (pl.col("busy") > 0.9)).then(pl.lit("cpu"))
    features = both.select("util", "memory", "power", "busy", "iowait").fill_null(0.0).fill_nan(0.0)
    forest = IsolationForest(contamination=RARE, random_state=0, n_estimators=50)
    rare = pl.Series("rare", forest.fit_predict(features.to_numpy()) < 0)
    verdict = (
        both.with_columns(low.alias("low"), rare)
        .group_by("host", "gpu")
        .agg(
            pl.when(pl.col("low").any()).then(pl.lit(UNKNOWN)).otherwise(pl.lit(HEALTHY)).alias("threshold"),
            named.drop_nulls().mode().sort().first().fill_null(HEALTHY).alias("promql"),
            pl.when(pl.col("rare").mean() >= SICK)
            .then(pl.lit(UNKNOWN))
            .otherwise(pl.lit(HEALTHY))
            .alias("isolation forest"),
        )
    )
    return {
        name: {(h, g): v for h, g, v in verdict.select("host", "gpu", name).iter_rows()}
        for name in ("threshold", "promql", "isolation forest")
    }


def _windows(simulation: Simulation) -> pl.DataFrame:
    gpu = simulation.tables["gpu"].sort("host", "gpu", "ts")
    grown = pl.col("active_seconds").diff() / pl.col("observed_seconds").diff()
    util = gpu.select(
        "ts",
        "host",
        "gpu",
        grown.over("host", "gpu").alias("util"),
        (pl.col("memory_used_bytes") / pl.col("memory_total_bytes")).alias("memory"),
        (pl.col("power_watts") / pl.col("power_limit_watts")).alias("power"),
    )
    host = simulation.tables["host"].sort("host", "ts")
    cpus = pl.col("cpu_count") * pl.col("ts").diff().dt.total_milliseconds() / 1000
    rates = host.select(
        "ts",
        "host",
        (pl.col("cpu_busy_seconds").diff() / cpus).over("host").alias("busy"),
        (pl.col("cpu_iowait_seconds").diff() / cpus).over("host").alias("iowait"),
    )
    return util.join(rates, on=["ts", "host"], how="left")
