"""A scripted libnvidia-ml.so.1, compiled once a session, and a collector that is told to use it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wellfed.collectors.nvml import Nvml
from wellfed.collectors.registry import Roots, Row

#: Of the repository, for processes that tests start.
ROOT = str(Path(__file__).parents[2])
SOURCE = Path(__file__).with_name("fake_nvml.c")

#: Metrics of a GPU that trains: graphics 80 %, SM 50 %, occupancy 30 %, tensor 20 %, DRAM 40 %, PCIe, NVLink.
TRAINING = {1: 80, 2: 50, 3: 30, 5: 20, 10: 40, 20: 100, 21: 200, 60: 300, 61: 400}


def compile_library(folder: Path, *defines: str) -> Path:
    options = [
        "-shared",
        "-fPIC",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wl,-soname,libnvidia-ml.so.1",
        *defines,
    ]
    subprocess.run(["gcc", *options, "-o", str(folder / "libnvidia-ml.so.1"), str(SOURCE)], check=True)
    return folder


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a driver library of today."""
    return compile_library(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="session")
def old_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a driver library that lacks GPM and the newer spellings."""
    return compile_library(tmp_path_factory.mktemp("old-driver"), "-DOLD_DRIVER")


class Node:
    """A machine with the scripted driver. Reads go on while a test waits, as the sampler's would."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.roots = Roots(proc=str(folder / "proc"), sys=str(folder / "sys"))
        self.log = folder / "log"
        self._control = folder / "control"
        self._script: dict[str, object] = {f"metric:{m}": v for m, v in TRAINING.items()}
        self.script()
        self.environment = dict(os.environ) | {
            "LD_LIBRARY_PATH": str(library),
            "FAKE_NVML_CONTROL": str(self._control),
            "FAKE_NVML_LOG": str(self.log),
        }
        self.collector = Nvml(self.environment, hang=0.8, opening=4.0, tick=0.1, retry=0.02)
        self.slowest = 0.0

    def script(self, changes: dict[str, object] | None = None, **more: object) -> None:
        """Changes what the driver does; None takes a line back."""
        self._script |= (changes or {}) | more
        lines = [f"{key} {value}\n" for key, value in self._script.items() if value is not None]
        fresh = self._control.with_suffix(".new")
        fresh.write_text("".join(lines))
        fresh.replace(self._control)

    def read(self) -> dict[str, Row]:
        begin = time.perf_counter()
        rows = self.collector.read(self.roots, time.time())
        self.slowest = max(self.slowest, time.perf_counter() - begin)
        return {row.key[0]: row for row in rows}

    def until(self, satisfied: Callable[[dict[str, Row]], object], seconds: float = 15.0) -> dict[str, Row]:
        """Reads until the rows satisfy; fails with what was last seen."""
        deadline = time.monotonic() + seconds
        while True:
            rows = self.read()
            if satisfied(rows):
                return rows
            assert time.monotonic() < deadline, (self.collector.reason, rows)
            time.sleep(0.01)

    def worker(self) -> int:
        """PID of the worker."""
        process = self.collector._watchdog._worker
        assert process is not None
        return process.process.pid

    def calls(self) -> list[tuple[str, int]]:
        """(function, GPU) of every call into the driver so far."""
        if not self.log.exists():
            return []
        return [(name, int(gpu)) for name, gpu in map(str.split, self.log.read_text().splitlines())]

    def put(self, root: str, path: str, text: str) -> Path:
        """Writes a file below one of the roots ("proc" or "sys")."""
        file = Path(getattr(self.roots, root)) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file


@pytest.fixture
def node(tmp_path: Path, driver: Path) -> Iterator[Node]:
    node = Node(tmp_path, driver)
    yield node
    node.collector.close()


@pytest.fixture
def old_node(tmp_path: Path, old_driver: Path) -> Iterator[Node]:
    node = Node(tmp_path, old_driver)
    yield node
    node.collector.close()
