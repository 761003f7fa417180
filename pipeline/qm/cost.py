"""What a calculation costs before it is made: seconds and memory from its size, level and engine.

Fitted to CPU seconds of single-core jobs (molecules of 3 to 21 atoms, H C N O S Cl Br), scaled to a machine
by the history in its store, or, without one, by a short probe of its speed.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from pipeline.errors import QMError
from pipeline.qm.levels import has_analytic_hessian, n_functions
from pipeline.qm.methods import METHODS, Family
from pipeline.qm.schedule import wall_seconds
from pipeline.schema import QMSpec, QMTask
from pipeline.store import Timing


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
    # psi4 1.3.2 on OpenBLAS; on the reference BLAS 16 atoms take 3.5 times as long
    ("psi4", "b3lyp"): _Law(start=2.6, scale=8.0, power=1.7, gradient_share=0.27),
    ("psi4", "hf"): _Law(start=2.3, scale=1.8, power=2.7, gradient_share=0.48),
    # fitted to ethanol alone; the power is that of B3LYP
    ("pyscf", "wb97x"): _Law(start=0.9, scale=6.0, power=2.2, gradient_share=0.40),
    ("pyscf", "b97-3c"): _Law(start=0.9, scale=10.5, power=2.2, gradient_share=0.40),
    ("tblite", "gfn2-xtb"): _Law(start=0.06, scale=0.03, power=2.5, gradient_share=0.3),
    ("tblite", "gfn1-xtb"): _Law(start=0.06, scale=0.03, power=2.5, gradient_share=0.3),
    ("mopac", "am1"): _Law(start=0.15, scale=0.02, power=2.0, gradient_share=0.3),
}
_OTHER_LAW = _Law(start=3.0, scale=0.1, power=1.0, gradient_share=0.5)
"""of programs that are never fitted here: learned potentials, whose libraries take seconds to load"""
_MEMORY_MB: dict[Family | None, int] = {"orbital": 220, "semiempirical": 300, "potential": 1500, None: 1500}
"""resident memory of a small job; None: of programs that only QCEngine knows"""
_BYTES_PER_FUNCTION_CUBED = 95
"""of the integrals of density fitting: pyscf, gradients of 54 to 220 functions; psi4 needs some two thirds"""
_STEPS_PER_OPTIMISATION = 15
"""gradients; small, stiff or well-started molecules take fewer"""
_GRADIENTS_PER_ATOM = {True: 1.0, False: 6.0}
"""of a Hessian, by whether it is analytic"""
_ATOMS_POWER = 0.4
"""points of the grid grow with the atoms, functions that reach a point do not"""
_FEWEST = 3
"""successful jobs before the history is believed"""
_ALIKE = 15
"""jobs of nearest size whose median is believed"""
_FEWEST_POINTS = 3
"""geometries per molecule below which nothing can be tuned and tested"""
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


def expected_seconds(task: QMTask) -> float:
    """Predict as `predicted_seconds`; 0 for a task that will be refused, so that it is refused at once."""
    try:
        return predicted_seconds(task)
    except QMError:
        return 0.0


def expected_memory_mb(task: QMTask) -> int:
    """Predict the resident memory of one task where nothing limits it; 0 for a task that will be refused."""
    method = METHODS.get(task.spec.method)
    family = method.family if method else None
    try:
        integrals = _BYTES_PER_FUNCTION_CUBED * n_functions(task) ** 3 if family == "orbital" else 0
    except QMError:
        return 0
    return _MEMORY_MB[family] + integrals // 2**20


class Calibration:
    """This machine's own times beside what was predicted: turns a prediction into wall time here."""

    def __init__(self, timings: Sequence[Timing]) -> None:
        """Begin with a history, the latest first."""
        self._timings: dict[tuple[str, ...], list[Timing]] = {}
        for timing in reversed(timings):
            self.learn(timing)

    def learn(self, timing: Timing) -> None:
        """Take in one more finished job; of jobs of one size the latest count first."""
        for kind in _kinds(timing.spec):
            self._timings.setdefault(kind, []).insert(0, timing)

    def seconds(self, task: QMTask) -> float:
        """Wall time of one task on one core here; 0 for a task that will be refused."""
        predicted = expected_seconds(task)
        return predicted * self.ratio(task.spec, predicted) if predicted else 0.0

    def ratio(self, spec: QMSpec, predicted: float) -> float:
        """How much longer jobs take here than predicted: the median of the most alike, else a probe.

        Alike are those of the same program, method and driver, or else of program and method, or of the
        program; among them those of nearest size.
        """
        for kind in _kinds(spec):
            alike = self._timings.get(kind, [])
            if len(alike) >= _FEWEST:
                alike = sorted(alike, key=lambda t: abs(math.log(t.predicted_seconds / predicted)))[:_ALIKE]
                return statistics.median(t.seconds / t.predicted_seconds for t in alike)
        return probe_speed()

    def batch_seconds(self, tasks: Sequence[QMTask], n_cores: int) -> float:
        """Wall time of a batch on so many cores here."""
        return wall_seconds([self.seconds(task) for task in tasks], n_cores)


def _kinds(spec: QMSpec) -> tuple[tuple[str, ...], ...]:
    return (spec.program, spec.method, spec.driver), (spec.program, spec.method), (spec.program,)


def what_would_fit(
    tasks: Sequence[QMTask], budget: float, estimate: Callable[[Sequence[QMTask]], float]
) -> str:
    """Say what of a batch a budget (seconds) is enough for: fewer geometries per molecule, else fewer
    molecules; empty when nothing is.
    """
    of_molecule: dict[str, list[QMTask]] = {}
    of_level: dict[tuple[str, QMSpec], list[QMTask]] = {}
    for task in tasks:
        of_molecule.setdefault(task.ligand_key, []).append(task)
        # A geometry may cost twice: its optimisation at one level, its single point at another.
        of_level.setdefault((task.ligand_key, task.spec), []).append(task)
    molecules = sorted(of_molecule.values(), key=lambda some: sum(expected_seconds(task) for task in some))
    most = max(map(len, of_level.values()), default=0)
    for n_points in range(most - 1, _FEWEST_POINTS - 1, -1):
        if estimate([task for some in of_level.values() for task in some[:n_points]]) <= budget:
            return f"{n_points} geometries per molecule would fit (qm.n_points = {n_points})"
    for n_molecules in range(len(molecules) - 1, 0, -1):
        if estimate([task for some in molecules[:n_molecules] for task in some]) <= budget:
            return f"the {n_molecules} cheapest of the {len(molecules)} molecules would fit"
    return ""


@cache
def probe_speed() -> float:
    """Time a small piece of work like a DFT grid's: CPU seconds here over those on the machine of the fit.

    Once per process, so that the same question has the same answer.
    """
    points = np.linspace(0.1, 4.0, 4000)
    exponents = np.linspace(0.1, 10.0, 60)
    times = []
    for _ in range(5):
        start = time.process_time()
        values = np.exp(-np.outer(points**2, exponents))
        np.linalg.norm(np.einsum("pi,pj->ij", values, values))
        times.append(time.process_time() - start)
    return min(times) / _PROBE_SECONDS
