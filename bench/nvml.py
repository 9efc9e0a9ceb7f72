"""What reading 8 GPUs costs, on the scripted driver of the tests: `python bench/nvml.py [seconds]`.

Prints the agent's side per read, the worker's share of a core with and without GPM, its memory, and how one
prepared nvmlDeviceGetFieldValues buffer compares with asking through pynvml each time. The scripted driver
answers at once, or takes the CPU that driver 580 was seen to take for an H100 (`make gpu` measures a real one).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from wellfed.collectors.nvml import Nvml
from wellfed.collectors.registry import Roots

SOURCE = Path(__file__).parents[1] / "tests/nvml/fake_nvml.c"
METRICS = (1, 2, 3, 5, 10, 20, 21, 60, 61)

FIELDS = """
import time, pynvml
from array import array
from wellfed.collectors.nvml_calls import Context
from wellfed.collectors.nvml_fields import EACH_TICK, Fields
from wellfed.collectors.nvml_page import NULLS, Writer, create
pynvml.nvmlInit()
context = Context(Writer(create()))
handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(8)]
prepared = [
    Fields(context, i, f"GPU-{i}", handle, EACH_TICK, name="fields") for i, handle in enumerate(handles)
]
row = array("d", NULLS)
ids = [entry.fieldId for entry in prepared[0]._buffer]
def best(what):
    times = []
    for _ in range(300):
        begin = time.perf_counter(); what(); times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2] * 1e6
a = best(lambda: [fields.tick(row, 1e6) for fields in prepared])
b = best(lambda: [[v.value.ullVal for v in pynvml.nvmlDeviceGetFieldValues(h, ids)] for h in handles])
print(f"fields of 8 GPUs: prepared and summed {a:.0f} us, through pynvml and raw {b:.0f} us")
"""


def cpu(pid: int) -> float:
    """User and system seconds of a process so far."""
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def measure(environment: dict[str, str], folder: Path, seconds: float) -> str:
    """Reads once a second, as the sampler does, and tells what both sides used."""
    roots = Roots(str(folder / "proc"), str(folder / "sys"))
    collector = Nvml(environment)
    try:
        while not collector.read(roots, time.time()):
            time.sleep(0.05)
        process = collector._watchdog._worker
        assert process is not None
        pid = process.process.pid
        begin, used, reads = time.monotonic(), cpu(pid), []
        while time.monotonic() - begin < seconds:
            start = time.perf_counter()
            collector.read(roots, time.time())
            reads.append(time.perf_counter() - start)
            time.sleep(1)
        share = (cpu(pid) - used) / (time.monotonic() - begin)
        status = Path(f"/proc/{pid}/status").read_text()
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    finally:
        collector.close()
    return (
        f"read {statistics.median(reads) * 1e6:.0f} us; worker {share:.2%} of a core, "
        f"{resident / 1024:.1f} MiB resident"
    )


def build(folder: Path, define: str) -> None:
    """Compiles the scripted driver."""
    library = str(folder / "libnvidia-ml.so.1")
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O2", "-DFIXED", define, "-o", library, str(SOURCE)], check=True
    )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        control = folder / "control"
        root = str(Path(__file__).parents[1])
        environment = dict(os.environ) | {
            "LD_LIBRARY_PATH": temporary,
            "FAKE_NVML_CONTROL": str(control),
            "PYTHONPATH": root,
        }
        training = "".join(f"metric:{metric} 40\n" for metric in METRICS)
        with_gpm, without = f"gpus 8\n{training}", "gpus 8\ngpm 0\n"
        for title, script, define in (
            ("as dear as an H100's, GPM at 10 Hz", with_gpm, "-DDEAR"),
            ("as dear as an H100's, without GPM", without, "-DDEAR"),
            ("GPM at 10 Hz", with_gpm, "-DFREE"),
            ("without GPM", without, "-DFREE"),
        ):
            build(folder, define)
            control.write_text(script)
            print(f"8 GPUs, {title}: {measure(environment, folder, seconds)}", flush=True)
        subprocess.run([sys.executable, "-c", FIELDS], env=environment, check=True)
    absent = Nvml({})
    absent.read(Roots(), 0.0)
    begin = time.perf_counter()
    for _ in range(1000):
        absent.read(Roots(), 0.0)
    print(f"no driver: {(time.perf_counter() - begin) * 1e3:.1f} us a read")


if __name__ == "__main__":
    main()
