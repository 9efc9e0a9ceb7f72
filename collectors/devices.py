"""What a scheduler calls a device, as the id under which its driver knows it.

Never by ordinal: an id that carries the vendor's own uuid is taken as it is; one that names a device node or
a PCI address is looked up where the kernel tells which device that is; anything else is not known. Source:
/proc/driver/nvidia/gpus/*/information and sysfs. Cost: a small read a device. Privilege: none.
"""

from __future__ import annotations

import contextlib
import os
import re

from wellfed.collectors.amdgpu import amd_id
from wellfed.collectors.files import read
from wellfed.collectors.registry import Roots
from wellfed.collectors.tpu import tpu_chips

__all__ = ["gpu_of", "nvidia_minors"]

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
#: A GPU, a MIG slice, or a slice as drivers before 470 spell it.
_NVIDIA = re.compile(rf"GPU-{_UUID}|MIG-GPU-{_UUID}/\d+/\d+|MIG-{_UUID}", re.IGNORECASE)
#: GKE's plugin names device nodes, and vgpu<n> where they are shared.
_NODE = re.compile(r"nvidia(\d+)(?:/vgpu\d+)?")
_PCI = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.IGNORECASE)


def gpu_of(device: str, roots: Roots) -> str | None:
    """The id in the `gpu` table of a device as its plugin calls it, or None where that tells nothing stable.

    Understands NVIDIA's plugin (uuid, MIG, `::<n>` of time slices and MPS), GKE's (nvidia<minor>, vgpu),
    AMD's (PCI address) and GKE's for TPUs (number of the accel or VFIO node).
    """
    device = device.partition("::")[0]
    nvidia = _NVIDIA.search(device)
    if nvidia is not None:
        return nvidia[0]
    node = _NODE.fullmatch(device)
    if node is not None:
        return nvidia_minors(roots.proc).get(int(node[1]))
    if _PCI.fullmatch(device):
        path = f"{roots.sys}/bus/pci/drivers/amdgpu/{device.lower()}"
        return amd_id(path, device.lower()) if os.path.isdir(path) else None
    return _tpu(device, roots) if device.isdigit() else None


def nvidia_minors(proc: str) -> dict[int, str]:
    """Minor number of the device node -> uuid, as the driver tells."""
    root = f"{proc}/driver/nvidia/gpus"
    found: dict[int, str] = {}
    with contextlib.suppress(OSError):
        for address in os.listdir(root):
            text = read(f"{root}/{address}/information").decode("utf-8", "replace")
            fields = dict(re.findall(r"^([^:\n]+):[ \t]*(.*?)[ \t]*$", text, re.MULTILINE))
            if fields.get("Device Minor", "").isdigit() and "GPU UUID" in fields:
                found[int(fields["Device Minor"])] = fields["GPU UUID"]
    return found


def _tpu(number: str, roots: Roots) -> str | None:
    chips = {address for address, _ in tpu_chips(roots.sys)}
    if not chips:
        return None
    accel = os.path.basename(os.path.realpath(f"{roots.sys}/class/accel/accel{number}/device"))
    candidates = {accel}
    with contextlib.suppress(OSError):
        candidates |= set(os.listdir(f"{roots.sys}/kernel/iommu_groups/{number}/devices"))
    chip = next(iter(candidates & chips), None)
    return f"TPU-{chip}" if chip else None
