"""Partial charges of a ligand: from a force field's library charges, else those that are passed in."""

from collections.abc import Sequence

import numpy as np
from rdkit import Chem

from pipeline.errors import ParametersError
from pipeline.schema import FloatArray, Ligand
from pipeline.smirnoff.force_field import LibraryCharge
from pipeline.smirnoff.matching import Atoms, find_matches, match_whole, name_atoms

TOTAL_TOLERANCE = 1e-6
"""elementary charges: how far library charges may be from the total charge"""
ROUNDING_RESIDUE = 1e-4
"""elementary charges: what rounding to printed digits may leave in charges that are passed in"""


def label_charges(
    library: Sequence[LibraryCharge], ligand: Ligand, mol: Chem.Mol, charges: FloatArray | None
) -> FloatArray:
    """Give the partial charges (n_atoms,) in e; their sum is the ligand's total charge.

    Library charges are used when they cover every atom. Else `charges` are, whose sum may miss the total
    charge by a residue of rounding, 1e-4 e, which is spread evenly. Raises ParametersError when there are
    neither, or when the sum is off by more.
    """
    covered = _match_library(library, mol)
    if len(covered) == mol.GetNumAtoms():
        found = np.array([covered[i] for i in range(mol.GetNumAtoms())])
        tolerance, source = TOTAL_TOLERANCE, "LibraryCharges"
    elif charges is None:
        atoms = [i for i in range(mol.GetNumAtoms()) if i not in covered]
        raise ParametersError(f"LibraryCharges: no charge for {name_atoms(mol, atoms[:4])}; pass charges in")
    else:
        found = np.array(charges, dtype=np.float64)
        tolerance, source = ROUNDING_RESIDUE, "charges"
    if found.shape != (mol.GetNumAtoms(),):
        raise ParametersError(f"{source}: shape {found.shape} for {mol.GetNumAtoms()} atoms")
    residue = ligand.total_charge - found.sum()
    if not abs(residue) <= tolerance:  # also true for NaN
        raise ParametersError(f"{source}: the sum is {found.sum():g}, not {ligand.total_charge:d}")
    spread: FloatArray = found + residue / len(found)
    return spread


def _match_library(library: Sequence[LibraryCharge], mol: Chem.Mol) -> dict[int, float]:
    """Give the charge of each atom that a template covers; a later template replaces an earlier one."""
    covered: dict[int, float] = {}
    for template in library:
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
