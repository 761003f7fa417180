"""GFN2-xTB of one molecule at many geometries, in this process: for training, where children are dear."""

from typing import Any

import numpy as np
from tblite.exceptions import TBLiteRuntimeError
from tblite.interface import Calculator

from pipeline.errors import QMError
from pipeline.schema import FloatArray
from pipeline.units import ANGSTROM_PER_BOHR, KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR, KCAL_PER_HARTREE

_ACCURACY = 0.5
"""tblite's unit"""


class Gfn2Surface:
    """Called with a geometry; each starts from the density of the one before."""

    def __init__(self, atomic_numbers: np.ndarray, total_charge: int) -> None:
        self._numbers, self._charge = atomic_numbers, total_charge
        self._calculator: Calculator | None = None
        self._last: Any = None

    def __call__(self, coords: FloatArray) -> tuple[float, FloatArray]:
        """Energy, kcal/mol, and gradient (n_atoms, 3), kcal/mol/angstrom, at coords (n_atoms, 3), angstrom.

        Raises QMError kind scf when it does not converge.
        """
        positions = coords / ANGSTROM_PER_BOHR
        try:
            if self._calculator is None:
                self._calculator = Calculator("GFN2-xTB", self._numbers, positions, charge=self._charge)
                self._calculator.set("verbosity", 0)
                self._calculator.set("accuracy", _ACCURACY)
            else:
                self._calculator.update(positions)
            self._last = self._calculator.singlepoint(self._last)
        except TBLiteRuntimeError as error:
            raise QMError(f"tblite: {error}", kind="scf") from error
        gradient = self._last.get("gradient") * KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR
        return float(self._last.get("energy")) * KCAL_PER_HARTREE, gradient
