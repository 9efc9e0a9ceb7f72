"""What each host waited for: its own CPU, I/O and memory pressure, with or without a GPU in it.

Pressure is the share of time in which some task was held up for want of the resource
(Documentation/accounting/psi.rst), so it needs no baseline: it is lost time already.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from wellfed.analysis.windows import finite

__all__ = ["facts", "pressures"]

#: Column of the answer -> counter it is the rate of.
_RATIOS = {
    "psi_cpu_ratio": "psi_cpu_some_seconds",
    "psi_io_ratio": "psi_io_some_seconds",
    "psi_memory_ratio": "psi_memory_some_seconds",
}
_PER_CPU = {"cpu_busy_ratio": "cpu_busy_seconds", "cpu_iowait_ratio": "cpu_iowait_seconds"}
_RATES = {"net_rx_bps": "net_rx_bytes", "net_tx_bps": "net_tx_bytes"}


def pressures(host: pl.LazyFrame, step: float) -> pl.LazyFrame:
    """One row a host and window: ts, host, ratios 0..1, network bits a second; null across a gap or reset.

    host: the `host` table, any order. step: seconds of a window.
    """
    seconds = pl.col("ts").diff().over("host").dt.total_milliseconds() / 1000
    same_boot = (pl.col("boot_seconds").diff().over("host").abs() <= 2).fill_null(True)
    good = (seconds > 0) & (seconds <= 3.5 * step) & same_boot

    def rate(column: str) -> pl.Expr:
        delta = pl.col(column).diff().over("host")
        return pl.when(good & (delta >= 0)).then(delta / seconds)

    return (
        host.with_columns(finite())
        .unique(["host", "ts"], keep="last")
        .sort("host", "ts")
        .select(
            "ts",
            "host",
            *(rate(c).clip(0, 1).alias(name) for name, c in _RATIOS.items()),
            *((rate(c) / pl.col("cpu_count")).clip(0, 1).alias(name) for name, c in _PER_CPU.items()),
            *((8 * rate(c)).alias(name) for name, c in _RATES.items()),
        )
    )


def facts(windows: pl.DataFrame) -> list[dict[str, Any]]:
    """Means over the range for each host, as the `hosts` list of the document."""
    names = [*_PER_CPU, *_RATIOS]
    means = windows.group_by("host").agg(pl.col(names).mean()).sort("host")
    return means.select("host", *names).to_dicts()
