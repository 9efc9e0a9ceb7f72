"""From a job's plan to the activity that simulates it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wellfed.analysis.scenarios.plan import Engine, JobPlan, Node, Session, Workload
from wellfed.analysis.scenarios.readout import read_out
from wellfed.analysis.scenarios.serving import ServingActivity
from wellfed.analysis.scenarios.session import SessionActivity
from wellfed.analysis.scenarios.training import Training
from wellfed.analysis.scenarios.usage import Activity, Usage

__all__ = ["TrainingActivity", "activity"]


class TrainingActivity:
    """A training job: simulate, then read the windows out."""

    def __init__(self, plan: JobPlan, work: Workload, node: Node, seed: int) -> None:
        self.plan = plan
        self.job = Training(plan, work, node, seed)

    def advance(self, edges: NDArray[np.float64]) -> Usage:
        """Simulates up to the last edge."""
        self.job.run(float(edges[-1]))
        return read_out(self.job, edges)


def activity(plan: JobPlan, node: Node, seed: int) -> Activity:
    """The simulation of one job; seed: that of this job alone."""
    if isinstance(plan.work, Session):
        return SessionActivity(plan, plan.work, node, seed)
    if isinstance(plan.work, Engine):
        return ServingActivity(plan, plan.work, node, seed)
    return TrainingActivity(plan, plan.work, node, seed)
