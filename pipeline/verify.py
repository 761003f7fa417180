"""Weigh a written file: the energy of what another program reads, term by term, against the direct system."""

import numpy as np
import openmm

from pipeline.export.openmm_system import (
    ANGLE_GROUP,
    BOND_GROUP,
    IMPROPER_GROUP,
    NONBONDED_GROUP,
    PROPER_GROUP,
)
from pipeline.schema import EnergyReport, FloatArray
from pipeline.units import ANGSTROM_PER_NM, KJ_PER_KCAL

_COULOMB_GROUP = NONBONDED_GROUP + 1


def compute_report(system: openmm.System, coords: FloatArray) -> EnergyReport:
    """Compute the energy of one geometry term by term, in double precision.

    `system` has the force groups of `build_system`; `coords` is (n_atoms, 3) in angstrom, energies kcal/mol.
    """
    reports, _ = evaluate(system, coords[None])
    return reports[0]


def compute_forces(system: openmm.System, coords: FloatArray) -> FloatArray:
    """Compute the forces on the atoms of one geometry: (n_atoms, 3), kcal/mol/angstrom."""
    _, forces = evaluate(system, coords[None])
    return forces[0]


def evaluate(system: openmm.System, geometries: FloatArray) -> tuple[tuple[EnergyReport, ...], FloatArray]:
    """Compute reports and forces of several geometries with one context of OpenMM's Reference platform.

    `geometries` is (n_geometries, n_atoms, 3) in angstrom; forces come back in the same shape in
    kcal/mol/angstrom.
    """
    integrator = openmm.VerletIntegrator(0.001)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(_split_nonbonded(system), integrator, platform)
    reports, forces = [], []
    for coords in geometries:
        context.setPositions(coords / ANGSTROM_PER_NM)
        energies = [_group_energy(context, group) for group in range(_COULOMB_GROUP + 1)]
        reports.append(
            EnergyReport(
                bond=energies[BOND_GROUP],
                angle=energies[ANGLE_GROUP],
                proper=energies[PROPER_GROUP],
                improper=energies[IMPROPER_GROUP],
                vdw=energies[NONBONDED_GROUP],
                coulomb=energies[_COULOMB_GROUP],
            )
        )
        per_nm = context.getState(getForces=True).getForces(asNumpy=True)._value
        forces.append(per_nm / (KJ_PER_KCAL * ANGSTROM_PER_NM))
    return tuple(reports), np.array(forces)


def _group_energy(context: openmm.Context, group: int) -> float:
    state = context.getState(getEnergy=True, groups={group})
    return float(state.getPotentialEnergy()._value) / KJ_PER_KCAL


def _split_nonbonded(system: openmm.System) -> openmm.System:
    """Copy a system with van der Waals in group 4 and Coulomb, as a second force, in group 5."""
    copy = openmm.XmlSerializer.clone(system)
    for index in range(copy.getNumForces()):
        vdw = copy.getForce(index)
        if isinstance(vdw, openmm.NonbondedForce):
            coulomb = openmm.XmlSerializer.clone(vdw)
            for particle in range(vdw.getNumParticles()):
                charge, sigma, epsilon = vdw.getParticleParameters(particle)
                vdw.setParticleParameters(particle, 0.0, sigma, epsilon)
                coulomb.setParticleParameters(particle, charge, 1.0, 0.0)
            for exception in range(vdw.getNumExceptions()):
                i, j, charge_product, sigma, epsilon = vdw.getExceptionParameters(exception)
                vdw.setExceptionParameters(exception, i, j, 0.0, sigma, epsilon)
                coulomb.setExceptionParameters(exception, i, j, charge_product, 1.0, 0.0)
            coulomb.setForceGroup(_COULOMB_GROUP)
            copy.addForce(coulomb)
            break
    return copy
