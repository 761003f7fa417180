"""How much of this machine we may use: its cores and memory, less what a scheduler or a container keeps.

SLURM and `taskset` narrow the cores a process may run on; `docker --cpus` and systemd's `CPUQuota` leave all
cores in sight and hand out time, by control groups: version 2 (`cpu.max`, `memory.max`) or version 1
(`cpu.cfs_quota_us`, `memory.limit_in_bytes`). A limit of a group holds for all groups below it.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> int:
    """Cores that we may run on, or that our quota of CPU time is worth, rounded up; at least one."""
    quotas = [math.ceil(quota) for quota in _quotas(root)]
    return max(min([len(os.sched_getaffinity(0)), *quotas]), 1)


def usable_memory_mb(root: Path = ROOT) -> int:
    """Memory of the machine, or of the tightest control group around us, MiB."""
    limits = [int(words[0]) for words in _settings(root, "memory", "memory.max")]
    limits += [int(words[0]) for words in _settings(root, "memory", "memory.limit_in_bytes")]
    return min([psutil.virtual_memory().total, *limits]) // 2**20


def _quotas(root: Path) -> Iterator[float]:
    """CPU time per time, of each group around us that has a limit."""
    for quota, period in _settings(root, "cpu", "cpu.max"):
        yield int(quota) / int(period)
    periods = _settings(root, "cpu", "cpu.cfs_period_us")
    for (quota,), (period,) in zip(_settings(root, "cpu", "cpu.cfs_quota_us"), periods, strict=True):
        if int(quota) > 0:  # -1: none
            yield int(quota) / int(period)


def _settings(root: Path, controller: str, name: str) -> Iterator[list[str]]:
    """The words of this file in every group around us that has it and limits something."""
    for folder in _groups(root, controller):
        words = _words(folder / name)
        if words and words[0] != "max":
            yield words


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the groups around us, innermost first; in a container those that can be seen from within."""
    mounts = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no /proc, or no right to it
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount = mounts
        elif controller in controllers.split(","):
            mount = mounts / controller
        else:
            continue
        inner = Path(path.lstrip("/"))
        yield from (mount / group for group in (inner, *inner.parents) if (mount / group).is_dir())


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
