"""Other ways of drawing the same ion, and the graph that they share.

A charge moves along alternating single and double bonds; elements and connections stay.
"""

from collections.abc import Iterator
from itertools import pairwise

from rdkit import Chem

from pipeline.stereo import count_specified_stereo

_MAX_FORMS = 64
_MAX_STEPS = 5000
"""Bonds tried in the search for paths from one charge; far more than a drug's conjugated system has"""
_MAX_PATH_ATOMS = 25
_HETERO = frozenset({7, 8, 16})
_SINGLE, _DOUBLE = Chem.BondType.SINGLE, Chem.BondType.DOUBLE


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


def resonance_forms(mol: Chem.Mol) -> list[Chem.Mol]:
    """Draw an ion with its charge on each nitrogen, oxygen or sulfur that it can reach, the drawn form first.

    In X(-)-A=Y the charge moves to Y, in X(+)=A-Y to a lone pair on Y, over any number of alternating bonds
    (an alternating path exists in one Kekule structure if and only if it does in all). Charges that a
    neighbour neutralises (nitro, N-oxide, azide) stay. Forms that would lose stated stereo are left out.
    Atoms stay in the molecule's order; hydrogens must be explicit.
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


def _charges(mol: Chem.Mol) -> tuple[int, ...]:
    return tuple(atom.GetFormalCharge() for atom in mol.GetAtoms())


def _move_charges(mol: Chem.Mol) -> Iterator[Chem.Mol]:
    """Every form that differs from this one by the place of one charge."""
    starts = [atom.GetIdx() for atom in mol.GetAtoms() if _is_mobile(atom)]
    if not starts:
        return
    kekulised = Chem.Mol(mol)
    Chem.Kekulize(kekulised, clearAromaticFlags=True)
    for start in starts:
        for path in _alternating_paths(kekulised, start):
            moved = _flip(kekulised, path)
            if moved is not None:
                yield moved


def _is_mobile(atom: Chem.Atom) -> bool:
    """A charge of one that no neighbour of the opposite charge pins down."""
    charge = atom.GetFormalCharge()
    if charge not in (-1, 1) or atom.GetAtomicNum() not in _HETERO | {6}:
        return False
    return all(n.GetFormalCharge() * charge >= 0 for n in atom.GetNeighbors())


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
            if len(longer) < _MAX_PATH_ATOMS and _can_pass(other):
                stack.append(longer)
    return list(found.values())


def _n_double(atom: Chem.Atom) -> int:
    return sum(bond.GetBondType() == _DOUBLE for bond in atom.GetBonds())


def _can_pass(atom: Chem.Atom) -> bool:
    """Carbon and nitrogen with exactly one double bond (and no triple) carry the alternation on."""
    triple = any(bond.GetBondType() == Chem.BondType.TRIPLE for bond in atom.GetBonds())
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
    """Exchange single and double bonds along a path and move the charge; None when no valid form results."""
    mol = Chem.RWMol(kekulised)
    for i, j in pairwise(path):
        bond = mol.GetBondBetweenAtoms(i, j)
        bond.SetStereo(Chem.BondStereo.STEREONONE)
        bond.SetBondType(_DOUBLE if bond.GetBondType() == _SINGLE else _SINGLE)
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
