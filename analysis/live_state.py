"""DIR/live.parquet: the hub's counters, gauges and known findings, so that a restart goes on from them.

Written whole or not at all (segments.place). The frame holds counters and gauges by metric; the findings are
JSON in the file's metadata. Damage costs the counters, which start anew, and nothing else.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import polars as pl

from wellfed.analysis.schema import TS
from wellfed.analysis.segments import DAMAGE, Layout, place

__all__ = ["MARK", "State", "load", "save"]

log = logging.getLogger("wellfed.live")

#: Metric whose `ts` is the newest counted window of a host.
MARK = "mark"

_FINDINGS = "wellfed.findings"
_COUNTERS = pl.Schema(
    {
        "metric": pl.String(), "host": pl.String(), "gpu": pl.String(), "job": pl.String(),
        "cause": pl.String(), "value": pl.Float64(), "ts": TS, "born": TS,
    }
)  # fmt: skip
_GAUGES = pl.Schema({name: kind for name, kind in _COUNTERS.items() if name not in ("cause", "ts", "born")})


@dataclass(frozen=True, slots=True)
class State:
    """counters: metric, host, gpu, job, cause, value, ts, born (null: long ago). gauges: metric, host,
    gpu, job, value; not kept."""

    counters: pl.DataFrame
    gauges: pl.DataFrame
    findings: Sequence[Mapping[str, Any]]


def load(root: str) -> State:
    """What save() left; empty where there is nothing, or nothing that can be read."""
    empty = State(_COUNTERS.to_frame(), _GAUGES.to_frame(), ())
    path = _path(root)
    try:
        with open(path, "rb") as file:
            data = file.read()
        frame = pl.read_parquet(BytesIO(data))
        if "born" not in frame.columns:
            # Written before there was that column: all that is in it has been published.
            frame = frame.with_columns(born=None)
        counters = frame.select(list(_COUNTERS)).cast(_COUNTERS)
        findings = json.loads(pl.read_parquet_metadata(BytesIO(data))[_FINDINGS])
    except FileNotFoundError:
        return empty
    except (*DAMAGE, ValueError, KeyError) as error:
        log.warning("%s cannot be read, the counters start anew: %s", path, str(error).splitlines()[:1])
        return empty
    return State(counters, empty.gauges, findings)


def save(root: str, state: State) -> None:
    """Replaces the file. Raises OSError; the file is then as it was."""
    buffer = BytesIO()
    state.counters.write_parquet(
        buffer,
        compression="zstd",
        compression_level=1,
        metadata={_FINDINGS: json.dumps([dict(f) for f in state.findings])},
    )
    place({_path(root): buffer.getbuffer()}, Layout(root).tmp)


def _path(root: str) -> str:
    return os.path.join(root, "live.parquet")
