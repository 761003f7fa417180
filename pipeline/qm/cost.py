"""What a calculation costs before it is made: seconds from its size, level and engine.

Fitted to CPU seconds of single-core jobs (molecules of 3 to 21 atoms, H C N O S Cl Br), scaled to a machine
by the history in its store, or, without one, by a short probe of its speed.
"""

import heapq
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.qm.levels import has_analytic_hessian, n_functions
from pipeline.schema import QMTask
from pipeline.store import QMStore


@dataclass(frozen=True, kw_only=True)
class _Law:
    """seconds = start + scale (n_functions / 100)^power (n_atoms / 10)^0.4"""

    start: float
    scale: float
    power: float
    gradient_share: float
    """of the scaled part"""


_LAWS = {
    ("pyscf", "b3lyp"): _Law(start=0.9, scale=11.0, power=2.2, gradient_share=0.40),
    ("pyscf", "hf"): _Law(start=0.8, scale=2.0, power=2.5, gradient_share=0.45),
    ("psi4", "b3lyp"): _Law(start=3.5, scale=11.0, power=1.7, gradient_share=0.35),
    ("psi4", "hf"): _Law(start=3.0, scale=4.0, power=2.5, gradient_share=0.45),
    # one molecule of 9 atoms each; the power is that of B3LYP
    ("pyscf", "wb97x"): _Law(start=0.9, scale=17.0, power=2.2, gradient_share=0.40),
    ("pyscf", "b97-3c"): _Law(start=0.9, scale=6.0, power=2.2, gradient_share=0.40),
    ("tblite", "gfn2-xtb"): _Law(start=0.06, scale=0.03, power=2.5, gradient_share=0.3),
    ("tblite", "gfn1-xtb"): _Law(start=0.06, scale=0.03, power=2.5, gradient_share=0.3),
    ("mopac", "am1"): _Law(start=0.15, scale=0.02, power=2.0, gradient_share=0.3),
}
_OTHER_LAW = _Law(start=3.0, scale=0.1, power=1.0, gradient_share=0.5)
"""of programs that are never fitted here: learned potentials, whose libraries take seconds to load"""
_STEPS_PER_OPTIMISATION = 15
"""gradients; small, stiff or well-started molecules take fewer"""
_GRADIENTS_PER_ATOM = {True: 1.0, False: 6.0}
"""of a Hessian, by whether it is analytic"""
_ATOMS_POWER = 0.4
"""points of the grid grow with the atoms, functions that reach a point do not"""
_FEWEST = 3
"""successful jobs before the history is believed"""
_PROBE_SECONDS = 0.0036
"""CPU seconds of the probe on the machine of the fit"""


def predicted_seconds(task: QMTask) -> float:
    """Predict the seconds of one task on one core of the machine of the fit; QMError for an unknown basis."""
    law = _LAWS.get((task.spec.program, task.spec.method), _OTHER_LAW)
    share = _gradients(task) or 1.0 - law.gradient_share
    size = (n_functions(task) / 100.0) ** law.power * (len(task.atomic_numbers) / 10.0) ** _ATOMS_POWER
    return law.start + share * law.scale * size


def _gradients(task: QMTask) -> float:
    """How many gradients a job makes; 0 for one that makes none."""
    n_atoms = len(task.atomic_numbers)
    per_driver = {
        "gradient": 1.0,
        "hessian": 1.0 + n_atoms * _GRADIENTS_PER_ATOM[has_analytic_hessian(task.spec)],
        "optimise": float(_STEPS_PER_OPTIMISATION),
    }
    return per_driver.get(task.spec.driver, 0.0)


def estimate_seconds(tasks: Sequence[QMTask], jobs: int, ratio: float = 1.0) -> float:
    """Predict the wall time of a batch: longest first, on `jobs` children, times the machine's ratio."""
    ends = [0.0] * max(1, jobs)
    for seconds in sorted((predicted_seconds(task) for task in tasks), reverse=True):
        heapq.heapreplace(ends, ends[0] + seconds)
    return ratio * max(ends)


def machine_ratio(store: QMStore, program: str) -> float:
    """How much longer jobs take here than the fit says: the median of the store's history, else a probe."""
    history = [
        timing.seconds / timing.predicted_seconds
        for timing in store.timings(platform.node())
        if timing.spec.program == program
    ]
    return statistics.median(history) if len(history) >= _FEWEST else probe_speed()


def probe_speed() -> float:
    """Time a small piece of work like a DFT grid's: CPU seconds here over those on the machine of the fit."""
    points = np.linspace(0.1, 4.0, 4000)
    exponents = np.linspace(0.1, 10.0, 60)
    times = []
    for _ in range(5):
        start = time.process_time()
        values = np.exp(-np.outer(points**2, exponents))
        np.linalg.norm(np.einsum("pi,pj->ij", values, values))
        times.append(time.process_time() - start)
    return min(times) / _PROBE_SECONDS
