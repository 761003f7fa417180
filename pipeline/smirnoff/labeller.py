"""Assign a SMIRNOFF force field to a ligand: in every section the last pattern that matches wins."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Protocol, TypeVar

import numpy as np
from rdkit import Chem

from pipeline.errors import ParametersError
from pipeline.schema import (
    N_IMPROPER_PERIODICITIES,
    N_PROPER_PERIODICITIES,
    FloatArray,
    Ligand,
    MMParameters,
    Topology,
)
from pipeline.smirnoff.charges import label_charges
from pipeline.smirnoff.force_field import SmirnoffForceField, TorsionType
from pipeline.smirnoff.matching import (
    Atoms,
    Pattern,
    assign_last,
    either_way,
    find_matches,
    list_possible,
    molecule_for_matching,
    name_atoms,
)

VDW_SCALE14 = 0.5
COULOMB_SCALE14 = 0.8333333333
SCALE_TOLERANCE = 1e-6
"""the specification's own default is printed as 0.833333"""

PHASE_TOLERANCE = 1e-9
"""of sin(phase)"""
IMPROPER_AUTO_IDIVF = 3
"""The specification's average over the three rows of the trefoil."""


class _Typed(Protocol):
    """A parameter with a pattern."""

    @property
    def pattern(self) -> Pattern:
        """Where it applies."""


T = TypeVar("T", bound=_Typed)


def label(
    force_field: SmirnoffForceField,
    ligand: Ligand,
    topology: Topology,
    *,
    charges: FloatArray | None = None,
) -> MMParameters:
    """Look up every parameter of a ligand in a SMIRNOFF force field.

    `topology` is the ligand's; the rows of the result stand beside its rows. Charges (n_atoms,) come from the
    library charges where those cover every atom, else from `charges`.

    MMParameters has no phases: k (1 + cos(n phi - 180 deg)) = 2k - k (1 + cos n phi), so a term of phase 180
    degrees is kept as -k, and the energy is lower than the file's by the constant 2k of each such term.

    Raises ParametersError for an interaction without parameter, a phase other than 0 or 180 degrees, a
    periodicity that MMParameters does not hold, a torsion that is not zero where the topology lists none
    (over a linear centre), charges that are missing or do not sum up, and other 1-4 scale factors than ours.
    """
    _check_scales(force_field)
    mol = molecule_for_matching(ligand)
    bonds = _pick(force_field.bonds, mol, _rows(topology.bonds), "Bonds")
    angles = _pick(force_field.angles, mol, _rows(topology.angles), "Angles")
    atoms = _pick(force_field.vdw, mol, [(i,) for i in range(topology.n_atoms)], "vdW")
    return MMParameters(
        bond_k=np.array([bond.k for bond in bonds]),
        bond_length=np.array([bond.length for bond in bonds]),
        angle_k=np.array([angle.k for angle in angles]),
        angle_theta=np.array([angle.angle for angle in angles]),
        proper_k=_label_propers(force_field.propers, mol, topology),
        improper_k=_label_impropers(force_field.impropers, mol, topology),
        charge=label_charges(force_field.library_charges, ligand, mol, charges),
        sigma=np.array([atom.sigma for atom in atoms]),
        epsilon=np.array([atom.epsilon for atom in atoms]),
    )


def _around_centre(atoms: Atoms) -> Atoms:
    """Spell an improper by its centre (second tag) and its other atoms in rising order."""
    first, centre, third, fourth = atoms
    return (centre, *sorted((first, third, fourth)))


def _rows(indices: np.ndarray) -> list[Atoms]:
    """Turn rows of indices into tuples of Python integers, in the spelling of `either_way`."""
    return [either_way(tuple(row)) for row in indices.tolist()]


def _check_scales(force_field: SmirnoffForceField) -> None:
    """Refuse 1-4 scaling that MMParameters cannot express."""
    for name, have, want in (
        ("vdW", force_field.vdw_scale14, VDW_SCALE14),
        ("Electrostatics", force_field.coulomb_scale14, COULOMB_SCALE14),
    ):
        if abs(have - want) > SCALE_TOLERANCE:
            raise ParametersError(f"{name}: scale14 is {have}; parmflow's convention is {want}")


def _pick(parameters: Sequence[T], mol: Chem.Mol, rows: list[Atoms], section: str) -> list[T]:
    """Give the parameter of each row; every row must have one."""
    patterns = [parameter.pattern for parameter in parameters]
    winners = assign_last(patterns, mol, rows, either_way)
    _check_complete(rows, winners, mol, section)
    return [parameters[winners[row]] for row in rows]


def _check_complete(rows: list[Atoms], winners: dict[Atoms, int], mol: Chem.Mol, section: str) -> None:
    missing = [row for row in rows if row not in winners]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ParametersError(f"{section}: no parameter for {name_atoms(mol, missing[0])}{more}")


def _label_propers(parameters: Sequence[TorsionType], mol: Chem.Mol, topology: Topology) -> FloatArray:
    """Give the signed force constants of each proper, (n_propers, 6), kcal/mol."""
    rows = _rows(topology.propers)
    unlisted = _chains_of_four(topology) - set(rows)
    patterns = [parameter.pattern for parameter in parameters]
    winners = assign_last(patterns, mol, unlisted.union(rows), either_way)
    _check_complete(rows, winners, mol, "ProperTorsions")
    for chain in sorted(unlisted & winners.keys()):
        _check_zero(parameters[winners[chain]], mol, chain, "ProperTorsions: over a linear centre")
    degrees = np.bincount(topology.bonds.ravel(), minlength=topology.n_atoms)
    proper_k = np.zeros((len(rows), N_PROPER_PERIODICITIES))
    for row, atoms in enumerate(rows):
        auto_idivf = int((degrees[atoms[1]] - 1) * (degrees[atoms[2]] - 1))
        torsion = parameters[winners[atoms]]
        _add_terms(proper_k[row], torsion, auto_idivf, partial(_name, "ProperTorsions", torsion, mol, atoms))
    return proper_k


def _label_impropers(parameters: Sequence[TorsionType], mol: Chem.Mol, topology: Topology) -> FloatArray:
    """Give the signed force constants of each trefoil row, (n_impropers, 2), kcal/mol; zero where none match.

    All three rows of a centre have the same: the file's k divided by idivf, which is 3 unless given.
    """
    rows = [_around_centre(tuple(row)) for row in topology.impropers.tolist()]
    improper_k = np.zeros((len(rows), N_IMPROPER_PERIODICITIES))
    winners: dict[Atoms, TorsionType] = {}
    possible = list_possible([parameter.pattern for parameter in parameters], mol)
    for parameter in (parameters[number] for number in possible):
        winners.update(dict.fromkeys(map(_around_centre, find_matches(parameter.pattern, mol)), parameter))
    for atoms in sorted(winners.keys() - set(rows)):
        _check_zero(winners[atoms], mol, atoms, "ImproperTorsions: not listed by the topology")
    for row, atoms in enumerate(rows):
        if atoms in winners:
            torsion = winners[atoms]
            name = partial(_name, "ImproperTorsions", torsion, mol, atoms)
            _add_terms(improper_k[row], torsion, IMPROPER_AUTO_IDIVF, name)
    return improper_k


def _chains_of_four(topology: Topology) -> set[Atoms]:
    """Every chain of four bonded atoms, those over linear centres included."""
    neighbours: list[list[int]] = [[] for _ in range(topology.n_atoms)]
    for i, j in topology.bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    return {
        either_way((i, j, k, m))
        for j, k in topology.bonds.tolist()
        for i, m in product(neighbours[j], neighbours[k])
        if i != k and m != j and i != m
    }


def _check_zero(torsion: TorsionType, mol: Chem.Mol, atoms: Atoms, section: str) -> None:
    if any(term.k != 0 for term in torsion.terms):
        raise ParametersError(f"{_name(section, torsion, mol, atoms)} is not zero")


def _name(section: str, torsion: TorsionType, mol: Chem.Mol, atoms: Atoms) -> str:
    return f"{section}: {torsion.id or torsion.pattern.smirks} for {name_atoms(mol, atoms)}"


def _add_terms(columns: FloatArray, torsion: TorsionType, auto_idivf: int, name: Callable[[], str]) -> None:
    """Add each term to the column of its periodicity, its phase folded into the sign of k."""
    for term in torsion.terms:
        if term.k == 0:
            continue
        if term.periodicity > len(columns):
            raise ParametersError(f"{name()}: periodicity {term.periodicity} is above {len(columns)}")
        if abs(math.sin(term.phase)) > PHASE_TOLERANCE:
            phase = math.degrees(term.phase)
            raise ParametersError(f"{name()}: phase {phase:g} is neither 0 nor 180 degrees")
        sign = 1.0 if math.cos(term.phase) > 0 else -1.0
        columns[term.periodicity - 1] += sign * term.k / (term.idivf or auto_idivf)
