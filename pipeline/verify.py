"""Weigh a written file: the energy of what another program reads, term by term, against the direct system."""

from dataclasses import dataclass

import numpy as np
import openmm
from openmm import _openmm  # its functions give numbers at an eighth of the time of quantities
from rdkit import Chem

from pipeline.errors import ParametersError, VerificationError
from pipeline.export.openmm_system import build_system
from pipeline.readback.energies import TERMS, evaluate, evaluate_foreign
from pipeline.schema import (
    PAIR_FACTORS,
    CrossTerms,
    EnergyReport,
    FloatArray,
    IntArray,
    MMParameters,
    Parametrized,
    Topology,
)
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
PAIR_FACTOR_BOUNDS = (1e-4, 1e3)
"""of what a class II form makes of a pair's terms"""
_DISPLACEMENT_SEED = 20
_LATTICE_SPACING = 2.0
"""angstrom, of the made-up geometry of a ligand without coordinates"""


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
    reports, forces = evaluate_foreign(system, topology, reference.geometries, where)
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
        mass = _openmm.System_getParticleMass(system.this, atom)
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
    if parameters.cross is not None:
        _check_cross(topology, parameters.cross)
    excess = float(parameters.charge.sum()) - total_charge
    if abs(excess) > 1e-9:
        raise ParametersError(
            f"charges sum to {total_charge + excess:.10f}, the ligand has {total_charge:+d}; "
            "the model must conserve charge"
        )


def _check_cross(topology: Topology, cross: CrossTerms) -> None:
    """Refuse anharmonic constants and couplings that no molecule has, in kcal/mol, angstrom and radian."""
    for name, rows, high, unit in (
        ("bond_k3", topology.bonds, 20_000.0, "kcal/mol/angstrom^3"),
        ("bond_k4", topology.bonds, 50_000.0, "kcal/mol/angstrom^4"),
        ("angle_k3", topology.angles, 5000.0, "kcal/mol/radian^3"),
        ("angle_k4", topology.angles, 5000.0, "kcal/mol/radian^4"),
        ("bond_bond", topology.angles, 5000.0, "kcal/mol/angstrom^2"),
        ("bond_angle", topology.angles, 5000.0, "kcal/mol/angstrom/radian"),
        ("bond_torsion", topology.propers, 1000.0, "kcal/mol/angstrom"),
        ("angle_torsion", topology.propers, 1000.0, "kcal/mol/radian"),
        ("angle_angle_torsion", topology.propers, 1000.0, "kcal/mol/radian^2"),
    ):
        _check_range(name, getattr(cross, name), rows, (-high, high), unit)
    if cross.has_pairs:
        for name in PAIR_FACTORS:
            _check_range(name, getattr(cross, name), topology.pairs, PAIR_FACTOR_BOUNDS, "times")


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


def _lattice(n_atoms: int, generator: np.random.Generator) -> FloatArray:
    """Put the atoms on points of a cubic lattice, moved a little, no two close together."""
    side = int(np.ceil(n_atoms ** (1 / 3)))
    points = np.stack(np.meshgrid(*[np.arange(side)] * 3), axis=-1).reshape(-1, 3)[:n_atoms]
    return _LATTICE_SPACING * points + generator.normal(scale=DISPLACEMENTS[0], size=(n_atoms, 3))
