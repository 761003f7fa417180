"""Where a network that sees no bond orders gives the double bonds of a chain the length of its single bonds.

Which bonds of a polyene are double is counted from the chain's ends, and the networks see no further than
they have layers. In the middle of a long chain all bonds look alike to them, or nearly. What they would need
is a feature of bonds that does not depend on the drawn resonance form and yet comes from afar: Hueckel's pi
bond order, or the mean bond order over all forms.
"""

from collections.abc import Iterator

from rdkit import Chem

from pipeline.ligand import to_rdkit
from pipeline.resonance import resonance_forms
from pipeline.schema import FloatArray, Ligand, Topology

LEAST_ALTERNATION = 0.05
"""angstrom; in GFN2-xTB's minima of polyenes (to eleven double bonds) and of neutral push-pull chains single
bonds are longer by 0.051 to 0.135, and `sixth` gives the dev molecules at least 0.120"""
_SINGLE, _DOUBLE = Chem.BondType.SINGLE, Chem.BondType.DOUBLE


def count_blurred_double_bonds(ligand: Ligand, topology: Topology, bond_length: FloatArray) -> int:
    """Count the C=C outside rings whose rest length comes near that of a C-C beside it, or exceeds it.

    `bond_length` (n_bonds,) in angstrom. Both bonds have this order in every resonance form: in a cyanine
    the lengths are equal for good reason. The C-C leads to another double bond outside rings: what a chain
    passes to a ring the networks see.
    """
    length = dict(zip(map(tuple, topology.bonds.tolist()), bond_length.tolist(), strict=True))
    mol = to_rdkit(ligand)
    close = [
        (double, single)
        for double, single in _alternating_pairs(mol)
        if length[single] - length[double] < LEAST_ALTERNATION
    ]
    if not close:
        return 0
    Chem.RemoveStereochemistry(mol)  # forms that lose stated stereo would be left out
    forms = resonance_forms(mol)
    return len(
        {
            double
            for double, single in close
            if all(
                form.GetBondBetweenAtoms(*double).GetBondType() == _DOUBLE
                and form.GetBondBetweenAtoms(*single).GetBondType() == _SINGLE
                for form in forms
            )
        }
    )


def _alternating_pairs(mol: Chem.Mol) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Each C=C outside rings with each C-C at its ends that leads to another double bond; pairs of atoms."""
    for bond in mol.GetBonds():
        ends = (bond.GetBeginAtom(), bond.GetEndAtom())
        if bond.GetBondType() != _DOUBLE or bond.IsInRing() or not all(map(_is_trigonal_carbon, ends)):
            continue
        for end in ends:
            for other in end.GetBonds():
                beyond = other.GetOtherAtom(end)
                if other.GetBondType() == _SINGLE and _is_trigonal_carbon(beyond) and _goes_on(beyond):
                    yield _pair(bond), _pair(other)


def _goes_on(atom: Chem.Atom) -> bool:
    return any(bond.GetBondType() == _DOUBLE and not bond.IsInRing() for bond in atom.GetBonds())


def _is_trigonal_carbon(atom: Chem.Atom) -> bool:
    return bool(atom.GetAtomicNum() == 6 and atom.GetDegree() == 3)


def _pair(bond: Chem.Bond) -> tuple[int, int]:
    i, j = sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
    return i, j
