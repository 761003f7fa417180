"""A molecule, its interactions and its geometries."""

from dataclasses import dataclass

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
