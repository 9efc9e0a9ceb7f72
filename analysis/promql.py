"""Tables from any server that speaks the Prometheus HTTP API, under our own names or other exporters'.

Source: range queries, each of one metric over one slice of time, on the grid of windows; a slice is as long
as keeps an answer small, and is halved when the server refuses it. Cost: a query a metric and slice,
`parallel` at a time. What it could not get is in `Reading.warnings`, with what that costs the verdict.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import polars as pl

from wellfed.analysis.promql_families import Owners, united
from wellfed.analysis.promql_http import Access, Api, RefusedError, Series, server
from wellfed.analysis.promql_missing import costs
from wellfed.analysis.promql_plan import Query, beacons, matched, plan
from wellfed.analysis.promql_rows import Answer, Carry, Grid, rows
from wellfed.analysis.schema import schema
from wellfed.analysis.windows import STEP
from wellfed.collectors.catalog import TABLES
from wellfed.errors import UserError

__all__ = ["Access", "Reader", "Reading", "annotate", "read", "server"]

#: Samples that one answer should hold, and the most windows of a slice: servers allow 11,000 points a series.
SAMPLES, MOST_WINDOWS, FIRST_WINDOWS = 300_000, 10_000, 30
#: Seconds in which the rhythm of a metric is looked for, and series looked at.
_LOOK, _LOOKED_AT = 600.0, 5
#: Times that a query is refused until it is not asked any more.
GIVEN_UP = 3
#: How long after its end a window is asked for: scrapes take their time, and so does their way to the server.
SETTLE = 30.0


@dataclass(frozen=True, slots=True)
class Reading:
    """tables: as `wellfed.analysis.inputs.read_tables` gives them. gauges: (table, column) that are integrals
    of gauges. warnings: one line each. step: seconds of a window."""

    tables: dict[str, pl.LazyFrame]
    gauges: frozenset[tuple[str, str]]
    warnings: list[str]
    step: float


@dataclass(slots=True)
class Reader:
    """Reads a server slice by slice, in the order of time; keeps what a slice needs of the ones before it.

    selector: label matchers for every series, such as `cluster="a"`. parallel: questions at a time. step:
    seconds of a window; 0 until the first slice finds the rhythm of the scrapes.
    """

    api: Api
    selector: str = ""
    parallel: int = 4
    step: float = 0.0
    carry: Carry = field(default_factory=Carry)
    owners: Owners = field(default_factory=Owners)
    missed: dict[str, list[str]] = field(default_factory=dict)
    windows: int = FIRST_WINDOWS

    def slices(self, start: float, end: float) -> Iterator[tuple[float, dict[str, pl.DataFrame]]]:
        """End of each slice of (start, end] in epoch seconds and its rows by table; only tables with rows.

        Raises UserError when the server cannot be used or holds no name we know.
        """
        present = self.api.names(start, end)
        families = beacons(present)
        if not self.step:
            self.step = max((self._rhythm(m, start, end) for m in families.values()), default=STEP)
            self.step = max(self.step, STEP)
        queries = plan(present, self.step, self.selector)
        if not queries:
            raise UserError(
                f"{self.api.url} holds none of the metrics that wellfed reads (wellfed_*, DCGM_FI_*, "
                f"nvidia_smi_*, node_*) between {_shown(start)} and {_shown(end)}"
            )
        first = math.floor(start / self.step + 1e-9) + 1
        last = math.floor(end / self.step + 1e-9)
        with ThreadPoolExecutor(self.parallel, thread_name_prefix="wellfed-promql") as pool:
            while first <= last:
                grid = Grid(first * self.step, self.step, min(self.windows, last - first + 1))
                answers = self._ask(pool, queries, grid)
                yield (
                    grid.first + (grid.windows - 1) * self.step,
                    united(rows(answers, grid, self.carry), self.owners),
                )
                first += grid.windows
                self._pace(answers, grid.windows)

    def poll(self, since: datetime, now: datetime | None = None) -> tuple[datetime, dict[str, pl.DataFrame]]:
        """What became complete since `since`: the end of the last whole window, and rows by table.

        The first of the two is the next call's `since`; it is `since` itself while no window is over.
        """
        moment = (now or datetime.now(UTC)).timestamp() - SETTLE
        parts: dict[str, list[pl.DataFrame]] = {}
        reached = since.timestamp()
        for until, tables in self.slices(reached, moment) if moment > reached else ():
            reached = until
            for name, frame in tables.items():
                parts.setdefault(name, []).append(frame)
        return datetime.fromtimestamp(reached, UTC), {name: pl.concat(part) for name, part in parts.items()}

    def warnings(self) -> list[str]:
        """What went wrong or had to be chosen so far, one line each."""
        missed = [(text, spans) for text, spans in self.missed.items() if spans]
        lines = [f"not read: {metric} {', '.join(spans[:GIVEN_UP])}" for metric, spans in missed[:10]]
        if len(missed) > 10:
            lines.append(f"not read: {len(missed) - 10} more metrics")
        for table, things in self.carry.doubled.items():
            key, told = next(iter(things.items()))
            more = f" and {len(things) - 1} more" if len(things) > 1 else ""
            name = "/".join(filter(None, key))
            lines.append(
                f"two sources tell of {table} {name}{more}: one was taken, not the one with "
                f"{told or 'fewer labels'}; --selector narrows it down"
            )
        if self.carry.unnamed:
            text, labels = next(iter(self.carry.unnamed.items()))
            lines.append(
                f"{len(self.carry.unnamed)} queries had series whose labels name no host or key; left out, "
                f"for example {labels[:160]} of {text[:80]}"
            )
        return [*lines, *self.owners.notes, *self.api.warnings]

    def _rhythm(self, metric: str, start: float, end: float) -> float:
        """Seconds between a metric's samples, by a few series where it has the most; 0 if unknown."""
        look = max(_LOOK, math.ceil((end - start) / 200))
        every = metric + matched(self.selector) + f"[{round(look)}s]"
        try:
            there = self.api.range(f"sum(count_over_time({every}))", min(start + look, end), end, look)
            counts = [pair for one in there for pair in zip(one.values, one.times, strict=True)]
            if not counts:
                return 0.0
            _, best = max(counts)
            series = self.api.instant(f"count_over_time({every})", best)
            chosen = series[:: max(1, math.ceil(len(series) / _LOOKED_AT))]
            gaps = []
            for one in chosen:
                exact = [
                    f'{name}="{_escaped(text)}"' for name, text in one.labels.items() if name != "__name__"
                ]
                for raw in self.api.instant(f"{metric}{matched(*exact)}[{round(_LOOK)}s]", best):
                    gaps += [b - a for a, b in pairwise(raw.times)]
        except RefusedError:
            return 0.0
        return float(round(statistics.median(gaps))) if gaps else 0.0

    def _ask(self, pool: ThreadPoolExecutor, queries: list[Query], grid: Grid) -> list[Answer]:
        texts = [t for t in dict.fromkeys(q.text for q in queries) if len(self.missed.get(t, ())) < GIVEN_UP]
        answers = dict(zip(texts, pool.map(lambda text: self._range(text, grid), texts), strict=True))
        return [Answer(query, answers[query.text]) for query in queries if query.text in answers]

    def _range(self, text: str, grid: Grid) -> list[Series]:
        """The series of a query; of a slice that is refused, its halves'."""
        end = grid.first + (grid.windows - 1) * grid.step
        try:
            return self.api.range(text, grid.first, end, grid.step)
        except RefusedError as error:
            told = self.missed.setdefault(text, [])
            if grid.windows == 1 or not error.large or len(told) >= GIVEN_UP:
                told.append(f"until {_shown(end)}: {error}")
                return []
            half = grid.windows // 2
            later = Grid(grid.first + half * grid.step, grid.step, grid.windows - half)
            return [
                *self._range(text, Grid(grid.first, grid.step, half)),
                *self._range(text, later),
            ]

    def _pace(self, answers: list[Answer], windows: int) -> None:
        """Makes the next slice as long as the largest answer of this one suggests."""
        largest = max((sum(len(one.times) for one in answer.series) for answer in answers), default=0)
        wanted = windows * SAMPLES / largest if largest else 4 * self.windows
        self.windows = int(max(1, min(wanted, 4 * self.windows, MOST_WINDOWS)))


def read(
    reader: Reader,
    start: datetime,
    end: datetime,
    folder: str,
    progress: Callable[[float], None] = lambda share: None,
) -> Reading:
    """Everything a server holds about (start, end], kept as Parquet in folder while it is read.

    folder: empty; holds what the tables scan. progress: told the share done, 0..1. Raises UserError.
    """
    begin, stop = start.timestamp(), end.timestamp()
    held: dict[str, list[str]] = {}
    for number, (reached, tables) in enumerate(reader.slices(begin, stop)):
        for name, frame in tables.items():
            path = os.path.join(folder, f"{name}-{number:06d}.parquet")
            frame.write_parquet(path, compression="zstd", compression_level=1)
            held.setdefault(name, []).append(path)
        progress((reached - begin) / (stop - begin))
    if not held:
        lines = reader.warnings()
        why = f": {lines[0]}" if lines else ""
        raise UserError(f"{reader.api.url} holds no samples between {_shown(begin)} and {_shown(stop)}{why}")
    tables_ = {
        name: pl.scan_parquet(held[name]) if name in held else schema(table).to_frame().lazy()
        for name, table in TABLES.items()
    }
    gauges = frozenset(reader.carry.gauges)
    return Reading(tables_, gauges, [*reader.warnings(), *costs(tables_, gauges)], reader.step)


def annotate(document: dict[str, Any], reading: Reading) -> None:
    """Puts into a diagnosis what is particular to its source: warnings, and `fidelity` of each coverage."""
    document["warnings"] = [*document["warnings"], *reading.warnings]
    for item in document["coverage"]:
        integrated = (item["table"], item["column"]) in reading.gauges
        item["fidelity"] = "gauge" if integrated else "native"


def _shown(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def from_headers(lines: str) -> Mapping[str, str]:
    """`Name: value` lines as a mapping. Raises UserError."""
    found = {}
    for line in filter(None, map(str.strip, lines.splitlines())):
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or not name.strip().isascii():
            raise UserError("--header takes 'Name: value'")
        found[name.strip()] = value.strip()
    return found
