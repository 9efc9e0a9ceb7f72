"""Hostile bytes into every parser: an answer or ValueError (UserError where a person reads it), never else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from attempts import FULL, Note, scale
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from wellfed.analysis.segments import Hot
from wellfed.collectors import (
    amdgpu,
    cgroup,
    cpu,
    disk,
    http,
    infiniband,
    kueue,
    lustre,
    memory,
    mountstats,
    network,
    neuron,
    nvidia_fs,
    pressure,
    processes,
    steps,
)
from wellfed.dashboard.ranges import parse_range
from wellfed.errors import UserError
from wellfed.options import parse_size, parse_time
from wellfed.prices import Prices

NODE = Path(__file__).parents[1] / "fixtures" / "node"

Parser = Callable[[bytes], object]


def text(parse: Callable[[str], object]) -> Parser:
    """A parser of text, fed with what the bytes say in Latin 1."""
    return lambda data: parse(data.decode("latin-1"))


def fixture(path: str) -> bytes:
    return (NODE / path).read_bytes()


NEURON = (
    b'{"neuron_runtime_data":[{"pid":1,"report":{"neuroncore_counters":{"period":1.0,"neuroncores_in_use":'
    b'{"0":{"neuroncore_utilization":50.0}}},"memory_used":{"neuron_runtime_used_bytes":{"neuron_device":9}}}}],'
    b'"system_data":{"neuron_hw_counters":{"period":1.0,"neuron_devices":[{"neuron_device_index":0,'
    b'"mem_ecc_corrected":1}]}},"neuron_hardware_info":{"neuron_device_count":2,"neuroncore_per_device_count":2}}'
)

#: Parser -> an input it likes, which is then damaged.
PARSERS: dict[str, tuple[Parser, bytes]] = {
    "cpu.parse_stat": (cpu.parse_stat, fixture("proc/stat")),
    "cpu.parse_loadavg": (cpu.parse_loadavg, fixture("proc/loadavg")),
    "pressure.parse": (pressure.parse, fixture("proc/pressure/io")),
    "memory.parse_meminfo": (memory.parse_meminfo, fixture("proc/meminfo")),
    "memory.parse_vmstat": (memory.parse_vmstat, fixture("proc/vmstat")),
    "disk.parse": (disk.parse, fixture("proc/diskstats")),
    "network.parse_dev": (network.parse_dev, fixture("proc/net/dev")),
    "network.parse_snmp": (network.parse_snmp, fixture("proc/net/snmp")),
    "mountstats.parse": (mountstats.parse, fixture("proc/1/mountstats")),
    "lustre.parse": (
        lustre.parse,
        fixture("sys/kernel/debug/lustre/mdc/scratch-MDT0000-mdc-ffff8a3b1c2d3000/stats"),
    ),
    "nvidia_fs.parse": (nvidia_fs.parse, fixture("proc/driver/nvidia-fs/stats")),
    "infiniband.parse_number": (infiniband.parse_number, b"184467440737\n"),
    "infiniband.parse_rate": (infiniband.parse_rate, b"400 Gb/sec (4X NDR)\n"),
    "processes.parse_stat": (
        processes.parse_stat,
        b"4711 (a b) c) S 1 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 99 1000 100 1844 1 1 0 0 0 0 0\n",
    ),
    "cgroup.parse_membership": (
        cgroup.parse_membership,
        b"12:cpu,cpuacct:/slurm/uid_1000/job_42/step_0\n0::/kubepods.slice/x\n",
    ),
    "cgroup.identify": (
        text(cgroup.identify),
        b"/kubepods.slice/kubepods-podaaaa.slice/cri-containerd-b.scope",
    ),
    "steps.parse": (steps.parse, b'{"version":1,"job":"j","rank":"0","steps":3,"step_seconds":1.5}'),
    "neuron.parse": (neuron.parse, NEURON),
    "kueue.pending": (kueue.pending, b'kueue_pending_workloads{cluster_queue="a",status="active"} 2\n'),
    "amdgpu.parse_clock": (amdgpu.parse_clock, b"0: 500Mhz\n1: 1700Mhz *\n"),
    "amdgpu.parse_errors": (amdgpu.parse_errors, b"ue: 0\nce: 12\n"),
    "amdgpu.parse_energy": (amdgpu.parse_energy, bytes(range(120))),
    "amdgpu.parse_generation": (amdgpu.parse_generation, b"16.0 GT/s PCIe\n"),
    "http.parse_address": (text(http.parse_address), b"[::1]:9812"),
    "options.parse_size": (text(parse_size), b"20 GiB"),
    "options.parse_time": (text(parse_time), b"2026-05-01T12:00+02:00"),
    "prices.parse": (text(Prices.parse), b"H100=2.98,A100=1.29,2.5"),
    "segments.Hot.parse": (text(Hot.parse), b"00000000000000000001-0000010-0000020-0123abcd-89abcdef.arrow"),
    "dashboard.parse_range": (
        lambda data: parse_range(data.decode("latin-1"), None, datetime(2026, 3, 1, tzinfo=UTC)),
        b"2026-05-01T12:00",
    ),
}

#: Numbers and marks that have broken parsers elsewhere.
SPICE = (b"-1", b"18446744073709551616", b"1e999", b"nan", b"\x00", b"\xff\xfe", b"\n\n", b":", b" " * 40, b"(", b"9" * 400)  # fmt: skip


def damaged(seed: bytes) -> st.SearchStrategy[bytes]:
    """The seed cut, spliced, overwritten, doubled or spiced; and bytes that never were one."""
    at = st.integers(0, len(seed))
    bits = st.binary(max_size=12) | st.sampled_from(SPICE)

    def splice(start: int, end: int, middle: bytes) -> bytes:
        return seed[: min(start, end)] + middle + seed[max(start, end) :]

    once = st.builds(splice, at, at, bits)
    twice = st.builds(lambda a, b, m: seed[:a] + m + seed[b:] + m, at, at, bits)
    return once | twice | st.binary(max_size=200)


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_a_parser_answers_or_raises_value_error(name: str, note: Note) -> None:
    parse, seed = PARSERS[name]
    parse(seed)
    tried = 0

    @settings(
        max_examples=scale(1_000_000 // len(PARSERS) + 1, 120),
        deadline=None,
        database=None,
        # CI tries the same inputs each time; new ones are for `make chaos`.
        derandomize=not FULL,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(seed))
    def attack(data: bytes) -> None:
        nonlocal tried
        tried += 1
        try:
            parse(data)
        except (ValueError, UserError):
            return

    attack()
    note("hostile inputs to parsers", tried, 0)
