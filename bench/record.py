"""Records injected faults on this machine and judges the analysis by them: the second half of `make gpu`.

    python bench/record.py --out tests/recordings          # every fault, on the first GPU, under eight minutes
    python bench/record.py --cpu --faults slow,cpu,healthy  # without a GPU

For each fault a real input pipeline (bench/pipeline.py) runs beside the agent's own collectors; its windows
become <out>/<device>-<fault>/<table>.parquet, with truth.json: cause, moment, and the seconds that the fault
cost by the loop's own rates. Exits with 1 where the analysis names another cause.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from pipeline import FAULTS

import wellfed
from wellfed.analysis.diagnose import diagnose
from wellfed.analysis.inputs import read_tables
from wellfed.collectors.agent import choose
from wellfed.collectors.registry import Roots
from wellfed.collectors.sampler import Sampler, Window
from wellfed.collectors.steps import Steps
from wellfed.frames import frames

HERE = Path(__file__).parent
#: The host's name in recordings: they are published.
HOST = "recorded"


def record(fault: str, out: Path, seconds: float, window: float, cpu: bool) -> Path:
    """Runs one fault beside the collectors. Returns its folder. Raises CalledProcessError."""
    windows: list[Window] = []
    # The fault's files lie beside the recordings: a temporary folder may be no disk.
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wellfed-record-") as scratch:
        socket = f"{scratch}/steps.sock"
        collectors = [c for c in choose(None) if c.name != "steps"] + [Steps(socket)]
        sampler = Sampler(collectors, Roots(), window, on_window=windows.append)
        # Threads of a BLAS that wait for each other are no part of any fault.
        environ = {"WELLFED_SOCKET": socket, "WELLFED_JOB": "recorded", "OPENBLAS_NUM_THREADS": "1"}
        sampler.start()
        try:
            command = [sys.executable, str(HERE / "pipeline.py"), fault, f"--seconds={seconds}"]
            command += [f"--fault-after={seconds * 0.35}", *(["--cpu"] if cpu else [])]
            said = subprocess.run(
                command, stdout=subprocess.PIPE, check=True, text=True, cwd=out, env=os.environ | environ
            )
        finally:
            sampler.stop()
    truth = _truth(fault, json.loads(said.stdout.splitlines()[-1]))
    device = re.sub(r"[^a-z0-9]+", "-", str(truth["device"]).lower()).strip("-")
    folder = out / f"{device}-{fault}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in _tables(windows).items():
        table.write_parquet(folder / f"{name}.parquet", compression="zstd")
    (folder / "truth.json").write_text(json.dumps(truth, indent=2) + "\n")
    return folder


def _truth(fault: str, told: dict[str, Any]) -> dict[str, Any]:
    fed = told["steps_per_second"]
    share = max(0.0, 1 - told["steps_per_second_in_fault"] / fed) if fed and FAULTS[fault] else 0.0
    return {
        "fault": fault,
        "cause": FAULTS[fault],
        "from": _iso(told["fault_from"]),
        "to": _iso(told["fault_to"]),
        "lost_seconds": share * (told["fault_to"] - told["fault_from"]),
        "device": told["device"],
        "steps_per_second": fed,
        "steps_per_second_in_fault": told["steps_per_second_in_fault"],
        "cpus": os.cpu_count(),
        "wellfed": wellfed.__version__,
    }


def _tables(windows: list[Window]) -> dict[str, pl.DataFrame]:
    parts: dict[str, list[pl.DataFrame]] = {}
    for window in windows:
        for name, table in frames(window, HOST).items():
            parts.setdefault(name, []).append(table)
    # Other jobs of the machine, and where it stands, are nobody's business.
    whole = {name: pl.concat(tables) for name, tables in parts.items() if name != "collector"}
    if "job" in whole:
        whole["job"] = (
            whole["job"].filter(pl.col("job") == "recorded").with_columns(user=pl.lit(None, pl.String))
        )
    return _anonymous(whole)


def _anonymous(tables: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """GPUs by number: their UUIDs are published as little as the host's name."""
    found = tables["gpu"]["gpu"].unique().sort() if "gpu" in tables else []
    names = {uuid: f"GPU-{number}" for number, uuid in enumerate(found)}
    return {
        name: table.with_columns(pl.col("gpu", "parent").replace(names))
        if name == "gpu"
        else table.with_columns(pl.col("gpu").replace(names))
        if "gpu" in table.columns
        else table
        for name, table in tables.items()
    }


def judge(folder: Path) -> dict[str, Any]:
    """The analysis of a recording beside its truth: cause, found, lost, wanted, right."""
    truth = json.loads((folder / "truth.json").read_text())
    totals = diagnose(read_tables(folder)).document
    causes = {f["cause"]: f["lost_gpu_seconds"] for f in totals["findings"]}
    first = max(causes, key=lambda cause: causes[cause]) if causes else None
    return {
        "recording": folder.name,
        "cause": truth["cause"],
        "found": first,
        "lost": totals["totals"]["lost_seconds"],
        "wanted": truth["lost_seconds"],
        "right": first == truth["cause"],
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def main() -> int:
    """Records and judges."""
    parser = argparse.ArgumentParser(description="Records injected faults and judges the analysis by them.")
    parser.add_argument("--out", type=Path, default=Path("tests/recordings"))
    parser.add_argument(
        "--faults", default="", help="separated by commas (default: all that this device has)"
    )
    parser.add_argument("--seconds", type=float, default=85.0, help="of each recording")
    parser.add_argument("--window", type=float, default=10.0, help="seconds of a window")
    parser.add_argument("--cpu", action="store_true", help="numpy in place of PyTorch and CUDA")
    arguments = parser.parse_args()
    if not arguments.cpu and not _cuda():
        print("recordings need torch with a CUDA device (pip install torch), or --cpu", file=sys.stderr)
        return 2
    # What is launched and copied matters only to a GPU.
    usual = ["healthy", "slow", "cpu"] if arguments.cpu else list(FAULTS)
    faults = [name for name in arguments.faults.split(",") if name] or usual
    for name in faults:
        if name not in FAULTS:
            print(f"no fault is called {name!r}; there are {', '.join(FAULTS)}", file=sys.stderr)
            return 2
    print(f"{'recording':<28}{'truth':<18}{'found':<18}{'lost s':>8}{'true s':>8}", flush=True)
    wrong = 0
    for name in faults:
        folder = record(name, arguments.out.absolute(), arguments.seconds, arguments.window, arguments.cpu)
        seen = judge(folder)
        wrong += not seen["right"]
        print(
            f"{seen['recording']:<28}{seen['cause'] or '-':<18}{seen['found'] or '-':<18}"
            f"{seen['lost']:>8.1f}{seen['wanted']:>8.1f}{'' if seen['right'] else '  WRONG'}",
            flush=True,
        )
    return 1 if wrong else 0


def _cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


if __name__ == "__main__":
    sys.exit(main())
