"""The energy of an OpenMM system term by term, in double precision: one force may hold two of our terms.

A reader puts propers and impropers into one torsion force, and every nonbonded force holds van der Waals and
Coulomb. So the impropers alone are weighed beside it, and the nonbonded force without charges. What these
lack of the whole force's energy and forces is the propers' and the Coulomb term.
"""

from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
import openmm
from openmm import _openmm  # its functions give numbers at an eighth of the time of quantities

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
_N_GROUPS = _VDW + 1
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
    groups = sorted({force.getForceGroup() for force in system.getForces()})
    energies = np.zeros((len(geometries), _N_GROUPS))
    forces = np.zeros((len(geometries), _N_GROUPS, *geometries.shape[1:]))
    for row, coords in enumerate(geometries):
        context.setPositions(coords / ANGSTROM_PER_NM)
        for group in groups:
            state = context.getState(energy=True, forces=True, groups=1 << group)
            energies[row, group] = _openmm.State_getPotentialEnergy(state.this)
            _openmm.State__getVectorAsNumpy(state.this, openmm.State.Forces, forces[row, group])
    return energies / KJ_PER_KCAL, forces / (KJ_PER_KCAL * ANGSTROM_PER_NM)


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
    add_particle = partial(_openmm.NonbondedForce_addParticle, vdw.this)
    add_exception = partial(_openmm.NonbondedForce_addException, vdw.this)
    read_particle = partial(_openmm.NonbondedForce_getParticleParameters, force.this)
    read_exception = partial(_openmm.NonbondedForce_getExceptionParameters, force.this)
    for _, sigma, epsilon in map(read_particle, range(force.getNumParticles())):
        add_particle(0.0, sigma, epsilon)
    for i, j, _, sigma, epsilon in map(read_exception, range(force.getNumExceptions())):
        add_exception(i, j, 0.0, sigma, epsilon)
    return vdw


def _impropers_of(
    force: openmm.PeriodicTorsionForce, topology: Topology, where: str
) -> openmm.PeriodicTorsionForce:
    """Copy the impropers of a torsion force; they are told from propers by their atoms."""
    impropers = openmm.PeriodicTorsionForce()
    impropers.setForceGroup(_PART_IMPROPER)
    known_propers, known_impropers = _known_torsions(topology)
    read = partial(_openmm.PeriodicTorsionForce_getTorsionParameters, force.this)
    for i, j, k, m, periodicity, phase, stiffness in map(read, range(force.getNumTorsions())):
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
