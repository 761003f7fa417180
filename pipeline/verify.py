"""Weigh a written file: the energy of what another program reads, term by term, against the direct system."""

from dataclasses import dataclass

import numpy as np
import openmm
from rdkit import Chem

from pipeline.errors import ParametersError, VerificationError
from pipeline.export.openmm_system import (
    ANGLE_GROUP,
    BOND_GROUP,
    IMPROPER_GROUP,
    NONBONDED_GROUP,
    PROPER_GROUP,
    build_system,
)
from pipeline.schema import EnergyReport, FloatArray, IntArray, MMParameters, Parametrized, Topology
from pipeline.units import ANGSTROM_PER_NM, KJ_PER_KCAL

ENERGY_TOLERANCE = 1e-3 / KJ_PER_KCAL
"""kcal/mol per term: 1e-3 kJ/mol"""
FORCE_TOLERANCE = 1e-3 / (KJ_PER_KCAL * ANGSTROM_PER_NM)
"""kcal/mol/angstrom per component: 1e-3 kJ/mol/nm"""
RELATIVE_TOLERANCE = 5e-6
"""of the term's energy, or of its largest force, where that is more: nine printed digits"""

MASS_TOLERANCE = 1e-3
"""dalton"""

DISPLACEMENTS = (0.1, 0.25)
"""angstrom, standard deviations of the displaced geometries: no term may hide at its minimum, and a flat
torsion leaves it only by the larger"""
_DISPLACEMENT_SEED = 20
_LATTICE_SPACING = 2.0
"""angstrom, of the made-up geometry of a ligand without coordinates"""

_COULOMB_GROUP = NONBONDED_GROUP + 1
_GROUP_OF_TERM = {
    "bond": BOND_GROUP,
    "angle": ANGLE_GROUP,
    "proper": PROPER_GROUP,
    "improper": IMPROPER_GROUP,
    "vdw": NONBONDED_GROUP,
    "coulomb": _COULOMB_GROUP,
}
TERMS = tuple(_GROUP_OF_TERM)
"""the fields of EnergyReport, in its order"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """The direct system of a ligand, weighed: what every file must reproduce."""

    parametrized: Parametrized
    geometries: FloatArray
    """(n_geometries, n_atoms, 3), angstrom"""
    reports: tuple[EnergyReport, ...]
    """one per geometry, kcal/mol"""
    forces: FloatArray
    """(n_geometries, n_terms, n_atoms, 3), kcal/mol/angstrom"""


@dataclass(frozen=True, kw_only=True)
class EnergyCheck:
    """One file, read by one program, against the reference."""

    file: str
    reader: str
    reports: tuple[EnergyReport, ...]
    """one per geometry, kcal/mol"""
    largest_difference: EnergyReport
    """per term, over the geometries, kcal/mol"""
    largest_force_difference: float
    """over geometries, terms and components, kcal/mol/angstrom"""


def compute_report(system: openmm.System, coords: FloatArray) -> EnergyReport:
    """Compute the energy of one geometry term by term, in double precision.

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
    """Compute energies and forces of several geometries with one context of OpenMM's Reference platform.

    `geometries` is (n_geometries, n_atoms, 3) in angstrom. Reports are in kcal/mol; forces, term by term
    in the order of `TERMS`, are (n_geometries, n_terms, n_atoms, 3) in kcal/mol/angstrom.
    """
    own = _bare_system(system)
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            _add_split_nonbonded(own, force)
        else:
            own.addForce(openmm.XmlSerializer.clone(force))
    return _weigh(own, geometries)


def _weigh(own: openmm.System, geometries: FloatArray) -> tuple[tuple[EnergyReport, ...], FloatArray]:
    """Do so with a system whose terms each have a force group of their own."""
    integrator = openmm.VerletIntegrator(0.001)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(own, integrator, platform)
    reports, forces = [], []
    for coords in geometries:
        context.setPositions(coords / ANGSTROM_PER_NM)
        states = [
            context.getState(getEnergy=True, getForces=True, groups={_GROUP_OF_TERM[term]}) for term in TERMS
        ]
        energies = [state.getPotentialEnergy()._value / KJ_PER_KCAL for state in states]
        reports.append(EnergyReport(**dict(zip(TERMS, energies, strict=True))))
        forces.append([state.getForces(asNumpy=True)._value for state in states])
    return tuple(reports), np.array(forces) / (KJ_PER_KCAL * ANGSTROM_PER_NM)


def build_reference(parametrized: Parametrized) -> Reference:
    """Weigh the direct system at the ligand's geometry and at two displaced ones, the same in every run.

    A ligand without coordinates is weighed on a lattice: energies are large there, but every term is met.
    """
    topology = parametrized.topology
    generator = np.random.default_rng(_DISPLACEMENT_SEED)
    coords = parametrized.coords
    if coords is None:
        coords = _lattice(topology.n_atoms, generator)
    displaced = [coords + generator.normal(scale=scale, size=coords.shape) for scale in DISPLACEMENTS]
    geometries = np.stack([coords, *displaced])
    reports, forces = evaluate(build_system(topology, parametrized.parameters), geometries)
    return Reference(parametrized=parametrized, geometries=geometries, reports=reports, forces=forces)


def check_system(reference: Reference, system: openmm.System, *, file: str, reader: str) -> EnergyCheck:
    """Compare what a program read from a file with the reference, per term, in the forces and in the masses.

    Raises VerificationError with the numbers of the worst term.
    """
    where = f"{file} read by {reader}"
    topology = reference.parametrized.topology
    _compare_masses(system, topology, where)
    reports, forces = _weigh(_regroup(system, topology, where), reference.geometries)
    difference = _compare_energies(reports, reference.reports, where)
    force_difference = _compare_forces(forces, reference.forces, where)
    return EnergyCheck(
        file=file,
        reader=reader,
        reports=reports,
        largest_difference=difference,
        largest_force_difference=force_difference,
    )


def check_engine(
    reference: Reference, reports: tuple[EnergyReport, ...], forces: FloatArray, *, file: str, reader: str
) -> EnergyCheck:
    """Compare what an MD engine computed by itself with the reference, per term and in the total force.

    One report per geometry of the reference; forces are (n_geometries, n_atoms, 3) in kcal/mol/angstrom.
    Raises VerificationError with the numbers of the worst term.
    """
    where = f"{file} run by {reader}"
    n_geometries = len(reference.geometries)
    if len(reports) != n_geometries or forces.shape != reference.geometries.shape:
        raise VerificationError(
            f"{where}: {len(reports)} energies, forces {forces.shape} of {n_geometries} geometries"
        )
    difference = _compare_energies(reports, reference.reports, where)
    total = reference.forces.sum(axis=1, keepdims=True)
    return EnergyCheck(
        file=file,
        reader=reader,
        reports=reports,
        largest_difference=difference,
        largest_force_difference=_compare_forces(forces[:, None], total, where, ("total",)),
    )


def _compare_masses(system: openmm.System, topology: Topology, where: str) -> None:
    n_read = system.getNumParticles()
    if n_read != topology.n_atoms:
        raise VerificationError(f"{where}: {n_read} atoms, expected {topology.n_atoms}")
    table = Chem.GetPeriodicTable()
    for atom, number in enumerate(topology.atomic_numbers.tolist()):
        mass = system.getParticleMass(atom)._value
        if not abs(mass - table.GetAtomicWeight(number)) <= MASS_TOLERANCE:
            raise VerificationError(f"{where}: atom {atom}, element {number}, has mass {mass}")


def _compare_energies(
    have: tuple[EnergyReport, ...], want: tuple[EnergyReport, ...], where: str
) -> EnergyReport:
    """Find the largest difference per term, or raise with the term furthest beyond what is allowed."""
    got, expected = (
        np.array([[getattr(report, term) for term in TERMS] for report in reports])
        for reports in (have, want)
    )
    differences = _infinite(np.abs(got - expected))
    allowed = np.maximum(ENERGY_TOLERANCE, RELATIVE_TOLERANCE * np.abs(expected))
    if (differences > allowed).any():
        geometry, term = np.unravel_index(np.argmax(differences / allowed), differences.shape)
        raise VerificationError(
            f"{where}: {TERMS[term]} energy {got[geometry, term]:.6f} kcal/mol, the direct system has "
            f"{expected[geometry, term]:.6f} (geometry {geometry}, allowed {allowed[geometry, term]:.1e})"
        )
    return EnergyReport(**dict(zip(TERMS, differences.max(axis=0).tolist(), strict=True)))


def _compare_forces(have: FloatArray, want: FloatArray, where: str, terms: tuple[str, ...] = TERMS) -> float:
    """Find the largest difference of a force; it shows what the energy hides where a torsion is flat."""
    differences = _infinite(np.abs(have - want)).max(axis=(0, 2, 3))
    allowed = np.maximum(FORCE_TOLERANCE, RELATIVE_TOLERANCE * np.abs(want).max(axis=(0, 2, 3)))
    worst = int(np.argmax(differences / allowed))
    if differences[worst] > allowed[worst]:
        raise VerificationError(
            f"{where}: a {terms[worst]} force differs by {differences[worst]:.2e} kcal/mol/angstrom, "
            f"allowed {allowed[worst]:.1e}"
        )
    return float(differences.max())


def check_parameters(topology: Topology, parameters: MMParameters, total_charge: int) -> None:
    """Refuse parameters that no molecule has; nothing is clamped.

    Raises ParametersError naming the atoms of the first that is not finite or out of its physical range.
    """
    atoms = np.arange(topology.n_atoms)[:, None]
    for name, values, rows, low, high, unit in (
        ("bond k", parameters.bond_k, topology.bonds, 0.0, 5000.0, "kcal/mol/angstrom^2"),
        ("bond length", parameters.bond_length, topology.bonds, 0.5, 3.5, "angstrom"),
        ("angle k", parameters.angle_k, topology.angles, 0.0, 2000.0, "kcal/mol/radian^2"),
        ("angle", parameters.angle_theta, topology.angles, 1e-3, np.pi, "radian"),
        ("proper k", parameters.proper_k, topology.propers, -100.0, 100.0, "kcal/mol"),
        ("improper k", parameters.improper_k, topology.impropers, -100.0, 100.0, "kcal/mol"),
        ("charge", parameters.charge, atoms, -5.0, 5.0, "elementary charges"),
        ("sigma", parameters.sigma, atoms, 0.1, 10.0, "angstrom"),
        ("epsilon", parameters.epsilon, atoms, 0.0, 10.0, "kcal/mol"),
    ):
        if len(values) != len(rows):
            raise ParametersError(f"{name}: {len(values)} values for {len(rows)} interactions")
        _check_range(name, values, rows, (low, high), unit)
    excess = float(parameters.charge.sum()) - total_charge
    if abs(excess) > 1e-9:
        raise ParametersError(
            f"charges sum to {total_charge + excess:.10f}, the ligand has {total_charge:+d}; "
            "the model must conserve charge"
        )


def _check_range(
    name: str, values: FloatArray, rows: IntArray, bounds: tuple[float, float], unit: str
) -> None:
    low, high = bounds
    wrong = ~((values >= low) & (values <= high))
    if wrong.any():
        row = int(np.argwhere(wrong)[0, 0])
        raise ParametersError(
            f"{name} {values[row]} {unit} of atoms {tuple(rows[row].tolist())} (counted from 0) is outside "
            f"{low:g} to {high:g}: the ligand may be too far from what the model was trained on"
        )


def _infinite(differences: FloatArray) -> FloatArray:
    """Count what is not a number as infinitely wrong."""
    return np.where(np.isnan(differences), np.inf, differences)


def _bare_system(system: openmm.System) -> openmm.System:
    """As many particles, no force; the masses do not matter for energies."""
    own = openmm.System()
    for _ in range(system.getNumParticles()):
        own.addParticle(1.0)
    return own


def _add_split_nonbonded(own: openmm.System, force: openmm.NonbondedForce) -> None:
    """Add van der Waals in group 4 and Coulomb, as a second force, in group 5."""
    if force.getNonbondedMethod() != openmm.NonbondedForce.NoCutoff or force.getNumGlobalParameters():
        raise VerificationError("a nonbonded force with a cutoff or offsets where none belongs")
    vdw, coulomb = openmm.NonbondedForce(), openmm.NonbondedForce()
    vdw.setForceGroup(NONBONDED_GROUP)
    coulomb.setForceGroup(_COULOMB_GROUP)
    for particle in range(force.getNumParticles()):
        charge, sigma, epsilon = force.getParticleParameters(particle)
        vdw.addParticle(0.0, sigma._value, epsilon._value)
        coulomb.addParticle(charge._value, 1.0, 0.0)
    for exception in range(force.getNumExceptions()):
        i, j, charge_product, sigma, epsilon = force.getExceptionParameters(exception)
        vdw.addException(i, j, 0.0, sigma._value, epsilon._value)
        coulomb.addException(i, j, charge_product._value, 1.0, 0.0)
    own.addForce(vdw)
    own.addForce(coulomb)


_GROUPS = {openmm.HarmonicBondForce: BOND_GROUP, openmm.HarmonicAngleForce: ANGLE_GROUP}


def _regroup(system: openmm.System, topology: Topology, where: str) -> openmm.System:
    """Rebuild a foreign system with a force group per term, torsions told apart by their atoms."""
    if system.getNumConstraints():
        raise VerificationError(f"{where}: {system.getNumConstraints()} constraints where none belong")
    own = _bare_system(system)
    for force in system.getForces():
        if isinstance(force, openmm.PeriodicTorsionForce):
            _add_split_torsions(own, force, topology, where)
        elif isinstance(force, openmm.NonbondedForce):
            _add_split_nonbonded(own, force)
        elif type(force) in _GROUPS:
            copy = openmm.XmlSerializer.clone(force)
            copy.setForceGroup(_GROUPS[type(force)])
            own.addForce(copy)
        else:
            raise VerificationError(f"{where}: a force of kind {type(force).__name__} where none belongs")
    return own


def _add_split_torsions(
    own: openmm.System, force: openmm.PeriodicTorsionForce, topology: Topology, where: str
) -> None:
    """Add propers in group 2 and impropers, as a second force, in group 3."""
    propers, impropers = openmm.PeriodicTorsionForce(), openmm.PeriodicTorsionForce()
    propers.setForceGroup(PROPER_GROUP)
    impropers.setForceGroup(IMPROPER_GROUP)
    known_propers, known_impropers = _both_ways(topology.propers), _both_ways(topology.improper_dihedrals)
    for number in range(force.getNumTorsions()):
        i, j, k, m, periodicity, phase, stiffness = force.getTorsionParameters(number)
        if (i, j, k, m) in known_propers or stiffness._value == 0.0:
            propers.addTorsion(i, j, k, m, periodicity, phase._value, stiffness._value)
        elif (i, j, k, m) in known_impropers:
            impropers.addTorsion(i, j, k, m, periodicity, phase._value, stiffness._value)
        else:
            raise VerificationError(f"{where}: a torsion over atoms {i, j, k, m}, which the topology lacks")
    own.addForce(propers)
    own.addForce(impropers)


def _both_ways(dihedrals: IntArray) -> set[tuple[int, ...]]:
    rows = dihedrals.tolist()
    return {*map(tuple, rows), *(tuple(row[::-1]) for row in rows)}


def _lattice(n_atoms: int, generator: np.random.Generator) -> FloatArray:
    """Put the atoms on points of a cubic lattice, moved a little, no two close together."""
    side = int(np.ceil(n_atoms ** (1 / 3)))
    points = np.stack(np.meshgrid(*[np.arange(side)] * 3), axis=-1).reshape(-1, 3)[:n_atoms]
    return _LATTICE_SPACING * points + generator.normal(scale=DISPLACEMENTS[0], size=(n_atoms, 3))
