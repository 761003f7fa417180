"""The energy of an OpenMM system term by term, in double precision: one force may hold two of our terms.

A reader puts propers and impropers into one torsion force, and every nonbonded force holds van der Waals and
Coulomb. So the impropers alone are weighed beside it, and the nonbonded force without charges. What these
lack of the whole force's energy and forces is the propers' and the Coulomb term.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import openmm
from openmm import _openmm  # its functions give numbers; wrapped into quantities they take thrice as long

from pipeline.errors import VerificationError
from pipeline.export.openmm_system import (
    ANGLE_GROUP,
    BOND_GROUP,
    CROSS_GROUP,
    NONBONDED_GROUP,
    PROPER_GROUP,
)
from pipeline.schema import EnergyReport, FloatArray, IntArray, Topology
from pipeline.units import ANGSTROM_PER_NM, KJ_PER_KCAL

TERMS = ("bond", "angle", "proper", "improper", "vdw", "coulomb", "cross")
"""the fields of EnergyReport, in its order"""

_PART_IMPROPER, _VDW = CROSS_GROUP + 1, CROSS_GROUP + 2
_GROUPS = (*range(CROSS_GROUP + 1), _PART_IMPROPER, _VDW)
_GROUP_OF_FORCE = {
    openmm.HarmonicBondForce: BOND_GROUP,
    openmm.HarmonicAngleForce: ANGLE_GROUP,
    openmm.PeriodicTorsionForce: PROPER_GROUP,
    openmm.NonbondedForce: NONBONDED_GROUP,
    openmm.CustomBondForce: CROSS_GROUP,
    openmm.CustomAngleForce: CROSS_GROUP,
    openmm.CustomCompoundBondForce: CROSS_GROUP,
}


def compute_report(system: openmm.System, coords: FloatArray) -> EnergyReport:
    """Compute the energy of one geometry term by term.

    `system` has the force groups of `build_system`; `coords` is (n_atoms, 3) in angstrom, energies kcal/mol.
    """
    reports, _ = evaluate(system, coords[None])
    return reports[0]


def compute_forces(system: openmm.System, coords: FloatArray) -> FloatArray:
    """Compute the forces on the atoms of one geometry: (n_atoms, 3), kcal/mol/angstrom."""
    _, forces = evaluate(system, coords[None])
    total: FloatArray = forces[0].sum(axis=0)
    return total


def evaluate(system: openmm.System, geometries: FloatArray) -> tuple[tuple[EnergyReport, ...], FloatArray]:
    """Compute energies and forces of several geometries with OpenMM's Reference platform.

    `system` has the force groups of `build_system`; `geometries` is (n_geometries, n_atoms, 3) in angstrom.
    Reports are in kcal/mol; forces, term by term in the order of `TERMS`, are (n_geometries, n_terms,
    n_atoms, 3) in kcal/mol/angstrom.
    """
    return _weigh(system, [], geometries)


def evaluate_foreign(
    system: openmm.System, topology: Topology, geometries: FloatArray, where: str
) -> tuple[tuple[EnergyReport, ...], FloatArray]:
    """Do the same for a system that another program built; its forces are given our groups.

    Raises VerificationError, which begins with `where`, for constraints, kinds of force and torsions that do
    not belong to this ligand.
    """
    if system.getNumConstraints():
        raise VerificationError(f"{where}: {system.getNumConstraints()} constraints where none belong")
    impropers = []
    for force in system.getForces():
        if type(force) not in _GROUP_OF_FORCE:
            raise VerificationError(f"{where}: a force of kind {type(force).__name__} where none belongs")
        force.setForceGroup(_GROUP_OF_FORCE[type(force)])
        if isinstance(force, openmm.PeriodicTorsionForce):
            impropers.append(_impropers_of(force, topology, where))
    return _weigh(system, impropers, geometries)


def _weigh(
    system: openmm.System, impropers: Sequence[openmm.Force], geometries: FloatArray
) -> tuple[tuple[EnergyReport, ...], FloatArray]:
    """Weigh the system, and beside it, for the time of weighing, the parts that are terms of their own."""
    n_forces = system.getNumForces()
    nonbonded = [force for force in system.getForces() if isinstance(force, openmm.NonbondedForce)]
    for part in (*impropers, *map(_without_charges, nonbonded)):
        system.addForce(part)
    try:
        energies, forces = _compute_groups(system, geometries)
    finally:
        while system.getNumForces() > n_forces:
            system.removeForce(n_forces)
    energies, forces = _split(energies), _split(forces)
    reports = tuple(EnergyReport(**dict(zip(TERMS, row, strict=True))) for row in energies.tolist())
    return reports, forces


def _compute_groups(system: openmm.System, geometries: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Energies (n_geometries, n_groups) in kcal/mol, forces (n_geometries, n_groups, n_atoms, 3)."""
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    energies, forces = [], []
    for coords in geometries:
        context.setPositions(coords / ANGSTROM_PER_NM)
        states = [context.getState(energy=True, forces=True, groups={group}) for group in _GROUPS]
        energies.append([state.getPotentialEnergy()._value for state in states])
        forces.append([state.getForces(asNumpy=True)._value for state in states])
    return np.array(energies) / KJ_PER_KCAL, np.array(forces) / (KJ_PER_KCAL * ANGSTROM_PER_NM)


def _split(groups: FloatArray) -> FloatArray:
    """Turn values by force group, (n_geometries, n_groups, ...), into values by term."""
    bond, angle, proper, improper, nonbonded, cross, part_improper, vdw = np.moveaxis(groups, 1, 0)
    terms = (bond, angle, proper - part_improper, improper + part_improper, vdw, nonbonded - vdw, cross)
    return np.stack(terms, axis=1)


def _without_charges(force: openmm.NonbondedForce) -> openmm.NonbondedForce:
    """Copy the van der Waals part of a nonbonded force."""
    if force.getNonbondedMethod() != openmm.NonbondedForce.NoCutoff or force.getNumGlobalParameters():
        raise VerificationError("a nonbonded force with a cutoff or offsets where none belongs")
    vdw = openmm.NonbondedForce()
    vdw.setForceGroup(_VDW)
    for particle in range(force.getNumParticles()):
        _, sigma, epsilon = _openmm.NonbondedForce_getParticleParameters(force, particle)
        vdw.addParticle(0.0, sigma, epsilon)
    for exception in range(force.getNumExceptions()):
        i, j, _, sigma, epsilon = _openmm.NonbondedForce_getExceptionParameters(force, exception)
        vdw.addException(i, j, 0.0, sigma, epsilon)
    return vdw


def _impropers_of(
    force: openmm.PeriodicTorsionForce, topology: Topology, where: str
) -> openmm.PeriodicTorsionForce:
    """Copy the impropers of a torsion force; they are told from propers by their atoms."""
    impropers = openmm.PeriodicTorsionForce()
    impropers.setForceGroup(_PART_IMPROPER)
    known_propers, known_impropers = _known_torsions(topology)
    read = _openmm.PeriodicTorsionForce_getTorsionParameters
    for number in range(force.getNumTorsions()):
        i, j, k, m, periodicity, phase, stiffness = read(force, number)
        if (i, j, k, m) in known_propers or stiffness == 0.0:
            continue
        if (i, j, k, m) not in known_impropers:
            raise VerificationError(f"{where}: a torsion over atoms {i, j, k, m}, which the topology lacks")
        impropers.addTorsion(i, j, k, m, periodicity, phase, stiffness)
    return impropers


@lru_cache(maxsize=1)
def _known_torsions(topology: Topology) -> tuple[set[tuple[int, ...]], set[tuple[int, ...]]]:
    """Propers and impropers; the last ligand's are kept, for all its files."""
    return _both_ways(topology.propers), _both_ways(topology.improper_dihedrals)


def _both_ways(dihedrals: IntArray) -> set[tuple[int, ...]]:
    rows = dihedrals.tolist()
    return {*map(tuple, rows), *(tuple(row[::-1]) for row in rows)}
