"""The live verdict says what a diagnosis says, counts each window once, and goes on after a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from wellfed.analysis import streaming
from wellfed.analysis.causes import CAUSES
from wellfed.analysis.diagnose import diagnose
from wellfed.analysis.live import Live, Verdict, settled
from wellfed.analysis.live_findings import Tracker
from wellfed.analysis.scenarios import simulate
from wellfed.analysis.schema import TS
from wellfed.analysis.segment import joined
from wellfed.analysis.split import SHARES
from wellfed.analysis.store import Store
from wellfed.analysis.streaming import Streaming
from wellfed.collectors.catalog import TABLES
from wellfed.collectors.exposition import Exposition
from wellfed.verdicts import MAX_FINDINGS, verdicts

END = datetime(2026, 3, 1, 10, tzinfo=UTC)
MINUTES = [END - timedelta(minutes=m) for m in (45, 33, 31, 20, 10, 0)]


@pytest.fixture(scope="module")
def starved() -> Mapping[str, pl.DataFrame]:
    """One host of eight GPUs whose disk is slow for 25 minutes of an hour."""
    return simulate("disk-degraded", seed=1, end=END).tables


def part(tables: Mapping[str, pl.DataFrame], start: datetime, end: datetime) -> dict[str, pl.DataFrame]:
    return {
        name: frame.filter(pl.col("ts").is_between(start, end, closed="right"))
        for name, frame in tables.items()
    }


def totals(live: Live, metric: str, *by: str) -> dict[Any, float]:
    rows = live.counters.filter(pl.col("metric") == metric)
    if not by:
        return {"": rows["value"].sum()}
    return {
        row[:-1] if len(by) > 1 else row[0]: row[-1]
        for row in rows.group_by(*by).agg(pl.col("value").sum()).iter_rows()
    }


def document(store: Store) -> dict[str, Any]:
    tables = {name: store.scan(name) for name in TABLES}
    return diagnose(tables, start=END - timedelta(hours=1), end=END).document


def test_the_counters_are_the_documents_sums_in_both_views(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        store.append(simulate("straggler-host-storage", seed=1, end=END).tables)
        live = Live(store, Streaming(store))
        live.update(END)
        said = document(store)
        assert totals(live, "lost_gpu_seconds", "cause") == pytest.approx(said["totals"]["by_cause"])
        assert totals(live, "gpu_seconds")[""] == pytest.approx(said["totals"]["gpu_seconds"])
        assert totals(live, "covered_gpu_seconds")[""] == pytest.approx(said["totals"]["covered_seconds"])
        by_gpu = {(g["host"], g["gpu"]): g["lost_seconds"] for g in said["gpus"] if g["lost_seconds"]}
        assert totals(live, "lost_gpu_seconds", "host", "gpu") == pytest.approx(by_gpu)
        (job,) = said["jobs"]
        assert job["by_cause"] != job["by_cause_root"]
        assert totals(live, "job_lost_gpu_seconds", "job", "cause") == pytest.approx(
            {(job["job"], cause): lost for cause, lost in job["by_cause_root"].items()}
        )


def test_each_window_counts_once_and_a_finding_keeps_its_id(
    starved: Mapping[str, pl.DataFrame], tmp_path: Path
) -> None:
    seen = []
    with Store(tmp_path / "s") as store:
        live = Live(store, Streaming(store, price=3.6))
        start = END - timedelta(hours=1)
        for end in MINUTES:
            store.append(part(starved, start, end))
            live.update(end)
            before = live.counters
            live.update(end)
            assert live.counters.equals(before)
            seen.append([(f["id"], f["start"], f["lost_gpu_seconds"], f["cost"]) for f in live.findings])
            start = end
            # As after a kill -9: the next process goes on from the file.
            live = Live(store, Streaming(store, price=3.6))
            assert live.counters.equals(before)
        said = document(store)
    assert totals(live, "gpu_seconds")[""] == pytest.approx(said["totals"]["gpu_seconds"])
    assert totals(live, "covered_gpu_seconds")[""] == pytest.approx(said["totals"]["covered_seconds"])
    # What a window lost was judged without knowing the hour after it.
    assert totals(live, "lost_gpu_seconds")[""] == pytest.approx(said["totals"]["lost_seconds"], rel=0.1)
    assert [len(found) for found in seen] == [0, 1, 1, 1, 0, 0]
    told = [found[0] for found in seen if found]
    assert len({name for name, *_ in told}) == 1
    assert len({start for _, start, *_ in told}) == 1
    costs = [lost for _, _, lost, _ in told]
    assert costs == sorted(costs)
    assert [cost for *_, cost in told] == pytest.approx([lost / 1000 for lost in costs])


def test_a_host_that_comes_late_is_counted_when_it_comes(tmp_path: Path) -> None:
    tables = simulate("nfs-slow-server", seed=1, end=END).tables
    late = tables["host"]["host"].max()
    with Store(tmp_path / "s") as store:
        live = Live(store, Streaming(store))
        store.append({name: frame.filter(pl.col("host") != late) for name, frame in tables.items()})
        live.update(END - timedelta(minutes=5))
        assert late not in totals(live, "gpu_seconds", "host")
        store.append({name: frame.filter(pl.col("host") == late) for name, frame in tables.items()})
        live.update(END)
        counted = totals(live, "gpu_seconds", "host")
        assert len(counted) == 4
        assert counted[late] == pytest.approx(max(counted.values()))


def test_a_window_that_could_not_be_judged_is_judged_with_the_next(
    starved: Mapping[str, pl.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path / "s") as store:
        live = Live(store, Streaming(store))
        store.append(part(starved, END - timedelta(hours=1), MINUTES[3]))
        live.update(MINUTES[3])
        store.append(part(starved, MINUTES[3], MINUTES[4]))
        with monkeypatch.context() as patch:
            patch.setattr(streaming, "map_segment", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                live.update(MINUTES[4])
        store.append(part(starved, MINUTES[4], END))
        live.update(END)
        said = document(store)
    assert totals(live, "gpu_seconds")[""] == pytest.approx(said["totals"]["gpu_seconds"])
    assert totals(live, "lost_gpu_seconds", "cause") == pytest.approx(said["totals"]["by_cause"])


def test_series_of_gpus_and_jobs_that_are_gone_end_after_an_hour(
    starved: Mapping[str, pl.DataFrame], tmp_path: Path
) -> None:
    with Store(tmp_path / "s") as store:
        store.append(starved)
        live = Live(store, Streaming(store))
        live.update(END)
        assert live.gauges.height == 9
        live.update(END + timedelta(minutes=5))
        assert live.gauges.is_empty()
        assert live.findings == []
        assert totals(live, "gpu_seconds")[""] > 0
        live.update(END + timedelta(minutes=61))
        assert live.counters.is_empty()


def test_a_damaged_state_costs_the_counters_and_nothing_else(
    starved: Mapping[str, pl.DataFrame], tmp_path: Path
) -> None:
    with Store(tmp_path / "s") as store:
        store.append(starved)
        (tmp_path / "s" / "live.parquet").write_bytes(b"PAR1 and then nothing")
        live = Live(store, Streaming(store))
        assert live.counters.is_empty()
        live.update(END)
        assert Live(store, Streaming(store)).counters.equals(live.counters)
        assert store.check() == []


def finding(number: int, start: datetime, end: datetime | None, lost: float = 10.0) -> dict[str, Any]:
    return {
        "id": f"{number}-{start:%H%M}",
        "cause": "storage.remote",
        "scope": {
            "hosts": ["n1"],
            "gpus": [f"GPU-{number}"],
            "job": f"job-{number}",
            "resource": f"/mnt/{number}",
        },
        "start": start.isoformat(),
        "end": end.isoformat() if end else None,
        "detected": start.isoformat(),
        "severity": "info",
        "lost_gpu_seconds": lost,
        "cost": None,
    }


def test_trouble_that_comes_back_later_is_a_new_finding() -> None:
    minute = timedelta(minutes=1)
    known = Tracker().after([finding(1, END, None)], END + minute, {})
    # Seen again from a later start: the same. What was lost since is added to what is known.
    known = known.after(
        [finding(1, END + minute, None, 5.0)], END + 2 * minute, {("storage.remote", "GPU-1"): 4.0}
    )
    (one,) = known.open()
    assert (one["id"], one["start"], one["lost_gpu_seconds"]) == (f"1-{END:%H%M}", END.isoformat(), 14.0)
    known = known.after([], END + 3 * minute, {})
    assert known.open() == []
    again = END + 30 * minute
    known = known.after([finding(1, again, None)], again, {})
    assert [f["id"] for f in known.open()] == [f"1-{again:%H%M}"]
    assert len(known.known) == 2
    assert len(known.after([], END + timedelta(hours=2), {}).known) == 0


def test_what_is_published_is_bounded_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        live = Live(store, Streaming(store))
        found = [finding(number, END, None) for number in range(MAX_FINDINGS + 7)]
        live._tracker = Tracker().after(found, END, {})
        text = Exposition(openmetrics=True).render((), verdicts(live)).decode()
    families = {f.name: f for f in text_string_to_metric_families(text)}
    assert len(families["wellfed_finding_active"].samples) == MAX_FINDINGS
    assert families["wellfed_findings_dropped"].samples[0].value == 7
    labels = families["wellfed_finding_active"].samples[0].labels
    assert labels.keys() == {"cause", "severity", "job", "host", "resource"}


def test_what_a_job_loses_to_a_cause_begins_at_zero(
    tmp_path: Path, starved: Mapping[str, pl.DataFrame]
) -> None:
    with Store(tmp_path / "s") as store:
        live = Live(store, Streaming(store))
        store.append(part(starved, MINUTES[0] - timedelta(minutes=10), MINUTES[0]))
        live.update(MINUTES[0])
        text = Exposition(openmetrics=True).render((), verdicts(live)).decode()
    families = {f.name: f for f in text_string_to_metric_families(text)}
    (job,) = {s.labels["job"] for s in families["wellfed_job_gpu_seconds"].samples}
    lost = {s.labels["cause"]: s.value for s in families["wellfed_job_lost_gpu_seconds"].samples}
    assert {s.labels["job"] for s in families["wellfed_job_lost_gpu_seconds"].samples} == {job}
    assert lost.keys() == CAUSES.keys()
    assert lost["storage.read"] == 0.0
    assert sum(lost.values()) == pytest.approx(totals(live, "job_lost_gpu_seconds")[""])


def scraped(live: Live) -> dict[tuple[str, ...], float]:
    """Every counter of verdicts on a page, by name and labels."""
    text = Exposition(openmetrics=True).render((), verdicts(live)).decode()
    return {
        (family.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        if family.type == "counter"
        for sample in family.samples
    }


class Scripted:
    """Two GPUs of a job, one of which loses from the third minute on, and a GPU of another job from the sixth."""

    def update(self, until: datetime, since: datetime | None) -> Verdict:
        minute = (until - END).total_seconds() / 60
        rows = [("GPU-0", "j1", "storage.read", 2.0), ("GPU-1", "j1", "cpu.preprocess", 3.0 * (minute >= 3))]
        rows += [("GPU-2", "j2", "fabric.link", 4.0)] if minute >= 6 else []
        frame = pl.DataFrame(rows, schema=["gpu", "job", "cause", "lost_seconds"], orient="row").with_columns(
            pl.lit(until).cast(TS).alias("ts"), host=pl.lit("n1"), dt=10.0, covered_seconds=10.0
        )
        lost = frame.filter(pl.col("lost_seconds") > 0).select(list(SHARES))
        none = joined([], 10.0)
        windows = pl.concat([none.windows, frame.drop("cause")], how="diagonal")
        seen = frame.select("ts", "host").unique()
        return Verdict(replace(none, windows=windows, shares=lost), lost, seen, [], until)


def test_a_scrape_a_minute_sees_all_that_a_series_ever_counted(tmp_path: Path) -> None:
    pages = []
    with Store(tmp_path / "s") as store:
        live = Live(store, Scripted())
        for number in range(1, 60):
            live.update(END + timedelta(seconds=10 * number))
            if number % 6 == 5:
                pages.append(scraped(live))
            if number in (3, 21, 40):
                # As after a kill -9: a series that was published at 0 goes on so, one with a value keeps it.
                before = scraped(live)
                live = Live(store, Scripted())
                assert scraped(live) == before
        counted = {
            (f"wellfed_{row[0]}", *filter(None, row[1:5])): row[5] for row in live.counters.iter_rows()
        }
    lost = "wellfed_lost_gpu_seconds"
    assert {key[2] for key in pages[-1] if key[0] == lost} == {"GPU-0", "GPU-1", "GPU-2"}
    for key, value in pages[-1].items():
        values = [page[key] for page in pages if key in page]
        # What increase() sees of each series is all that it ever counted.
        assert values[0] == 0.0
        assert values == sorted(values)
        assert value == pytest.approx(counted.get(key, 0.0))
    # A cause that is new to a job has been there at 0 since the job began, and is published at once.
    late = [page[("wellfed_job_lost_gpu_seconds", "j1", "cpu.preprocess")] for page in pages]
    assert late[2:4] == [0.0, 18.0]


def test_what_a_host_brings_late_is_published_at_once(tmp_path: Path) -> None:
    tables = simulate("nfs-slow-server", seed=1, end=END).tables
    with Store(tmp_path / "s") as store:
        store.append(tables)
        live = Live(store, Streaming(store))
        live.update(END)
        page = scraped(live)
    lost = {key: value for key, value in page.items() if key[0] == "wellfed_lost_gpu_seconds"}
    assert sum(lost.values()) == pytest.approx(totals(live, "lost_gpu_seconds")[""])


def test_counters_of_a_hub_that_knew_no_births_go_on(
    starved: Mapping[str, pl.DataFrame], tmp_path: Path
) -> None:
    with Store(tmp_path / "s") as store:
        store.append(starved)
        live = Live(store, Streaming(store))
        live.update(END)
        counted = live.counters.drop("born")
        path = tmp_path / "s" / "live.parquet"
        metadata = {k: v for k, v in pl.read_parquet_metadata(path).items() if k.startswith("wellfed")}
        pl.read_parquet(path).drop("born").write_parquet(path, metadata=metadata)
        assert Live(store, Streaming(store)).counters.drop("born").equals(counted)


def test_a_window_is_judged_once_it_had_time_to_arrive() -> None:
    assert settled(END + timedelta(seconds=3.9)) == END - timedelta(seconds=10)
    assert settled(END + timedelta(seconds=4.1)) == END
