"""Judges the diagnosis on the public scenarios and writes docs/score.md: `python bench/score.py [seeds [views]]`.

Seeds are those that no curve was fitted on. Each scenario is simulated once and seen through every view.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from bench.baselines import baselines
from wellfed.analysis.causes import CAUSES
from wellfed.analysis.diagnose import diagnose
from wellfed.analysis.scenarios import SCENARIOS, Simulation, simulate
from wellfed.analysis.scenarios.artefacts import Artefacts, apply
from wellfed.analysis.score import HEALTHY, VIEWS, Summary, Trial, judge, label, summary, tables, truth_of

SEEDS = (101,)
PAGE = Path(__file__).parent.parent / "docs" / "score.md"
HEAD = """# How right the diagnosis is

Written by `make score` (seeds {seeds}, {count} scenarios, {gpus} GPUs). The scenarios are simulated
([analysis/scenarios](../analysis/scenarios)); truth is the same seed run again without the fault. A GPU's cause
is the one that took most of its time, `healthy` below 5 %. Lost-seconds error is the sum over GPUs and causes of
|said - true| over the sum of what was lost, so a second booked to the wrong cause counts twice. How a verdict is
made: [diagnosis.md](diagnosis.md). GPUs that are held but idle are a finding after five minutes by design, so
detection is also told without them; what is known to be missed: [limits.md](limits.md).

Bars: macro-F1 by cause at least 0.90 from node signals alone and 0.95 with the loop's own times; lost-seconds
error at most 10 %; detection within 40 s (p50) and 90 s (p95); at most 0.05 false alarms a healthy GPU-day;
culprit precision at least 0.95; calibration error at most 0.05.
"""

Labels = dict[str, list[str]]


def seen(simulation: Simulation, artefacts: Artefacts | None, seed: int) -> Simulation:
    """The simulation as a deployment with these defects would have recorded it."""
    return (
        simulation
        if artefacts is None
        else replace(simulation, tables=apply(simulation.tables, artefacts, seed))
    )


def one(task: tuple[str, int, Sequence[str]]) -> tuple[dict[str, Trial], Labels]:
    """A scenario under every view; and the families that the baselines and the truth tell, GPU by GPU."""
    name, seed, views = task
    simulation = simulate(name, seed=seed)
    flaw = int(np.random.default_rng([seed, len(name)]).integers(2**31))
    trials, labels = {}, {}
    for view in views:
        shown = seen(simulation, VIEWS[view], flaw)
        diagnosis = diagnose(tables(shown.tables))
        trials[view] = judge(diagnosis, shown, name)
        if view == "node":
            gpus = diagnosis.document["gpus"]
            truth = truth_of(simulation)
            keys = [(g["host"], g["gpu"]) for g in gpus]
            labels = {
                "truth": [
                    label(truth.get(k, {}), g["covered_seconds"]) for k, g in zip(keys, gpus, strict=True)
                ],
                "Wellfed, node signals": [label(g["by_cause"], g["covered_seconds"]) for g in gpus],
            }
            for method, said in baselines(simulation).items():
                labels[method] = [said.get(key, HEALTHY) for key in keys]
    return trials, labels


def family(cause: str) -> str:
    """Family of a cause; a family and `healthy` are their own."""
    return CAUSES[cause].family if cause in CAUSES else cause


def peers(labels: Labels) -> str:
    """Wellfed beside the baselines: sick GPUs found, and their family named."""
    truth = [family(t) for t in labels["truth"]]
    lines = [
        "| method | sick GPUs found | of those called sick, really | family named right |",
        "|---|---|---|---|",
    ]
    sick = sum(t != HEALTHY for t in truth)
    for method, said in labels.items():
        if method == "truth":
            continue
        named = [family(s) for s in said]
        both = sum(t != HEALTHY and s != HEALTHY for t, s in zip(truth, named, strict=True))
        called = sum(s != HEALTHY for s in named)
        right = sum(t != HEALTHY and t == s for t, s in zip(truth, named, strict=True))
        lines.append(f"| {method} | {both / sick:.1%} | {both / max(1, called):.1%} | {right / sick:.1%} |")
    return "\n".join(lines) + "\n"


def scores(found: Mapping[str, Summary]) -> str:
    """The views' scores as a Markdown table."""
    lines = [
        "| view | macro-F1 cause | family | lost error | total lost error | detect p50 s | p95 s | without idle.held | missed "
        "| false alarms a GPU-day | culprit precision | calibration error |\n|---|" + "---|" * 11
    ]
    lines += [
        f"| {view} | {s.cause_f1:.3f} | {s.family_f1:.3f} | {s.error:.1%} | {s.total_error:.1%} "
        f"| {s.delay_p50:.0f} | {s.delay_p95:.0f} | {s.prompt_p95:.0f} | {s.undetected:.1%} | {s.alarms_per_day:.2f} "
        f"| {s.culprit_precision:.2f} | {s.calibration:.3f} |"
        for view, s in found.items()
    ]
    return "\n".join(lines) + "\n"


def causes(found: Mapping[str, Summary]) -> str:
    """Precision and recall by cause of the first two views."""
    views = list(found)[:2]
    lines = [
        "| cause | GPUs | " + " | ".join(f"precision, {v} | recall, {v}" for v in views) + " |",
        "|---|---|" + "---|" * (2 * len(views)),
    ]
    for cause in sorted({c for v in views for c in found[v].by_cause}):
        each = [found[v].by_cause.get(cause, (0.0, 0.0, 0)) for v in views]
        cells = " | ".join(f"{p:.2f} | {r:.2f}" for p, r, _ in each)
        lines.append(f"| `{cause}` | {max(n for _, _, n in each)} | {cells} |")
    return "\n".join(lines) + "\n"


def worst(trials: Sequence[Trial], most: int = 8) -> str:
    """The scenarios that cost most seconds."""
    lines = ["| scenario | lost-seconds error | GPUs named otherwise |", "|---|---|---|"]
    for trial in sorted(trials, key=lambda t: -t.error)[:most]:
        pairs = Counter(f"{a} as {b}" for a, b in zip(trial.truth, trial.said, strict=True) if a != b)
        told = ", ".join(f"{count} {pair}" for pair, count in pairs.items()) or "none"
        lines.append(f"| {trial.scenario} | {trial.error / (trial.lost or 1):.0%} | {told} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs all scenarios and writes the page."""
    seeds = [int(s) for s in sys.argv[1].split(",")] if len(sys.argv) > 1 else list(SEEDS)
    views = sys.argv[2].split(",") if len(sys.argv) > 2 else list(VIEWS)
    found: dict[str, list[Trial]] = {view: [] for view in views}
    labels: Labels = {}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for trials, told in pool.map(one, [(n, s, views) for s in seeds for n in SCENARIOS], chunksize=2):
            for view, trial in trials.items():
                found[view].append(trial)
            for method, each in told.items():
                labels.setdefault(method, []).extend(each)
    sums = {view: summary(trials) for view, trials in found.items()}
    gpus = sum(len(t.truth) for t in found[views[0]])
    head = HEAD.format(seeds=", ".join(map(str, seeds)), count=len(SCENARIOS), gpus=gpus)
    text = "\n".join(
        [head, scores(sums), "## Beside common practice\n", peers(labels), "## By cause\n", causes(sums)]
        + [f"## What costs most, {v}\n\n{worst(found[v])}" for v in views[:2]]
    )
    PAGE.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
