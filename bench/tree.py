"""Writes the /proc and /sys of a large GPU node: 128 CPUs, 8 InfiniBand ports of 40 counters, 10 NVMe disks,
4 NFS mounts of 4 connections. `python bench/tree.py FOLDER`; bench/agent.py builds its own, and lets what
grows on a busy node grow once a second, so that nobody is measured on numbers that never change.
"""

from __future__ import annotations

import os
import random
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CPUS, PORTS, DISKS, MOUNTS = 128, 8, 10, 4
COUNTERS = """
    VL15_dropped excessive_buffer_overrun_errors link_downed link_error_recovery local_link_integrity_errors
    multicast_rcv_packets multicast_xmit_packets port_rcv_constraint_errors port_rcv_data port_rcv_errors
    port_rcv_packets port_rcv_remote_physical_errors port_rcv_switch_relay_errors
    port_xmit_constraint_errors port_xmit_data port_xmit_discards port_xmit_packets port_xmit_wait
    symbol_error unicast_rcv_packets unicast_xmit_packets
""".split()
HARDWARE = """
    duplicate_request implied_nak_seq_err lifespan local_ack_timeout_err np_cnp_sent
    np_ecn_marked_roce_packets out_of_buffer out_of_sequence packet_seq_err req_cqe_error
    req_cqe_flush_error req_remote_access_errors req_remote_invalid_request resp_cqe_error
    resp_cqe_flush_error resp_local_length_error resp_remote_access_errors rnr_nak_retry_err rp_cnp_handled
""".split()
OPERATIONS = """
    NULL GETATTR SETATTR LOOKUP ACCESS READLINK READ WRITE CREATE MKDIR SYMLINK MKNOD REMOVE RMDIR RENAME
    LINK READDIR READDIRPLUS FSSTAT FSINFO PATHCONF COMMIT
""".split()
MEMORY = """
    MemTotal MemFree MemAvailable Buffers Cached SwapCached Active Inactive Active(anon) Inactive(anon)
    Active(file) Inactive(file) Unevictable Mlocked SwapTotal SwapFree Dirty Writeback AnonPages Mapped
    Shmem KReclaimable Slab SReclaimable SUnreclaim KernelStack PageTables NFS_Unstable Bounce WritebackTmp
    CommitLimit Committed_AS VmallocTotal VmallocUsed VmallocChunk Percpu AnonHugePages ShmemHugePages
""".split()


def build(folder: Path, seed: int = 1) -> Path:
    """The tree below folder; the same for the same seed."""
    draw = random.Random(seed)

    def write(path: str, text: str) -> None:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def some(count: int, top: int = 10**9) -> str:
        return " ".join(str(draw.randrange(top)) for _ in range(count))

    for index in range(PORTS):
        device = f"sys/class/infiniband/mlx5_{index}"
        for name, text in (("fw_ver", "28.39.1002"), ("board_id", "MT_0000000838"), ("hca_type", "MT4129")):
            write(f"{device}/{name}", text + "\n")
        port = f"{device}/ports/1"
        for name, text in (
            ("state", "4: ACTIVE"),
            ("phys_state", "5: LinkUp"),
            ("rate", "400 Gb/sec (4X NDR)"),
            ("link_layer", "InfiniBand"),
        ):
            write(f"{port}/{name}", text + "\n")
        for name in COUNTERS:
            write(f"{port}/counters/{name}", f"{draw.randrange(10**14)}\n")
        for name in HARDWARE:
            write(f"{port}/hw_counters/{name}", f"{draw.randrange(10**6)}\n")
    write("proc/diskstats", "".join(f" 259 {i:7d} nvme{i}n1 {some(17)}\n" for i in range(DISKS)))
    for index in range(DISKS):
        write(f"sys/block/nvme{index}n1/size", "1000\n")
        write(f"sys/block/nvme{index}n1/queue/rotational", "0\n")
    write("proc/meminfo", "".join(f"{name}: {draw.randrange(10**9)} kB\n" for name in MEMORY))
    write(
        "proc/vmstat", f"pgpgin 1\npgpgout 2\npswpin 25\npswpout 30\npgfault 99\npgmajfault 7\noom_kill {0}\n"
    )
    cpus = "".join(f"cpu{i} {some(10, 10**8)}\n" for i in range(CPUS))
    write(
        "proc/stat",
        f"cpu  {some(10)}\n{cpus}intr 123456 {some(500, 1000)}\nctxt 1234567\nbtime 1700000000\n"
        f"processes 12345\nprocs_running 3\nprocs_blocked 0\nsoftirq {some(11)}\n",
    )
    nets = ["lo", "eth0", "bond0", *(f"ib{i}" for i in range(PORTS))]
    head = "Inter-|  Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes\n"
    write("proc/net/dev", head + "".join(f"{name:>6}: {some(16)}\n" for name in nets))
    write("proc/net/snmp", "Tcp: ActiveOpens OutSegs RetransSegs\nTcp: 1 6000 12\n")
    for name in nets:
        write(f"sys/class/net/{name}/statistics/rx_bytes", "123\n")
    for name in nets[1:2] + nets[3:]:
        write(f"sys/class/net/{name}/device/vendor", "0x15b3\n")
        write(f"sys/class/net/{name}/operstate", "up\n")
    for resource in ("cpu", "io", "memory"):
        lines = (f"{kind} avg10=0.00 avg60=0.01 avg300=0.05 total={some(1)}\n" for kind in ("some", "full"))
        write(f"proc/pressure/{resource}", "".join(lines))
    mountstats = "device proc mounted on /proc with fstype proc\n"
    mountinfo = "20 1 0:20 / /proc rw - proc proc rw\n"
    for index in range(MOUNTS):
        address = f"10.0.0.{index}"
        transports = f"\txprt:\ttcp 832 0 1 0 24 {some(5, 10**6)} 2 {some(2, 10**6)}\n" * 4
        operations = "".join(f"\t{name:>12}: {some(9, 10**7)}\n" for name in OPERATIONS)
        mountstats += (
            f"device {address}:/vol{index} mounted on /mnt/nfs{index} with fstype nfs statvers=1.1\n"
            f"\topts:\trw,vers=3,hard,proto=tcp,nconnect=4,timeo=600,mountaddr={address},mountproto=udp\n"
            f"\tage:\t123456\n\tcaps:\tcaps=0x3fcf,wtmult=4096\n\tsec:\tflavor=1,pseudoflavor=1\n"
            f"\tevents:\t{some(27)}\n\tbytes:\t{some(8)}\n\tRPC iostats version: 1.1  p/v: 100003/3 (nfs)\n"
            f"{transports}\tper-op statistics\n{operations}\n"
        )
        number = 40 + index
        mountinfo += (
            f"{number} 1 0:{number} / /mnt/nfs{index} rw - nfs {address}:/vol{index} rw,addr={address}\n"
        )
    for pid in ("1", "4242"):
        write(f"proc/{pid}/mountstats", mountstats)
        write(f"proc/{pid}/mountinfo", mountinfo)
        write(f"proc/{pid}/mounts", "")
    (folder / "proc/self").symlink_to("4242")
    write("proc/loadavg", "0.1 0.2 0.3 1/200 1234\n")
    return folder


#: File -> what grows in it: a pattern for the line's beginning, and the numbers of the fields in the rest.
GROWING: dict[str, tuple[tuple[str, str], ...]] = {
    "proc/stat": ((r"cpu\d* ", "0 2 3 6"), ("ctxt ", "0")),
    "proc/diskstats": ((r" 259 +\d+ nvme\d+n1", "0 1 2 3 4 5 6 7 9 10"),),
    "proc/net/dev": ((r"[ a-z]+\d:", "0 1 8 9"),),
    "proc/meminfo": (("(MemFree|MemAvailable|Cached|Active|Dirty|Writeback|Mapped|Slab|Anon)[^:]*:", "0"),),
    "proc/vmstat": (("pg", "0"),),
    "proc/4242/mountstats": (
        ("\t +(READ|WRITE|GETATTR|ACCESS|LOOKUP|COMMIT):", "0 1 3 4 5 6 7"),
        ("\t(bytes|events):", "0 1 2 3 4 5 6 7"),
        ("\tage:", "0"),
        ("\txprt:\ttcp 832 0 1 0 24", "0 1 4"),
    ),
    **{f"proc/pressure/{name}": (("some avg.*total=", "0"),) for name in ("cpu", "io", "memory")},
    **{
        f"sys/class/infiniband/mlx5_{index}/ports/1/counters/{name}": (("", "0"),)
        for index in range(PORTS)
        for name in COUNTERS
        if re.search("_(data|packets|wait)$", name)
    },
}
GROWING["proc/1/mountstats"] = GROWING["proc/4242/mountstats"]


class _File:
    """A file's text in pieces, every second of them a number, and which of these grow."""

    def __init__(self, path: Path, rules: tuple[tuple[str, str], ...]) -> None:
        self._path = path
        self._pieces: list[str] = []
        self._growing: list[int] = []
        for line in path.read_text().splitlines(keepends=True):
            for pattern, fields in rules:
                head = re.match(pattern, line)
                if head:
                    pieces = re.split(r"(\d+)", line[head.end() :])
                    at = len(self._pieces) + 1
                    self._growing += [at + 1 + 2 * int(field) for field in fields.split()]
                    self._pieces += [head[0], *pieces]
                    break
            else:
                self._pieces.append(line)

    def grow(self, draw: random.Random) -> None:
        for place in self._growing:
            self._pieces[place] = str(int(self._pieces[place]) + draw.randrange(1, 1000))
        # In place: files of sysfs keep their inode too.
        descriptor = os.open(self._path, os.O_WRONLY)
        os.pwrite(descriptor, "".join(self._pieces).encode(), 0)
        os.close(descriptor)


@contextmanager
def growing(folder: Path, seed: int = 2) -> Iterator[None]:
    """While inside, counters of the tree grow once a second."""
    files = [_File(folder / path, rules) for path, rules in GROWING.items()]
    draw, stop = random.Random(seed), threading.Event()

    def run() -> None:
        while not stop.wait(1.0):
            for file in files:
                file.grow(draw)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    build(Path(sys.argv[1]))
