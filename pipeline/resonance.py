"""Other ways of drawing the same ion, and the graph that they share.

A charge moves along alternating single and double bonds; elements and connections stay.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from rdkit import Chem

from pipeline.schema import IntArray
from pipeline.stereo import count_specified_stereo

_MAX_FORMS = 64
_MAX_STEPS = 5000
"""Bonds tried in the search for paths from one charge; far more than a drug's conjugated system has"""
_MAX_PATH_ATOMS = 25
_HETERO = frozenset({7, 8, 16})
_SINGLE, _DOUBLE, _TRIPLE = Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE
_FLIPPED = {_SINGLE: _DOUBLE, _DOUBLE: _SINGLE, _TRIPLE: _DOUBLE}
"""what a bond of an alternating path becomes; a triple one only ends a path, at the N of a diazonium"""


def bare_graph(mol: Chem.Mol, *, with_charges: bool = False) -> Chem.Mol:
    """Copy the molecule with all bonds alike, without stereo and, unless wanted, without charges.

    Conformers and the order of atoms stay; hydrogens must be explicit.
    """
    bare = Chem.RWMol(mol)
    Chem.RemoveStereochemistry(bare)
    for atom in bare.GetAtoms():
        atom.SetNoImplicit(True)
        atom.SetIsAromatic(False)
        atom.SetNumRadicalElectrons(0)
        if not with_charges:
            atom.SetFormalCharge(0)
    for bond in bare.GetBonds():
        bond.SetIsAromatic(False)
        bond.SetBondType(Chem.BondType.SINGLE)
    return bare.GetMol()


def equivalence_classes(mol: Chem.Mol) -> IntArray:
    """Ranks of the atoms by the bare graph, so that a carboxylate's oxygens are alike however drawn."""
    return np.array(list(Chem.CanonicalRankAtoms(bare_graph(mol), breakTies=False, includeChirality=False)))


def resonance_forms(mol: Chem.Mol) -> list[Chem.Mol]:
    """Draw an ion with its charge on each nitrogen, oxygen or sulfur that it can reach, the drawn form first.

    In X(-)-A=Y the charge moves to Y, in X(+)=A-Y to a lone pair on Y, over any number of alternating bonds
    (an alternating path exists in one Kekule structure if and only if it does in all); in X(-)-A=B-N(+)#N to
    the last nitrogen. An oxygen beside a cation (nitro, N-oxide) keeps its charge. Forms that would lose
    stated stereo are left out. Atoms stay in the molecule's order; hydrogens must be explicit.
    """
    forms, seen = [mol], {_charges(mol)}
    n_stereo = count_specified_stereo(mol)
    for form in forms:
        for moved in _move_charges(form):
            if len(forms) < _MAX_FORMS and _charges(moved) not in seen:
                seen.add(_charges(moved))
                if count_specified_stereo(moved) == n_stereo:
                    forms.append(moved)
    return forms


def join_ylides(mol: Chem.Mol) -> Chem.Mol:
    """Draw X(-)-S(+), X(-)-P(+) and X(-)-N(+)#N as X=S, X=P and X=N(+)=N(-): one molecule, two habits."""
    for path in _ylides(mol):
        joined = _flip(_kekulise(mol), path)
        if joined is not None:
            return join_ylides(joined)
    return mol


def shared_charges(mol: Chem.Mol) -> list[int]:
    """The formal charge of each atom as far as all forms agree: 0 where one of them has none.

    So N(+) of an ammonium or a nitro group is charged, and no nitrogen of a guanidinium.
    """
    charges = _charges(mol)
    if not any(charges):
        return list(charges)
    plain = Chem.Mol(mol)
    Chem.RemoveStereochemistry(plain)  # else a form whose double bonds lie elsewhere would count as another
    forms = [_charges(form) for form in resonance_forms(join_ylides(plain))]
    return [
        drawn if all(charge for charge in column) else 0
        for drawn, column in zip(charges, zip(*forms, strict=True), strict=True)
    ]


def _ylides(mol: Chem.Mol) -> Iterator[list[int]]:
    """The path of each anion's charge to a cation beside it that takes it, as atom indices."""
    for atom in mol.GetAtoms():
        if atom.GetFormalCharge() == -1 and atom.GetAtomicNum() in _HETERO | {6}:
            for bond in atom.GetBonds():
                centre = bond.GetOtherAtom(atom)
                if bond.GetBondType() != _SINGLE:
                    continue
                if centre.GetAtomicNum() in (15, 16) and centre.GetFormalCharge() > 0:
                    yield [atom.GetIdx(), centre.GetIdx()]
                elif (last := _diazonium_end(centre)) is not None:
                    yield [atom.GetIdx(), centre.GetIdx(), last]


def _diazonium_end(atom: Chem.Atom) -> int | None:
    """The last nitrogen of -N(+)#N, seen from the first."""
    if atom.GetAtomicNum() != 7 or atom.GetFormalCharge() != 1:
        return None
    for bond in atom.GetBonds():
        last = bond.GetOtherAtom(atom)
        if bond.GetBondType() == _TRIPLE and last.GetAtomicNum() == 7 and last.GetDegree() == 1:
            return int(last.GetIdx())
    return None


def _charges(mol: Chem.Mol) -> tuple[int, ...]:
    return tuple(atom.GetFormalCharge() for atom in mol.GetAtoms())


def _move_charges(mol: Chem.Mol) -> Iterator[Chem.Mol]:
    """Every form that differs from this one by the place of one charge."""
    starts = [atom.GetIdx() for atom in mol.GetAtoms() if _is_mobile(atom)]
    if not starts:
        return
    kekulised = _kekulise(mol)
    for start in starts:
        for path in _alternating_paths(kekulised, start):
            moved = _flip(kekulised, path)
            if moved is not None:
                yield moved


def _kekulise(mol: Chem.Mol) -> Chem.Mol:
    kekulised = Chem.Mol(mol)
    Chem.Kekulize(kekulised, clearAromaticFlags=True)
    return kekulised


def _is_mobile(atom: Chem.Atom) -> bool:
    """A charge of one, but not that of an oxygen beside a cation: it would only reach its mirror image."""
    if atom.GetFormalCharge() not in (-1, 1) or atom.GetAtomicNum() not in _HETERO | {6}:
        return False
    return atom.GetAtomicNum() != 8 or atom.GetFormalCharge() == 1 or stands_alone(atom)


def stands_alone(atom: Chem.Atom) -> bool:
    """Whether no neighbour has the opposite charge."""
    return all(n.GetFormalCharge() * atom.GetFormalCharge() >= 0 for n in atom.GetNeighbors())


def _alternating_paths(mol: Chem.Mol, start: int) -> list[list[int]]:
    """One path per reachable end, as atom indices: from an anion single bond first, from a cation double."""
    charge = mol.GetAtomWithIdx(start).GetFormalCharge()
    first, second = (_SINGLE, _DOUBLE) if charge < 0 else (_DOUBLE, _SINGLE)
    found: dict[int, list[int]] = {}
    stack, n_steps = [[start]], 0
    while stack and n_steps < _MAX_STEPS:
        path = stack.pop()
        wanted = first if len(path) % 2 else second
        for bond in mol.GetAtomWithIdx(path[-1]).GetBonds():
            n_steps += 1
            other = bond.GetOtherAtom(mol.GetAtomWithIdx(path[-1]))
            if bond.GetBondType() != wanted or other.GetIdx() in path:
                continue
            longer = [*path, other.GetIdx()]
            if len(longer) % 2 and _can_take(other, charge):
                found.setdefault(other.GetIdx(), longer)
            elif charge < 0 and len(longer) % 2 == 0 and (last := _diazonium_end(other)) is not None:
                found.setdefault(last, [*longer, last])
            if len(longer) < _MAX_PATH_ATOMS and _can_pass(other):
                stack.append(longer)
    return list(found.values())


def _n_double(atom: Chem.Atom) -> int:
    return sum(bond.GetBondType() == _DOUBLE for bond in atom.GetBonds())


def _can_pass(atom: Chem.Atom) -> bool:
    """Carbon and nitrogen with exactly one double bond (and no triple) carry the alternation on."""
    triple = any(bond.GetBondType() == _TRIPLE for bond in atom.GetBonds())
    return atom.GetAtomicNum() in (6, 7) and _n_double(atom) == 1 and not triple


def _can_take(atom: Chem.Atom, charge: int) -> bool:
    """An end for a negative charge gives up a double bond; one for a positive charge gives a lone pair."""
    if atom.GetAtomicNum() not in _HETERO:
        return False
    if charge < 0:
        return _n_double(atom) == 1 and atom.GetDegree() < 4 and atom.GetFormalCharge() in (0, 1)
    n_neighbours = 3 if atom.GetAtomicNum() == 7 else 2
    return atom.GetFormalCharge() == 0 and _n_double(atom) == 0 and atom.GetDegree() == n_neighbours


def _flip(kekulised: Chem.Mol, path: list[int]) -> Chem.Mol | None:
    """Exchange the bonds along a path and move the charge to its end; None when no valid form results."""
    mol = Chem.RWMol(kekulised)
    for i, j in pairwise(path):
        bond = mol.GetBondBetweenAtoms(i, j)
        bond.SetStereo(Chem.BondStereo.STEREONONE)
        bond.SetBondType(_FLIPPED[bond.GetBondType()])
    start, end = mol.GetAtomWithIdx(path[0]), mol.GetAtomWithIdx(path[-1])
    charge = start.GetFormalCharge()
    start.SetFormalCharge(0)
    end.SetFormalCharge(end.GetFormalCharge() + charge)
    mol.ClearComputedProps()
    try:
        Chem.SanitizeMol(mol)
    except Chem.MolSanitizeException:
        return None
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
    return mol.GetMol()
