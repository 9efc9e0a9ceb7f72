"""AMD GPUs, from the kernel's amdgpu driver.

What: the table `gpu`, as far as sysfs knows it: activity, memory, power, energy, temperature, clocks, PCIe
link, ECC, processes. Source: /sys/bus/pci/drivers/amdgpu/<address> (attributes and hwmon), /sys/class/kfd for
who computes. Cost: some 15 pread() a GPU on descriptors kept open; gpu_metrics asks the GPU's firmware (about
1 ms, reported by others). Privilege: none.

A suspended GPU is not woken: every attribute but power/runtime_status would. `pcie_bw` is never read: it
sleeps one second. Activity is the firmware's average at the moment of the read, held since the read before;
SM, tensor and spin have no counterpart and stay null. Not checked on hardware. Kernel documents:
gpu/amdgpu/thermal.html, gpu/amdgpu/driver-misc.html; drivers/gpu/drm/amd/include/kgd_pp_interface.h.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time

from wellfed.collectors.registry import Roots, Row, register

__all__ = ["AmdGpu", "amd_id", "parse_clock", "parse_energy", "parse_errors", "parse_generation"]

_LOOK_AGAIN = 30.0
_REASON = "no AMD GPU: the amdgpu driver holds none"
#: Transfer rate of a lane in GT/s -> PCIe generation.
_GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}
#: gpu_metrics revision -> offset of its energy accumulator; others have none, or elsewhere.
_ENERGY_AT = {(1, 1): 24, (1, 2): 24, (1, 3): 24, (1, 4): 24, (1, 5): 88}
_JOULES = 2.0**-16

#: Attribute -> (column, unit in SI). The first attribute of a column that exists counts.
_NUMBERS = (
    ("mem_info_vram_used", "memory_used_bytes", 1.0),
    ("mem_info_vram_total", "memory_total_bytes", 1.0),
    ("current_link_width", "pcie_width", 1.0),
    ("max_link_width", "pcie_width_max", 1.0),
    ("pcie_replay_count", "pcie_replays", 1.0),
    ("hwmon/power1_average", "power_watts", 1e-6),
    ("hwmon/power1_input", "power_watts", 1e-6),
    ("hwmon/power1_cap", "power_limit_watts", 1e-6),
    ("hwmon/temp1_input", "temperature_celsius", 1e-3),
    ("hwmon/temp2_input", "temperature_celsius", 1e-3),
    ("hwmon/freq1_input", "sm_clock_hertz", 1.0),
)
_OTHERS = (
    "gpu_busy_percent",
    "mem_busy_percent",
    "current_link_speed",
    "max_link_speed",
    "pp_dpm_sclk",
    "ras/umc_err_count",
    "gpu_metrics",
)


def parse_generation(text: bytes) -> float | None:
    """PCIe generation of a link speed; None where it is unknown.

    >>> parse_generation(b"16.0 GT/s PCIe")
    4
    """
    with contextlib.suppress(ValueError, IndexError):
        return _GENERATIONS.get(float(text.split()[0]))
    return None


def parse_clock(text: bytes) -> float | None:
    """Highest clock of a DPM table, in hertz.

    >>> parse_clock(b"0: 500Mhz\\n1: 2100Mhz *")
    2100000000.0
    """
    levels = [line.partition(b":")[2].split() for line in text.splitlines() if b":" in line]
    if not all(levels):
        raise ValueError(f"expected `n: <clock>Mhz`, found {text[:60]!r}")
    return max((float(level[0].lower().removesuffix(b"mhz")) * 1e6 for level in levels), default=None)


def parse_errors(text: bytes) -> dict[str, float]:
    """Corrected and uncorrected errors of a RAS block.

    >>> parse_errors(b"ue: 1\\nce: 20")
    {'ecc_uncorrected': 1.0, 'ecc_corrected': 20.0}
    """
    names = {b"ue": "ecc_uncorrected", b"ce": "ecc_corrected"}
    pairs = [line.partition(b":") for line in text.splitlines()]
    return {names[name.strip()]: float(value) for name, _, value in pairs if name.strip() in names}


def parse_energy(table: bytes) -> float | None:
    """Joules since the driver was loaded, of a gpu_metrics table; None in revisions without them."""
    if len(table) < 4:
        return None
    size, major, minor = struct.unpack_from("<HBB", table)
    offset = _ENERGY_AT.get((major, minor))
    if offset is None or len(table) < max(size, offset + 8):
        return None
    units: int = struct.unpack_from("<Q", table, offset)[0]
    return None if units == (1 << 64) - 1 else units * _JOULES


def amd_id(path: str, address: str) -> str:
    """The id of the GPU at that PCI address, path: its folder in sysfs."""
    unique = _text(f"{path}/unique_id")
    # ROCm spells the id like this; cards without one are known by their place.
    return f"GPU-{int(unique, 16):016x}" if unique.strip("0x") else f"GPU-{address}"


class _Card:
    """One GPU with its attributes open."""

    def __init__(self, path: str, address: str, index: int) -> None:
        self.address = address
        hwmon = f"{path}/hwmon"
        with contextlib.suppress(OSError):
            hwmon = f"{path}/hwmon/{sorted(os.listdir(hwmon))[0]}"
        names = [name for name, _, _ in _NUMBERS] + [*_OTHERS, "power/runtime_status"]
        self._files: dict[str, int] = {}
        for name in names:
            place = name.replace("hwmon", hwmon, 1) if name.startswith("hwmon/") else f"{path}/{name}"
            with contextlib.suppress(OSError):
                self._files[name] = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        self.gpu = amd_id(path, address)
        model = _text(f"{path}/product_name") or f"AMD {_text(f'{path}/device')}"
        self.info = {"vendor": "amd", "model": model, "index": str(index), "pci_address": address}

    def close(self) -> None:
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def read(self, name: str) -> bytes:
        """The attribute; empty where the card has none or refuses it now. Raises OSError when it is gone."""
        file = self._files.get(name)
        if file is None:
            return b""
        try:
            return os.pread(file, 4096, 0).strip() if name != "gpu_metrics" else os.pread(file, 4096, 0)
        except (PermissionError, TimeoutError):
            return b""
        except OSError as error:
            if error.errno in _REFUSALS:
                return b""
            raise

    def row(self, processes: float | None) -> Row:
        """Everything, or the identity alone while the card sleeps."""
        if self.read("power/runtime_status") in (b"suspended", b"suspending"):
            return Row("gpu", (self.gpu,), {}, dict(self.info))
        values: dict[str, float | None] = {"processes": processes}
        for name, column, unit in _NUMBERS:
            text = self.read(name)
            if text and values.get(column) is None:
                values[column] = float(text) * unit
        values["pcie_gen"] = parse_generation(self.read("current_link_speed"))
        values["pcie_gen_max"] = parse_generation(self.read("max_link_speed"))
        values["sm_clock_max_hertz"] = parse_clock(self.read("pp_dpm_sclk"))
        values["energy_joules"] = parse_energy(self.read("gpu_metrics"))
        values |= parse_errors(self.read("ras/umc_err_count"))
        levels = {}
        busy, memory = self.read("gpu_busy_percent"), self.read("mem_busy_percent")
        if busy:
            levels["active_seconds"] = min(float(busy), 100.0) / 100
            levels["idle_seconds"] = float(levels["active_seconds"] < 0.05)
            if memory:
                levels["dram_active_seconds"] = min(float(memory), 100.0) / 100
        return Row("gpu", (self.gpu,), values, dict(self.info), levels)


#: EINVAL, EOPNOTSUPP, EBUSY, EAGAIN, EIO: the attribute exists but this card or this moment does not give it.
_REFUSALS = (22, 95, 16, 11, 5)


def _text(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read().strip()
    return ""


@register
class AmdGpu:
    """The collector."""

    name = "amdgpu"
    interval = 1.0
    deadline = 2.0
    tables: tuple[str, ...] = ("gpu",)

    def __init__(self) -> None:
        self.reason = _REASON
        self.remedy = ""
        self._cards: list[_Card] = []
        self._pids: dict[str, list[int]] = {}
        self._ids: dict[str, str] = {}
        self._look_at = 0.0

    def holders(self) -> dict[str, list[int]]:
        """Processes that hold memory of a GPU, by GPU, as of the last read."""
        return {gpu: list(pids) for gpu, pids in self._pids.items()}

    def close(self) -> None:
        """Closes the attributes."""
        for card in self._cards:
            card.close()
        self._cards = []

    def read(self, roots: Roots, now: float) -> list[Row]:
        """One row a GPU. A card that leaves is missing until it is found again."""
        clock = time.monotonic()
        if clock >= self._look_at:
            self._look_at = clock + _LOOK_AGAIN
            self._find(roots)
        if not self._cards:
            self.reason = _REASON
            return []
        self.reason = ""
        known = self._find_processes(roots)
        rows = []
        for card in self._cards:
            processes = float(len(self._pids.get(card.gpu, ()))) if known else None
            try:
                rows.append(card.row(processes))
            except OSError as error:
                self.reason = f"{card.gpu} at {card.address} is gone: {error.strerror}"
                self._look_at = 0.0
        return rows

    def _find(self, roots: Roots) -> None:
        folder = f"{roots.sys}/bus/pci/drivers/amdgpu"
        addresses: list[str] = []
        with contextlib.suppress(OSError):
            addresses = sorted(name for name in os.listdir(folder) if ":" in name)
        self.close()
        self._cards = [
            _Card(f"{folder}/{address}", address, index) for index, address in enumerate(addresses)
        ]
        self._ids = _kfd_ids(roots, {card.address: card.gpu for card in self._cards}) if self._cards else {}

    def _find_processes(self, roots: Roots) -> bool:
        """Who holds memory, by the compute driver. False where it is not there to ask."""
        folder = f"{roots.sys}/class/kfd/kfd/proc"
        self._pids = {card.gpu: [] for card in self._cards}
        try:
            pids = sorted(int(name) for name in os.listdir(folder) if name.isdigit())
        except OSError:
            return False
        for pid in pids:
            for kfd, gpu in self._ids.items():
                if _text(f"{folder}/{pid}/vram_{kfd}").strip("0"):
                    self._pids[gpu].append(pid)
        return True


def _kfd_ids(roots: Roots, gpus: dict[str, str]) -> dict[str, str]:
    """The compute driver's number of each GPU -> its id. gpus: id by PCI address."""
    folder = f"{roots.sys}/class/kfd/kfd/topology/nodes"
    ids = {}
    nodes: list[str] = []
    with contextlib.suppress(OSError):
        nodes = sorted(os.listdir(folder))
    for node in nodes:
        number = _text(f"{folder}/{node}/gpu_id")
        lines = [line.split() for line in _text(f"{folder}/{node}/properties").splitlines()]
        facts = {line[0]: int(line[1]) for line in lines if len(line) == 2}
        place = facts.get("location_id", 0)
        address = f"{facts.get('domain', 0):04x}:{place >> 8:02x}:{place >> 3 & 31:02x}.{place & 7}"
        if number not in ("", "0") and address in gpus:
            ids[number] = gpus[address]
    return ids
