"""DOOR: one calculation in, one checked record out; the program runs in a supervised child process."""

import dataclasses
import importlib
import os
import platform
import re
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from subprocess import DEVNULL, PIPE, run

from pipeline.child import Child, Limits
from pipeline.errors import ChildError, ParmflowError
from pipeline.qm.differences import hessian_by_differences
from pipeline.qm.faults import error_from_child, error_from_text
from pipeline.qm.levels import check_task, has_analytic_hessian, levels_of
from pipeline.qm.methods import PROGRAMS, is_installed, program_entry
from pipeline.qm.record import in_own_frame, to_record
from pipeline.qm.result import EngineResult
from pipeline.schema import QMRecord, QMTask

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
    return to_record(task, reply.value)


def _compute_here(task: QMTask, n_cores: int, memory_mb: int) -> EngineResult:
    """Run in the child: set the threads, load the engine, compute, note what it took."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(n_cores)
    entry = program_entry(task.spec.program)
    assert entry is not None  # `check_task` saw to that
    # Imported here, after the number of threads is set, and never in the parent.
    engine = importlib.import_module(entry.module)

    def compute(task: QMTask) -> EngineResult:
        result: EngineResult = engine.compute(task, n_cores, memory_mb)
        return result

    start = time.monotonic()
    result = _whole_job(task, compute)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    took = {
        "wall_seconds": f"{time.monotonic() - start:.3f}",
        "cpu_seconds": f"{sum(usage.ru_utime + usage.ru_stime for usage in used):.3f}",
        "n_cores": str(n_cores),
        "host": platform.node(),
    }
    return dataclasses.replace(result, provenance=result.provenance | took)


def _whole_job(task: QMTask, compute: Callable[[QMTask], EngineResult]) -> EngineResult:
    """What an engine computes at once, or what is made of several of its gradients."""
    if task.spec.driver == "hessian" and not has_analytic_hessian(task.spec):
        return hessian_by_differences(task, compute)
    return compute(task)


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """A program that can be used here."""

    name: str
    version: str
    levels: tuple[str, ...]


def available_engines() -> tuple[EngineInfo, ...]:
    """List the programs that are installed, with their versions and levels of theory."""
    return tuple(
        EngineInfo(name=name, version=_version(name), levels=levels_of(name))
        for name in PROGRAMS
        if is_installed(name)
    )


def _version(program: str) -> str:
    entry = PROGRAMS[program]
    if entry.command is None:
        return version(entry.distribution or program)
    answer = run(
        [entry.command, "--version"], stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, text=True, check=False
    )
    found = re.search(r"\d+(\.\d+)+", answer.stdout)
    return found[0] if answer.returncode == 0 and found else "does not start"
