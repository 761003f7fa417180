"""OpenMM: the direct system that every written file is compared with, and its XML."""

import math
from functools import partial
from itertools import chain

import numpy as np
import openmm
from openmm import _openmm  # its functions take numbers at a quarter of the time
from rdkit import Chem

from pipeline.export.cross_forces import build_cross_forces
from pipeline.schema import IntArray, MMParameters, Parametrized, Topology
from pipeline.units import ANGSTROM_PER_NM, KJ_PER_KCAL

VDW_14_SCALE = 0.5
COULOMB_14_SCALE = 0.8333333333

BOND_GROUP, ANGLE_GROUP, PROPER_GROUP, IMPROPER_GROUP, NONBONDED_GROUP, CROSS_GROUP = range(6)

_KJ_PER_NM2 = KJ_PER_KCAL * ANGSTROM_PER_NM**2


def build_system(topology: Topology, parameters: MMParameters) -> openmm.System:
    """Build the ligand in vacuum: flexible bonds, no cutoff, one force and one force group per term.

    Groups: 0 bonds, 1 angles, 2 propers, 3 impropers, 4 nonbonded (van der Waals and Coulomb together, 1-4
    pairs as exceptions), 5 what class II adds, where there is any. Torsions with a zero force constant are
    left out.
    """
    system = openmm.System()
    table = Chem.GetPeriodicTable()
    for number in topology.atomic_numbers:
        system.addParticle(table.GetAtomicWeight(int(number)))
    system.addForce(_bond_force(topology, parameters))
    system.addForce(_angle_force(topology, parameters))
    system.addForce(_torsion_force(topology.propers, parameters.proper_k, "propers", PROPER_GROUP))
    impropers = topology.improper_dihedrals
    system.addForce(_torsion_force(impropers, parameters.improper_k, "impropers", IMPROPER_GROUP))
    system.addForce(_nonbonded_force(topology, parameters))
    for force in build_cross_forces(topology, parameters, CROSS_GROUP):
        system.addForce(force)
    return system


def write_openmm_system(parametrized: Parametrized) -> str:
    """Serialize the direct system as OpenMM System XML, all digits kept."""
    xml: str = openmm.XmlSerializer.serialize(build_system(parametrized.topology, parametrized.parameters))
    return xml


def _bond_force(topology: Topology, parameters: MMParameters) -> openmm.HarmonicBondForce:
    force = openmm.HarmonicBondForce()
    force.setName("bonds")
    force.setForceGroup(BOND_GROUP)
    rows = zip(
        topology.bonds.tolist(), parameters.bond_length.tolist(), parameters.bond_k.tolist(), strict=True
    )
    add = partial(_openmm.HarmonicBondForce_addBond, force.this)
    for (i, j), length, k in rows:
        add(i, j, length / ANGSTROM_PER_NM, k * _KJ_PER_NM2)
    return force


def _angle_force(topology: Topology, parameters: MMParameters) -> openmm.HarmonicAngleForce:
    force = openmm.HarmonicAngleForce()
    force.setName("angles")
    force.setForceGroup(ANGLE_GROUP)
    rows = zip(
        topology.angles.tolist(), parameters.angle_theta.tolist(), parameters.angle_k.tolist(), strict=True
    )
    add = partial(_openmm.HarmonicAngleForce_addAngle, force.this)
    for (i, j, k), theta, k_angle in rows:
        add(i, j, k, theta, k_angle * KJ_PER_KCAL)
    return force


def _torsion_force(
    dihedrals: IntArray, k_rows: np.ndarray, name: str, group: int
) -> openmm.PeriodicTorsionForce:
    force = openmm.PeriodicTorsionForce()
    force.setName(name)
    force.setForceGroup(group)
    rows = dihedrals.tolist()
    add = partial(_openmm.PeriodicTorsionForce_addTorsion, force.this)
    for (row, column), k in zip(np.argwhere(k_rows).tolist(), k_rows[k_rows != 0.0].tolist(), strict=True):
        add(*rows[row], column + 1, 0.0, k * KJ_PER_KCAL)
    return force


def _nonbonded_force(topology: Topology, parameters: MMParameters) -> openmm.NonbondedForce:
    force = openmm.NonbondedForce()
    force.setName("nonbonded")
    force.setForceGroup(NONBONDED_GROUP)
    force.setNonbondedMethod(openmm.NonbondedForce.NoCutoff)
    charge = parameters.charge.tolist()
    sigma = (parameters.sigma / ANGSTROM_PER_NM).tolist()
    epsilon = (parameters.epsilon * KJ_PER_KCAL).tolist()
    add_particle = partial(_openmm.NonbondedForce_addParticle, force.this)
    add_exception = partial(_openmm.NonbondedForce_addException, force.this)
    for particle in zip(charge, sigma, epsilon, strict=True):
        add_particle(*particle)
    for i, j in sorted(excluded_pairs(topology)):
        add_exception(i, j, 0.0, 1.0, 0.0)
    if parameters.cross is not None and parameters.cross.has_pairs:
        for (i, j), values in zip(topology.pairs.tolist(), _rows_of_pairs(topology, parameters), strict=True):
            add_exception(i, j, *values)
        return force
    for i, j in topology.pairs_14.tolist():
        add_exception(
            i,
            j,
            COULOMB_14_SCALE * charge[i] * charge[j],
            0.5 * (sigma[i] + sigma[j]),
            VDW_14_SCALE * math.sqrt(epsilon[i] * epsilon[j]),
        )
    return force


def _rows_of_pairs(topology: Topology, parameters: MMParameters) -> list[list[float]]:
    """Charge product, sigma (nm) and epsilon (kJ/mol) of every pair of a class II form.

    a r^-12 - b r^-6 is a Lennard-Jones term again, of another sigma and epsilon.
    """
    assert parameters.cross is not None
    i, j = topology.pairs.T
    repulsion, dispersion = parameters.cross.pair_repulsion, parameters.cross.pair_dispersion
    charge = parameters.cross.pair_coulomb * parameters.charge[i] * parameters.charge[j]
    sigma = (parameters.sigma[i] + parameters.sigma[j]) / 2 * (repulsion / dispersion) ** (1 / 6)
    epsilon = np.sqrt(parameters.epsilon[i] * parameters.epsilon[j]) * dispersion**2 / repulsion
    rows: list[list[float]] = np.column_stack(
        [charge, sigma / ANGSTROM_PER_NM, epsilon * KJ_PER_KCAL]
    ).tolist()
    return rows


def excluded_pairs(topology: Topology) -> set[tuple[int, int]]:
    """List the pairs one or two bonds apart, the smaller index first, each once."""
    pairs = chain(topology.bonds.tolist(), topology.angles[:, [0, 2]].tolist())
    return {(min(pair), max(pair)) for pair in pairs}
