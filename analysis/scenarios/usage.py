"""What one activity did to its GPUs and hosts in a run of windows: the border between mechanisms and tables.

Every array is (windows, n) with n = the activity's ranks, hosts or hosts x ports. Counters are what was added
in the window, gauges the value in it. Names are columns of the catalog's tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wellfed.analysis.scenarios.plan import JobPlan

__all__ = ["Activity", "Columns", "Loss", "Traffic", "Usage"]

F = NDArray[np.float64]
Columns = dict[str, F]


@dataclass(frozen=True, slots=True)
class Loss:
    """Seconds (windows,) lost on some ranks to a cause; root: the cause that pays in the end."""

    cause: str
    root: str
    ranks: NDArray[np.bool_]
    seconds: F


@dataclass(frozen=True, slots=True)
class Traffic:
    """A mount or disk as one activity used it, per host."""

    name: str
    fstype: str
    server: str
    columns: Columns


@dataclass(slots=True)
class Usage:
    """One activity's windows. steps and servers stay empty where nothing reports them.

    absent: (windows, ranks) True where the GPU no longer answers. host columns add up over activities,
    except pressures, which combine as independent chances.
    """

    gpu: Columns
    host: Columns
    job: Columns
    disks: list[Traffic] = field(default_factory=list)
    mounts: list[Traffic] = field(default_factory=list)
    ports: Columns = field(default_factory=dict)
    steps: Columns = field(default_factory=dict)
    servers: Columns = field(default_factory=dict)
    losses: Sequence[Loss] = ()
    absent: NDArray[np.bool_] | None = None


class Activity(Protocol):
    """Something that uses GPUs between its plan's start and end."""

    plan: JobPlan

    def advance(self, edges: F) -> Usage:
        """Simulates up to the last edge; edges continue where the previous call's ended."""
        ...
