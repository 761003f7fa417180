"""What is added to a DFT energy: Grimme's D3(BJ), the short-range term of B97-3c (s-dftd3's Python API)."""

from dataclasses import dataclass

import numpy as np
from dftd3.interface import DispersionModel, GeometricCounterpoise, RationalDampingParam

from pipeline.qm.result import to_bohr
from pipeline.schema import FloatArray, IntArray, QMTask

_STEP = 0.005
"""bohr; corrections are smooth sums of powers and exponentials"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Correction:
    """What is added to the energy and the gradient of the functional."""

    energy: float
    """hartree"""
    gradient: FloatArray
    """(n_atoms, 3), hartree/bohr"""


def compute_d3bj(
    method: str, atomic_numbers: IntArray, bohr: FloatArray, *, three_body: bool = False
) -> Correction:
    """Compute the D3(BJ) term of a functional; without the Axilrod-Teller term, as in OpenFF's data sets.

    S. Grimme, S. Ehrlich, L. Goerigk, J. Comput. Chem. 32, 1456 (2011).
    """
    model = DispersionModel(np.asarray(atomic_numbers), np.asarray(bohr))
    result = model.get_dispersion(RationalDampingParam(method=method, atm=three_body), grad=True)
    return Correction(energy=float(result["energy"]), gradient=np.asarray(result["gradient"]))


def compute_short_range(atomic_numbers: IntArray, bohr: FloatArray) -> Correction:
    """Compute the short-range bond term of B97-3c (eq. 7 of J. Chem. Phys. 148, 064104)."""
    model = GeometricCounterpoise(np.asarray(atomic_numbers), np.asarray(bohr), method="b973c")
    result = model.get_counterpoise(grad=True)
    return Correction(energy=float(result["energy"]), gradient=np.asarray(result["gradient"]))


def corrections(task: QMTask) -> tuple[Correction, ...]:
    """Compute everything that a task's level adds to its functional."""
    return _corrections(task, to_bohr(task))


def _corrections(task: QMTask, bohr: FloatArray) -> tuple[Correction, ...]:
    spec, numbers = task.spec, task.atomic_numbers
    if spec.method == "b97-3c":
        dispersion = compute_d3bj("b973c", numbers, bohr, three_body=True)
        return dispersion, compute_short_range(numbers, bohr)
    return (compute_d3bj(spec.method, numbers, bohr),) if spec.dispersion else ()


def correction_hessian(task: QMTask) -> FloatArray:
    """Second derivatives of all corrections by central differences, (3 n_atoms, 3 n_atoms) hartree/bohr^2."""
    bohr = to_bohr(task)
    hessian = np.zeros((bohr.size, bohr.size))
    for place in range(bohr.size):
        step = np.zeros(bohr.size)
        step[place] = _STEP
        for sign in (1, -1):
            for extra in _corrections(task, bohr + sign * step.reshape(-1, 3)):
                hessian[place] += sign * extra.gradient.ravel() / (2 * _STEP)
    return (hessian + hessian.T) / 2
