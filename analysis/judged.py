"""Verdicts kept beside the windows they are about: made once, when a window is over, and read ever after.

A hub appends what it judged to tables of its own store. Whoever is asked about a range later takes that
instead of diagnosing anew: the answer that was given then, with all that was known of the time before. What
no hub judged, or judged late and so without its peers, is diagnosed when it is asked for. The tables are
Parquet like all others: `verdict` and `verdict_loss` are the ones to query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from wellfed.analysis.episodes import EPISODES, VOTES, Episodes
from wellfed.analysis.schema import TS
from wellfed.analysis.segment import WINDOWS, Partial
from wellfed.analysis.split import SHARES
from wellfed.analysis.windows import on_grid
from wellfed.collectors.catalog import TABLES, Column, Otlp, Table

__all__ = ["JUDGED", "SEEN", "STORED", "VERSION", "Kept", "frames", "kept", "looked_at", "seen_rows"]

#: Grows when the same windows would be judged otherwise.
VERSION = 2.0
#: Share of host windows that may have been judged without their peers.
LATE = 0.01
#: A hub that judges this store is at most so far behind.
BEHIND = timedelta(minutes=2)

#: Tables of which a host's window has rows, by the column that counts them.
_COUNTED = ("windows", "losses", "episodes", "votes")
#: A host's window that was judged. step: its seconds; late: 1 where its peers had been judged before; the
#: rest: how many rows it has in the other tables, so that a lost file shows.
SEEN = pl.Schema(
    {
        "ts": TS, "host": pl.String(), "step": pl.Float64(), "late": pl.Float64(), "version": pl.Float64(),
        **{name: pl.Float64() for name in _COUNTED},
    }
)  # fmt: skip
Scan = Callable[[str, datetime | None, datetime | None], pl.LazyFrame]


def _table(name: str, keys: str, text: str, columns: pl.Schema) -> Table:
    own = tuple(keys.split())
    return Table(
        name,
        own,
        text,
        tuple(
            Column(column, "info" if kind == pl.String else "gauge", "", Otlp(""))
            for column, kind in columns.items()
            if column not in ("ts", *own)
        ),
    )


#: The tables, by name. Times other than `ts` are milliseconds since 1970.
JUDGED: Mapping[str, Table] = {
    table.name: table
    for table in (
        _table("verdict", "host gpu", "A GPU's window: what it could have done, and what it lost", WINDOWS),
        _table("verdict_loss", "host gpu cause", "Its lost seconds by cause", SHARES),
        _table("verdict_episode", "host gpu cause", "Its evidence, where a finding covers it", EPISODES),
        _table("verdict_vote", "host gpu group", "It came late to its peers", VOTES),
        _table("verdict_seen", "host", "A host's window was judged", SEEN),
    )
}

#: Every table that a store holds.
STORED: Mapping[str, Table] = {**TABLES, **JUDGED}


@dataclass(frozen=True, slots=True)
class Kept:
    """Verdicts of a range. until: the end of what was judged where rows of the last moments were not yet."""

    partial: Partial
    until: datetime | None


def frames(partial: Partial, seen: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """What to append to the store. seen: SEEN."""
    times = [name for name, kind in EPISODES.items() if kind == TS and name != "ts"]
    return {
        "verdict": partial.windows,
        "verdict_loss": partial.shares,
        "verdict_episode": partial.episodes.rows.with_columns(pl.col(times).dt.epoch("ms").cast(pl.Float64)),
        "verdict_vote": partial.episodes.votes,
        "verdict_seen": seen,
    }


def looked_at(tables: Mapping[str, pl.LazyFrame], step: float) -> pl.LazyFrame:
    """ts, host of the windows in which a host tells of a GPU or of a loop, both of which are judged."""
    at = on_grid(step).cast(TS).alias("ts")
    return pl.concat([tables[name].select(at, "host") for name in ("gpu", "step") if name in tables]).unique()


def seen_rows(looked: pl.DataFrame, partial: Partial, since: datetime | None = None) -> pl.DataFrame:
    """SEEN of the host windows (ts, host) that were looked at; those up to `since` were judged late."""
    by = ["ts", "host"]
    counts = [
        rows.group_by(by).agg(pl.len().cast(pl.Float64).alias(name))
        for name, rows in zip(_COUNTED, _rows_of(partial), strict=True)
    ]
    # A silent host's windows were judged without a row of it.
    seen = pl.concat([looked.select(by), *(count.select(by) for count in counts)]).unique().sort(by)
    for count in counts:
        seen = seen.join(count, on=by, how="left", maintain_order="left")
    late = pl.col("ts") <= since if since else pl.lit(False)
    told = {"step": pl.lit(partial.step), "late": late.cast(pl.Float64), "version": pl.lit(VERSION)}
    return seen.with_columns(pl.col(_COUNTED).fill_null(0.0), **told).select(list(SEEN))


def _rows_of(partial: Partial) -> tuple[pl.DataFrame, ...]:
    return partial.windows, partial.shares, partial.episodes.rows, partial.episodes.votes


def kept(scan: Scan, start: datetime | None, end: datetime | None) -> Kept | None:
    """The verdicts of (start, end], None where they do not cover its GPUs. scan: that of a Store."""
    # A row belongs to the nearest window, which may end a little outside.
    around = (start - BEHIND if start else None, end + BEHIND if end else None)
    seen = scan("verdict_seen", *around).select(list(SEEN)).collect()
    if seen.is_empty() or seen["version"].n_unique() > 1 or seen["step"].n_unique() > 1:
        return None
    step = float(seen["step"][0])
    if seen["version"][0] != VERSION or seen.select(pl.col("late").mean()).item() > LATE:
        return None
    newest = seen["ts"].max()
    assert isinstance(newest, datetime)
    missed = (
        looked_at({name: scan(name, start, end) for name in ("gpu", "step")}, step)
        .join(seen.lazy(), on=["host", "ts"], how="anti")
        .collect(engine="streaming")
    )
    if not missed.is_empty():
        fresh = datetime.now(UTC) - newest < BEHIND and (missed["ts"] > newest).all()
        if not fresh:
            return None
    # What is judged while this reads is not taken in halves.
    end = min(end, newest) if end else newest
    tables = {name: scan(name, start, end) for name in JUDGED}
    windows, shares, episodes, votes = pl.collect_all(
        [
            tables["verdict"].select(list(WINDOWS)).sort("ts", "host", "gpu"),
            tables["verdict_loss"].select(list(SHARES)).sort("ts", "host", "gpu"),
            tables["verdict_episode"].select(list(EPISODES)).cast({"since": pl.Int64, "confirmed": pl.Int64})
            .cast({"since": TS, "confirmed": TS}),
            tables["verdict_vote"].select(list(VOTES)),
        ],
        engine="streaming",
    )  # fmt: skip
    found = Partial(windows, shares, Episodes(episodes, votes), step)
    inside = seen.filter(pl.col("ts") > start) if start else seen
    inside = inside.filter(pl.col("ts") <= end) if end else inside
    if windows.is_empty() or inside.select(_COUNTED).sum().row(0) != tuple(r.height for r in _rows_of(found)):
        return None
    return Kept(found, None if missed.is_empty() else newest)
