"""A disk and a clock that fail on demand (faults.c), under the hand of a test."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

__all__ = ["Faults"]


class Faults:
    """Environment of a program whose disk and clock obey this object."""

    def __init__(self, library: Path, control: Path, under: Path) -> None:
        control.write_bytes(bytes(16))
        with control.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 16)
        self.environment = {
            "LD_PRELOAD": str(library),
            "WELLFED_FAULTS": str(control),
            "WELLFED_FAULTS_UNDER": str(under),
        }

    def disk(self, error: int) -> None:
        """Every change below the folder fails with this errno from now on; 0 heals it."""
        self._memory[:4] = struct.pack("=i", error)

    def clock(self, seconds: float) -> None:
        """The wall clock is off by so many seconds from now on."""
        self._memory[8:16] = struct.pack("=d", seconds)
