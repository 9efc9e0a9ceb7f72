"""No collector ever touches a network mount: on a hung server that call would not return."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from wellfed.collectors.registry import COLLECTORS, Roots, load

NODE = Path(__file__).parent / "fixtures" / "node"
ROOTS = Roots(str(NODE / "proc"), str(NODE / "sys"))
#: Those that start a process or listen on a socket; they open no file of the node but below its roots.
ELSEWHERE = {"nvml", "neuron", "steps"}
#: Every way of the os module into a file system that takes a path.
CALLS = [
    "open",
    "stat",
    "lstat",
    "statvfs",
    "access",
    "listdir",
    "scandir",
    "readlink",
    "getxattr",
    "listxattr",
    "utime",
    "truncate",
    "chmod",
]


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths that Python code passes to the file system from now on."""
    paths: list[str] = []

    def watched(call: Callable[..., object]) -> Callable[..., object]:
        def wrapper(path: object = ".", *arguments: object, **named: object) -> object:
            paths.append(os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else str(path))
            return call(path, *arguments, **named)

        return wrapper

    for module, names in ((os, CALLS), (builtins, ["open"])):
        for name in names:
            monkeypatch.setattr(module, name, watched(getattr(module, name)))
    return paths


def test_a_collector_reads_below_proc_and_sys_and_never_a_mount(touched: list[str]) -> None:
    load()
    for name, factory in COLLECTORS.items():
        if name not in ELSEWHERE:
            collector = factory()
            for now in (0.0, 1.0):
                list(collector.read(ROOTS, now))
            getattr(collector, "close", lambda: None)()
    mounts = ("/mnt/data", "/mnt/models x", "/mnt/scratch space")
    there = "".join((NODE / "proc/1" / name).read_text() for name in ("mountstats", "mounts"))
    assert all(mount.replace(" ", "\\040") in there for mount in mounts), "the node has these mounts"
    assert any("mountstats" in path for path in touched), "the watch works"
    assert not [path for path in touched if path.startswith(mounts)]
    assert os.stat(NODE)
    assert touched[-1] == str(NODE), "and sees a stat"
