"""Atom and bond features that do not depend on how a resonance form was drawn.

Nearly everything is read from the skeleton: elements, degrees (hydrogens are explicit) and rings. Bond orders
and aromatic flags are not used, so a carboxylate, an amidinium or a nitro group has one set of features
however it is drawn; explicit hydrogens make the protonation state visible without them. The last columns are
Hueckel's pi populations and bond orders, which tell what atoms beyond the network's reach do; networks made
without them do not read them, and where no other is asked they can be left out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from models.huckel import brings_one, lends_pair, pi_electrons
from pipeline.atoms import atoms_of, bonds_of
from pipeline.errors import RefusedLigandError
from pipeline.ligand import to_rdkit
from pipeline.schema import Ligand

ELEMENTS = (1, 6, 7, 8, 9, 15, 16, 17, 35, 53)
MAX_DEGREE = 6
RING_SIZES = (3, 4, 5, 6, 7, 8)
CONJUGATED_RING_SIZES = (5, 6, 7)

N_ATOM_FEATURES = len(ELEMENTS) + MAX_DEGREE + 1 + 1 + len(RING_SIZES) + 3
N_EDGE_FEATURES = 1 + len(RING_SIZES) + 2
"""of the skeleton"""
N_PI_FEATURES = 1
"""more columns of either kind: pi electrons"""
_PI_STEP = 0.02
"""pi electrons are rounded to this: numerical noise must not tell equivalent atoms apart"""


@dataclass(frozen=True, kw_only=True, eq=False)
class MolecularGraph:
    """The network's view of one ligand."""

    atom_features: NDArray[np.float32]
    """(n_atoms, N_ATOM_FEATURES + N_PI_FEATURES), or without the last"""
    edges: NDArray[np.int64]
    """(2 n_bonds, 2): source, destination; each bond in both directions"""
    edge_features: NDArray[np.float32]
    """(2 n_bonds, N_EDGE_FEATURES + N_PI_FEATURES), or without the last"""
    total_charge: int
    """elementary charges"""


def build_graph(ligand: Ligand, *, pi: bool = True) -> MolecularGraph:
    """Compute the features of a ligand, atoms in the ligand's order; `pi`: those of pi electrons too.

    Raises RefusedLigandError for an element outside `ELEMENTS`.
    """
    mol = to_rdkit(ligand)
    return graph_of_molecule(mol, name=ligand.name, total_charge=ligand.total_charge, pi=pi)


def graph_of_molecule(mol: Chem.Mol, *, name: str, total_charge: int, pi: bool = True) -> MolecularGraph:
    """Do the same for an RDKit molecule with explicit hydrogens."""
    rings = [frozenset(ring) for ring in Chem.GetSymmSSSR(mol)]
    conjugated = [ring for ring in rings if _is_conjugated_ring(mol, ring)]
    atoms = atoms_of(mol)
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds_of(mol)]
    edges = np.array(bonds + [(j, i) for i, j in bonds], dtype=np.int64).reshape(-1, 2)
    of_atoms = np.array([_atom_features(atom, name, rings, conjugated) for atom in atoms])
    of_bonds = np.array([_bond_features(mol, pair, rings, conjugated) for pair in bonds])
    of_bonds = of_bonds.reshape(-1, N_EDGE_FEATURES)
    if pi:
        excess, order = (np.round(values / _PI_STEP) * _PI_STEP + 0.0 for values in pi_electrons(mol))
        of_atoms, of_bonds = np.column_stack([of_atoms, excess]), np.column_stack([of_bonds, order])
    bond_features = of_bonds.astype(np.float32)
    return MolecularGraph(
        atom_features=of_atoms.astype(np.float32),
        edges=edges,
        edge_features=np.concatenate([bond_features, bond_features]),
        total_charge=total_charge,
    )


def _atom_features(
    atom: Chem.Atom, name: str, rings: list[frozenset[int]], conjugated: list[frozenset[int]]
) -> list[float]:
    """Element, degree, attached hydrogens, ring sizes, ring count, conjugated rings, unsaturation."""
    number, index = atom.GetAtomicNum(), atom.GetIdx()
    if number not in ELEMENTS:
        raise RefusedLigandError(
            f"{name}: element {atom.GetSymbol()} is outside the network's training",
            kind="unsupported-element",
        )
    degree = min(atom.GetDegree(), MAX_DEGREE)
    n_hydrogens = sum(neighbour.GetAtomicNum() == 1 for neighbour in atom.GetNeighbors())
    own_rings = [len(ring) for ring in rings if index in ring]
    return [
        *(float(number == element) for element in ELEMENTS),
        *(float(degree == n) for n in range(MAX_DEGREE + 1)),
        n_hydrogens / 4.0,
        *(float(size in own_rings) for size in RING_SIZES),
        min(len(own_rings), 3) / 3.0,
        min(sum(index in ring for ring in conjugated), 2) / 2.0,
        float(brings_one(atom)),
    ]


def _bond_features(
    mol: Chem.Mol, pair: tuple[int, int], rings: list[frozenset[int]], conjugated: list[frozenset[int]]
) -> list[float]:
    """Ring membership, ring sizes, conjugated ring, both ends unsaturated."""
    shared = [ring for ring in rings if ring.issuperset(pair)]
    sizes = {len(ring) for ring in shared}
    return [
        float(bool(shared)),
        *(float(size in sizes) for size in RING_SIZES),
        float(any(ring.issuperset(pair) for ring in conjugated)),
        float(all(brings_one(mol.GetAtomWithIdx(index)) for index in pair)),
    ]


def _is_conjugated_ring(mol: Chem.Mol, ring: frozenset[int]) -> bool:
    """Every member is unsaturated or can lend a lone pair: aromaticity without bond orders."""
    if len(ring) not in CONJUGATED_RING_SIZES:
        return False
    atoms = [mol.GetAtomWithIdx(index) for index in ring]
    return all(brings_one(atom) or lends_pair(atom) for atom in atoms)
