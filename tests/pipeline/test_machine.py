"""What a scheduler or a container keeps from us is not taken; the files are those of Linux."""

import os
from pathlib import Path

import psutil
import pytest

from pipeline.machine import usable_cores, usable_memory_mb

N_CORES = len(os.sched_getaffinity(0))
TOTAL_MB = psutil.virtual_memory().total // 2**20
V2 = "0::/user.slice/job.scope\n"
V1 = "5:memory:/slurm/job_7\n4:cpu,cpuacct:/slurm/job_7\n3:cpuset:/elsewhere\n"


def machine(root: Path, own: str, files: dict[str, str]) -> Path:
    """Lay out /proc/self/cgroup and the files below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(own)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("own", "files"),
    [
        (V2, {"user.slice/job.scope/cpu.max": "50000 100000"}),
        (V2, {"user.slice/job.scope/cpu.max": "max 100000", "user.slice/cpu.max": "100000 100000"}),
        ("0::/\n", {"cpu.max": "70000 100000"}),  # docker, with a namespace of its own
        (V2, {"cpu.max": "100000 100000"}),  # the same without one: our group's folder is out of sight
        (V1, {"cpu/slurm/job_7/cpu.cfs_quota_us": "90000", "cpu/slurm/job_7/cpu.cfs_period_us": "100000"}),
        (V1, {"cpu/cpu.cfs_quota_us": "5000", "cpu/cpu.cfs_period_us": "5000"}),
    ],
)
def test_a_quota_of_time_counts_as_cores(tmp_path, own, files):
    """Quotas of one core or less leave one, in either version of control groups, whichever group has it."""
    assert usable_cores(machine(tmp_path, own, files)) == 1


@pytest.mark.parametrize(
    ("own", "files"),
    [
        (V2, {"user.slice/job.scope/cpu.max": "max 100000"}),
        (V2, {"user.slice/job.scope/cpu.max": f"{N_CORES * 100_000 - 1} 100000"}),
        (V1, {"cpu/slurm/job_7/cpu.cfs_quota_us": "-1", "cpu/slurm/job_7/cpu.cfs_period_us": "100000"}),
        (V2, {"user.slice/other.scope/cpu.max": "10000 100000"}),
        (V2, {}),
        ("", {}),
    ],
)
def test_without_a_narrower_quota_it_is_the_cores_we_may_run_on(tmp_path, own, files):
    """No limit, a wide one, one of another group: the affinity decides."""
    assert usable_cores(machine(tmp_path, own, files)) == N_CORES


def test_the_affinity_narrows(tmp_path):
    """`taskset` and SLURM: what this process may run on, not what the machine has."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (V2, {"user.slice/job.scope/memory.max": str(300 * 2**20)}, 300),
        (V2, {"user.slice/job.scope/memory.max": "max", "user.slice/memory.max": str(64 * 2**20)}, 64),
        (V1, {"memory/slurm/job_7/memory.limit_in_bytes": str(200 * 2**20)}, 200),
        (V1, {"memory/slurm/job_7/memory.limit_in_bytes": "9223372036854771712"}, TOTAL_MB),
        ("", {}, TOTAL_MB),
    ],
)
def test_memory_is_that_of_the_tightest_group(tmp_path, own, files, expected):
    """The limit of a container or a job, else the machine's."""
    assert usable_memory_mb(machine(tmp_path, own, files)) == expected
