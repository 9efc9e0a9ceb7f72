"""How right the diagnosis is: its answer beside the truth of the simulated scenarios.

One `Trial` is one scenario under one seed and one view (which sensors exist). A GPU's cause is the one that
took most of its time, `healthy` when less than 5 % was lost. macro-F1 averages over the causes that occur.
Lost-seconds error = sum |A - A*| / sum L* over GPUs and causes. Delay = `detected` minus the start of the
first window in which the cause took a tenth. A false alarm is a finding on a GPU of a healthy scenario.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import polars as pl

from wellfed.analysis.causes import CAUSES
from wellfed.analysis.diagnose import Diagnosis
from wellfed.analysis.scenarios import SCENARIOS, Artefacts, Simulation
from wellfed.analysis.schema import schema
from wellfed.collectors.catalog import TABLES

__all__ = ["HEALTHY", "VIEWS", "Summary", "Trial", "judge", "label", "summary", "tables", "truth_of"]

HEALTHY = "healthy"
#: A GPU that lost less of its covered time is healthy.
LEAST_LOST = 0.05
#: Causes that are by design no finding for minutes; their delays are kept apart.
PATIENT = ("idle.held",)
#: Share of a window from which a cause is there to be detected.
ONSET = 0.1

#: What is measured. `step` = everything; the others are ablations and flawed deployments.
VIEWS: Mapping[str, Artefacts | None] = {
    "step": None,
    "node": Artefacts(no_step=True),
    "no GPM": Artefacts(no_step=True, no_gpm=True),
    "no pressure": Artefacts(no_step=True, no_pressure=True),
    "flawed": Artefacts(no_step=True, dropped=0.03, jitter_seconds=1.5, skew_seconds=3.0, restarts=1),
    "30 s scrapes": Artefacts(no_step=True, every=3),
}


@dataclass(slots=True)
class Trial:
    """One answer judged. truth, said: cause of each GPU in the same order. claims: (confidence, right).

    delays: seconds until detection; patient: those of causes that take minutes by design.
    """

    scenario: str
    truth: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    error: float = 0.0
    total_error: float = 0.0
    lost: float = 0.0
    delays: list[float] = field(default_factory=list)
    patient: list[float] = field(default_factory=list)
    undetected: int = 0
    alarms: int = 0
    healthy_days: float = 0.0
    culprits_right: int = 0
    culprits_said: int = 0
    claims: list[tuple[float, bool]] = field(default_factory=list)


def label(by_cause: Mapping[str, float], covered: float) -> str:
    """The cause that took most of a GPU's time, HEALTHY below LEAST_LOST."""
    lost = sum(by_cause.values())
    return max(by_cause, key=lambda c: by_cause[c]) if lost >= LEAST_LOST * covered > 0 else HEALTHY


def truth_of(simulation: Simulation) -> dict[tuple[str, str], dict[str, float]]:
    """Seconds really lost by cause, for each (host, gpu)."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    summed = simulation.truth.group_by("host", "gpu", "cause").agg(pl.col("lost_seconds").sum())
    for host, gpu, cause, lost in summed.iter_rows():
        found.setdefault((host, gpu), {})[cause] = lost
    return found


def judge(diagnosis: Diagnosis, simulation: Simulation, scenario: str = "") -> Trial:
    """The diagnosis of a simulation beside its truth."""
    trial = Trial(scenario)
    truth = truth_of(simulation)
    healthy = not truth or bool(scenario and SCENARIOS[scenario].healthy)
    for gpu in diagnosis.document["gpus"]:
        actual = truth.get((gpu["host"], gpu["gpu"]), {})
        claimed: dict[str, float] = gpu["by_cause"]
        trial.truth.append(label(actual, gpu["covered_seconds"]))
        trial.said.append(label(claimed, gpu["covered_seconds"]))
        trial.error += sum(abs(actual.get(c, 0) - claimed.get(c, 0)) for c in {*actual, *claimed})
        trial.total_error += abs(sum(actual.values()) - sum(claimed.values()))
        trial.lost += sum(actual.values())
    findings = diagnosis.document["findings"]
    if healthy:
        trial.healthy_days = sum(g["covered_seconds"] for g in diagnosis.document["gpus"]) / 86400
        trial.alarms = sum(len(f["scope"]["gpus"]) for f in findings)
    _detection(trial, findings, simulation)
    _blame(trial, findings, simulation)
    return trial


def _detection(trial: Trial, findings: Sequence[Mapping[str, object]], simulation: Simulation) -> None:
    window = timedelta(seconds=diagnosed_window(simulation))
    big = simulation.truth.filter(pl.col("lost_seconds") >= ONSET * window.total_seconds())
    first = big.group_by("job", "cause").agg(pl.col("ts").min(), pl.len(), pl.col("gpu").unique())
    for _, cause, ts, count, gpus in first.iter_rows():
        if count < 4 * len(gpus):
            continue
        told = [
            datetime.fromisoformat(str(f["detected"]))
            for f in findings
            if f["cause"] == cause
            and set(_scope(f)) & set(gpus)
            and (f["end"] is None or datetime.fromisoformat(str(f["end"])) > ts - window)
        ]
        if told:
            late = (min(told) - (ts - window)).total_seconds()
            (trial.patient if cause in PATIENT else trial.delays).append(late)
        else:
            trial.undetected += 1


def diagnosed_window(simulation: Simulation) -> float:
    """Seconds of the truth's windows."""
    gap = simulation.truth["ts"].unique().sort().diff().min() if simulation.truth.height else None
    return gap.total_seconds() if isinstance(gap, timedelta) else 10.0


def _scope(finding: Mapping[str, object]) -> list[str]:
    scope = finding["scope"]
    assert isinstance(scope, dict)
    return list(scope["gpus"])


def _blame(trial: Trial, findings: Sequence[Mapping[str, object]], simulation: Simulation) -> None:
    guilty = set(simulation.culprits["gpu"].drop_nulls().to_list())
    for finding in findings:
        cause = str(finding["cause"])
        begin = datetime.fromisoformat(str(finding["start"]))
        stop = datetime.fromisoformat(str(finding["end"])) if finding["end"] else simulation.end
        about = simulation.truth.filter(
            pl.col("gpu").is_in(_scope(finding)) & pl.col("ts").is_between(begin, stop)
        )
        mine = about.filter(pl.col("cause") == cause)["lost_seconds"].sum()
        right = float(mine) >= 0.5 * float(about["lost_seconds"].sum()) and mine > 0
        confidence = finding["confidence"]
        assert isinstance(confidence, float)
        trial.claims.append((confidence, bool(right)))
        blamed = finding["culprits"]
        assert isinstance(blamed, dict)
        if cause == "straggler":
            trial.culprits_said += len(blamed["gpus"])
            trial.culprits_right += len(guilty & set(blamed["gpus"]))


@dataclass(frozen=True, slots=True)
class Summary:
    """Scores over trials; shares are 0..1, delays seconds. prompt_p95: without the patient causes."""

    cause_f1: float
    family_f1: float
    error: float
    total_error: float
    delay_p50: float
    delay_p95: float
    prompt_p95: float
    undetected: float
    alarms_per_day: float
    culprit_precision: float
    calibration: float
    by_cause: Mapping[str, tuple[float, float, int]]


def _f1(truth: Sequence[str], said: Sequence[str]) -> dict[str, tuple[float, float, int]]:
    """Precision, recall and number of true ones of each label that occurs in truth, healthy left out."""
    hits = Counter(t for t, s in zip(truth, said, strict=True) if t == s)
    actual, claimed = Counter(truth), Counter(said)
    return {
        c: (hits[c] / claimed[c] if claimed[c] else 0.0, hits[c] / actual[c], actual[c])
        for c in sorted(actual)
        if c != HEALTHY
    }


def _macro(scores: Iterable[tuple[float, float, int]]) -> float:
    each = [2 * p * r / (p + r) if p + r else 0.0 for p, r, _ in scores]
    return statistics.fmean(each) if each else math.nan


def _family(cause: str) -> str:
    return CAUSES[cause].family if cause in CAUSES else cause


def _quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else math.nan


def _calibration(claims: Sequence[tuple[float, bool]], bins: int = 10) -> float:
    """Expected calibration error: mean distance of confidence and share of right findings over bins."""
    total = 0.0
    for index in range(bins):
        inside = [(c, r) for c, r in claims if min(int(c * bins), bins - 1) == index]
        if inside:
            total += abs(sum(c for c, _ in inside) - sum(r for _, r in inside))
    return total / len(claims) if claims else math.nan


def summary(trials: Sequence[Trial]) -> Summary:
    """All trials of one view put together."""
    truth = [t for trial in trials for t in trial.truth]
    said = [s for trial in trials for s in trial.said]
    lost = sum(t.lost for t in trials)
    prompt = [d for t in trials for d in t.delays]
    delays = prompt + [d for t in trials for d in t.patient]
    missed = sum(t.undetected for t in trials)
    blamed = sum(t.culprits_said for t in trials)
    by_cause = _f1(truth, said)
    families = _f1([_family(t) for t in truth], [_family(s) for s in said])
    return Summary(
        cause_f1=_macro(by_cause.values()),
        family_f1=_macro(families.values()),
        error=sum(t.error for t in trials) / lost if lost else math.nan,
        total_error=sum(t.total_error for t in trials) / lost if lost else math.nan,
        delay_p50=_quantile(delays, 0.5),
        delay_p95=_quantile(delays, 0.95),
        prompt_p95=_quantile(prompt, 0.95),
        undetected=missed / (missed + len(delays)) if missed + len(delays) else math.nan,
        alarms_per_day=sum(t.alarms for t in trials) / (sum(t.healthy_days for t in trials) or math.nan),
        culprit_precision=sum(t.culprits_right for t in trials) / blamed if blamed else math.nan,
        calibration=_calibration([c for t in trials for c in t.claims]),
        by_cause=by_cause,
    )


def tables(frames: Mapping[str, pl.DataFrame]) -> dict[str, pl.LazyFrame]:
    """Frames as `diagnose` wants them: every table of the catalog."""
    return {n: frames[n].lazy() if n in frames else pl.LazyFrame(schema=schema(t)) for n, t in TABLES.items()}
