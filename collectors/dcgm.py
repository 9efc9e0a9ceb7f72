"""Inside GPUs without GPM (A100 and older), by a dcgm-exporter that answers nearby.

What: activity of SMs, tensor pipes and memory, and PCIe and NVLink bytes, for those GPUs and MIG slices of
which the driver tells none. Source: the DCGM_FI_PROF gauges of dcgm-exporter at --dcgm-url; names from
names.py. They are means over the exporter's own interval, 30 s unless it was told otherwise: lower fidelity
than GPM, which is never overridden. The nvml collector integrates them, so that all counters of a GPU cover
the same time; where there is no driver to talk to, as in a container, the rows are ours. Cost: one page
every ten seconds, 0.3 ms where nothing listens. Privilege: none; it is the exporter that needs it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

from wellfed.collectors.activity import idles, spins
from wellfed.collectors.board import Levels
from wellfed.collectors.fetch import AbsentError, Page
from wellfed.collectors.nvml_page import ACTIVITY
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Dcgm", "Inside", "parse"]

_COST = (
    "the verdict then knows only whether some kernel runs: a GPU that spins in a collective or uses few of "
    "its SMs looks fed"
)
_REMEDY = "run dcgm-exporter on this node, or name the one that runs with --dcgm-url"
_FIELDS = (
    "let it export DCGM_FI_PROF_GR_ENGINE_ACTIVE, SM_ACTIVE, SM_OCCUPANCY, PIPE_TENSOR_ACTIVE and DRAM_ACTIVE"
)

#: (UUID, GPU instance or ""), in lower case.
Device = tuple[str, str]


class Inside:
    """What the exporter says of one GPU or slice. levels: what a counter grows by in a second, by column."""

    def __init__(self, uuid: str, instance: str, info: dict[str, str]) -> None:
        self.uuid = uuid
        self.instance = instance
        self.info = info
        self.levels: dict[str, float] = {}

    @property
    def gpu(self) -> str:
        """The id to use where no driver tells the slice's own."""
        return f"{self.uuid}/{self.instance}" if self.instance else self.uuid


def parse(text: bytes) -> dict[Device, Inside]:
    """The devices of a page of dcgm-exporter, with what it knows of their inside. Raises ValueError."""
    from wellfed.collectors.names import BLANK, GROUPS
    from wellfed.collectors.samples import gather
    from wellfed.collectors.samples import parse as samples

    group = next(group for group in GROUPS if group.family == "dcgm")
    names = [name for name in group.names if name.use == "level" and name.column in ACTIVITY]
    found: dict[Device, Inside] = {}

    def device(labels: Mapping[str, str]) -> Device | None:
        lower = {label.lower(): value for label, value in labels.items()}
        uuid, instance = lower.get("uuid", ""), lower.get("gpu_i_id", "")
        key = (uuid.lower(), instance)
        if uuid and key not in found:
            info = {
                ours: "/".join(lower.get(label, "") for label in theirs)
                for ours, theirs in group.labels.items()
            }
            found[key] = Inside(uuid, instance, {**info, **group.fixed})
            del found[key].info["gpu"]
        return key if uuid else None

    wanted = {name.metric for name in names}
    told = (sample for sample in samples(text, wanted) if abs(sample.value) < BLANK)
    # A GPU that several pods share has a series for each of them, all alike.
    for key, columns in gather(names, told, device, worst=ACTIVITY).items():
        found[key].levels = _levels(columns)
    return found


def _levels(columns: Mapping[str, float]) -> dict[str, float]:
    """Seconds a second and bytes a second; nothing where it knows no more than the driver does."""
    shares = {c: min(max(v, 0.0), 1.0) for c, v in columns.items() if c.endswith("_seconds")}
    if "active_seconds" not in shares or len(columns) == 1:
        return {}
    levels = {
        "observed_seconds": 1.0,
        **{column: max(rate, 0.0) for column, rate in columns.items()},
        **shares,
    }
    active = shares["active_seconds"]
    levels["idle_seconds"] = float(idles(active))
    inside = [shares.get(f"{what}_seconds") for what in ("sm_active", "tensor_active", "dram_active")]
    sm, tensor, dram = inside
    if sm is not None and tensor is not None and dram is not None:
        levels["spin_seconds"] = float(spins(active, sm, tensor, dram))
    return levels


@register
class Dcgm:
    """Fills the activity columns of `gpu` where the driver cannot."""

    name = "dcgm"
    interval = 10.0
    deadline = 4.0
    tables: tuple[str, ...] = ("gpu",)

    def __init__(self) -> None:
        self.reason = ""
        self.remedy = ""
        #: Levels went to the board.
        self.delivers = False
        self._page: Page | None = None

    def close(self) -> None:
        """Closes the connection."""
        if self._page is not None:
            self._page.close()

    def read(self, roots: Roots, now: float) -> list[Row]:
        """Rows of devices that no driver tells of; levels of those it cannot look into go to the board."""
        board = roots.board
        self.reason = self.remedy = ""
        self.delivers = False
        if board.devices and not board.unseen:
            self.reason = "not needed: the driver looks into every GPU by itself"
            board.levels = Levels()
            return []
        try:
            found = self._fetch(roots)
        except (AbsentError, ValueError) as error:
            board.levels = Levels()
            self._explain(board.unseen, str(error), getattr(error, "remedy", "") or _REMEDY)
            if isinstance(error, ValueError):
                raise
            return []
        ours = {
            gpu: found[key].levels
            for gpu in board.unseen
            if (key := _key(board.devices[gpu], gpu, found)) is not None and found[key].levels
        }
        board.levels = Levels(time.monotonic(), ours)
        self.delivers = bool(ours)
        self._say(ours, board.unseen - ours.keys(), found.values() if not board.devices else ())
        if board.devices:
            return []
        told = [inside for inside in found.values() if inside.levels]
        return [Row("gpu", (inside.gpu,), {}, dict(inside.info), dict(inside.levels)) for inside in told]

    def _fetch(self, roots: Roots) -> dict[Device, Inside]:
        target = roots.endpoints.dcgm
        if target is None:
            raise AbsentError("no dcgm-exporter is named")
        if self._page is None or self._page.target != target:
            self.close()
            self._page = Page(target)
        return parse(self._page.get())

    def _explain(self, unseen: Collection[str], why: str, remedy: str) -> None:
        if unseen:
            self.reason = f"{_some(unseen)} without GPM: {why}; {_COST}"
            self.remedy = remedy
        else:
            self.reason = f"no NVIDIA GPU without GPM known here, and {why}"

    def _say(
        self, ours: Mapping[str, Mapping[str, float]], rest: Collection[str], alone: Collection[Inside]
    ) -> None:
        assert self._page is not None
        name = self._page.target.name
        told = list(ours.values()) or [inside.levels for inside in alone if inside.levels]
        parts = []
        if told:
            parts.append(
                f"activity inside {len(told)} GPU{'s' * (len(told) > 1)} is by {name}: means over its "
                "interval (30 s unless it was told otherwise), lower fidelity than GPM"
            )
        if any("sm_active_seconds" not in levels for levels in told):
            parts.append("without its SM_ACTIVE field, spinning in a collective looks busy")
            self.remedy = _FIELDS
        if rest or (alone and not told):
            who = _some(rest) if rest else "its GPUs"
            parts.append(f"{name} tells nothing of the inside of {who}; {_COST}")
            self.remedy = _FIELDS
        self.reason = "; ".join(parts) or f"{name} knows no GPU"


def _key(device: Device, gpu: str, found: Mapping[Device, Inside]) -> Device | None:
    """What the exporter calls a device of the driver: by its GPU and instance, or by the slice's own id."""
    parent, instance = device
    candidates: tuple[Device, ...] = ((parent.lower(), instance), (gpu.lower(), ""), (gpu.lower(), instance))
    return next((key for key in candidates if key in found), None)


def _some(gpus: Collection[str]) -> str:
    first = min(gpus)
    return first if len(gpus) == 1 else f"{first} and {len(gpus) - 1} more"
