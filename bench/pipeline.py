"""A training job with an input pipeline that goes wrong at a known moment: the workload of bench/record.py.

    python bench/pipeline.py slow --seconds 80 --fault-after 30

With CUDA it is PyTorch: DataLoader workers, pinned memory, copies, bfloat16 matrix products. With --cpu, numpy
and worker processes stand in, and the same loop, data and faults run without a GPU or torch. It prints one
line of JSON: when the fault was, and how many steps a second ran before and during it.
"""

from __future__ import annotations

import argparse
import json
import mmap
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

import wellfed

#: Fault -> the cause that the analysis ought to name, None for none.
FAULTS: dict[str, str | None] = {
    "healthy": None,
    "slow": "storage.read",
    "cpu": "cpu.preprocess",
    "launch": "host.launch",
    "copies": "pcie.copy",
}
BATCH = 32
FEATURES = 1024
#: Bytes of the file behind the slow loader, and seconds that a batch of it waits for the disk.
SIZE = 256 << 20
STALL = 0.3
#: Fourier transforms that a sample costs the CPU-bound loader.
TRANSFORMS = 12


class Samples:
    """What a loader's worker does for one sample; from `at` (CLOCK_MONOTONIC) on, with the fault."""

    def __init__(self, fault: str, at: float, path: str) -> None:
        self._fault = fault
        self._at = at
        self._path = path
        self._image = np.random.default_rng(7).standard_normal((128, FEATURES))
        self._reads = 1
        if fault == "slow":
            begin = time.monotonic()
            for index in range(200):
                self._read(index)
            # Some disks are twenty times as fast as others.
            self._reads = round(STALL / BATCH / ((time.monotonic() - begin) / 200)) + 1

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> np.ndarray:
        if time.monotonic() >= self._at:
            if self._fault == "slow":
                self._read(index)
            elif self._fault == "cpu":
                image = self._image
                for _ in range(TRANSFORMS):
                    image = np.fft.ifft2(np.fft.fft2(image)).real
        return self._image[index % 128].astype(np.float32)

    def _read(self, index: int) -> None:
        """Small reads past the page cache, one after the other."""
        file = os.open(self._path, os.O_RDONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, 4096) as page:
                for at in np.random.default_rng(index).integers(0, SIZE >> 12, self._reads):
                    os.preadv(file, [page], int(at) << 12)
        finally:
            os.close(file)


class Device(Protocol):
    """What computes. The loop is the same for all."""

    name: str

    def batches(self, samples: Samples, workers: int) -> Iterator[Any]: ...
    def copy(self, batch: Any) -> Any: ...
    def train(self, inputs: Any) -> None: ...
    def tiny_kernels(self) -> None: ...
    def large_copies(self) -> None: ...


class Cpu:
    """numpy, and worker processes that prefetch two batches each."""

    name = "cpu"

    def __init__(self) -> None:
        place = np.random.default_rng(1)
        self._weights = place.standard_normal((FEATURES, FEATURES), dtype=np.float32)
        self._block = np.ones(8 << 20, dtype=np.uint8)

    def batches(self, samples: Samples, workers: int) -> Iterator[np.ndarray]:
        context = multiprocessing.get_context("fork")
        with context.Pool(workers, initializer=_own, initargs=(samples,)) as pool:
            pending = [pool.apply_async(_batch, (n,)) for n in range(2 * workers)]
            number = len(pending)
            while True:
                yield pending.pop(0).get()
                pending.append(pool.apply_async(_batch, (number,)))
                number += 1

    def copy(self, batch: np.ndarray) -> np.ndarray:
        return batch.copy()

    def train(self, inputs: np.ndarray) -> None:
        for _ in range(8):
            inputs = np.tanh(inputs @ self._weights / FEATURES)

    def tiny_kernels(self) -> None:
        small = self._weights[:8, :8]
        for _ in range(20_000):
            small = small + 1

    def large_copies(self) -> None:
        for _ in range(20):
            self._block.copy()


_samples: list[Samples] = []


def _own(samples: Samples) -> None:
    _samples[:] = [samples]


def _batch(number: int) -> np.ndarray:
    return np.stack([_samples[0][BATCH * number + i] for i in range(BATCH)])


class Cuda:
    """PyTorch on the first GPU."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        torch.cuda.set_device(0)
        self.name = torch.cuda.get_device_name(0)
        self._weights = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
        self._lift = torch.randn(FEATURES, 8192, device="cuda", dtype=torch.bfloat16)
        self._small = torch.zeros(64, device="cuda")
        self._host = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
        self._there = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")

    def batches(self, samples: Samples, workers: int) -> Iterator[Any]:
        loader = self._torch.utils.data.DataLoader
        return iter(loader(samples, batch_size=BATCH, num_workers=workers, pin_memory=True))  # type: ignore[arg-type]

    def copy(self, batch: Any) -> Any:
        return batch.to("cuda", non_blocking=True).to(self._torch.bfloat16)

    def train(self, inputs: Any) -> None:
        hidden = (inputs @ self._lift).repeat(128, 1)
        for _ in range(40):
            hidden = self._torch.tanh(hidden @ self._weights / 8192)
        # As a loop that logs its loss does.
        float(hidden.sum())

    def tiny_kernels(self) -> None:
        for _ in range(20_000):
            self._small.add_(1.0)
        self._torch.cuda.synchronize()

    def large_copies(self) -> None:
        for _ in range(6):
            self._there.copy_(self._host, non_blocking=True)
        self._torch.cuda.synchronize()


def run(fault: str, device: Device, seconds: float, after: float, folder: str) -> dict[str, Any]:
    """Trains for the given time; the fault begins `after` seconds after the first step."""
    path = os.path.join(folder, "samples")
    if fault == "slow":
        with open(path, "wb") as file:
            for _ in range(SIZE >> 24):
                file.write(os.urandom(1 << 24))
            file.flush()
            os.fsync(file.fileno())
    cores = len(os.sched_getaffinity(0))
    workers = {"slow": 1, "cpu": cores + max(1, cores // 2)}.get(fault, min(4, cores))
    # The workers start with the moment of the fault in them; a second goes into their start.
    at = time.monotonic() + after + 1.0
    clock = time.time() - time.monotonic()
    batches = device.batches(Samples(fault, at, path), workers)
    before: list[float] = []
    during: list[float] = []
    for batch in wellfed.watch(batches):
        with wellfed.step(samples=BATCH):
            with wellfed.phase("h2d"):
                inputs = device.copy(batch)
                if fault == "copies" and time.monotonic() >= at:
                    device.large_copies()
            device.train(inputs)
            if fault == "launch" and time.monotonic() >= at:
                device.tiny_kernels()
        now = time.monotonic()
        (during if now >= at else before).append(now)
        if now >= at - after + seconds:
            break
    end = time.monotonic()
    return {
        "device": device.name,
        "fault_from": at + clock,
        "fault_to": end + clock,
        "steps_per_second": _rate(before),
        "steps_per_second_in_fault": len(during) / (end - at),
    }


def _rate(times: list[float]) -> float:
    """Of the second half: the first steps warm up."""
    late = times[len(times) // 2 :]
    return (len(late) - 1) / (late[-1] - late[0]) if len(late) > 1 else 0.0


def main() -> None:
    """Runs one fault and prints its truth."""
    parser = argparse.ArgumentParser(description="A training job whose input goes wrong.")
    parser.add_argument("fault", choices=FAULTS)
    parser.add_argument("--seconds", type=float, default=85.0)
    parser.add_argument("--fault-after", type=float, default=30.0)
    parser.add_argument("--cpu", action="store_true", help="numpy in place of PyTorch and CUDA")
    arguments = parser.parse_args()
    device: Device = Cpu() if arguments.cpu else Cuda()
    with tempfile.TemporaryDirectory(prefix="wellfed-pipeline-", dir=".") as folder:
        truth = run(arguments.fault, device, arguments.seconds, arguments.fault_after, folder)
    print(json.dumps(truth), flush=True)


if __name__ == "__main__":
    main()
