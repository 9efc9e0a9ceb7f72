"""Devices find their pod through a kubelet that runs in the test, by stable ids alone; pods find their name."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfed.collectors.cgroup import Cgroup
from wellfed.collectors.devices import gpu_of
from wellfed.collectors.holders import Holders
from wellfed.collectors.kubernetes import Kubernetes, allocatable, pods
from wellfed.collectors.registry import Roots, Row

UID = "2f1c3a44-9d0b-4b7e-8a57-0c6f2f3f9a01"
OTHER = "77777777-9d0b-4b7e-8a57-0c6f2f3f9a02"
GPU = "GPU-11111111-2222-3333-4444-555555555555"
FREE = "GPU-aaaaaaaa-2222-3333-4444-555555555555"
MIG = "MIG-99999999-2222-3333-4444-555555555555"


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def nested(number: int, content: bytes | str) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def devices(number: int, resource: str, ids: Sequence[str]) -> bytes:
    numa = nested(3, nested(1, varint(1 << 3) + varint(1)))
    return nested(number, nested(1, resource) + b"".join(nested(2, i) for i in ids) + numa)


def pod(namespace: str, name: str, ids: Mapping[str, Sequence[str]], cdi: str = "") -> bytes:
    """A PodResources by hand: CPUs, NUMA nodes and memory, which nobody reads, included."""
    content = nested(1, "box") + b"".join(devices(2, r, i) for r, i in ids.items())
    content += varint(3 << 3) + varint(7) + nested(4, nested(1, "memory"))
    if cdi:
        content += nested(5, nested(2, "claim") + nested(4, nested(1, nested(1, cdi))))
    return nested(1, nested(1, name) + nested(2, namespace) + nested(3, content))


class Kubelet(grpc.GenericRpcHandler):
    def __init__(self, **answers: bytes) -> None:
        self.answers = answers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = handler_call_details.method.removeprefix("/v1.PodResourcesLister/")
        if method not in self.answers:
            return None
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self.answers[method])


class Node:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = str(folder / "kubelet.sock")
        self.logs = folder / "pods"
        self.roots = Roots(str(folder / "proc"), str(folder / "sys"))
        self.kubelet = Kubelet()
        self.servers: list[grpc.Server] = []
        self.collector = Kubernetes((self.socket,), str(self.logs))

    def start(self, *listed: bytes, free: Sequence[str] | None = None) -> None:
        self.kubelet.answers["List"] = b"".join(listed)
        if free is not None:
            self.kubelet.answers["GetAllocatableResources"] = devices(1, "nvidia.com/gpu", free)
        if not self.servers:
            server = grpc.server(ThreadPoolExecutor(1), handlers=[self.kubelet])
            server.add_insecure_port(f"unix:{self.socket}")
            server.start()
            self.servers.append(server)

    def log(self, namespace: str, name: str, uid: str, born: float = 0.0) -> None:
        path = self.logs / f"{namespace}_{name}_{uid}"
        path.mkdir(parents=True)
        os.utime(path, (born, born))

    def stop(self) -> None:
        self.collector.close()
        for server in self.servers:
            server.stop(None).wait()
        self.servers.clear()

    def read(self) -> dict[str, float | None]:
        return {row.key[0]: row.values["allocated"] for row in self.collector.read(self.roots, 0.0)}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.stop()


def test_a_pods_devices_carry_its_uid_and_free_ones_are_free(node: Node) -> None:
    node.log("ml", "train-0", UID)
    node.start(
        pod("ml", "train-0", {"nvidia.com/gpu": [GPU], "nvidia.com/mig-1g.10gb": [MIG], "vendor/nic": ["x"]}),
        pod("kube-system", "dns-1", {}),
        free=[GPU, MIG, FREE],
    )
    assert node.read() == {GPU: 1.0, MIG: 1.0, FREE: 0.0}
    board = node.roots.board
    job = f"kubernetes:{UID}"
    assert board.granted["kubernetes"] == {GPU: (job,), MIG: (job,), FREE: ()}
    assert board.info(job) == {"name": "train-0", "namespace": "ml"}
    assert node.collector.reason == ""


def test_an_idle_pod_without_a_process_holds_its_gpu(node: Node) -> None:
    node.log("ml", "notebook", UID)
    node.start(pod("ml", "notebook", {"nvidia.com/gpu": [GPU]}), free=[GPU, FREE])
    node.read()
    rows = {(r.table, r.key[0]): r for r in Holders().read(node.roots, 0.0)}
    assert rows["gpu", GPU].info == {"job": f"kubernetes:{UID}"}
    assert rows["gpu", FREE].values == {"allocated": 0.0}
    told = rows["job", f"kubernetes:{UID}"]
    assert told.info == {"name": "notebook", "namespace": "ml"}
    assert told.values["gpus"] == 1.0


def test_the_later_of_two_pods_with_one_name_is_the_one_that_runs(node: Node) -> None:
    node.log("ml", "train-0", OTHER, born=50.0)
    node.log("ml", "train-0", UID, born=100.0)
    node.start(pod("ml", "train-0", {"nvidia.com/gpu": [GPU]}))
    assert node.read() == {GPU: 1.0}
    assert node.roots.board.granted["kubernetes"][GPU] == (f"kubernetes:{UID}",)


def test_a_completed_pod_that_is_still_listed_holds_nothing(node: Node) -> None:
    node.log("ml", "done", OTHER)
    node.start(pod("ml", "done", {"nvidia.com/gpu": [GPU]}), free=[GPU])
    node.roots.board.groups = {f"kubernetes:{UID}": 1}
    assert node.read() == {GPU: 0.0}
    node.roots.board.groups = {f"kubernetes:{OTHER}": 2}
    assert node.read() == {GPU: 1.0}


def test_a_shared_gpu_belongs_to_the_pod_whose_process_is_on_it(node: Node) -> None:
    node.log("ml", "a", UID)
    node.log("ml", "b", OTHER)
    node.start(
        pod("ml", "a", {"nvidia.com/gpu.shared": [f"{GPU}::0"]}),
        pod("ml", "b", {"nvidia.com/gpu.shared": [f"{GPU}::1", f"{GPU}::2"]}),
    )
    assert node.read() == {GPU: 1.0}
    process(node, 70, OTHER)
    node.roots.board.hold("nvml", {GPU: [70]})
    rows = {(r.table, r.key[0]): r for r in Holders().read(node.roots, 0.0)}
    assert rows["gpu", GPU].info == {"job": f"kubernetes:{OTHER}"}


def process(node: Node, pid: int, uid: str) -> None:
    folder = node.folder / "proc" / str(pid)
    folder.mkdir(parents=True)
    fields = ["S", "1", *["0"] * 17, "100", "0", "1", "0"]
    (folder / "stat").write_text(f"{pid} (trainer) {' '.join(fields)}\n")
    (folder / "cgroup").write_text(f"0::/kubepods/burstable/pod{uid}/box\n")


def test_without_the_folder_of_logs_the_process_gives_the_pod_away(node: Node) -> None:
    node.start(pod("ml", "train-0", {"nvidia.com/gpu": [GPU]}))
    node.read()
    process(node, 70, UID)
    group = node.folder / "sys/fs/cgroup/kubepods/burstable" / f"pod{UID}"
    group.mkdir(parents=True)
    (node.folder / "sys/fs/cgroup/cgroup.controllers").write_text("cpu\n")
    (group / "cpu.stat").write_text("usage_usec 5000000\n")
    board = node.roots.board
    board.hold("nvml", {GPU: [70]})
    rows = {(r.table, r.key[0]): r for r in Holders().read(node.roots, 0.0)}
    assert rows["gpu", GPU].info == {"job": "kubernetes:ml/train-0"}
    (cgroup,) = Cgroup().read(node.roots, 0.0)
    assert cgroup.key == ("kubernetes:ml/train-0",)
    assert cgroup.info == {"kind": "kubernetes", "name": "train-0", "namespace": "ml"}


def test_pods_without_devices_get_their_names_too(node: Node) -> None:
    node.log("web", "api-7c9", UID)
    node.read()
    group = node.folder / "sys/fs/cgroup/kubepods" / f"pod{UID}"
    group.mkdir(parents=True)
    (node.folder / "sys/fs/cgroup/cgroup.controllers").write_text("cpu\n")
    (group / "cpu.stat").write_text("usage_usec 1\n")
    (row,) = Cgroup().read(node.roots, 0.0)
    assert row.info == {"kind": "kubernetes", "name": "api-7c9", "namespace": "web"}
    assert node.collector.reason == f"no kubelet's socket at {node.socket}"
    assert "mount" in node.collector.remedy


def test_a_kubelet_that_goes_and_comes_back(node: Node) -> None:
    node.start(pod("ml", "a", {"nvidia.com/gpu": [GPU]}), free=[GPU])
    assert node.read() == {GPU: 1.0}
    node.servers.pop().stop(None).wait()
    assert node.read() == {}
    assert node.roots.board.granted["kubernetes"] == {}
    assert node.collector.reason
    Path(node.socket).unlink(missing_ok=True)
    node.start(pod("ml", "a", {}), free=[GPU])
    assert node.read() == {GPU: 0.0}


def test_a_device_of_dynamic_allocation_counts_by_the_uuid_of_its_cdi_name(node: Node) -> None:
    node.start(pod("ml", "dra", {}, cdi=f"k8s.gpu.nvidia.com/device={GPU}"), pod("ml", "x", {}, cdi="gpu-0"))
    assert node.read() == {GPU: 1.0}


def test_without_grpcio_the_agent_runs_and_says_the_remedy(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.log("ml", "train-0", UID)
    node.start()
    monkeypatch.setitem(sys.modules, "grpc", None)
    assert node.read() == {}
    assert node.collector.reason == "a kubelet is here, but grpcio is not installed"
    assert node.collector.remedy == "pip install 'wellfed[grpc]'"
    assert node.roots.board.info(f"kubernetes:{UID}")["name"] == "train-0"


def test_elsewhere_there_is_no_kubelet(node: Node) -> None:
    assert node.read() == {}
    assert (node.collector.reason, node.collector.remedy) == ("no kubelet here", "")


@pytest.fixture
def machine(tmp_path: Path) -> Roots:
    information = tmp_path / "proc/driver/nvidia/gpus/0000:41:00.0/information"
    information.parent.mkdir(parents=True)
    information.write_text(
        f"Model: \t\t NVIDIA H100\nIRQ:   \t\t 18\nGPU UUID: \t {GPU}\nBus Location: \t 0000:41:00.0\nDevice Minor: \t 3\n"
    )
    amd = tmp_path / "sys/bus/pci/drivers/amdgpu/0000:83:00.0"
    amd.mkdir(parents=True)
    (amd / "unique_id").write_text("5f3a\n")
    for address in ("0000:00:04.0", "0000:00:05.0"):
        chip = tmp_path / "sys/bus/pci/devices" / address
        chip.mkdir(parents=True)
        (chip / "vendor").write_text("0x1ae0\n")
        (chip / "device").write_text("0x0063\n")
    accel = tmp_path / "sys/class/accel/accel0"
    accel.mkdir(parents=True)
    (accel / "device").symlink_to(tmp_path / "sys/bus/pci/devices/0000:00:05.0")
    (tmp_path / "sys/kernel/iommu_groups/9/devices/0000:00:04.0").mkdir(parents=True)
    return Roots(str(tmp_path / "proc"), str(tmp_path / "sys"))


@pytest.mark.parametrize(
    ("device", "gpu"),
    [
        (GPU, GPU),
        (f"{GPU}::3", GPU),
        (MIG, MIG),
        (f"{MIG}::0", MIG),
        (f"MIG-{GPU}/7/0", f"MIG-{GPU}/7/0"),
        ("nvidia3", GPU),
        ("nvidia3/vgpu1", GPU),
        ("nvidia0", None),
        ("nvidia3/gi1", None),
        ("0000:83:00.0", "GPU-0000000000005f3a"),
        ("0000:84:00.0", None),
        ("amdgpu_xcp_30", None),
        ("0", "TPU-0000:00:05.0"),
        ("9", "TPU-0000:00:04.0"),
        ("1", None),
        ("gpu-0", None),
        ("", None),
    ],
)
def test_device_ids_of_every_plugin(machine: Roots, device: str, gpu: str | None) -> None:
    assert gpu_of(device, machine) == gpu


@given(st.text(max_size=60))
def test_any_id_is_a_device_or_none(device: str) -> None:
    found = gpu_of(device, Roots("/nowhere", "/nowhere"))
    assert found is None or found in device


@given(st.binary(max_size=80))
def test_other_bytes_are_pods_or_a_value_error(data: bytes) -> None:
    for decode in (pods, allocatable):
        with contextlib.suppress(ValueError):
            assert isinstance(decode(data), list)


def test_rows_are_of_the_catalog(node: Node) -> None:
    node.start(pod("ml", "a", {"nvidia.com/gpu": [GPU]}))
    assert list(node.collector.read(node.roots, 0.0)) == [Row("gpu", (GPU,), {"allocated": 1.0})]
