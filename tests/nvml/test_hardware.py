"""What the collector says of a real GPU beside work of a known size: units, and that nothing is missing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from programs import until

from tests.nvml.conftest import ROOT
from tests.nvml.cuda import Cuda, NoDeviceError
from wellfed.collectors.nvml import Nvml
from wellfed.collectors.registry import Roots, Row

pytestmark = pytest.mark.gpu
GIBI = 1 << 30


class Gpu:
    """A real GPU: read() as the sampler would; grown() is what a piece of work added to each counter."""

    def __init__(self, cuda: Cuda, collector: Nvml) -> None:
        self.cuda = cuda
        self._collector = collector

    def read(self) -> Row:
        """Its row, after a whole tick of the worker: what was done before is in it."""
        time.sleep(1.5)
        rows = self._collector.read(Roots(), time.time())
        return min(rows, key=lambda row: int(row.info["index"] or 0))

    def grown(self, work: Callable[[], object]) -> dict[str, float]:
        """Growth of every number over the work, `wall` its own seconds, `between` those between the reads."""
        before, first = self.read().values, time.monotonic()
        begin = time.monotonic()
        work()
        wall = time.monotonic() - begin
        after, last = self.read().values, time.monotonic()
        told = {name: value - (before.get(name) or 0.0) for name, value in after.items() if value is not None}
        print({name: round(value, 3) for name, value in told.items() if value})
        return told | {"wall": wall, "between": last - first}


@pytest.fixture(scope="module")
def gpu() -> Iterator[Gpu]:
    try:
        cuda = Cuda()
    except (OSError, NoDeviceError) as error:
        # Without a GPU alone: a driver that refuses something else fails the tests.
        pytest.skip(f"no CUDA device: {error}")
    collector = Nvml()
    gpu = Gpu(cuda, collector)
    until(lambda: collector.read(Roots(), time.time()), 60, what="the driver answers")
    yield gpu
    collector.close()


def test_copies_over_pcie_are_counted_in_bytes(gpu: Gpu) -> None:
    there = gpu.grown(lambda: gpu.cuda.copy(GIBI, 40, to_device=True))
    assert 40 * GIBI * 0.97 <= there["pcie_rx_bytes"] <= 40 * GIBI * 1.25
    back = gpu.grown(lambda: gpu.cuda.copy(GIBI, 40, to_device=False))
    assert 40 * GIBI * 0.97 <= back["pcie_tx_bytes"] <= 40 * GIBI * 1.25


def test_one_resident_block_is_active_and_spins(gpu: Gpu) -> None:
    grown = gpu.grown(lambda: gpu.cuda.spin(4.0, blocks=1))
    assert grown["active_seconds"] == pytest.approx(4.0, abs=0.3)
    assert grown["spin_seconds"] == pytest.approx(4.0, abs=0.4)
    assert grown["sm_active_seconds"] == pytest.approx(4.0 / gpu.cuda.processors, rel=0.3)
    assert grown["observed_seconds"] == pytest.approx(grown["between"], abs=0.6)


def test_a_block_on_every_processor_is_sm_activity(gpu: Gpu) -> None:
    grown = gpu.grown(lambda: gpu.cuda.spin(4.0, blocks=gpu.cuda.processors))
    assert grown["sm_active_seconds"] == pytest.approx(4.0, abs=0.4)
    assert grown["spin_seconds"] == pytest.approx(0.0, abs=0.3)
    assert grown["idle_seconds"] == pytest.approx(grown["between"] - 4.0, abs=0.6)


def test_energy_is_power_over_time(gpu: Gpu) -> None:
    grown = gpu.grown(lambda: gpu.cuda.spin(3.0, blocks=gpu.cuda.processors))
    power = gpu.read().values["power_watts"]
    assert power is not None
    assert 0.5 * power <= grown["energy_joules"] / grown["between"] <= 4 * power


def test_memory_and_its_holder_are_known(gpu: Gpu) -> None:
    held = gpu.cuda.hold(4 * GIBI)
    try:
        row = gpu.read()
        with_it = row.values["memory_used_bytes"]
        assert (row.values["processes"] or 0) >= 1
    finally:
        gpu.cuda.give(held)
    without = gpu.read().values["memory_used_bytes"]
    assert with_it is not None
    assert without is not None
    assert with_it - without == pytest.approx(4 * GIBI, rel=0.02)


def test_a_stray_write_is_an_xid(gpu: Gpu) -> None:
    before = gpu.read().values["xid_errors"]
    environment = os.environ | {"PYTHONPATH": ROOT}
    subprocess.run([sys.executable, "-m", "tests.nvml.cuda"], env=environment, check=True, timeout=60)
    after = gpu.read().values
    assert (after["xid_errors"] or 0) - (before or 0) >= 1
    assert after["xid_last"] in (13, 31, 43)
