"""When a cause holds: on after three windows with a score of 0.6, off after six below 0.4.

One small state a GPU and cause: how long it has been on or off, since when, and what was lost before it was
confirmed. `held` finds the windows of a segment that lie in episodes, `inside` adds their evidence, `pieces`
sums them up by finding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from wellfed.analysis.evidence import Ramp
from wellfed.analysis.running import Slots, Store
from wellfed.analysis.schema import TS
from wellfed.analysis.signatures import by_cause
from wellfed.analysis.split import CAUSES_SPLIT

__all__ = [
    "BRIDGE",
    "EPISODES",
    "ON_WINDOWS",
    "VOTES",
    "Debounce",
    "Episodes",
    "inside",
    "pieces",
    "waiting_windows",
]

ON_SCORE, OFF_SCORE = 0.6, 0.4
#: A cause that takes less of a window is not worth a finding.
ON_SHARE = 0.1
ON_WINDOWS, OFF_WINDOWS = 3, 6
#: Seconds of a pause that one finding spans.
BRIDGE = 30.0
#: Causes that come and go by nature: three windows, each within this many of the last, make one finding.
RECURRING = ("checkpoint", "phase.evaluation")
RECUR_WINDOWS = 90
#: A recurring cause that takes less of the time than this, over at least so long, is a fair price.
RECUR_SHARE, RECUR_LEAST_SECONDS = 0.03, 300.0
#: Seconds until held but idle GPUs are worth a word.
IDLE_SECONDS = 300.0
#: Columns that name what a finding is about, by cause.
RESOURCE = {
    "storage.remote": "m_mount",
    "storage.metadata": "m_mount",
    "storage.read": "d_device",
    "fabric.link": "p_port",
    "fabric.congested": "p_port",
}
#: Causes whose findings span all jobs of one file server.
_SHARED = ("storage.remote", "storage.metadata")
Floats = NDArray[np.float64]
_NAMED = tuple(c for c in CAUSES_SPLIT if c not in ("unknown", "insufficient"))
_MOST = max(len(s.ramps) + len(s.contra) for s in by_cause().values())
#: A GPU's window inside an episode. group: whom one finding spans; second: the best other score; `v<n>`,
#: `l<n>`: value and level of the cause's n-th ramp; lost_seconds, since, confirmed: see `held`.
EPISODES = pl.Schema(
    {
        "ts": TS, "host": pl.String(), "gpu": pl.String(), "cause": pl.String(), "rank": pl.String(),
        "job": pl.String(), "group": pl.String(), "resource": pl.String(), "covered_seconds": pl.Float64(),
        "second": pl.Float64(), "lost_seconds": pl.Float64(), "score": pl.Float64(), "since": TS,
        "confirmed": TS, **{f"{kind}{n}": pl.Float64() for n in range(_MOST) for kind in "vl"},
    }
)  # fmt: skip
#: A rank that came late to its peers, the group, in a window of a straggler.
VOTES = pl.Schema(
    {"ts": TS, "host": pl.String(), "gpu": pl.String(), "rank": pl.String(), "group": pl.String()}
)


@dataclass(frozen=True, slots=True)
class Episodes:
    """rows: EPISODES. votes: VOTES."""

    rows: pl.DataFrame
    votes: pl.DataFrame


def waiting_windows(cause: str, step: float) -> int:
    """Windows for which a cause must hold before it is a finding."""
    return max(ON_WINDOWS, math.ceil(IDLE_SECONDS / step)) if cause == "idle.held" else ON_WINDOWS


class Debounce:
    """State of all GPUs. step: seconds of a window."""

    def __init__(self, step: float, causes: Sequence[str] = _NAMED) -> None:
        self.step, self.causes = step, list(causes)
        shape = (0, len(self.causes))
        self._store = Store(
            on=np.zeros(shape, np.int32),
            off=np.zeros(shape, np.int32),
            open=np.zeros(shape, bool),
            first=np.zeros(shape),
            last=np.zeros(shape),
            confirmed=np.zeros(shape),
            pending=np.zeros(shape),
        )
        self._slots = Slots(
            ["host", "gpu", "job"], [self._store], retain=round(1000 * step * (OFF_WINDOWS + 1))
        )
        self._again = np.array([c in RECURRING for c in self.causes])[None]
        self._need = np.array([waiting_windows(c, step) for c in self.causes])[None]

    def held(self, rows: pl.DataFrame, lost: pl.DataFrame) -> pl.DataFrame:
        """Rows inside episodes: _row (index into rows), cause, lost_seconds, score, since, confirmed.

        rows: scored windows with covered_seconds. lost: a column a cause, the same rows. What was lost
        before an episode was confirmed is booked to the window that confirmed it.
        """
        slots, windows = self._slots.walk(rows)
        scores = rows.select(self.causes).to_numpy()
        losses = lost.select(self.causes).to_numpy()
        covered = np.maximum(rows["covered_seconds"].fill_null(0.0).to_numpy(), 1e-9)
        parts: dict[str, list[NDArray[np.generic]]] = {
            name: [] for name in ("row", "cause", "lost", "since", "confirmed")
        }
        for now, window, anew in windows:
            self._store.reset(anew)
            inside, booked = self._advance(
                slots[window], scores[window], losses[window], covered[window], now
            )
            at, cause = np.nonzero(inside)
            here = slots[window][at]
            parts["row"].append(window[at])
            parts["cause"].append(cause)
            parts["lost"].append(booked[at, cause])
            parts["since"].append(self._store.arrays["first"][here, cause])
            parts["confirmed"].append(self._store.arrays["confirmed"][here, cause])
        self._slots.forget()
        row, cause, seconds, since, confirmed = (np.concatenate(parts[name]) for name in parts)
        return pl.DataFrame(
            {
                "_row": row,
                "cause": pl.Series(self.causes, dtype=pl.String).gather(cause.astype(np.uint32)),
                "lost_seconds": seconds,
                "score": scores[row, cause],
                "since": pl.Series(since.astype(np.int64)).cast(TS),
                "confirmed": pl.Series(confirmed.astype(np.int64)).cast(TS),
            }
        )

    def _advance(
        self, slots: NDArray[np.int64], scores: Floats, losses: Floats, covered: Floats, now: float
    ) -> tuple[NDArray[np.bool_], Floats]:
        """One window: which causes hold on which of the slots, and the seconds to book for them."""
        s = {name: array[slots] for name, array in self._store.arrays.items()}
        share = losses / covered[:, None]
        on = (scores >= ON_SCORE) & (share >= ON_SHARE)
        off = (scores <= OFF_SCORE) | (share < ON_SHARE / 2)
        patience = 1000 * self.step * RECUR_WINDOWS
        before = np.where(self._again & (now - s["last"] > patience), 0, s["on"])
        count = np.where(on, before + 1, np.where(self._again, before, 0))
        fresh = on & (count == 1)
        pending = np.where(count > 0, np.where(fresh, 0.0, s["pending"]) + losses, 0.0)
        begun = ~s["open"] & on & (count >= self._need)
        first = np.where(fresh & ~s["open"], now - 1000 * self.step, s["first"])
        spell = np.maximum((now - first) / 1000, RECUR_LEAST_SECONDS)
        begun &= ~self._again | (pending >= RECUR_SHARE * spell)
        away = np.where(off, s["off"] + 1, 0)
        last = np.where(on, now, s["last"])
        over = np.where(self._again, now - last > patience, away >= OFF_WINDOWS)
        inside = (s["open"] | begun) & ~over
        found = {
            "on": count,
            "off": away,
            "open": inside,
            "first": first,
            "last": last,
            "confirmed": np.where(begun, now, s["confirmed"]),
            "pending": pending,
        }
        for name, values in found.items():
            self._store.arrays[name][slots] = values
        return inside, np.where(begun, pending, losses)


def inside(held: pl.DataFrame, rows: pl.DataFrame) -> Episodes:
    """What `held` found in the scored rows, with its evidence."""
    parts = [
        _about(str(cause), mine, rows) for (cause,), mine in held.partition_by("cause", as_dict=True).items()
    ]
    empty = pl.DataFrame(schema=EPISODES)
    found = pl.concat([empty, *parts], how="diagonal") if parts else empty
    windows = found.filter(pl.col("cause") == "straggler").select("group", "ts").unique(maintain_order=True)
    if windows.is_empty():
        return Episodes(found, pl.DataFrame(schema=VOTES))
    everyone = rows.join(
        windows, left_on=["_who", "ts"], right_on=["group", "ts"], how="inner", maintain_order="left"
    )
    early = everyone.filter(pl.col("waits") < pl.col("g_middle"))
    return Episodes(found, early.select("ts", "host", "gpu", "rank", pl.col("_who").alias("group")))


def pieces(episodes: Episodes, step: float) -> list[dict[str, Any]]:
    """A stretch's episodes summed up: one dict a cause, group and stretch without a pause, by time.

    cause, group, start, confirmed, first, last, windows, lost; scores and seconds (score and the best other
    score, summed), struck (windows they are summed over); `v<n>`, `l<n>`, `c<n>` (value, level and count of
    the n-th ramp, summed); members (host, gpu, rank, job, resource, lost) and culprits (host, gpu, rank,
    votes) as frames.
    """
    found: list[dict[str, Any]] = []
    for (cause,), mine in episodes.rows.partition_by("cause", as_dict=True).items():
        found += _pieces(str(cause), mine, episodes.votes, step)
    return sorted(found, key=lambda piece: (piece["first"], piece["cause"], piece["group"]))


def _pieces(cause: str, about: pl.DataFrame, votes: pl.DataFrame, step: float) -> list[dict[str, Any]]:
    pause = (pl.col("ts").diff() > pl.duration(milliseconds=round(1000 * (BRIDGE + step)))).over("group")
    about = about.sort("group", "ts", "host", "gpu").with_columns(
        pause.fill_null(False).cum_sum().over("group").alias("_part")
    )
    # Between its bursts a recurring cause has no evidence to show.
    struck = pl.col("lost_seconds") >= ON_SHARE * pl.col("covered_seconds")
    ramps = range(len(_ramps(cause)))

    def finite(column: str) -> pl.Expr:
        return pl.col(column).filter(struck & pl.col(column).is_finite())

    part = ["group", "_part"]
    summed = about.group_by(part, maintain_order=True).agg(
        pl.lit(cause).alias("cause"),
        pl.col("since").min().alias("start"),
        pl.col("confirmed").min(),
        pl.col("ts").min().alias("first"),
        pl.col("ts").max().alias("last"),
        pl.col("ts").n_unique().alias("windows"),
        pl.col("lost_seconds").sum().alias("lost"),
        pl.col("score").filter(struck).sum().alias("scores"),
        pl.col("second").filter(struck).sum().alias("seconds"),
        struck.sum().alias("struck"),
        *(finite(f"v{n}").sum() for n in ramps),
        *(pl.col(f"l{n}").filter(struck).sum() for n in ramps),
        *(finite(f"v{n}").count().alias(f"c{n}") for n in ramps),
    )
    members = about.group_by(*part, "host", "gpu", maintain_order=True).agg(
        pl.col("rank").drop_nulls().last(),
        pl.col("job").drop_nulls().last(),
        pl.col("resource").drop_nulls().mode().sort().first(),
        pl.col("lost_seconds").sum().alias("lost"),
    )
    # Ranks for which the others wait, with the number of windows in which they did.
    windows = about.select(*part, "ts").unique(maintain_order=True) if cause == "straggler" else about.clear()
    guilty = (
        votes.join(windows.select(*part, "ts"), on=["group", "ts"], how="inner", maintain_order="left")
        .group_by(*part, "host", "gpu", "rank", maintain_order=True)
        .agg(pl.len().cast(pl.Int64).alias("votes"))
    )
    return [
        {
            **row,
            "members": _of(members, row["group"], row["_part"]),
            "culprits": _of(guilty, row["group"], row["_part"]),
        }
        for row in summed.iter_rows(named=True)
    ]


def _of(frame: pl.DataFrame, group: str, part: int) -> pl.DataFrame:
    return frame.filter((pl.col("group") == group) & (pl.col("_part") == part)).drop("group", "_part")


def _ramps(cause: str) -> Sequence[Ramp]:
    signature = by_cause().get(cause)
    return [] if signature is None else [*signature.ramps, *signature.contra]


def _about(cause: str, held: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """The held rows of a cause as EPISODES has them, without the columns of ramps that it lacks."""
    resource = pl.col(RESOURCE[cause]) if cause in RESOURCE else pl.lit(None, pl.String)
    group = pl.col("_who")
    if cause in _SHARED:
        group = pl.coalesce(pl.col("m_server").str.split(":").list.first(), group)
    elif cause == "idle.gap":
        # Free GPUs that face a queue are one matter of the whole cluster.
        group = pl.lit("free")
    ramps = list(enumerate(_ramps(cause)))
    about = (
        rows[held["_row"].to_numpy()]
        .lazy()
        .select(
            "ts",
            "host",
            "gpu",
            pl.lit(cause).alias("cause"),
            "rank",
            "job",
            group.alias("group"),
            resource.alias("resource"),
            "covered_seconds",
            pl.max_horizontal(c for c in _NAMED if c != cause).alias("second"),
            *(r.value().cast(pl.Float64).alias(f"v{n}") for n, r in ramps),
            *(r.expr().cast(pl.Float64).alias(f"l{n}") for n, r in ramps),
        )
        .collect()
    )
    told = held.select("lost_seconds", "score", "since", "confirmed")
    return pl.concat([about, told], how="horizontal").sort("group", "ts", "host", "gpu")
