"""Conversion factors, used only at the doors.

Inside parmflow every number is in angstrom, kcal/mol, radian and elementary charge. CODATA 2018 values.
"""

import math

ANGSTROM_PER_BOHR = 0.529177210903
KCAL_PER_HARTREE = 627.5094740630558
KJ_PER_KCAL = 4.184
ANGSTROM_PER_NM = 10.0
DEGREE_PER_RADIAN = 180.0 / math.pi
BOLTZMANN = 0.001987204258640832
"""kcal/mol/K"""
DEBYE_PER_E_ANGSTROM = 4.803204712570263

KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR = KCAL_PER_HARTREE / ANGSTROM_PER_BOHR
"""A gradient in hartree/bohr times this is in kcal/mol/angstrom."""

COULOMB_CONSTANT = 138.93545764438198 * ANGSTROM_PER_NM / KJ_PER_KCAL
"""1/(4 pi eps0) in kcal angstrom / (mol e^2): OpenMM's ONE_4PI_EPS0, so that both give the same energy."""

AMBER_CHARGE_FACTOR = 18.2223
"""Amber prmtop charges are elementary charges times this; its square is Amber's Coulomb constant."""

LAMMPS_COULOMB_CONSTANT = 332.06371
"""kcal angstrom / (mol e^2): `qqr2e` of LAMMPS' real units; 1e-8 below ours. GROMACS 2022 has ours."""
