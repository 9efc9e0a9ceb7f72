"""A training loop without a GPU, fed by a slow, a CPU-bound or a healthy loader. Run it beside `wellfed up`.

    python examples/cpu_loop.py slow      # reads come late: the page names the loader's storage or network
    python examples/cpu_loop.py cpu       # decoding saturates the CPU
    python examples/cpu_loop.py healthy   # nothing to find

Needs numpy only. Within a minute the dashboard names the cause.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator

import numpy as np

import wellfed

BATCH = 64
FEATURES = 512


def slow(stop: float) -> Iterator[np.ndarray]:
    """Reads each batch past the page cache, a little at a time, so that the device is what is waited for."""
    with tempfile.NamedTemporaryFile(dir=".", prefix="wellfed-example-") as data:
        data.write(os.urandom(64 << 20))
        data.flush()
        os.fsync(data.fileno())
        descriptor = os.open(data.name, os.O_RDONLY)
        place = np.random.default_rng(1)
        while time.monotonic() < stop:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            for _ in range(600):
                os.pread(descriptor, 4096, int(place.integers(0, 64 << 20)) & ~4095)
            yield place.standard_normal((BATCH, FEATURES), dtype=np.float32)
        os.close(descriptor)


def decode(seed: int) -> np.ndarray:
    """What an augmentation costs: a good deal of one core."""
    place = np.random.default_rng(seed)
    image = place.standard_normal((BATCH, FEATURES))
    for _ in range(60):
        image = np.fft.ifft2(np.fft.fft2(image)).real
    return image.astype(np.float32)


def cpu(stop: float) -> Iterator[np.ndarray]:
    """Decodes with one worker more than there are cores: more runnable threads than can run."""
    with multiprocessing.get_context("spawn").Pool((os.cpu_count() or 1) + 1) as pool:
        seeds = iter(range(10**9))
        pending = [pool.apply_async(decode, (next(seeds),)) for _ in range(2 * (os.cpu_count() or 1) + 2)]
        while time.monotonic() < stop:
            batch = pending.pop(0).get()
            pending.append(pool.apply_async(decode, (next(seeds),)))
            yield batch


def healthy(stop: float) -> Iterator[np.ndarray]:
    """A batch is always there."""
    place = np.random.default_rng(1)
    batches = [place.standard_normal((BATCH, FEATURES), dtype=np.float32) for _ in range(8)]
    turn = 0
    while time.monotonic() < stop:
        turn += 1
        yield batches[turn % len(batches)]


def train(loader: Iterator[np.ndarray]) -> float:
    """Logistic regression, one step a batch."""
    weights = np.zeros(FEATURES, dtype=np.float32)
    loss = 0.0
    for batch in wellfed.watch(loader):
        with wellfed.step(samples=len(batch)):
            for _ in range(40):
                guess = 1 / (1 + np.exp(-batch @ weights))
                wanted = (batch[:, 0] > 0).astype(np.float32)
                weights -= 0.01 * batch.T @ (guess - wanted) / len(batch)
                loss = float(np.mean((guess - wanted) ** 2))
    return loss


def main() -> None:
    """Trains for the given time."""
    parser = argparse.ArgumentParser(description="A training loop for Wellfed to watch.")
    parser.add_argument("loader", choices=("slow", "cpu", "healthy"))
    parser.add_argument("--seconds", type=float, default=120)
    arguments = parser.parse_args()
    loaders = {"slow": slow, "cpu": cpu, "healthy": healthy}
    loss = train(loaders[arguments.loader](time.monotonic() + arguments.seconds))
    print(f"loss {loss:.4f}; {wellfed.totals()}")


if __name__ == "__main__":
    main()
