"""Partial charges of a ligand: from a force field's library charges, else those that are passed in."""

from collections.abc import Sequence

import numpy as np
from rdkit import Chem

from pipeline.errors import ParametersError
from pipeline.schema import FloatArray, Ligand
from pipeline.smirnoff.force_field import LibraryCharge
from pipeline.smirnoff.matching import Atoms, find_matches, list_possible, match_whole, name_atoms

LIBRARY_TOLERANCE = 1e-6
"""elementary charges: how far library charges may be from the total charge"""
ROUNDING_RESIDUE = 1e-4
"""elementary charges: what rounding to printed digits may leave in charges that are passed in"""
SUMMATION_NOISE = 1e-12
"""elementary charges: what float64 leaves of an exact sum; charges are then kept to the last digit"""


def label_charges(
    library: Sequence[LibraryCharge], ligand: Ligand, mol: Chem.Mol, charges: FloatArray | None
) -> FloatArray:
    """Give the partial charges (n_atoms,) in e; their sum is the ligand's total charge.

    Library charges are used, as they are, when they cover every atom. Else `charges` are, whose sum may miss
    the total charge by a residue of rounding, 1e-4 e, which is spread evenly. Raises ParametersError when
    there are neither, or when the sum is off by more.
    """
    n_atoms = mol.GetNumAtoms()
    covered = _match_library(library, mol)
    if len(covered) == n_atoms:
        found = np.array([covered[i] for i in range(n_atoms)])
        _residue(found, ligand.total_charge, LIBRARY_TOLERANCE, "LibraryCharges")
        return found
    if charges is None:
        atoms = [i for i in range(n_atoms) if i not in covered]
        raise ParametersError(f"LibraryCharges: no charge for {name_atoms(mol, atoms[:4])}; pass charges in")
    given = np.array(charges, dtype=np.float64)
    if given.shape != (n_atoms,):
        raise ParametersError(f"charges: shape {given.shape} for {n_atoms} atoms")
    residue = _residue(given, ligand.total_charge, ROUNDING_RESIDUE, "charges")
    return given if abs(residue) <= SUMMATION_NOISE else given + residue / n_atoms


def _residue(charges: FloatArray, total_charge: int, tolerance: float, source: str) -> float:
    """What the charges lack of the total charge; more than the tolerance is an error, and so is NaN."""
    residue = total_charge - float(charges.sum())
    if not abs(residue) <= tolerance:
        raise ParametersError(f"{source}: the sum is {charges.sum():g}, not {total_charge:d}")
    return residue


def _match_library(library: Sequence[LibraryCharge], mol: Chem.Mol) -> dict[int, float]:
    """Give the charge of each atom that a template covers; a later template replaces an earlier one."""
    covered: dict[int, float] = {}
    possible = list_possible([template.pattern for template in library], mol)
    for template in (library[number] for number in possible):
        by_atom: dict[int, float] = {}
        for match in _placements(template, mol):
            for atom, charge in zip(match, template.charges, strict=True):
                if by_atom.setdefault(atom, charge) != charge:
                    raise ParametersError(
                        f"LibraryCharges: {template.id or template.pattern.smirks} can be placed in several "
                        f"ways, which give {name_atoms(mol, [atom])} different charges"
                    )
        covered.update(by_atom)
    return covered


def _placements(template: LibraryCharge, mol: Chem.Mol) -> set[Atoms]:
    """Every way to place a template on the molecule.

    A template of the whole molecule has as many placements as the molecule has symmetries, six for each
    methyl group multiplied up. They are not listed: equivalent atoms must have equal charges, so one
    placement and its exchanges of equivalent atoms say it all.
    """
    if len(template.charges) < mol.GetNumAtoms():
        return find_matches(template.pattern, mol)
    match = match_whole(template.pattern, mol)
    if match is None:
        return set()
    return {match} | _exchanges(match, mol)


def _exchanges(match: Atoms, mol: Chem.Mol) -> set[Atoms]:
    """The match with each atom exchanged for the first equivalent one: enough to see unequal charges."""
    ranks = list(Chem.CanonicalRankAtoms(mol, breakTies=False, includeChirality=False))
    exchanged = set()
    for position, atom in enumerate(match):
        other = ranks.index(ranks[atom])
        if other != atom:
            row = list(match)
            row[position], row[match.index(other)] = other, atom
            exchanged.add(tuple(row))
    return exchanged
