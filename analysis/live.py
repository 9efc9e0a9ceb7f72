"""The live verdict: each window counted once, findings that keep their id, counters that outlive a restart.

A Judge says what the newest windows lost; here that is added up and remembered in DIR/live.parquet, written
whole after each update, and the verdicts themselves go into the store (wellfed.analysis.judged). Windows that
came late for one host are counted when they come, each exactly once: the newest counted window is kept by
host. rate() does not see what a counter has when it appears, so a new series is published at 0 until it has
been scraped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import polars as pl

from wellfed.analysis.judged import frames, seen_rows
from wellfed.analysis.live_findings import Tracker
from wellfed.analysis.live_state import MARK, State, load, save
from wellfed.analysis.schema import TS
from wellfed.analysis.segment import Partial
from wellfed.analysis.store import Store

__all__ = ["Judge", "Live", "Verdict", "settled"]

log = logging.getLogger("wellfed.live")

#: Time after its last window when a series ends.
EXPIRE = timedelta(hours=1)
#: A gauge of the last window holds no longer than this.
CURRENT = timedelta(minutes=2)
#: How long a new series is published at 0: a scrape a minute, and a window. What it has by then is seen as
#: one step. Windows of a host or job that are older than CURRENT when they come are no increase of now.
UNSEEN = timedelta(seconds=70)

_KEY = ("host", "gpu", "job", "cause")
_LATEST = pl.Schema(
    {
        "ts": TS, "host": pl.String(), "gpu": pl.String(), "job": pl.String(),
        "covered_seconds": pl.Float64(), "lost_seconds": pl.Float64(),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge found.

    partial: the windows, their loss by cause in the local view, and their episodes. rooted: the loss in the
    root view. seen: ts, host of all windows that were looked at. findings: those of the document. newest: end
    of the last window of any host, None without one.
    """

    partial: Partial
    rooted: pl.DataFrame
    seen: pl.DataFrame
    findings: Sequence[Mapping[str, Any]]
    newest: datetime | None


class Judge(Protocol):
    """Judges windows as they come."""

    def update(self, until: datetime, since: datetime | None) -> Verdict | None:
        """The verdict on the windows up to `until`, at least on those after `since`; None without data."""
        ...


class Live:
    """What a hub publishes about a store. Methods may be called from several threads.

    updates: grows with every verdict. last: end of the newest window that was judged, None before the first.
    """

    def __init__(self, store: Store, judge: Judge) -> None:
        self.updates = 0
        self._store = store
        self._judge = judge
        self._lock = threading.Lock()
        self._state = load(store.path)
        self._tracker = Tracker(self._state.findings)
        self._latest = pl.DataFrame(schema=_LATEST)
        self.last = _newest(self._state.counters)

    @property
    def counters(self) -> pl.DataFrame:
        """metric, host, gpu, job, cause ("" where it does not apply), value, ts of the last change; born:
        when it was new, null once its value is published.
        """
        with self._lock:
            return self._state.counters.filter(pl.col("metric") != MARK)

    @property
    def gauges(self) -> pl.DataFrame:
        """metric, host, gpu, job, value: accelerator utilisation of the last window."""
        with self._lock:
            return self._state.gauges

    @property
    def findings(self) -> list[dict[str, Any]]:
        """Open findings, the costliest first, with the id they were first given."""
        with self._lock:
            return self._tracker.open()

    def update(self, until: datetime) -> None:
        """Judges what came since the last update, up to `until`, and remembers it on disk.

        Raises OSError when the state cannot be written: it is then as before the update.
        """
        verdict = self._judge.update(until, self.last)
        if verdict is None:
            return
        new = _new(verdict, self._state.counters)
        self._keep(new)
        counters = _added(self._state.counters, new, until)
        tracker = self._tracker.after(verdict.findings, until, _by_cause(new.partial.shares))
        recent = self._latest.filter(pl.col("ts") > until - EXPIRE)
        latest = _latest(recent, verdict.partial.windows)
        state = State(counters, _gauges(latest, until), tracker.known)
        save(self._store.path, state)
        with self._lock:
            self._state, self._tracker, self._latest = state, tracker, latest
            self.last = verdict.newest or self.last
            self.updates += 1

    def _keep(self, new: Verdict) -> None:
        """Appends the new verdicts to the store; a range without them is diagnosed when it is asked for."""
        seen = seen_rows(new.seen, new.partial, self.last)
        try:
            self._store.append(frames(new.partial, seen))
        except OSError as error:
            log.warning("verdicts were not kept: %s", error)


def _newest(*frames: pl.DataFrame) -> datetime | None:
    """The latest `ts` in any of the frames."""
    found = [ts for frame in frames if isinstance(ts := frame["ts"].max(), datetime)]
    return max(found, default=None)


def _new(verdict: Verdict, counters: pl.DataFrame) -> Verdict:
    """The windows that were not counted yet."""
    marks = counters.filter(pl.col("metric") == MARK).select("host", pl.col("ts").alias("_mark"))

    def fresh(frame: pl.DataFrame) -> pl.DataFrame:
        joined = frame.join(marks, on="host", how="left", maintain_order="left")
        return joined.filter(pl.col("_mark").is_null() | (pl.col("ts") > pl.col("_mark"))).drop("_mark")

    return replace(
        verdict,
        partial=verdict.partial.each(fresh),
        rooted=fresh(verdict.rooted),
        seen=fresh(verdict.seen),
    )


def _added(counters: pl.DataFrame, new: Verdict, until: datetime) -> pl.DataFrame:
    """The counters with new windows in them, without series that ended."""
    held = new.partial.windows.filter(pl.col("job").is_not_null())
    parts = [
        _sums(new.partial.windows, "gpu_seconds", "dt", ("host", "gpu", "job")),
        _sums(new.partial.windows, "covered_gpu_seconds", "covered_seconds", ("host", "gpu", "job")),
        _sums(new.partial.shares, "lost_gpu_seconds", "lost_seconds", ("host", "gpu", "job", "cause")),
        _sums(held, "job_gpu_seconds", "dt", ("job",)),
        _sums(
            new.rooted.filter(pl.col("job").is_not_null()),
            "job_lost_gpu_seconds",
            "lost_seconds",
            ("job", "cause"),
        ),
        # Also of a host whose first rows made no window yet: it was looked at.
        *(
            _sums(rows.with_columns(pl.lit(0.0).alias("_")), MARK, "_", ("host",))
            for rows in (new.partial.windows, new.seen)
        ),
    ]
    late = pl.col("ts").min() <= until - CURRENT
    hosts, jobs = (
        new.partial.windows.group_by(by).agg(late).filter("ts")[by].drop_nulls() for by in ("host", "job")
    )
    of_late = pl.col("host").is_in(hosts.implode()) | (pl.col("host") == "") & pl.col("job").is_in(
        jobs.implode()
    )
    added = pl.concat(parts).with_columns(born=pl.when(~of_late).then(pl.lit(until, TS)))
    summed = (
        pl.concat([counters, added])
        .group_by("metric", *_KEY, maintain_order=True)
        .agg(pl.col("value").sum(), pl.col("ts").max(), pl.col("born").first())
        .with_columns(born=pl.when(pl.col("born") > until - UNSEEN).then("born"))
    )
    return _as_their_jobs(summed).filter(pl.col("ts") > until - EXPIRE)


def _as_their_jobs(counters: pl.DataFrame) -> pl.DataFrame:
    """What a job lost to a cause is no newer than the job: it is published for every cause from then on."""
    jobs = counters.filter(pl.col("metric") == "job_gpu_seconds").select("job", pl.col("born").alias("_job"))
    lost = pl.col("metric") == "job_lost_gpu_seconds"
    born = pl.when(lost).then("_job").otherwise("born").alias("born")
    return counters.join(jobs, on="job", how="left", maintain_order="left").with_columns(born).drop("_job")


def _by_cause(shares: pl.DataFrame) -> dict[tuple[str, str], float]:
    """Seconds lost by (cause, GPU)."""
    summed = shares.group_by("cause", "gpu").agg(pl.col("lost_seconds").sum())
    return {(cause, gpu): lost for cause, gpu, lost in summed.iter_rows()}


def _sums(rows: pl.DataFrame, metric: str, column: str, by: Sequence[str]) -> pl.DataFrame:
    """Sums by key as rows of the counters; a missing job is ""."""
    grouped = rows.group_by(*by).agg(pl.col(column).sum().alias("value"), pl.col("ts").max())
    return grouped.select(
        pl.lit(metric).alias("metric"),
        *(pl.col(k).fill_null("") if k in by else pl.lit("").alias(k) for k in _KEY),
        pl.col("value").cast(pl.Float64),
        "ts",
    )


def _latest(before: pl.DataFrame, windows: pl.DataFrame) -> pl.DataFrame:
    """The last window of each GPU that its activity was measured in."""
    new = windows.filter(pl.col("covered_seconds") > 0).select(list(_LATEST)).sort("ts")
    return pl.concat([before, new]).unique(["host", "gpu"], keep="last", maintain_order=True)


def _gauges(latest: pl.DataFrame, until: datetime) -> pl.DataFrame:
    """Utilisation of each GPU and job in its last window, where that is not long ago."""
    last = latest.filter(pl.col("ts") > until - CURRENT)
    au = 1 - pl.col("lost_seconds").sum() / pl.col("covered_seconds").sum()
    gpus = last.group_by("host", "gpu", "job").agg(au.alias("value"))
    jobs = last.filter(pl.col("job").is_not_null()).group_by("job").agg(au.alias("value"))
    return pl.concat(
        [
            gpus.select(
                pl.lit("accelerator_utilization_ratio").alias("metric"),
                "host",
                "gpu",
                pl.col("job").fill_null(""),
                "value",
            ),
            jobs.select(
                pl.lit("job_accelerator_utilization_ratio").alias("metric"),
                pl.lit("").alias("host"),
                pl.lit("").alias("gpu"),
                "job",
                "value",
            ),
        ]
    ).sort("metric", "host", "gpu", "job")


def settled(now: datetime, window: int = 10, grace: int = 4) -> datetime:
    """End of the last window that has had time to arrive."""
    seconds = int(now.timestamp() - grace) // window * window
    return datetime.fromtimestamp(seconds, UTC)
