"""A PyTorch training loop fed by a slow, a CPU-bound or a healthy DataLoader. Run it beside `wellfed up`.

    python examples/torch_loop.py slow      # samples are read past the page cache: the disk is named
    python examples/torch_loop.py cpu       # decoding saturates the CPU
    python examples/torch_loop.py healthy   # nothing to find

Needs torch and numpy; uses a GPU where there is one. Within a minute the dashboard names the cause.
"""

from __future__ import annotations

import argparse
import mmap
import os
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import wellfed

BATCH = 64
FEATURES = 512
#: Bytes of the file that the slow loader reads from, and small reads a sample.
SIZE = 64 << 20
READS = 20


class Slow(Dataset[torch.Tensor]):
    """Each sample is read in small pieces from all over a file that the page cache may not keep."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> torch.Tensor:
        place = np.random.default_rng(index)
        file = os.open(self._path, os.O_RDONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, 4096) as page:
                for at in place.integers(0, SIZE >> 12, READS):
                    os.preadv(file, [page], int(at) << 12)
        finally:
            os.close(file)
        return torch.from_numpy(place.standard_normal(FEATURES, dtype=np.float32))


class Decode(Dataset[torch.Tensor]):
    """Each sample costs a good deal of one core."""

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> torch.Tensor:
        image = np.random.default_rng(index).standard_normal((128, FEATURES))
        for _ in range(6):
            image = np.fft.ifft2(np.fft.fft2(image)).real
        return torch.from_numpy(image[0].astype(np.float32))


class Healthy(Dataset[torch.Tensor]):
    """Samples that are in memory already."""

    def __init__(self) -> None:
        self._samples = torch.randn(4096, FEATURES)

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._samples[index % 4096]


def loaders(kind: str, folder: str) -> DataLoader[torch.Tensor]:
    """The loader of that kind. folder: where the slow one may keep its file."""
    if kind == "healthy":
        return DataLoader(Healthy(), batch_size=BATCH)
    if kind == "cpu":
        # A worker a core, and the loop itself: more runnable processes than can run.
        return DataLoader(Decode(), batch_size=BATCH, num_workers=os.cpu_count() or 1)
    path = os.path.join(folder, "samples")
    with open(path, "wb") as file:
        file.write(os.urandom(SIZE))
        file.flush()
        os.fsync(file.fileno())
    return DataLoader(Slow(path), batch_size=BATCH, num_workers=1)


def until(loader: DataLoader[torch.Tensor], seconds: float) -> Iterator[torch.Tensor]:
    """Batches until the time is up."""
    end = time.monotonic() + seconds
    for batch in loader:
        yield batch
        if time.monotonic() > end:
            return


def train(loader: Iterator[torch.Tensor], device: str) -> float:
    """A small network, one step a batch. Returns the last loss."""
    model = nn.Sequential(nn.Linear(FEATURES, 1024), nn.ReLU(), nn.Linear(1024, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss = torch.zeros(())
    for batch in wellfed.watch(loader):
        with wellfed.step(samples=len(batch)):
            with wellfed.phase("h2d"):
                inputs = batch.to(device, non_blocking=True)
            for _ in range(4):
                optimizer.zero_grad(set_to_none=True)
                loss = nn.functional.mse_loss(model(inputs), inputs[:, :1])
                loss.backward()
                optimizer.step()
    return float(loss.detach())


def main() -> None:
    """Trains for the given time."""
    parser = argparse.ArgumentParser(description="A PyTorch loop for Wellfed to watch.")
    parser.add_argument("loader", choices=("slow", "cpu", "healthy"))
    parser.add_argument("--seconds", type=float, default=120)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory(prefix="wellfed-example-", dir=".") as folder:
        loss = train(until(loaders(arguments.loader, folder), arguments.seconds), device)
    print(f"loss {loss:.4f} on {device}; {wellfed.totals()}")


if __name__ == "__main__":
    main()
