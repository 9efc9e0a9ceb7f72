"""A piece of a lake, and what it adds to the answer. Plain data: it travels to other machines and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import polars as pl

from wellfed.analysis.cost import DIGITS, SUMMED

__all__ = ["GPU", "RATIOS", "SUMS", "UNITS", "Partial", "Segment"]

#: Whose amounts a row holds.
GPU = ["host", "gpu", "job"]
#: The amounts: GPU time, and what wellfed.analysis.cost.USAGE adds up.
SUMS = ["gpu_seconds", *SUMMED]
#: What one of each is counted in: microseconds, millijoules.
UNITS = {name: 10 ** DIGITS.get(name, 6) for name in SUMS}
#: What a host is known by, as means of its windows.
RATIOS = ["cpu_busy_ratio", "cpu_iowait_ratio", "psi_cpu_ratio", "psi_io_ratio", "psi_memory_ratio"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive hours of a lake.

    hours: their names. files: table -> paths, those of the hours before that it learns from included. start,
    end: of what counts, (start, end].
    """

    hours: tuple[str, ...]
    files: Mapping[str, tuple[str, ...]]
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Partial:
    """What a segment adds. Amounts are integers: `_us` microseconds, others in UNITS.

    gpus: host, gpu, job, index, model and SUMS, null where not measured. work: what jobs did, see
    wellfed.analysis.profile.WORK. causes: host, gpu, job, cause, root (whether of that view),
    lost_us.
    jobs: job, name, user. hosts: host and, for each ratio, its sum in billionths and its count. coverage:
    table, column, filled, rows. first, last: `ts` of the rows. findings: as in the document, clipped to the
    segment, lost_gpu_seconds in microseconds.
    """

    segment: Segment
    step: float
    gpus: pl.DataFrame
    causes: pl.DataFrame
    jobs: pl.DataFrame
    work: pl.DataFrame
    hosts: pl.DataFrame
    coverage: pl.DataFrame
    first: datetime
    last: datetime
    findings: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
