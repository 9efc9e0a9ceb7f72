"""What a collector is, what it yields, and the list of all of them.

A collector is one flat module: a pure `parse`, a class with `read(roots, now)`, and one line that registers
it. Absent hardware: it yields nothing and says why once in `reason`. It raises on broken input; only the
sampler catches.
"""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Protocol, TypeVar

from wellfed.collectors.board import Board
from wellfed.collectors.endpoints import Endpoints

__all__ = ["COLLECTORS", "Collector", "Roots", "Row", "load", "register", "sources"]


@dataclass(frozen=True, slots=True)
class Roots:
    """Where procfs and sysfs are mounted, a test or a container points them elsewhere; where other programs
    answer; and the board on which the sources of one agent tell each other who holds what.
    """

    proc: str = "/proc"
    sys: str = "/sys"
    endpoints: Endpoints = field(default_factory=Endpoints)
    board: Board = field(default_factory=Board, compare=False)


@dataclass(slots=True)
class Row:
    """One thing's measurements.

    table: name of a catalog table. key: values of its key columns without `host`, in catalog order.
    values: counters (cumulative, as the source publishes them) and gauges; leave out or set None what cannot
    be measured. levels: fractions 0..1 that hold since the collector's previous read; the sampler adds
    level x elapsed seconds to the counter of that name, and the elapsed time to `observed_seconds` where the
    table has it. info: text columns.
    """

    table: str
    key: tuple[str, ...]
    values: dict[str, float | None]
    info: dict[str, str] = field(default_factory=dict)
    levels: dict[str, float] = field(default_factory=dict)


class Collector(Protocol):
    """One source of signals.

    name: as in the `collector` table. interval: seconds between reads. deadline: seconds after which a read
    counts as stuck. tables: the tables it fills. reason: why it yields nothing here, "" while it does.
    remedy: the exact thing to do about that reason, "" where nothing can be done.

    It may also have `close()`, called once at the end; `stuck`, True while something it watches hangs though
    its reads return; `starting`, True while what it asked has not answered yet, for those who read but once;
    `delivers`, True while what it reads goes to the board instead of into rows; and `holders()`, the process
    ids by GPU, which the sampler puts on the board.
    """

    reason: str
    remedy: str

    @property
    def name(self) -> str: ...
    @property
    def interval(self) -> float: ...
    @property
    def deadline(self) -> float: ...
    @property
    def tables(self) -> tuple[str, ...]: ...

    def read(self, roots: Roots, now: float) -> Iterable[Row]:
        """Rows as of now (seconds since the epoch). Raises OSError or ValueError on broken input."""
        ...


#: Factories by name.
COLLECTORS: dict[str, Callable[[], Collector]] = {}

_C = TypeVar("_C", bound=Callable[[], Collector])


def register(factory: _C) -> _C:
    """Adds a collector class to the agent's list; use as a decorator on it."""
    name: str = getattr(factory, "name")  # noqa: B009
    if name in COLLECTORS:
        raise ValueError(f"two collectors are called {name}")
    COLLECTORS[name] = factory
    return factory


#: Modules of this folder that are not sources.
_PLUMBING = frozenset(
    {
        "activity",
        "agent",
        "arrays",
        "board",
        "devices",
        "messages",
        "catalog",
        "columns",
        "crew",
        "doctor",
        "embed",
        "endpoints",
        "fetch",
        "files",
        "heap",
        "flashblade_names",
        "listeners",
        "inference_names",
        "names",
        "page",
        "processes",
        "registry",
        "rising",
        "sampler",
        "samples",
        "selfcost",
        "slot",
        "slurm_ask",
        "unwrap",
    }
    | {"compress", "destination", "exposition", "http", "otlp", "publisher", "push", "spool", "web"}
    | {"names_dcgm", "names_node", "names_node_tables", "names_template"}
    | {"gpm", "nvml_calls", "nvml_device", "nvml_fields", "nvml_page", "nvml_samples"}
    | {"nvml_report", "nvml_session", "nvml_watchdog", "nvml_worker", "nvml_xid"}
)


def sources() -> list[str]:
    """Modules of this folder that are sources."""
    modules = sorted(m.name for m in pkgutil.iter_modules([os.path.dirname(__file__)]))
    return [module for module in modules if module not in _PLUMBING and not module.startswith("_")]


def load() -> Mapping[str, Callable[[], Collector]]:
    """Imports every source module of this folder, so that each registers itself."""
    for module in sources():
        import_module(f"wellfed.collectors.{module}")
    return dict(sorted(COLLECTORS.items()))
