"""A molecule, its interactions and its geometries."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.schema.arrays import FloatArray, IntArray, freeze


@dataclass(frozen=True, kw_only=True)
class Ligand:
    """One molecule with every atom explicit, in the atom order of the user's record."""

    name: str
    mapped_smiles: str
    """Isomeric SMILES with explicit hydrogens; map number = atom index + 1."""
    total_charge: int
    """elementary charges"""


FAR_APART = 8
"""bonds between two atoms that are counted as no more than so many"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Topology:
    """Every interaction of a ligand, each listed once. Indices are 0-based."""

    atomic_numbers: IntArray
    """(n_atoms,)"""
    bonds: IntArray
    """(n_bonds, 2)"""
    angles: IntArray
    """(n_angles, 3), centre in column 1"""
    propers: IntArray
    """(n_propers, 4); none over a (nearly) linear centre"""
    impropers: IntArray
    """(n_impropers, 4), centre in column 1; three consecutive rows per centre, the SMIRNOFF trefoil.

    The dihedral of a row (a, centre, b, c) is phi(centre, a, b, c): centre first, 0 when planar, as the
    OpenFF toolkit and Interchange evaluate it (openmm#2509). phi(a, centre, b, c) would be another angle.
    """
    pairs_14: IntArray
    """(n_pairs, 2): atoms exactly three bonds apart"""

    def __post_init__(self) -> None:
        """Check shapes and make the arrays read-only."""
        freeze(self, "atomic_numbers", np.int64, (None,))
        for name, width in (("bonds", 2), ("angles", 3), ("propers", 4), ("impropers", 4), ("pairs_14", 2)):
            freeze(self, name, np.int64, (None, width))
        if len(self.impropers) % 3:
            raise ValueError("impropers: three rows per centre expected")

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.atomic_numbers)

    @property
    def improper_dihedrals(self) -> IntArray:
        """(n_impropers, 4): the atoms of each improper row in the order of its dihedral, centre first."""
        return self.impropers[:, [1, 0, 2, 3]]

    @property
    def pairs(self) -> IntArray:
        """(n_pairs, 2): every two atoms more than two bonds apart, i < j, sorted."""
        return self._pairs_and_bonds[0]

    @property
    def pair_bonds(self) -> IntArray:
        """(n_pairs,): bonds on the shortest way between the atoms of a pair, from 3 to FAR_APART."""
        return self._pairs_and_bonds[1]

    @cached_property
    def _pairs_and_bonds(self) -> tuple[IntArray, IntArray]:
        return pairs_apart(self.n_atoms, self.bonds)


def pairs_apart(n_atoms: int, bonds: IntArray) -> tuple[IntArray, IntArray]:
    """`Topology.pairs` and `Topology.pair_bonds` of a molecule of these bonds (n_bonds, 2)."""
    linked = np.zeros((n_atoms, n_atoms), dtype=np.float32)
    linked[bonds, bonds[:, ::-1]] = 1.0
    apart = np.full(linked.shape, FAR_APART)
    np.fill_diagonal(apart, 0)
    for n_bonds in range(1, FAR_APART):
        reached = (apart == n_bonds - 1).astype(np.float32) @ linked > 0
        apart[reached & (apart == FAR_APART)] = n_bonds
    pairs = np.argwhere(np.triu(apart > 2, k=1))
    between = apart[pairs[:, 0], pairs[:, 1]]
    for array in (pairs, between):
        array.setflags(write=False)
    return pairs, between


@dataclass(frozen=True, kw_only=True, eq=False)
class Conformers:
    """Geometries of one ligand, in its atom order."""

    coords: FloatArray
    """(n_confs, n_atoms, 3), angstrom"""

    def __post_init__(self) -> None:
        """Check shapes and make the array read-only."""
        freeze(self, "coords", np.float64, (None, None, 3))

    @property
    def n_confs(self) -> int:
        """Number of conformers."""
        return len(self.coords)
