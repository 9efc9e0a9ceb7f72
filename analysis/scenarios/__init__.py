"""A simulated GPU cluster whose counters come from mechanisms, with the truth beside them.

Storage, page cache, loader workers, bounded queue, copy, compute, reduction, checkpoints; inference servers;
sessions; faults of each. Nothing here knows how a diagnosis works, and nothing may import one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

from wellfed.analysis.scenarios.artefacts import Artefacts
from wellfed.analysis.scenarios.cases_compute import COMPUTE
from wellfed.analysis.scenarios.cases_fabric import FABRIC
from wellfed.analysis.scenarios.cases_healthy import HEALTHY
from wellfed.analysis.scenarios.cases_idle import IDLE, MIXED, SERVING
from wellfed.analysis.scenarios.cases_storage import STORAGE
from wellfed.analysis.scenarios.fleet import FleetStream, fleet
from wellfed.analysis.scenarios.kit import Scenario
from wellfed.analysis.scenarios.simulate import Simulation, run
from wellfed.errors import UserError

__all__ = ["SCENARIOS", "Artefacts", "FleetStream", "Scenario", "Simulation", "fleet", "simulate"]

#: Every scenario by name.
SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    STORAGE | COMPUTE | FABRIC | IDLE | SERVING | MIXED | HEALTHY
)


def simulate(
    name: str,
    *,
    seed: int = 0,
    gpus: int | None = None,
    duration: float | None = None,
    end: datetime | None = None,
    artefacts: Artefacts | None = None,
) -> Simulation:
    """Runs a scenario: the same arguments give the same frames.

    gpus: size of the main job, in eights. duration: seconds. end: of the last window, a fixed day when None.
    Raises UserError when there is no scenario of that name.
    """
    if name not in SCENARIOS:
        raise UserError(f"no scenario is called {name}; there are {', '.join(SCENARIOS)}")
    return run(SCENARIOS[name], seed=seed, gpus=gpus, duration=duration, end=end, artefacts=artefacts)
