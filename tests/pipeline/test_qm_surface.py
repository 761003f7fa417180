"""GFN2-xTB at many geometries in this process."""

import numpy as np
import pytest

from pipeline.errors import QMError
from pipeline.qm.surface import Gfn2Surface
from pipeline.qm.tblite_engine import compute
from pipeline.schema import QMSpec, QMTask
from pipeline.units import KCAL_PER_HARTREE

NUMBERS = np.array([8, 1, 1])
WATER = np.array([[0.0, 0.0, 0.117], [0.0, 0.757, -0.471], [0.0, -0.757, -0.471]])


def test_the_energy_is_the_engines_at_every_geometry():
    """Three geometries after each other, each from the last one's density, as the engine has them: 1e-3."""
    surface = Gfn2Surface(NUMBERS, 0)
    for stretch in (1.0, 1.05, 0.97):
        task = QMTask(
            ligand_key="water",
            atomic_numbers=NUMBERS,
            coords=WATER * stretch,
            total_charge=0,
            spec=QMSpec(program="tblite", method="gfn2-xtb", basis="", dispersion=None, driver="energy"),
        )
        expected = compute(task, 1, 512).energy * KCAL_PER_HARTREE
        assert surface(WATER * stretch)[0] == pytest.approx(expected, abs=1e-3)


def test_the_gradient_is_the_slope_of_the_energy():
    """Central differences over 0.002 angstrom of a bent, stretched water, to 0.02 kcal/mol/angstrom."""
    surface, start = Gfn2Surface(NUMBERS, 0), WATER * 1.04
    _, gradient = surface(start)
    for atom, axis in ((0, 2), (1, 1), (2, 2)):
        step = np.zeros_like(start)
        step[atom, axis] = 0.001
        slope = (surface(start + step)[0] - surface(start - step)[0]) / 0.002
        assert gradient[atom, axis] == pytest.approx(slope, abs=0.02)


def test_what_does_not_converge_is_a_qm_error():
    """Hydrogen atoms on top of each other."""
    with pytest.raises(QMError, match="tblite"):
        Gfn2Surface(np.array([1, 1, 8]), 0)(np.zeros((3, 3)))
