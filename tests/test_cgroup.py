"""A cgroup path tells the job, whatever wrote it; dead jobs disappear; a job's numbers are in base units."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfed.collectors import cgroup
from wellfed.collectors.registry import Roots

UID = "2f1c3a44-9d0b-4b7e-8a57-0c6f2f3f9a01"
LOW = UID.replace("-", "_")
BOX = "4f" * 32


@pytest.mark.parametrize(
    ("path", "job", "whole"),
    [
        (
            f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{LOW}.slice/cri-containerd-{BOX}.scope",
            f"kubernetes:{UID}",
            f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{LOW}.slice",
        ),
        (f"/kubepods/besteffort/pod{UID}/{BOX}", f"kubernetes:{UID}", f"/kubepods/besteffort/pod{UID}"),
        (f"/kubepods.slice/kubepods-pod{LOW}.slice/crio-{BOX}.scope/container", f"kubernetes:{UID}", None),
        (f"/kubepods/burstable/pod{UID}/crio-{BOX}", f"kubernetes:{UID}", f"/kubepods/burstable/pod{UID}"),
        (
            f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{LOW}.slice/docker-{BOX}.scope",
            f"kubernetes:{UID}",
            f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{LOW}.slice",
        ),
        # The cgroupfs driver under a containerd that systemd runs.
        (
            f"/system.slice/containerd.service/kubepods-burstable-pod{LOW}.slice:cri-containerd:{BOX}",
            f"kubernetes:{UID}",
            None,
        ),
        # Kubernetes in a container, as kind does it.
        (f"/docker/{BOX}/kubelet/kubepods/pod{UID}/{BOX}", f"kubernetes:{UID}", None),
        # Several slurmd on one machine.
        (
            "/system.slice/node1_slurmstepd.scope/job_7/step_extern/user/task_special",
            "slurm:7",
            "/system.slice/node1_slurmstepd.scope/job_7",
        ),
        ("/slurm_node1/uid_0/job_7/step_0", "slurm:7", "/slurm_node1/uid_0/job_7"),
        ("/slurm/uid_1000/job_77", "slurm:77", "/slurm/uid_1000/job_77"),
        (
            "/system.slice/slurmstepd.scope/job_4242/step_0/user/task_0",
            "slurm:4242",
            "/system.slice/slurmstepd.scope/job_4242",
        ),
        ("/slurm/uid_1000/job_77/step_batch/task_3", "slurm:77", "/slurm/uid_1000/job_77"),
        (f"/system.slice/docker-{BOX}.scope", f"docker:{BOX[:12]}", f"/system.slice/docker-{BOX}.scope"),
        (f"/docker/{BOX}", f"docker:{BOX[:12]}", f"/docker/{BOX}"),
        ("/system.slice/trainer.service", "systemd:trainer.service", "/system.slice/trainer.service"),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/train-1.scope",
            "systemd:train-1.scope",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/train-1.scope",
        ),
    ],
)
def test_paths_of_every_runtime(path: str, job: str, whole: str | None) -> None:
    identity = cgroup.identify(path)
    assert identity is not None
    assert identity.job == job
    if whole is not None:
        assert identity.path == whole


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/init.scope",
        "/user.slice/user-1000.slice/session-3.scope",
        "/system.slice/systemd-udevd.service",
        "/kubepods",
    ],
)
def test_the_machines_own_groups_are_no_jobs(path: str) -> None:
    assert cgroup.identify(path) is None


@given(st.text(max_size=200))
def test_any_path_is_a_job_or_none_and_the_job_is_above_the_process(path: str) -> None:
    identity = cgroup.identify(path)
    assert identity is None or path.startswith(identity.path)


def test_membership_of_v2_v1_and_hybrid() -> None:
    assert cgroup.parse_membership(b"0::/system.slice/a.service\n") == "/system.slice/a.service"
    v1 = b"12:cpuset:/\n4:memory:/slurm/uid_0/job_1\n1:name=systemd:/x\n0::/\n"
    assert cgroup.parse_membership(v1) == "/slurm/uid_0/job_1"
    assert cgroup.parse_membership(b"0::/\n") is None
    with pytest.raises(ValueError, match="expected"):
        cgroup.parse_membership(b"nonsense")


def tree(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


JOB = "sys/fs/cgroup/system.slice/slurmstepd.scope/job_9"
V2 = {
    "sys/fs/cgroup/cgroup.controllers": "cpu io memory\n",
    f"{JOB}/cpu.stat": "usage_usec 5000000\nnr_throttled 3\nthrottled_usec 250000\n",
    f"{JOB}/cpu.max": "400000 100000\n",
    f"{JOB}/memory.current": "1000\n",
    f"{JOB}/memory.max": "max\n",
    f"{JOB}/pids.current": "17\n",
    f"{JOB}/io.pressure": "some avg10=0 avg60=0 avg300=0 total=2000000\nfull avg10=0 avg60=0 avg300=0 total=1\n",
    f"{JOB}/io.stat": "259:0 rbytes=100 wbytes=20 rios=1 wios=1\n8:0 rbytes=1 wbytes=2\n",
    f"{JOB}/step_0/cpu.stat": "usage_usec 1\n",
    "proc/77/cgroup": "0::/system.slice/slurmstepd.scope/job_9/step_0/user/task_0\n",
}


def test_a_v2_job_is_one_row_in_base_units_and_goes_when_it_ends(tmp_path: Path) -> None:
    roots = Roots(str(tree(tmp_path, V2) / "proc"), str(tmp_path / "sys"))
    assert cgroup.job_of(roots, 77) == "slurm:9"
    assert cgroup.job_of(roots, 78) is None
    collector = cgroup.Cgroup()
    (row,) = collector.read(roots, 0.0)
    started = row.values.pop("started_seconds")
    assert started is not None
    assert started > 0
    assert row.key == ("slurm:9",)
    assert row.values == {
        "cpu_usage_seconds": 5.0,
        "cpu_throttled_seconds": 0.25,
        "cpu_limit": 4.0,
        "memory_bytes": 1000.0,
        "memory_limit_bytes": None,
        "processes": 17.0,
        "psi_io_some_seconds": 2.0,
        "io_read_bytes": 101.0,
        "io_write_bytes": 22.0,
    }
    shutil.rmtree(tmp_path / "sys/fs/cgroup/system.slice/slurmstepd.scope/job_9")
    assert list(collector.read(roots, 1.0)) == []


def test_a_v1_job_gathers_its_controllers(tmp_path: Path) -> None:
    base = "slurm/uid_0/job_5"
    roots = Roots(
        str(tmp_path / "proc"),
        str(
            tree(
                tmp_path,
                {
                    f"sys/fs/cgroup/cpu/{base}/cpuacct.usage": "3000000000\n",
                    f"sys/fs/cgroup/cpu/{base}/cpu.stat": "nr_periods 1\nnr_throttled 1\nthrottled_time 500000000\n",
                    f"sys/fs/cgroup/cpu/{base}/cpu.cfs_quota_us": "200000\n",
                    f"sys/fs/cgroup/cpu/{base}/cpu.cfs_period_us": "100000\n",
                    f"sys/fs/cgroup/memory/{base}/memory.usage_in_bytes": "77\n",
                    f"sys/fs/cgroup/memory/{base}/memory.limit_in_bytes": "9223372036854771712\n",
                    f"sys/fs/cgroup/blkio/{base}/blkio.throttle.io_service_bytes_recursive": "8:0 Read 10\n8:0 Write 20\nTotal 30\n",
                },
            )
            / "sys"
        ),
    )
    (row,) = cgroup.Cgroup().read(roots, 0.0)
    wanted = {"cpu_usage_seconds": 3.0, "cpu_throttled_seconds": 0.5, "cpu_limit": 2.0, "memory_bytes": 77.0}
    assert wanted.items() <= row.values.items()
    assert row.values["memory_limit_bytes"] is None
    assert (row.values["io_read_bytes"], row.values["io_write_bytes"]) == (10, 20)
