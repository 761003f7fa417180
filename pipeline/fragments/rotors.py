"""Which bonds of a molecule turn and are worth a torsion drive, and which dihedral follows the turn."""

from itertools import product

from rdkit import Chem

from pipeline.settings import FragmentSettings
from pipeline.topology import linear_centres

Bond = tuple[int, int]
Dihedral = tuple[int, int, int, int]

# Acyl C-N, C-O, C-S and their imino and thio kin: barriers of 10 to 20 kcal/mol, half a double bond.
_AMIDE_LIKE = Chem.MolFromSmarts("[CX3](=[O,S,N])-!@[#7,OX2,SX2]")


def list_rotors(mol: Chem.Mol, settings: FragmentSettings) -> list[Bond]:
    """List the bonds to drive, each as (smaller, larger) atom index, sorted.

    A rotor is a single bond outside rings between two atoms that both carry further atoms and are not linear.
    Left out unless the settings ask for them: tops that are symmetric by nature (methyl, trifluoromethyl,
    t-butyl, ammonium, sulfonate), tops of hydrogens only (hydroxyl, amino), and bonds that are half double
    (amide, ester, amidine). The molecule must have explicit hydrogens.
    """
    linear = linear_centres(mol)
    stiff = set() if settings.drive_amides else _amide_like(mol)
    rotors = []
    for bond in mol.GetBonds():
        ends = sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
        atoms = [mol.GetAtomWithIdx(idx) for idx in ends]
        if bond.IsInRing() or bond.GetBondType() != Chem.BondType.SINGLE:
            continue
        if any(atom.GetDegree() < 2 or atom.GetIdx() in linear for atom in atoms):
            continue
        tops = list(zip(atoms, reversed(atoms), strict=True))
        if not settings.drive_hydrogen_tops and any(_bears_only_hydrogens(*top) for top in tops):
            continue
        if not settings.drive_symmetric_tops and any(_is_symmetric_top(*top) for top in tops):
            continue
        if frozenset(ends) not in stiff:
            rotors.append((ends[0], ends[1]))
    return sorted(rotors)


def choose_dihedral(mol: Chem.Mol, bond: Bond) -> Dihedral:
    """Choose the dihedral whose angle is driven when a bond turns.

    At each end: a heavy atom before a hydrogen; one that symmetry makes the only one of its kind (the lone
    substituent before two equal methyls); the heaviest; the one that bears the heaviest (C-F before C-H); the
    first by canonical rank and by index. In a molecule in canonical order the choice is thus a function of
    molecule and bond alone.
    """
    ranks = list(Chem.CanonicalRankAtoms(mol, breakTies=False))
    first, second = sorted(bond)
    return _best_end(mol, ranks, first, second), first, second, _best_end(mol, ranks, second, first)


def dihedrals_about(mol: Chem.Mol, bond: Bond) -> list[Dihedral]:
    """List every proper dihedral about a bond."""
    first, second = bond
    left = [n.GetIdx() for n in mol.GetAtomWithIdx(first).GetNeighbors() if n.GetIdx() != second]
    right = [n.GetIdx() for n in mol.GetAtomWithIdx(second).GetNeighbors() if n.GetIdx() != first]
    return [(i, first, second, m) for i, m in product(sorted(left), sorted(right))]


def _best_end(mol: Chem.Mol, ranks: list[int], centre: int, across: int) -> int:
    ends = [n for n in mol.GetAtomWithIdx(centre).GetNeighbors() if n.GetIdx() != across]
    kinds = [ranks[end.GetIdx()] for end in ends]

    def preference(end: Chem.Atom) -> tuple[bool, bool, int, list[int], int, int]:
        rank = ranks[end.GetIdx()]
        return (
            end.GetAtomicNum() == 1,
            kinds.count(rank) > 1,
            -end.GetAtomicNum(),
            sorted(-n.GetAtomicNum() for n in end.GetNeighbors()),
            rank,
            end.GetIdx(),
        )

    return int(min(ends, key=preference).GetIdx())


def _amide_like(mol: Chem.Mol) -> set[frozenset[int]]:
    return {frozenset((match[0], match[2])) for match in mol.GetSubstructMatches(_AMIDE_LIKE)}


def _others(atom: Chem.Atom, across: Chem.Atom) -> list[Chem.Atom]:
    return [n for n in atom.GetNeighbors() if n.GetIdx() != across.GetIdx()]


def _bears_only_hydrogens(atom: Chem.Atom, across: Chem.Atom) -> bool:
    """-OH, -SH, -NH2; three hydrogens make a symmetric top instead."""
    others = _others(atom, across)
    return len(others) < 3 and all(n.GetAtomicNum() == 1 for n in others)


def _is_symmetric_top(atom: Chem.Atom, across: Chem.Atom) -> bool:
    """Three equal arms, each a single atom or one with hydrogens only: the profile is threefold, no more."""
    arms = _others(atom, across)
    if len(arms) != 3:
        return False
    kinds = {(arm.GetAtomicNum(), arm.GetDegree()) for arm in arms}
    beyond = [n for arm in arms for n in _others(arm, atom)]
    return len(kinds) == 1 and all(n.GetAtomicNum() == 1 for n in beyond)
