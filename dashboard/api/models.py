"""What the answers look like: the schemas of the OpenAPI document. Answers may gain keys, never lose one."""

from __future__ import annotations

from datetime import datetime
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Coverage",
    "Finding",
    "Gpu",
    "Host",
    "Job",
    "Listed",
    "NewNote",
    "Note",
    "Paged",
    "Problem",
    "Series",
    "Summary",
]

_T = TypeVar("_T")


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", populate_by_name=True)


class _Ranged(_Open):
    from_: datetime = Field(alias="from")
    to: datetime


class Listed(_Open, Generic[_T]):
    """A part of a list. next: path and query of the part that follows."""

    total: int
    offset: int
    limit: int
    next: str | None
    items: list[_T]


class Paged(Listed[_T], _Ranged, Generic[_T]):
    """A part of a list of a range; `next` names the range by its times, so that the parts fit together."""


class Totals(_Open):
    gpu_seconds: float
    covered_seconds: float
    lost_seconds: float
    au: float | None = Field(description="accelerator utilisation: productive share of covered time")
    by_cause: dict[str, float] = Field(description="lost GPU-seconds by what the GPU waited for")
    by_cause_root: dict[str, float] = Field(description="the same, booked to who made others wait")
    joules: float | None
    cost_lost: float | None


class Counted(_Open):
    known: int
    reporting: int


class FindingCounts(_Open):
    total: int
    open: int
    acknowledged: int
    muted: int


class Summary(_Ranged):
    """The whole fleet. last: end of the newest window."""

    window_seconds: float
    price_per_gpu_hour: float | None
    simulated: bool
    last: datetime | None
    totals: Totals
    gpus: int
    jobs: int
    hosts: Counted
    findings: FindingCounts
    warnings: list[str]


class Evidence(_Open):
    signal: str
    value: float | str | None
    expected: float | str | None
    weight: float


class Scope(_Open):
    hosts: list[str]
    gpus: list[str]
    ranks: list[str | int]
    job: str | None
    resource: str | None


class About(_Open):
    """The finding as it was. end: null while it was open; hosts, gpus: where no job or resource tells."""

    cause: str
    job: str | None
    resource: str | None
    hosts: list[str]
    gpus: list[str]
    start: datetime
    end: datetime | None


class Note(_Open):
    """Something said about a finding; a note that undoes another names it."""

    id: str
    at: datetime
    who: str
    kind: Literal["acknowledge", "mute", "comment", "undo"]
    about: About
    text: str
    until: datetime | None
    undoes: str | None


class NewNote(BaseModel):
    """What to say. `for`, of a mute: how long, such as 30m, 4h or 7d."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    kind: Literal["acknowledge", "mute", "comment"]
    text: str = Field("", max_length=2000)
    for_: str | None = Field(None, alias="for", pattern=r"^[1-9]\d{0,3}[mhd]$")


class Standing(_Open):
    trouble: str = Field(description="the same in every range, also when the trouble comes back")
    key: str = Field(description="finds this episode of the trouble in every range; its end is the start")
    state: Literal["new", "acknowledged", "muted"]
    muted_until: datetime | None
    notes: list[Note]


class Finding(_Open):
    """A finding as `wellfed diagnose --json` has it, and what people said about it."""

    id: str
    cause: str
    scope: Scope
    start: datetime
    end: datetime | None
    detected: datetime
    severity: Literal["info", "warning", "critical"]
    lost_gpu_seconds: float
    cost: float | None
    confidence: float
    evidence_for: list[Evidence]
    evidence_against: list[Evidence]
    missing_signals: list[str]
    next_steps: list[str]
    runbook: str | None
    standing: Standing


class Gpu(_Open):
    host: str
    gpu: str
    index: str | None
    job: str | None
    covered_seconds: float
    lost_seconds: float
    au: float | None
    by_cause: dict[str, float]


class Job(_Open):
    job: str
    name: str | None
    user: str | None
    gpus: int
    covered_seconds: float
    lost_seconds: float
    au: float | None
    by_cause: dict[str, float]
    by_cause_root: dict[str, float]


class Host(_Open):
    """Means over the range, 0..1, and the newest window of the host."""

    host: str
    last: datetime
    gpus: int
    lost_seconds: float
    cpu_busy_ratio: float | None
    cpu_iowait_ratio: float | None
    psi_cpu_ratio: float | None
    psi_io_ratio: float | None
    psi_memory_ratio: float | None


class Coverage(_Ranged):
    class Share(_Open):
        table: str
        column: str
        share: float

    items: list[Share]


class Series(_Ranged):
    """Signals of a GPU. stamps: ends of bins in milliseconds since the epoch, null where nothing was told."""

    class Signal(_Open):
        name: str
        unit: str
        values: list[float | None]

    host: str
    gpu: str
    index: str | None
    step_seconds: float
    stamps: list[int]
    signals: list[Signal]
    waiting_on: list[str | None] = Field(
        description="family of causes in each bin, null for productive, `gap` for no data"
    )


class Problem(_Open):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
