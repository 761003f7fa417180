"""Read mol2 and frcmod with ParmEd, build what LEaP would, and state what its impropers leave."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import parmed
from rdkit import Chem

from pipeline.errors import VerificationError
from pipeline.export.openmm_system import IMPROPER_GROUP, build_system
from pipeline.readback.energies import TERMS, evaluate
from pipeline.readback.files import Check, ResidualCheck
from pipeline.schema import FloatArray, IntArray, MMParameters, Topology
from pipeline.topology import list_linear_chains
from pipeline.units import DEGREE_PER_RADIAN, KJ_PER_KCAL
from pipeline.verify import MASS_TOLERANCE, EnergyCheck, Reference, check_system

MOL2_FILE = "ligand.mol2"
_NOTE = (
    "LEaP applies one improper per centre, the force field three: the one is as stiff near the plane, and "
    "improper_residual is what it leaves; ligand.prmtop is exact"
)
COORDINATE_TOLERANCE = 1e-7
"""angstrom: eight printed decimals"""
CHARGE_SUM_TOLERANCE = 1e-9
"""elementary charges"""


def check_frcmod(path: Path, reference: Reference) -> list[Check]:
    """Give every term of the mol2 beside it the parameters of its types, as LEaP does, and weigh them.

    All terms but the impropers must agree as in every other file. LEaP's impropers are another function:
    their difference is measured, not bounded, in energies above the planar centre (LEaP's zero is another).
    """
    reader = f"ParmEd {parmed.__version__}"
    mol2 = parmed.formats.Mol2File.parse(str(path.with_name(MOL2_FILE)), structure=True)
    _compare_molecule(mol2, reference)
    found = parmed.amber.AmberParameterSet(str(path))
    types = [atom.type for atom in mol2.atoms]
    _compare_masses(found, reference.parametrized.topology, types)
    charges = np.array([atom.charge for atom in mol2.atoms])
    topology = reference.parametrized.topology
    parameters = _look_up(found, topology, types, charges)
    without = _without_impropers(reference)
    weighed = check_system(without, build_system(topology, parameters), file=path.name, reader=reader)
    return [_measure_impropers(found, reference, types, weighed)]


def _compare_molecule(mol2: Any, reference: Reference) -> None:
    """Same bonds and coordinates, charges that sum to the integer; a mol2 of LEaP's names no elements."""
    parametrized = reference.parametrized
    bonds = sorted(tuple(sorted((bond.atom1.idx, bond.atom2.idx))) for bond in mol2.bonds)
    if bonds != [tuple(row) for row in parametrized.topology.bonds.tolist()]:
        raise VerificationError(f"{MOL2_FILE}: other bonds than the ligand's")
    if not np.allclose(mol2.coordinates, reference.geometries[0], rtol=0, atol=COORDINATE_TOLERANCE):
        raise VerificationError(f"{MOL2_FILE}: other coordinates than the ligand's")
    total = sum(atom.charge for atom in mol2.atoms)
    if not abs(total - parametrized.ligand.total_charge) <= CHARGE_SUM_TOLERANCE:
        raise VerificationError(f"{MOL2_FILE}: the printed charges sum to {total:.10f}")


def _compare_masses(found: Any, topology: Topology, types: Sequence[str]) -> None:
    table = Chem.GetPeriodicTable()
    for kind, number in zip(types, topology.atomic_numbers.tolist(), strict=True):
        if not abs(found.atom_types[kind].mass - table.GetAtomicWeight(number)) <= MASS_TOLERANCE:
            raise VerificationError(f"frcmod: type {kind} of element {number} has another mass")


def _look_up(found: Any, topology: Topology, types: Sequence[str], charges: FloatArray) -> MMParameters:
    """The parameters that LEaP gives to each term by its types; no impropers."""

    def column(table: Mapping[Any, Any], rows: IntArray, read: Callable[[Any], float]) -> FloatArray:
        return np.array([read(table[tuple(types[atom] for atom in row)]) for row in rows.tolist()])

    for chain in list_linear_chains(topology):
        if any(term.phi_k != 0.0 for term in found.dihedral_types[tuple(types[atom] for atom in chain)]):
            raise VerificationError(f"frcmod: a torsion over the linear centre of atoms {chain}")
    proper_k = [
        _series(found.dihedral_types[tuple(types[atom] for atom in row)]) for row in topology.propers.tolist()
    ]
    atoms = [found.atom_types[kind] for kind in types]
    return MMParameters(
        bond_k=2.0 * column(found.bond_types, topology.bonds, lambda bond: bond.k),
        bond_length=column(found.bond_types, topology.bonds, lambda bond: bond.req),
        angle_k=2.0 * column(found.angle_types, topology.angles, lambda angle: angle.k),
        angle_theta=column(found.angle_types, topology.angles, lambda angle: angle.theteq)
        / DEGREE_PER_RADIAN,
        proper_k=np.array(proper_k),
        improper_k=np.zeros((len(topology.impropers), 2)),
        charge=charges,
        sigma=np.array([atom.sigma for atom in atoms]),
        epsilon=np.array([atom.epsilon for atom in atoms]),
    )


def _series(terms: Sequence[Any]) -> list[float]:
    """The six force constants of a torsion; ParmEd has divided by IDIVF."""
    k_row = [0.0] * 6
    for term in terms:
        if term.phase != 0.0:
            raise VerificationError(f"frcmod: a torsion with phase {term.phase}")
        k_row[int(term.per) - 1] += term.phi_k
    return k_row


def _without_impropers(reference: Reference) -> Reference:
    forces = reference.forces.copy()
    forces[:, TERMS.index("improper")] = 0.0
    reports = tuple(replace(report, improper=0.0) for report in reference.reports)
    return replace(reference, reports=reports, forces=forces)


def _measure_impropers(
    found: Any, reference: Reference, types: Sequence[str], weighed: EnergyCheck
) -> ResidualCheck:
    """Evaluate LEaP's impropers with OpenMM and compare with the trefoil, energy and force."""
    parametrized = reference.parametrized
    system, planar = _leap_improper_system(found, parametrized.topology, types)
    reports, forces = evaluate(system, reference.geometries)
    trefoil_planar = 2.0 * float(parametrized.parameters.improper_k.sum())
    residual = tuple(
        (have.improper - planar) - (want.improper - trefoil_planar)
        for have, want in zip(reports, reference.reports, strict=True)
    )
    row = TERMS.index("improper")
    force_residual = np.abs(forces[:, row] - reference.forces[:, row]).max(axis=(1, 2))
    return ResidualCheck(
        file=weighed.file,
        reader=weighed.reader,
        reports=tuple(
            replace(rest, improper=own.improper) for rest, own in zip(weighed.reports, reports, strict=True)
        ),
        largest_difference=replace(weighed.largest_difference, improper=max(map(abs, residual))),
        largest_force_difference=weighed.largest_force_difference,
        improper_residual=residual,
        improper_force_residual=tuple(force_residual.tolist()),
        note=_NOTE,
    )


def _leap_improper_system(
    found: Any, topology: Topology, types: Sequence[str]
) -> tuple[openmm.System, float]:
    """LEaP's impropers alone, a-b-centre-d with the outer atoms ordered by type; their energy when planar."""
    system = openmm.System()
    for _ in range(topology.n_atoms):
        system.addParticle(1.0)
    force, planar = openmm.PeriodicTorsionForce(), 0.0
    force.setForceGroup(IMPROPER_GROUP)
    for centre, *ends in topology.improper_dihedrals[::3].tolist():
        a, b, d = sorted(ends, key=lambda atom: (types[atom], atom))
        term = found.improper_periodic_types.get((types[a], types[b], types[centre], types[d]))
        if term is not None:
            phase = np.radians(term.phase)
            force.addTorsion(a, b, centre, d, int(term.per), phase, term.phi_k * KJ_PER_KCAL)
            planar += float(term.phi_k * (1.0 + np.cos(term.per * np.pi - phase)))
    system.addForce(force)
    return system, planar
