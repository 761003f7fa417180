"""psi4 under its supervisor: whoever is killed, no psi4 lives on and no scratch stays; a full disk is one."""

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from shutil import which

import numpy as np
import psutil
import pytest

from pipeline.errors import QMError
from pipeline.process.child import Child, Limits, sweep
from pipeline.qm.door import collect_record
from pipeline.qm.job import compute_here
from pipeline.qm.record import in_own_frame
from pipeline.qm.result import EngineResult
from pipeline.schema import QMSpec, QMTask
from tests.process_tree import runs

pytestmark = [
    pytest.mark.psi4,
    pytest.mark.skipif(which("psi4") is None, reason="psi4 is not installed"),
]
SOON = 5.0
"""seconds within which a killed process must be gone"""
PATIENCE = 200.0
"""seconds for psi4 to start on a busy machine"""
RUNNER = """
import sys
from pathlib import Path
from pipeline.process.child import Limits
from pipeline.qm.door import run_task
from tests.pipeline.test_qm_supervisor import make_task
run_task(make_task(4), Limits(wall_seconds=600, memory_mb=4096, scratch=Path(sys.argv[1])))
"""


def make_task(n_waters: int) -> QMTask:
    """A row of water molecules: minutes of B3LYP for four."""
    water = np.array([[0.0, 0.0, 0.117], [0.0, 0.757, -0.471], [0.0, -0.757, -0.471]])
    return QMTask(
        ligand_key="waters",
        atomic_numbers=np.array([8, 1, 1] * n_waters),
        coords=np.concatenate([water + np.array([3.0 * n, 0.0, 0.0]) for n in range(n_waters)]),
        total_charge=0,
        spec=QMSpec(program="psi4"),
    )


PROBES = {"--version", "--module"}
"""with one of these, psi4 is asked what it is, and computes nothing"""


def tree_with_psi4(runner: subprocess.Popen) -> list[psutil.Process]:
    """Wait until psi4 computes; the runner's descendants, psi4 among them."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert runner.poll() is None
        tree = psutil.Process(runner.pid).children(recursive=True)
        for process in tree:
            try:
                computes = "psi4" in process.name() and not PROBES.intersection(process.cmdline())
                if computes and process.cpu_times().user > 0.5:
                    return tree
            except psutil.NoSuchProcess:
                pass
        time.sleep(0.05)
    raise AssertionError("psi4 never started")


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run after the time within which they must be gone."""
    _, left = psutil.wait_procs(processes, timeout=SOON)
    return [process for process in left if runs(process)]


def test_kill_9_of_the_supervisor_leaves_no_psi4_and_no_scratch(tmp_path: Path) -> None:
    """The process that started psi4 is killed: within five seconds psi4 is gone and its folder with it."""
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, str(tmp_path)])
    tree = tree_with_psi4(runner)
    assert list(tmp_path.glob("parmflow-job-*/work/*"))
    runner.kill()
    runner.wait()
    assert alive(tree) == []
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_kill_9_of_all_supervisors_is_mended_at_the_next_start(tmp_path: Path) -> None:
    """Runner, server and warden are killed at once, so that nobody is left to end psi4: the next start does,
    and removes its scratch.
    """
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, str(tmp_path)])
    tree = tree_with_psi4(runner)
    for process in [psutil.Process(runner.pid), *tree[:2]]:  # parents come before children
        process.send_signal(signal.SIGKILL)
    runner.wait()
    time.sleep(0.5)
    (removed,) = sweep(tmp_path)
    assert removed.name.startswith("parmflow-job-")
    assert alive(tree) == []
    assert list(tmp_path.iterdir()) == []


def compute_on_a_small_disk(task: QMTask) -> EngineResult:
    """Compute where no file can be larger than 100 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    return compute_here(task, 1, 4096)


def test_a_full_disk_under_psi4_is_kind_disk(tmp_path: Path) -> None:
    """psi4 that cannot write its scratch files is an infrastructure failure, not the molecule's."""
    task = make_task(1)
    limits = Limits(wall_seconds=300, memory_mb=4096, scratch=tmp_path)
    with (
        Child(compute_on_a_small_disk, in_own_frame(task), limits=limits) as child,
        pytest.raises(QMError) as caught,
    ):
        collect_record(task, child)
    assert caught.value.kind == "disk"
