"""DOOR: one calculation in, one checked record out; the program runs in a supervised child process."""

import dataclasses
import importlib
import os
import platform
import resource
import time
from dataclasses import dataclass
from importlib.metadata import version
from subprocess import DEVNULL, PIPE, run

from pipeline.child import Child, Limits
from pipeline.errors import ChildError, ParmflowError
from pipeline.qm.faults import error_from_child, error_from_text
from pipeline.qm.frame import own_frame
from pipeline.qm.levels import METHODS, check_task, is_installed
from pipeline.qm.result import EngineResult, check_result
from pipeline.schema import QMRecord, QMTask
from pipeline.units import KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR, KCAL_PER_HARTREE

# An engine's module is imported in the child, after the number of threads is set, and never in the parent.
_MODULES = {
    "psi4": "pipeline.qm.psi4_engine",
    "pyscf": "pipeline.qm.pyscf_engine",
    "tblite": "pipeline.qm.tblite_engine",
}
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run_task(task: QMTask, limits: Limits, n_cores: int = 1) -> QMRecord:
    """Run one calculation to its end in a child process and return its checked record.

    Raises QMError: `input`, `geometry` and `engine` before anything runs; `scf`, `memory`, `disk`, `time`,
    `crash`, `engine` afterwards. The record is in the frame and atom order of the task.
    """
    with start_task(task, limits, n_cores) as child:
        return collect_record(task, child)


def start_task(task: QMTask, limits: Limits, n_cores: int = 1) -> Child[EngineResult]:
    """Check a task and start it; `collect_record` takes its record from the child."""
    check_task(task)
    return Child(_compute_here, in_own_frame(task), n_cores, limits.memory_mb, limits=limits)


def collect_record(task: QMTask, child: Child[EngineResult]) -> QMRecord:
    """Wait for a started task, check what came back and turn it into the task's frame and our units."""
    who = f"{task.ligand_key}: {task.spec.program}"
    try:
        reply = child.reply()
    except ChildError as error:
        raise error_from_child(error, who=who) from error
    if isinstance(reply.error, ParmflowError):
        raise reply.error
    if reply.error is not None:  # whatever an engine's library raises is that engine's failure
        raise error_from_text(reply.traceback, who=who) from reply.error
    result: EngineResult = reply.value
    check_result(in_own_frame(task), result)
    gradient = result.gradient
    if gradient is not None:
        _, rotation = own_frame(task.coords)
        gradient = gradient @ rotation * KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR
    return QMRecord(
        task_key=task.key,
        ligand_key=task.ligand_key,
        spec=task.spec,
        coords=task.coords,
        energy=result.energy * KCAL_PER_HARTREE,
        gradient=gradient,
        provenance=tuple(sorted(result.provenance.items())),
    )


def in_own_frame(task: QMTask) -> QMTask:
    """Give the same task with its molecule turned into its own frame."""
    return dataclasses.replace(task, coords=own_frame(task.coords)[0])


def _compute_here(task: QMTask, n_cores: int, memory_mb: int) -> EngineResult:
    """Run in the child: set the threads, load the engine, compute, note what it took."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(n_cores)
    engine = importlib.import_module(_MODULES[task.spec.program])
    start = time.monotonic()
    result: EngineResult = engine.compute(task, n_cores, memory_mb)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    took = {
        "wall_seconds": f"{time.monotonic() - start:.3f}",
        "cpu_seconds": f"{sum(usage.ru_utime + usage.ru_stime for usage in used):.3f}",
        "n_cores": str(n_cores),
        "host": platform.node(),
    }
    return dataclasses.replace(result, provenance=result.provenance | took)


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """A program that can be used here."""

    name: str
    version: str
    levels: tuple[str, ...]


def available_engines() -> tuple[EngineInfo, ...]:
    """List the programs that are installed, with their versions and levels of theory."""
    return tuple(
        EngineInfo(name=name, version=_version(name), levels=_levels(name))
        for name in METHODS
        if is_installed(name)
    )


def _version(program: str) -> str:
    if program != "psi4":
        return version(program)
    answer = run(["psi4", "--version"], stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, text=True, check=False)
    words = answer.stdout.split()
    return words[-1] if answer.returncode == 0 and words else "does not start"


def _levels(program: str) -> tuple[str, ...]:
    dft = {"b3lyp": "b3lyp-d3bj/dzvp", "hf": "hf/dzvp"}
    return tuple(dft.get(method, method) for method in METHODS[program])
