"""Answers of a Prometheus to rows of our tables: things x windows, one array a column.

Gauges that stand for one of our counters are integrated: a sample counts for its own window only, so that a
window without samples adds nothing, to the activity or to `observed_seconds`. What a later slice of the same
range needs of the earlier ones is in `Carry`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from wellfed.analysis.promql_http import Series
from wellfed.analysis.promql_labels import Identity, Thing
from wellfed.analysis.promql_plan import INFO, OWN, UNAME, Query
from wellfed.analysis.schema import TS, conform
from wellfed.collectors.catalog import HOST, TABLES, Table
from wellfed.collectors.names import BLANK, Name

__all__ = ["Answer", "Carry", "Grid", "rows"]

F = NDArray[np.float64]
Key = tuple[str, ...]
#: Where one thing comes from two series for more windows than a hand-over takes.
HANDOVER = 2


@dataclass(frozen=True, slots=True)
class Answer:
    """The series that a query yielded for one slice."""

    query: Query
    series: Sequence[Series]


@dataclass(frozen=True, slots=True)
class Grid:
    """Windows that end at first, first + step and so on: epoch seconds."""

    first: float
    step: float
    windows: int


@dataclass(slots=True)
class Carry:
    """What the slices so far have established. Explicit, so that a range may be read in any number of slices.

    totals: where each integral stands. last: the last reading of what counts changes. ranks: which of several
    names fills a column. gauges: columns that are integrals of gauges. doubled: things that two series tell
    of, by table. unnamed: queries with series that name no thing.
    """

    identity: Identity = field(default_factory=Identity)
    totals: dict[tuple[str, str, Key, str], float] = field(default_factory=dict)
    last: dict[tuple[str, str, Key, str], float] = field(default_factory=dict)
    ranks: dict[tuple[str, str, Key, str], int] = field(default_factory=dict)
    gauges: set[tuple[str, str]] = field(default_factory=set)
    doubled: dict[str, dict[Key, str]] = field(default_factory=dict)
    unnamed: dict[str, str] = field(default_factory=dict)


def rows(answers: Iterable[Answer], grid: Grid, carry: Carry) -> dict[tuple[str, str], pl.DataFrame]:
    """(table, family) -> rows in the catalog's schema, as far as there are any."""
    known = list(answers)
    for answer in known:
        carry.identity.learn(answer.query, (one.labels for one in answer.series))
    blocks: dict[tuple[str, str, int], _Block] = {}
    for answer in known:
        query = answer.query
        if query.family != UNAME:
            # Two groups of a family may fill one column of different things: Ethernet and InfiniBand ports.
            place = (query.table.name, query.family, id(query.group))
            block = blocks.setdefault(place, _Block(query.table, query.family, grid, carry))
            block.add(answer)
    frames: dict[tuple[str, str], list[pl.DataFrame]] = {}
    for (table, family, _), block in blocks.items():
        # What no double holds is infinite, and so not measured.
        with np.errstate(over="ignore", invalid="ignore"):
            frames.setdefault((table, family), []).append(block.frame())
    return {place: pl.concat(parts) for place, parts in frames.items()}


class _Block:
    """One table as one family of names tells of it."""

    def __init__(self, table: Table, family: str, grid: Grid, carry: Carry) -> None:
        self._table, self._family, self._grid, self._carry = table, family, grid, carry
        self._things: dict[Key, int] = {}
        self._infos: dict[tuple[tuple[str, str], ...], int] = {}
        self._found: list[tuple[Query, list[tuple[int, int, NDArray[np.int64], F, Mapping[str, str]]]]] = []

    def add(self, answer: Answer) -> None:
        found = []
        for one in answer.series:
            thing = self._carry.identity.thing(answer.query, one.labels)
            if thing is None:
                self._carry.unnamed.setdefault(answer.query.text, str(dict(one.labels)))
                continue
            found.append((self._place(thing), self._info(thing), *self._windows(one), one.labels))
        # Of two series of one thing the later one holds; of two that began together, always the same one.
        found.sort(key=lambda part: sorted(part[4].items()), reverse=True)
        found.sort(key=lambda part: int(part[2][0]) if len(part[2]) else 0)
        self._found.append((answer.query, found))

    def _place(self, thing: Thing) -> int:
        return self._things.setdefault((thing.host, *thing.key), len(self._things))

    def _info(self, thing: Thing) -> int:
        return self._infos.setdefault(thing.info, len(self._infos))

    def _windows(self, one: Series) -> tuple[NDArray[np.int64], F]:
        at = np.rint((np.asarray(one.times) - self._grid.first) / self._grid.step).astype(np.int64)
        inside = (at >= 0) & (at < self._grid.windows)
        return at[inside], np.asarray(one.values, dtype=np.float64)[inside]

    def frame(self) -> pl.DataFrame:
        """The rows of the slice; moves the carry on."""
        shape = (len(self._things), self._grid.windows)
        ranked: dict[str, dict[int, F]] = {}
        integrals: set[tuple[str, int]] = set()
        labels = np.full(shape, -1, np.int32)
        texts = np.full(shape, -1, np.int32)
        for query, found in self._found:
            values = np.full(shape, np.nan)
            for place, info, at, numbers, told in found:
                self._notice(place, values[place, at], told)
                values[place, at] = numbers
                (texts if query.column == INFO else labels)[place, at] = info
            if query.column != INFO:
                rank = query.name.rank if query.name else 0
                mine = values if query.name is None else self._ours(query.column, query.name, values)
                by_rank = ranked.setdefault(query.column, {})
                by_rank[rank] = by_rank[rank] + mine if rank in by_rank else mine
                if query.name is not None and query.name.use != "value":
                    integrals.add((query.column, rank))
        chosen = {column: self._chosen(column, by_rank) for column, by_rank in ranked.items()}
        columns = {column: values for column, (values, _) in chosen.items()}
        grown = {
            column: np.array([(column, rank) in integrals for rank in ranks], dtype=bool)
            for column, (_, ranks) in chosen.items()
        }
        if self._family != OWN and self._table.name == "gpu":
            everywhere = np.ones(len(self._things), dtype=bool)
            grown |= dict.fromkeys(_sampled(columns, self._grid.step), everywhere)
            self._slices(columns)
        for column, which in grown.items():
            if which.any():
                columns[column] = np.where(
                    which[:, None], self._integral(column, columns[column]), columns[column]
                )
                self._carry.gauges.add((self._table.name, column))
        return self._rows(columns, labels, texts)

    def _notice(self, place: int, before: F, told: Mapping[str, str]) -> None:
        if np.count_nonzero(~np.isnan(before)) > HANDOVER:
            key = list(self._things)[place]
            names = [n for n in ("instance", "job", "replica", "prometheus_replica", "pod") if n in told]
            text = ", ".join(f'{n}="{told[n]}"' for n in names)
            self._carry.doubled.setdefault(self._table.name, {}).setdefault(key, text)

    def _ours(self, column: str, name: Name, values: F) -> F:
        """Their samples as our column's, or as what it grows by in each window."""
        if self._family == "dcgm":
            # Part of a window blank, part not: the mean of both is no reading either.
            least = BLANK / 64 if name.use == "level" else BLANK
            values = np.where(values >= least, np.nan, values)
        if name.use == "bits":
            known = (values >= 0) & (values < 2**53)
            hit = (np.where(known, values, 0).astype(np.int64) & int(name.factor)) != 0
            return np.where(known, hit * self._grid.step, np.nan)
        if name.use == "change":
            return self._changes(column, values)
        if column == "cpu_count":
            return values
        return values * (name.factor * (self._grid.step if name.use == "level" else 1.0))

    def _changes(self, column: str, values: F) -> F:
        """1 in each window whose reading differs from the one before it and is not 0."""
        grown = np.full(values.shape, np.nan)
        for key, place in self._things.items():
            at = np.flatnonzero(~np.isnan(values[place]))
            if not len(at):
                continue
            label = (self._table.name, self._family, key, column)
            read = values[place, at]
            before = np.concatenate([[self._carry.last.get(label, read[0])], read[:-1]])
            grown[place, at] = (read != before) & (read != 0)
            self._carry.last[label] = float(read[-1])
        return grown

    def _chosen(self, column: str, by_rank: Mapping[int, F]) -> tuple[F, Sequence[int]]:
        """For each thing the lowest rank that has a sample, once chosen it stays; and which rank that is."""
        if len(by_rank) == 1:
            ((rank, values),) = by_rank.items()
            return values, [rank] * len(self._things)
        chosen = np.full((len(self._things), self._grid.windows), np.nan)
        ranks = []
        for key, place in self._things.items():
            label = (self._table.name, self._family, key, column)
            having = [rank for rank in sorted(by_rank) if not np.isnan(by_rank[rank][place]).all()]
            rank = self._carry.ranks.setdefault(label, having[0]) if having else min(by_rank)
            ranks.append(rank)
            if rank in by_rank:
                chosen[place] = by_rank[rank][place]
        return chosen, ranks

    def _slices(self, columns: dict[str, F]) -> None:
        """A slice of a GPU is told the energy of the whole GPU: adding that up would count it seven times."""
        if "energy_joules" in columns:
            slices = [place for key, place in self._things.items() if key[-1].startswith("MIG-")]
            columns["energy_joules"][slices] = np.nan

    def _integral(self, column: str, grown: F) -> F:
        label = [(self._table.name, self._family, key, column) for key in self._things]
        start = np.array([self._carry.totals.get(one, 0.0) for one in label])
        running = start[:, None] + np.nancumsum(grown, axis=1)
        if running.shape[1]:
            self._carry.totals |= dict(zip(label, running[:, -1].tolist(), strict=True))
        return np.where(np.isnan(grown), np.nan, running)

    def _rows(
        self, columns: Mapping[str, F], labels: NDArray[np.int32], texts: NDArray[np.int32]
    ) -> pl.DataFrame:
        there = np.zeros(labels.shape, dtype=bool)
        for values in columns.values():
            there |= ~np.isnan(values)
        place, at = np.nonzero(there)
        ends = np.rint((self._grid.first + at * self._grid.step) * 1e3).astype(np.int64)
        keys = [k for k in self._table.keys if k != HOST]
        things = list(zip(*self._things, strict=True)) or [()] * (1 + len(keys))
        index = pl.Series(place.astype(np.uint32))
        series = {"ts": pl.Series(ends).cast(TS)}
        for name, text in zip([HOST, *keys], things, strict=True):
            series[name] = pl.Series(name, text, dtype=pl.String).gather(index)
        for name in {name for pairs in self._infos for name, _ in pairs} - set(series):
            known = pl.Series([dict(pairs).get(name) for pairs in self._infos], dtype=pl.String)
            told = [known.gather(_code(codes[place, at])) for codes in (texts, labels)]
            series[name] = told[0].zip_with(told[0].is_not_null(), told[1])
        for name, values in columns.items():
            series[name] = pl.Series(values[place, at]).fill_nan(None)
        frame = pl.DataFrame(series)
        if HOST not in self._table.keys:
            frame = frame.with_columns(pl.lit(None, dtype=pl.String).alias(HOST))
        return conform(frame.lazy(), TABLES[self._table.name], self._family).collect()


def _code(codes: NDArray[np.int32]) -> pl.Series:
    series = pl.Series(codes)
    return series.set(series < 0, None)


def _sampled(columns: dict[str, F], step: float) -> set[str]:
    """Adds what each window's readings say by the catalog's own rules; returns the names added.

    observed_seconds: the window, where an activity was read. idle_seconds: activity < 5 %. spin_seconds:
    activity >= 50 %, SM < 25 %, tensor < 3 %, DRAM < 10 %.
    """
    share = {name: columns[name] / step for name in columns if name.endswith("_active_seconds")}
    share |= {"active_seconds": columns["active_seconds"] / step} if "active_seconds" in columns else {}
    known = [~np.isnan(share[n]) for n in ("active_seconds", "sm_active_seconds") if n in share]
    if not known:
        return set()
    columns["observed_seconds"] = np.where(np.logical_or.reduce(known), step, np.nan)
    added = {"observed_seconds"}
    if "active_seconds" in share:
        active = share["active_seconds"]
        columns["idle_seconds"] = np.where(np.isnan(active), np.nan, (active < 0.05) * step)
        added.add("idle_seconds")
    if {"active_seconds", "sm_active_seconds", "tensor_active_seconds", "dram_active_seconds"} <= set(share):
        sm, tensor, dram = (share[f"{n}_active_seconds"] for n in ("sm", "tensor", "dram"))
        spins = (share["active_seconds"] >= 0.5) & (sm < 0.25) & (tensor < 0.03) & (dram < 0.1)
        unknown = np.isnan(share["active_seconds"] + sm + tensor + dram)
        columns["spin_seconds"] = np.where(unknown, np.nan, spins * step)
        added.add("spin_seconds")
    return added
