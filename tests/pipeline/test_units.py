"""The conversion factors against CODATA's constants, and other programs' constants against ours."""

import math

import pytest
from scipy import constants

from pipeline import units

BOHR = constants.physical_constants["Bohr radius"][0] / constants.angstrom
KCAL = constants.kilo * constants.calorie / constants.N_A
HARTREE = constants.physical_constants["Hartree energy"][0] / KCAL
COULOMB = constants.e**2 / (4 * math.pi * constants.epsilon_0 * constants.angstrom * KCAL)
BY_CODATA = {
    "ANGSTROM_PER_BOHR": BOHR,
    "KCAL_PER_HARTREE": HARTREE,
    "KJ_PER_KCAL": constants.calorie,
    "ANGSTROM_PER_NM": constants.nano / constants.angstrom,
    "DEGREE_PER_RADIAN": 1.0 / constants.degree,
    "BOLTZMANN": constants.k / KCAL,
    "DEBYE_PER_E_ANGSTROM": constants.e * constants.angstrom * constants.c / 1e-21,
    "KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR": HARTREE / BOHR,
    "COULOMB_CONSTANT": COULOMB,
}


@pytest.mark.parametrize("name", BY_CODATA)
def test_factors_are_codatas(name: str) -> None:
    """From the constants that scipy has; two editions of CODATA differ by 7e-10 in the Bohr radius."""
    assert getattr(units, name) == pytest.approx(BY_CODATA[name], rel=2e-9)


def test_the_constants_of_amber_and_lammps_are_nearly_ours() -> None:
    """Their Coulomb constants, with fewer digits: 3.46e-5 and 1e-8 below ours."""
    ours = units.COULOMB_CONSTANT
    assert units.AMBER_CHARGE_FACTOR**2 / ours == pytest.approx(1 - 3.462e-5, rel=1e-8)
    assert units.LAMMPS_COULOMB_CONSTANT / ours == pytest.approx(1 - 9.94e-9, rel=1e-10)
