"""Grimme's D3 dispersion with Becke-Johnson damping, added to a DFT energy (s-dftd3's Python API)."""

from dataclasses import dataclass

import numpy as np
from dftd3.interface import DispersionModel, RationalDampingParam

from pipeline.schema import FloatArray, IntArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Dispersion:
    """What is added to the energy and the gradient of the functional."""

    energy: float
    """hartree"""
    gradient: FloatArray
    """(n_atoms, 3), hartree/bohr"""


def compute_d3bj(method: str, atomic_numbers: IntArray, bohr: FloatArray) -> Dispersion:
    """Compute the two-body D3(BJ) term of a functional; no Axilrod-Teller term, as in OpenFF's data sets.

    S. Grimme, S. Ehrlich, L. Goerigk, J. Comput. Chem. 32, 1456 (2011).
    """
    model = DispersionModel(np.asarray(atomic_numbers), np.asarray(bohr))
    result = model.get_dispersion(RationalDampingParam(method=method, atm=False), grad=True)
    return Dispersion(energy=float(result["energy"]), gradient=np.asarray(result["gradient"]))
