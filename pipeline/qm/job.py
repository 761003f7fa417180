"""What runs in the child of a calculation: the engine, and what is made of several of its gradients."""

import dataclasses
import importlib
import os
import platform
import resource
import time
from collections.abc import Callable

from pipeline.qm.differences import hessian_by_differences
from pipeline.qm.levels import has_analytic_hessian
from pipeline.qm.methods import program_entry
from pipeline.qm.optimise import optimise
from pipeline.qm.result import EngineResult
from pipeline.schema import QMTask

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def compute_here(task: QMTask, n_cores: int, memory_mb: int) -> EngineResult:
    """Set the threads, load the engine, compute, note what it took."""
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
    if task.spec.driver == "optimise":
        return optimise(task, compute)
    if task.spec.driver == "hessian" and not has_analytic_hessian(task.spec):
        return hessian_by_differences(task, compute)
    return compute(task)
