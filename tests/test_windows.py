"""Counters become windows: resets, gaps, reboots, duplicates, coarse and fine data, clock offsets."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from wellfed.analysis.schema import TS
from wellfed.analysis.windows import boots, period_seconds, rates, window_seconds
from wellfed.collectors.catalog import TABLES

START = datetime(2026, 1, 5, 12, tzinfo=UTC)
HOST = TABLES["host"]


def host_rows(*points: tuple[float, float | None], host: str = "a") -> pl.DataFrame:
    """Rows of the host table: (seconds after noon, cpu_busy_seconds)."""
    return pl.DataFrame(
        {
            "ts": [START + timedelta(seconds=s) for s, _ in points],
            "host": [host] * len(points),
            "cpu_busy_seconds": [v for _, v in points],
        },
        schema={"ts": TS, "host": pl.String, "cpu_busy_seconds": pl.Float64},
    )


def grown(frame: pl.DataFrame, seconds: int = 10) -> list[tuple[float, float | None, float | None]]:
    """(window end in seconds after noon, dt, growth) of every window."""
    noon = int(START.timestamp())
    out = rates(frame.lazy(), HOST, seconds).collect()
    return [(w * seconds - noon, dt, v) for w, dt, v in out.select("w", "dt", "cpu_busy_seconds").iter_rows()]


def test_a_counter_becomes_its_growth_per_window() -> None:
    assert grown(host_rows((0, 5.0), (10, 9.0), (20, 9.0))) == [(0, None, None), (10, 10, 4.0), (20, 10, 0.0)]


def test_a_reset_yields_null_for_that_window_only() -> None:
    got = grown(host_rows((0, 50.0), (10, 54.0), (20, 1.0), (30, 5.0)))
    assert got == [(0, None, None), (10, 10, 4.0), (20, 10, None), (30, 10, 4.0)]


def test_a_lost_scrape_is_spread_over_the_windows_it_covers() -> None:
    got = grown(host_rows((0, 0.0), (10, 4.0), (20, 8.0), (40, 20.0), (50, 24.0)))
    assert got[3:] == [(30, 10, 6.0), (40, 10, 6.0), (50, 10, 4.0)]


def test_a_gap_longer_than_three_windows_is_not_bridged() -> None:
    got = grown(host_rows((0, 0.0), (10, 4.0), (20, 8.0), (60, 90.0), (70, 94.0)))
    assert got[3:] == [(60, None, None), (70, 10, 4.0)]


def test_order_and_duplicates_do_not_matter() -> None:
    rows = host_rows((0, 0.0), (10, 4.0), (20, 8.0), (30, 9.0))
    messy = pl.concat([rows.reverse(), rows.sample(2, seed=1)])
    assert grown(messy) == grown(rows)


def test_one_second_rows_are_summed_into_ten_second_windows() -> None:
    got = grown(host_rows(*[(float(s), s * 0.5) for s in range(21)]))
    assert got == [(0, None, None), (10, 10, 5.0), (20, 10, 5.0)]


def test_rows_coarser_than_the_window_are_spread_evenly() -> None:
    got = grown(host_rows((0, 0.0), (30, 6.0), (60, 12.0)))
    assert got == [(0, None, None)] + [(s, 10, 2.0) for s in (10, 20, 30, 40, 50, 60)]


@pytest.mark.parametrize("offset", [-3.0, 2.9, 5.0])
def test_a_constant_clock_offset_neither_loses_nor_merges_windows(offset: float) -> None:
    jitter = (0.0, 0.2, -0.2, 0.1, -0.1, 0.0)
    got = grown(host_rows(*[(10 * i + offset + j, 4.0 * i) for i, j in enumerate(jitter)]))
    assert len(got) == len(jitter)
    assert [v for _, _, v in got[1:]] == [4.0] * 5


def test_drifting_scrapes_keep_the_total() -> None:
    rows = host_rows(*[(10.3 * i, 10.3 * i) for i in range(101)])
    out = rates(rows.lazy(), HOST, 10).collect()
    assert out["cpu_busy_seconds"].sum() == pytest.approx(1030)
    assert out["w"].is_unique().all()


def test_two_keys_are_never_mixed() -> None:
    both = pl.concat([host_rows((0, 100.0), (10, 104.0)), host_rows((0, 1.0), (10, 3.0), host="b")])
    out = rates(both.lazy(), HOST, 10).collect()
    assert out.filter(pl.col("host") == "b")["cpu_busy_seconds"].to_list() == [None, 2.0]


def test_a_reboot_nulls_every_counter_of_the_host() -> None:
    disk = pl.DataFrame(
        {
            "ts": [START + timedelta(seconds=10 * i) for i in range(4)],
            "host": ["a"] * 4,
            "device": ["nvme0n1"] * 4,
            "reads": [1.0, 2.0, 50.0, 60.0],
        },
        schema_overrides={"ts": TS},
    )
    seen = disk.select("ts", "host").with_columns(boot_seconds=pl.Series([10.0, 10.0, 900.0, 900.0]))
    out = rates(disk.lazy(), TABLES["disk"], 10, reboots=boots(seen.lazy()).collect()).collect()
    assert out["reads"].to_list() == [None, 1.0, None, 10.0]


def test_a_boot_time_that_jitters_is_no_reboot() -> None:
    seen = host_rows((0, 0), (10, 0), (20, 0)).with_columns(boot_seconds=pl.Series([10.0, 11.0, 10.0]))
    assert boots(seen.lazy()).collect().is_empty()


def test_the_window_is_ten_seconds_or_the_datas_own_period() -> None:
    assert window_seconds([1.0]) == 10
    assert window_seconds([None, 30.0]) == 30
    assert window_seconds([]) == 10
    assert period_seconds(host_rows((0, 0), (30, 0), (60, 0)).lazy(), HOST) == 30
    assert period_seconds(host_rows((0, 0)).lazy(), HOST) is None
