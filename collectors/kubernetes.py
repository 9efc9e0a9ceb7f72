"""Which pod the kubelet has given each accelerator to, and what pods are called.

Source: the kubelet's pod-resources service (gRPC on its Unix socket, v1 List and GetAllocatableResources)
for devices by pod; its folder of logs, /var/log/pods/<namespace>_<pod>_<uid>, for the uid, which that service
does not tell and which control groups carry. No API server, no token, no list of all pods of a cluster.
Where the folder of logs is out of sight a pod is `kubernetes:<namespace>/<pod>`, and its control group joins
it through the processes on its devices. Cost: two calls and one listing every ten seconds; grpcio is imported
only where there is a kubelet (20 MiB). Privilege: root, or group access to the socket. Devices of dynamic
resource allocation count where their CDI name carries the vendor's uuid.
https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from wellfed.collectors.devices import gpu_of
from wellfed.collectors.messages import Messages
from wellfed.collectors.registry import Roots, Row, register

__all__ = ["Kubernetes", "Pod", "allocatable", "pods"]

#: Where distributions keep the kubelet's files.
_KUBELETS = ("/var/lib/kubelet", "/var/lib/k0s/kubelet", "/var/snap/microk8s/common/var/lib/kubelet")
_SOCKETS = tuple(f"{kubelet}/pod-resources/kubelet.sock" for kubelet in _KUBELETS)
_LOGS = "/var/log/pods"
_LOG = re.compile(r"([a-z0-9-]+)_([a-z0-9.-]+)_([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")

_SERVICE = "/v1.PodResourcesLister/"
_TIMEOUT = 2.0
_OPTIONS = (
    ("grpc.max_reconnect_backoff_ms", 10_000),
    ("grpc.enable_http_proxy", 0),
    # A node with hundreds of pods and thousands of shared devices.
    ("grpc.max_receive_message_length", 16 << 20),
)
_MESSAGES = Messages(
    "v1",
    {
        "ListPodResourcesResponse": {"pod_resources": (1, "repeated PodResources")},
        "PodResources": {
            "name": (1, "string"),
            "namespace": (2, "string"),
            "containers": (3, "repeated ContainerResources"),
        },
        "ContainerResources": {
            "name": (1, "string"),
            "devices": (2, "repeated ContainerDevices"),
            "dynamic_resources": (5, "repeated DynamicResource"),
        },
        "ContainerDevices": {"resource_name": (1, "string"), "device_ids": (2, "repeated string")},
        "DynamicResource": {"claim_resources": (4, "repeated ClaimResource")},
        "ClaimResource": {"cdi_devices": (1, "repeated CDIDevice")},
        "CDIDevice": {"name": (1, "string")},
        "AllocatableResourcesResponse": {"devices": (1, "repeated ContainerDevices")},
    },
)


@dataclass(frozen=True, slots=True)
class Pod:
    """devices: as their plugins call them, of all its containers."""

    namespace: str
    name: str
    devices: tuple[str, ...]


def pods(response: bytes) -> list[Pod]:
    """The pods of a ListPodResourcesResponse. Raises ValueError where it is none."""
    return [
        Pod(
            pod.namespace,
            pod.name,
            tuple(
                device
                for container in pod.containers
                for device in (
                    *(d for devices in container.devices for d in devices.device_ids),
                    *(
                        cdi.name
                        for dynamic in container.dynamic_resources
                        for claim in dynamic.claim_resources
                        for cdi in claim.cdi_devices
                    ),
                )
            ),
        )
        for pod in _decode("ListPodResourcesResponse", response).pod_resources
    ]


def allocatable(response: bytes) -> list[str]:
    """The devices of an AllocatableResourcesResponse. Raises ValueError where it is none."""
    devices = _decode("AllocatableResourcesResponse", response).devices
    return [device for of_resource in devices for device in of_resource.device_ids]


def _decode(name: str, response: bytes) -> Any:
    message = _MESSAGES.of(name)()
    try:
        message.ParseFromString(response)
    except Exception as error:  # protobuf's DecodeError differs by implementation
        raise ValueError(f"kubelet: not a {name}: {error}") from error
    return message


@register
class Kubernetes:
    """The collector. sockets, logs: where the kubelet's socket may be, and its folder of logs."""

    name = "kubernetes"
    interval = 10.0
    deadline = 6.0
    tables: tuple[str, ...] = ("gpu", "job")

    def __init__(self, sockets: Sequence[str] = _SOCKETS, logs: str = _LOGS) -> None:
        self.reason = ""
        self.remedy = ""
        self._sockets = sockets
        self._logs = logs
        self._ask: Callable[[str], bytes | None] | None = None
        self._close: Callable[[], None] = lambda: None

    def close(self) -> None:
        """Closes the connection."""
        self._close()
        self._ask = None

    def read(self, roots: Roots, now: float) -> list[Row]:
        """One row a device that the kubelet manages. Raises ValueError."""
        uids = self._uids()
        names = {f"kubernetes:{uid}": {"name": pod, "namespace": space} for (space, pod), uid in uids.items()}
        listed = self._kubelet(found=bool(uids))
        if listed is None:
            roots.board.describe(self.name, names)
            roots.board.grant(self.name, {})
            return []
        running, devices = listed
        granted: defaultdict[str, list[str]] = defaultdict(list)
        for gpu in filter(None, (gpu_of(device, roots) for device in devices)):
            granted[gpu] = []
        for pod in running:
            uid = uids.get((pod.namespace, pod.name))
            job = f"kubernetes:{uid or f'{pod.namespace}/{pod.name}'}"
            names.setdefault(job, {"name": pod.name, "namespace": pod.namespace})
            if _ended(job, roots.board.groups):
                continue
            for gpu in filter(None, (gpu_of(device, roots) for device in pod.devices)):
                granted[gpu].append(job)
        roots.board.describe(self.name, names)
        roots.board.grant(self.name, granted)
        return [Row("gpu", (gpu,), {"allocated": float(bool(jobs))}) for gpu, jobs in granted.items()]

    def _uids(self) -> Mapping[tuple[str, str], str]:
        """(namespace, pod) -> uid; of two with one name the later is the one that runs."""
        found: list[tuple[float, str, str, str]] = []
        with contextlib.suppress(OSError), os.scandir(self._logs) as entries:
            for entry in entries:
                match = _LOG.fullmatch(entry.name)
                if match is not None:
                    with contextlib.suppress(OSError):
                        born = entry.stat(follow_symlinks=False).st_mtime
                        found.append((born, match[1], match[2], match[3]))
        return {(space, pod): uid for _, space, pod, uid in sorted(found)}

    def _kubelet(self, found: bool) -> tuple[list[Pod], list[str]] | None:
        """Pods and devices, or None with the reason. found: whether there are pods here at all."""
        if self._ask is None:
            self._ask = self._connect(found)
            if self._ask is None:
                return None
        listed = self._ask("List")
        if listed is None:
            self.reason = f"{self.reason} from the kubelet"
            self.remedy = "look at the kubelet: journalctl -u kubelet"
            self.close()
            return None
        self.reason = self.remedy = ""
        # Kubelets before 1.23 do not know it: what is free then stays unsaid.
        devices = self._ask("GetAllocatableResources")
        self.reason = ""
        return pods(listed), allocatable(devices) if devices else []

    def _connect(self, found: bool) -> Callable[[str], bytes | None] | None:
        try:
            path = next((path for path in self._sockets if _is_socket(path)), None)
        except PermissionError as error:
            self.reason = f"the kubelet's socket is closed to this user: {error.filename}"
            self.remedy = "run the agent as root, and mount /var/lib/kubelet/pod-resources into its container"
            return None
        if path is None:
            self.reason = "no kubelet here" if not found else f"no kubelet's socket at {self._sockets[0]}"
            self.remedy = "mount /var/lib/kubelet/pod-resources into the agent's container" if found else ""
            return None
        try:
            grpc = import_module("grpc")
        except ImportError:
            self.reason = "a kubelet is here, but grpcio is not installed"
            self.remedy = "pip install 'wellfed[grpc]'"
            return None
        return self._caller(grpc, path)

    def _caller(self, grpc: ModuleType, path: str) -> Callable[[str], bytes | None]:
        channel = grpc.insecure_channel(f"unix:{path}", options=_OPTIONS)
        self._close = channel.close

        def ask(method: str) -> bytes | None:
            try:
                answer: bytes = channel.unary_unary(_SERVICE + method)(b"", timeout=_TIMEOUT)
            except grpc.RpcError as error:
                self.reason = f"{method}: {error.code().name.lower().replace('_', ' ')}"
                return None
            return answer

        return ask


def _is_socket(path: str) -> bool:
    """Raises PermissionError where the folder may not be looked into."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _ended(job: str, groups: Iterable[str]) -> bool:
    """Whether a pod that the kubelet still lists has no control group any more: it has completed."""
    seen = any(group.startswith("kubernetes:") for group in groups)
    return seen and "/" not in job and job not in groups
