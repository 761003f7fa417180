"""Which stereo a ligand must state, whether it does, and whether a geometry has it."""

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

from pipeline.atoms import atoms_of, bonds_of
from pipeline.schema import FloatArray

_CIS = (Chem.BondStereo.STEREOZ, Chem.BondStereo.STEREOCIS)
_TRANS = (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOTRANS)
_TETRAHEDRAL = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)
_ORIGIN = "parmflow_index"
_MAX_CAGE_RING = 7
_MAX_BRIDGED_RING = 8


def list_unspecified_stereo(mol: Chem.Mol, delocalised: Collection[int] = ()) -> list[str]:
    """Name each stereocentre and double bond that the molecule leaves open, e.g. `C2` or `C3=C4` (1-based).

    Left out, because nothing stable is left open: nitrogen that inverts or exchanges its proton; phosphorus
    and sulfur between oxygens that differ only in the drawing; bridgeheads whose ring system allows one
    arrangement only; C=N-H; cumulenes; the bonds listed as `delocalised` (indices), which another resonance
    form draws single. The molecule must have explicit hydrogens.
    """
    names = []
    deprotonated = _without_ammonium_protons(mol)
    for info in Chem.FindPotentialStereo(deprotonated):
        if info.specified != Chem.StereoSpecified.Unspecified:
            continue
        if info.type == Chem.StereoType.Atom_Tetrahedral:
            atom = _original(mol, deprotonated.GetAtomWithIdx(info.centeredOn))
            if not (_inverts(atom) or _has_equal_terminals(atom) or _is_held_by_cage(atom)):
                names.append(_atom_name(atom))
        elif info.type == Chem.StereoType.Bond_Double:
            found = deprotonated.GetBondWithIdx(info.centeredOn)
            begin, end = _original(mol, found.GetBeginAtom()), _original(mol, found.GetEndAtom())
            bond = mol.GetBondBetweenAtoms(begin.GetIdx(), end.GetIdx())
            if not (_is_cumulated(bond) or _is_nh_imine(bond) or bond.GetIdx() in delocalised):
                names.append(f"{_atom_name(begin)}={_atom_name(end)}")
    return names


def _without_ammonium_protons(mol: Chem.Mol) -> Chem.Mol:
    """Copy without a proton on each ammonium, so that no other centre seems to depend on a nitrogen's."""
    editable = Chem.RWMol(mol)
    protons = []
    for atom in atoms_of(editable):
        atom.SetIntProp(_ORIGIN, atom.GetIdx())
        hydrogens = [n.GetIdx() for n in atom.GetNeighbors() if n.GetAtomicNum() == 1]
        if atom.GetAtomicNum() == 7 and atom.GetDegree() == 4 and hydrogens and atom.GetFormalCharge() == 1:
            atom.SetFormalCharge(0)
            atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
            protons.append(hydrogens[0])
    for idx in sorted(protons, reverse=True):
        editable.RemoveAtom(idx)
    Chem.SanitizeMol(editable)
    return editable.GetMol()


def _original(mol: Chem.Mol, atom: Chem.Atom) -> Chem.Atom:
    return mol.GetAtomWithIdx(atom.GetIntProp(_ORIGIN))


def count_specified_stereo(mol: Chem.Mol) -> int:
    """Number of stereocentres and double bonds whose arrangement is stated."""
    atoms = sum(atom.GetChiralTag() in _TETRAHEDRAL for atom in atoms_of(mol))
    return atoms + sum(bond.GetStereo() in _CIS + _TRANS for bond in bonds_of(mol))


def has_stereo_of(mol: Chem.Mol, coords: FloatArray) -> bool:
    """Say whether a geometry has every stereocentre and double bond as the molecule states it.

    `coords` is (n_atoms, 3) in angstrom, in the molecule's atom order. Unspecified stereo may be anything.
    """
    probe = place_atoms(mol, coords)
    with _shapes_that_stay(probe):
        Chem.AssignAtomChiralTagsFromStructure(probe, replaceExistingTags=True)
    for have, want in zip(atoms_of(probe), atoms_of(mol), strict=True):
        if want.GetChiralTag() in _TETRAHEDRAL and have.GetChiralTag() != want.GetChiralTag():
            return False
    return all(
        _is_cis(bond, coords) == (bond.GetStereo() in _CIS)
        for bond in bonds_of(mol)
        if bond.GetStereo() in _CIS + _TRANS
    )


def read_stereo(mol: Chem.Mol) -> None:
    """Take, in place, the stereo of every centre and double bond from the molecule's 3-D conformer."""
    with _shapes_that_stay(mol):
        Chem.AssignStereochemistryFrom3D(mol, replaceExistingTags=True)


@contextmanager
def _shapes_that_stay(mol: Chem.Mol) -> Iterator[None]:
    """Let RDKit see tetrahedra only, unless an atom has six neighbours.

    It takes a bent sulfone or phosphate of a snapshot for two thirds of an octahedron; that tag would hide a
    stereocentre and make another molecule of each snapshot.
    """
    allowed = Chem.GetAllowNontetrahedralChirality()
    Chem.SetAllowNontetrahedralChirality(allowed and any(atom.GetDegree() == 6 for atom in atoms_of(mol)))
    try:
        yield
    finally:
        Chem.SetAllowNontetrahedralChirality(allowed)


def place_atoms(mol: Chem.Mol, coords: FloatArray) -> Chem.Mol:
    """Copy a molecule with one conformer: `coords` (n_atoms, 3), angstrom."""
    placed = Chem.Mol(mol)
    placed.RemoveAllConformers()
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(np.array(coords, dtype=np.float64))
    conformer.Set3D(True)
    placed.AddConformer(conformer, assignId=True)
    return placed


def forget_inverting_nitrogen(mol: Chem.Mol) -> None:
    """Drop, in place, stereo at nitrogen that inverts: a snapshot of a geometry, not a property."""
    for atom in atoms_of(mol):
        if _inverts(atom):
            atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True)


def _atom_name(atom: Chem.Atom) -> str:
    return f"{atom.GetSymbol()}{atom.GetIdx() + 1}"


def _inverts(atom: Chem.Atom) -> bool:
    """Three-coordinate nitrogen inverts; a protonated one inverts once the proton is off."""
    if atom.GetAtomicNum() != 7:
        return False
    return atom.GetDegree() < 4 or any(n.GetAtomicNum() == 1 for n in atom.GetNeighbors())


def _has_equal_terminals(atom: Chem.Atom) -> bool:
    """Two terminal oxygens (or sulfurs) on P or S: phosphate diesters, sulfinates; -OH exchanges too."""
    if atom.GetAtomicNum() not in (15, 16):
        return False
    terminal = Counter(
        n.GetAtomicNum()
        for n in atom.GetNeighbors()
        if n.GetAtomicNum() in (8, 16)
        and all(m.GetIdx() == atom.GetIdx() or m.GetAtomicNum() == 1 for m in n.GetNeighbors())
    )
    return max(terminal.values(), default=0) > 1


def _is_held_by_cage(atom: Chem.Atom) -> bool:
    """A bridgehead (norbornane, quinuclidine, cubane) with two equal arms has one possible arrangement."""
    mol = atom.GetOwningMol()
    arms = [n for n in atom.GetNeighbors() if n.GetAtomicNum() != 1 and n.IsInRing()]
    ranks = Chem.CanonicalRankAtoms(mol, breakTies=False, includeChirality=False)
    if len(arms) < 3 or len({ranks[n.GetIdx()] for n in arms}) == len(arms):
        return False
    bridgeheads: list[int] = []
    rdMolDescriptors.CalcNumBridgeheadAtoms(mol, bridgeheads)
    limit = _MAX_BRIDGED_RING if atom.GetIdx() in bridgeheads else _MAX_CAGE_RING
    idxs = [n.GetIdx() for n in arms]
    return all(_ring_through(mol, a, atom.GetIdx(), b) <= limit for i, a in enumerate(idxs) for b in idxs[:i])


def _ring_through(mol: Chem.Mol, a: int, centre: int, b: int) -> float:
    """Size of the smallest ring that contains a-centre-b."""
    seen, frontier, size = {a, centre}, {a}, 2
    while frontier:
        size += 1
        frontier = {n.GetIdx() for i in frontier for n in mol.GetAtomWithIdx(i).GetNeighbors()} - seen
        if b in frontier:
            return size
        seen |= frontier
    return float("inf")


def _is_cumulated(bond: Chem.Bond) -> bool:
    return any(
        sum(other.GetBondType() == Chem.BondType.DOUBLE for other in atom.GetBonds()) > 1
        for atom in (bond.GetBeginAtom(), bond.GetEndAtom())
    )


def _is_nh_imine(bond: Chem.Bond) -> bool:
    return any(
        atom.GetAtomicNum() == 7 and any(n.GetAtomicNum() == 1 for n in atom.GetNeighbors())
        for atom in (bond.GetBeginAtom(), bond.GetEndAtom())
    )


def _is_cis(bond: Chem.Bond, coords: FloatArray) -> bool:
    """Whether the two stereo atoms of a double bond lie on one side of it."""
    begin, end = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
    first, last = bond.GetStereoAtoms()
    axis = coords[end] - coords[begin]
    arm_1, arm_2 = coords[first] - coords[begin], coords[last] - coords[end]
    normal_1, normal_2 = np.cross(axis, arm_1), np.cross(axis, arm_2)
    return bool(np.dot(normal_1, normal_2) > 0)
