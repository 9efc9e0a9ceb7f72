"""A training job's log as columns of the GPU and step tables, and as truth.

Activity follows from the phases: kernels run at the workload's own activity, a collective that waits or
moves data keeps a few multiprocessors spinning, copies and host waits leave the device idle. `idle` and
`spin` count whole 100 ms samples, as a 10 Hz agent sees them, so that short waits do not show there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wellfed.analysis.scenarios.clocks import EXPONENT
from wellfed.analysis.scenarios.faults import shares
from wellfed.analysis.scenarios.readhost import host_columns, job_columns, port_columns, storage_traffic
from wellfed.analysis.scenarios.timeline import Phase
from wellfed.analysis.scenarios.trace import Trace, forget
from wellfed.analysis.scenarios.training import EVALUATION, SAVE, Training
from wellfed.analysis.scenarios.usage import Columns, Loss, Usage

__all__ = ["read_out"]

F = NDArray[np.float64]

#: Length of one of the agent's samples, a little less because it overlaps its neighbours.
SAMPLE = 0.095
#: Activity of a collective's kernels: multiprocessors held, occupancy, memory while waiting and moving.
SPIN_SM, SPIN_OCCUPANCY, WAIT_DRAM, REDUCE_DRAM = 0.13, 0.04, 0.01, 0.07
#: Share of the dynamic power range that spinning draws.
SPIN_DRAW = 0.27
ALL = tuple(Phase)


def read_out(job: Training, edges: F) -> Usage:
    """The windows between the edges, (windows, ranks) and (windows, hosts)."""
    trace = Trace(job.log, job.plan.hosts, job.plan.gpus_each, edges)
    gpu = _gpu(job, trace)
    usage = Usage(
        gpu=gpu,
        host=host_columns(job, trace),
        job=job_columns(job, trace),
        ports=port_columns(job, trace) if job.plan.hosts > 1 else {},
        steps=_steps(job, trace) if job.plan.watch else {},
        losses=_losses(job, trace),
        absent=_absent(job, trace),
    )
    storage_traffic(job, trace, usage)
    forget(job.log, float(edges[-1]))
    return usage


def _whole_samples(trace: Trace, phases: tuple[Phase, ...]) -> F:
    """Seconds in `phases` that fill whole samples, per window and rank."""
    spell = trace.phases[:, [int(p) for p in phases]].sum(axis=1)
    whole = np.maximum(0.0, spell - SAMPLE) / np.maximum(spell, 1e-9)
    return trace.line.phase(phases, whole)


def _rate(amount: F, seconds: F) -> F:
    return np.asarray(np.where(seconds > 0, amount / np.where(seconds > 0, seconds, 1.0), 0.0))


def _gpu(job: Training, trace: Trace) -> Columns:
    work, node, line, plan = job.work, job.node, trace.line, job.plan
    second = trace.window_seconds
    kernel = line.phase([Phase.COMPUTE], trace.kernel)
    wait, reduce = line.phase([Phase.WAIT]), line.phase([Phase.REDUCE])
    evaluate = line.phase([Phase.EVALUATE])
    started = line.phase([Phase.START])
    spin = wait + reduce
    rng = np.random.default_rng([job.seed, 6, round(float(trace.edges[0]))])

    def sampled(values: F) -> F:
        return np.asarray(values * (1.0 + 0.004 * rng.standard_normal(values.shape)))

    steps = trace.tag[:, None] < 0
    moving = trace.phases[:, Phase.COMPUTE] + trace.phases[:, Phase.REDUCE]
    moved = np.where(steps, trace.rank("reduced"), 0.0)
    inside = 2.0 * (plan.gpus_each - 1) / plan.gpus_each * moved
    between = (
        (2.0 * (plan.hosts - 1) / plan.hosts * moved / plan.gpus_each) if plan.hosts > 1 else 0.0 * moved
    )
    network = line.phase([Phase.COMPUTE, Phase.REDUCE], _rate(between, moving))
    copied = line.phase([Phase.COPY], _rate(trace.rank("copied"), trace.phases[:, Phase.COPY]))
    saved = line.phase([Phase.SAVE_COPY], np.minimum(SAVE, 0.9 * trace.rank("link")))
    nvlink = line.phase([Phase.COMPUTE, Phase.REDUCE], _rate(inside, moving))
    clock, thermal = trace.rank("clock"), trace.rank("thermal")
    drawn = line.phase([Phase.COMPUTE], trace.kernel * clock**EXPONENT)
    power = (
        node.idle_watts
        + (node.peak_watts - node.idle_watts)
        * (job.clocks.draw * (drawn + 0.45 * evaluate) + SPIN_DRAW * spin + 0.03 * started)
        / second
    )
    busy = np.minimum(1.0, kernel / second)
    ceiling = np.minimum(thermal, 1.0 - trace.rank("brake"))
    clocked = busy * trace.mean(clock) + (1.0 - busy) * trace.mean(ceiling)
    chatter = 2e7 * (kernel + 0.3 * spin)
    ramp = _ramp(job, trace)
    quiet = (kernel + spin + evaluate) <= 0.0
    columns: Columns = {
        "allocated": np.ones_like(kernel),
        "processes": (ramp > 0).astype(np.float64),
        "active_seconds": np.minimum(second, sampled(kernel + spin + 0.9 * evaluate + 0.02 * started)),
        "sm_active_seconds": sampled(work.sm * (kernel + EVALUATION * evaluate) + SPIN_SM * spin),
        "sm_occupancy_seconds": sampled(
            work.occupancy * (kernel + EVALUATION * evaluate) + SPIN_OCCUPANCY * spin
        ),
        "tensor_active_seconds": sampled(work.tensor * (kernel + 0.5 * evaluate)),
        "dram_active_seconds": sampled(
            work.dram * (kernel + EVALUATION * evaluate) + WAIT_DRAM * wait + REDUCE_DRAM * reduce
        ),
        "idle_seconds": np.minimum(
            second,
            _whole_samples(trace, (Phase.FETCH, Phase.COPY))
            + _whole_samples(trace, (Phase.SAVE_COPY, Phase.SAVE_WRITE))
            + 0.97 * started
            + line.phase([Phase.DEAD]),
        ),
        "spin_seconds": np.minimum(second, _whole_samples(trace, (Phase.WAIT, Phase.REDUCE))),
        "memory_used_bytes": 0.6e9 + (work.memory - 0.6e9) * ramp,
        "power_watts": power,
        "power_limit_watts": node.limit_watts * trace.last(trace.rank("power")),
        "temperature_celsius": np.round(trace.last(trace.rank("temperature"))),
        "energy_joules": power * second,
        "sm_clock_hertz": node.clock * clocked,
        "throttle_thermal_seconds": line.phase(ALL, (thermal < 0.995).astype(np.float64)),
        "throttle_power_seconds": line.phase(
            [Phase.COMPUTE], (trace.rank("capped") < 0.995).astype(np.float64)
        ),
        "throttle_brake_seconds": line.phase(ALL, (trace.rank("brake") > 0).astype(np.float64)),
        "pcie_rx_bytes": copied + network + chatter,
        "pcie_tx_bytes": saved + network + 0.5 * chatter,
        "nvlink_rx_bytes": nvlink,
        "nvlink_tx_bytes": nvlink,
        "pcie_gen": np.where(quiet, 1.0, trace.last(trace.rank("generation"))),
        "pcie_width": trace.last(trace.rank("lanes")),
        "pcie_replays": line.phase(ALL, trace.rank("replays")),
        "ecc_uncorrected": line.phase(ALL, trace.rank("ecc")),
        "remap_failed": trace.last(trace.rank("remap_failed")),
        "nvlink_down": trace.last(trace.rank("nvlink_down")),
    }
    columns |= _xids(job, trace)
    return columns


def _ramp(job: Training, trace: Trace) -> F:
    """Share of the job's device memory in use at the end of each window: it fills while a job starts."""
    if job.plan.startup <= 0:
        return np.ones((len(trace.edges) - 1, job.ranks))
    age = (trace.edges[1:] - job.plan.start) / job.plan.startup
    share = np.clip((age - 0.35) / 0.45, 0.0, 1.0)
    return np.repeat(share[:, None], job.ranks, axis=1)


def _xids(job: Training, trace: Trace) -> Columns:
    """XID events at the onset of the faults that report one."""
    shape = (len(trace.edges) - 1, job.ranks)
    errors, last = np.zeros(shape), np.full(shape, np.nan)
    for index, fault in enumerate(job.plan.faults):
        number = fault.effects.get("xid", 0.0)
        if not number:
            continue
        onset = (trace.edges[:-1] <= fault.start) & (fault.start < trace.edges[1:])
        hit = job.parameters.hit(index)
        errors += np.outer(onset, hit)
        last = np.where(np.outer(fault.start < trace.edges[1:], hit), number, last)
    return {"xid_errors": errors, "xid_last": last}


def _absent(job: Training, trace: Trace) -> NDArray[np.bool_] | None:
    """A GPU that fell off the bus (XID 79) answers nothing while its job is dead."""
    if not any(fault.effects.get("xid") == 79.0 for fault in job.plan.faults):
        return None
    return np.asarray(trace.line.phase([Phase.DEAD]) >= 0.99 * trace.window_seconds)


def _steps(job: Training, trace: Trace) -> Columns:
    line, work = trace.line, job.work
    steps = np.repeat((trace.tag < 0).astype(np.float64)[:, None], job.ranks, axis=1)
    done = line.ended(steps)
    begun = line.span((np.array([trace.tag < 0])).T.astype(np.float64))
    saving = np.array([tag >= 0 and job.log.tags[tag][0] == "checkpoint" for tag in trace.tag])
    stepping = np.repeat((trace.tag < 0).astype(np.float64)[:, None], job.ranks, axis=1)
    held = np.repeat(saving.astype(np.float64)[:, None], job.ranks, axis=1)
    checkpoint = line.phase([Phase.SAVE_COPY, Phase.SAVE_WRITE]) + line.phase([Phase.WAIT], held)
    evaluated = line.phase([Phase.EVALUATE])
    compute = line.phase([Phase.COMPUTE])
    fetch, copy = line.phase([Phase.FETCH]), line.phase([Phase.COPY])
    comm = line.phase([Phase.WAIT], stepping) + line.phase([Phase.REDUCE])
    return {
        "steps": done,
        "samples": done * work.batch,
        "tokens": done * work.tokens,
        "step_seconds": np.broadcast_to(begun, done.shape) + checkpoint + evaluated,
        "data_wait_seconds": fetch,
        "h2d_seconds": copy,
        "compute_seconds": compute,
        "comm_seconds": comm,
        "checkpoint_seconds": checkpoint,
        "eval_seconds": evaluated,
        "read_bytes": done * work.batch * work.loader.sample,
        "queue_depth": trace.last(np.stack(job.log.ready).reshape(trace.events, -1)),
    }


def _losses(job: Training, trace: Trace) -> list[Loss]:
    """Seconds lost against the rerun without each fault, per window (see `faults.shares`)."""
    faults = job.plan.faults
    lengths = np.stack(job.log.lengths)
    everyone = np.ones(job.ranks, dtype=bool)
    parts = shares(lengths, len(faults))
    steps = (trace.tag < 0)[:, None]
    rates = np.where(steps, parts / np.maximum(lengths[:, :1], 1e-9), 0.0)
    windows = np.diff(trace.edges)
    found = []
    per_window = trace.line.span(rates) if len(faults) else np.zeros((len(windows), 0))
    for index, fault in enumerate(faults):
        seconds = np.minimum(windows, per_window[:, index])
        hit = job.parameters.hit(index)
        if fault.straggles and not hit.all():
            found.append(Loss(fault.cause, fault.cause, hit, seconds))
            found.append(Loss("straggler", fault.cause, ~hit, seconds))
        else:
            found.append(Loss(fault.cause, fault.cause, everyone, seconds))
    for index, (cause, root, lost) in enumerate(job.log.tags):
        spent = trace.line.span(np.where(trace.tag == index, lost, 0.0)[:, None])[:, 0]
        found.append(Loss(cause, root, everyone, spent))
    return found
