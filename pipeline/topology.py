"""Bonds, angles, propers, trefoil impropers and 1-4 pairs of a ligand: each interaction once."""

import dataclasses
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from pipeline.atoms import atoms_of, bonds_of
from pipeline.ligand import to_rdkit
from pipeline.schema import CrossTerms, IntArray, Ligand, MMParameters, Topology

IMPROPER_CENTRES = frozenset({6, 7})
"""Three-coordinate carbon and nitrogen get an improper; pyramidal P and S are held by their angles."""


def build_topology(ligand: Ligand) -> Topology:
    """List every interaction of a ligand once, in a deterministic order, in the ligand's atom order.

    Rows run with the smaller end index first. No proper is listed over a (nearly) linear centre, where the
    dihedral is undefined; no pair that is also 1-2 or 1-3 counts as 1-4, and none counts twice.
    """
    return topology_of_molecule(to_rdkit(ligand))


def topology_of_molecule(mol: Chem.Mol) -> Topology:
    """Do the same for an RDKit molecule whose hydrogens are explicit."""
    neighbours = [sorted(n.GetIdx() for n in atom.GetNeighbors()) for atom in atoms_of(mol)]
    bonds = sorted(tuple(sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx()))) for b in bonds_of(mol))
    angles = [(i, j, k) for j, ends in enumerate(neighbours) for i, k in combinations(ends, 2)]
    linear = linear_centres(mol)
    propers = [
        (i, j, k, m) if i < m else (m, k, j, i)
        for j, k in bonds
        if j not in linear and k not in linear
        for i in neighbours[j]
        for m in neighbours[k]
        if i != k and m != j and i != m
    ]
    return Topology(
        atomic_numbers=np.array([atom.GetAtomicNum() for atom in atoms_of(mol)]),
        bonds=np.array(bonds),
        angles=np.array(angles),
        propers=np.array(sorted(propers)),
        impropers=np.array(_trefoils(mol, neighbours)),
        pairs_14=np.array(_pairs_three_bonds_apart(neighbours)),
    )


def list_linear_chains(topology: Topology) -> list[tuple[int, int, int, int]]:
    """List the chains of four that are no proper of ours; readers that want a torsion get a zero."""
    propers = {tuple(row) for row in topology.propers.tolist()}
    return [chain for chain in _list_chains(topology) if not {chain, chain[::-1]} & propers]


def _list_chains(topology: Topology) -> list[tuple[int, int, int, int]]:
    """List every chain of four bonded atoms."""
    neighbours: list[list[int]] = [[] for _ in range(topology.n_atoms)]
    for i, j in topology.bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    return [
        (i, j, k, m)
        for j, k in topology.bonds.tolist()
        for i, m in product(neighbours[j], neighbours[k])
        if i != k and m != j and i != m
    ]


def restore_order(
    topology: Topology, parameters: MMParameters, order: IntArray
) -> tuple[Topology, MMParameters]:
    """Bring parameters found in canonical order into the user's order.

    `order[i]` is the user's index of canonical atom i (`pipeline.ligand.canonical_order`). The rows come out
    as `build_topology` lists them for the user's ligand. Nothing but labels changes: an improper row whose
    outer atoms change places keeps its energy, since its dihedral (centre first) only changes sign, so a row
    is known by its centre and its last atom.
    """
    order = np.asarray(order, dtype=np.int64)
    inverse = np.argsort(order)
    bonds, bond_rows = _sorted_rows(np.sort(order[topology.bonds], axis=1), (0, 1))
    angles, angle_rows = _sorted_rows(_smaller_end_first(order[topology.angles]), (1, 0, 2))
    propers, proper_rows = _sorted_rows(_smaller_end_first(order[topology.propers]), (0, 1, 2, 3))
    impropers, improper_rows = _sorted_rows(_turn_trefoils(order[topology.impropers]), (1, 0))
    pairs_14, _ = _sorted_rows(np.sort(order[topology.pairs_14], axis=1), (0, 1))
    restored = Topology(
        atomic_numbers=topology.atomic_numbers[inverse],
        bonds=bonds,
        angles=angles,
        propers=propers,
        impropers=impropers,
        pairs_14=pairs_14,
    )
    return restored, dataclasses.replace(
        parameters,
        bond_k=parameters.bond_k[bond_rows],
        bond_length=parameters.bond_length[bond_rows],
        angle_k=parameters.angle_k[angle_rows],
        angle_theta=parameters.angle_theta[angle_rows],
        proper_k=parameters.proper_k[proper_rows],
        improper_k=parameters.improper_k[improper_rows],
        charge=parameters.charge[inverse],
        sigma=parameters.sigma[inverse],
        epsilon=parameters.epsilon[inverse],
        cross=None
        if parameters.cross is None
        else _restored_cross(
            parameters.cross,
            {
                "bonds": bond_rows,
                "angles": angle_rows,
                "propers": proper_rows,
                "pairs": _pair_rows(topology, order),
            },
            tuple(_is_reversed(order[rows]) for rows in (topology.angles, topology.propers)),
        ),
        confidence=parameters.confidence
        and dataclasses.replace(
            parameters.confidence,
            unseen=tuple(sorted(int(order[atom]) for atom in parameters.confidence.unseen)),
            bond=parameters.confidence.bond[bond_rows],
            angle=parameters.confidence.angle[angle_rows],
            proper=parameters.confidence.proper[proper_rows],
            improper=parameters.confidence.improper[improper_rows],
            charge=parameters.confidence.charge[inverse],
        ),
    )


def _pair_rows(topology: Topology, order: IntArray) -> IntArray:
    """Which row of the pairs of `topology` stands in each row of those in the user's order."""
    return _sorted_rows(np.sort(order[topology.pairs], axis=1), (0, 1))[1]


def _restored_cross(
    cross: CrossTerms, sources: dict[str, IntArray], reversals: tuple[NDArray[np.bool_], ...]
) -> CrossTerms:
    """Bring cross terms into the order of the sorted rows; the ends of a turned row change places."""
    angle_turned, proper_turned = reversals
    bond_angle = np.where(angle_turned[:, None], cross.bond_angle[:, ::-1], cross.bond_angle)
    angle_torsion = np.where(proper_turned[:, None, None], cross.angle_torsion[:, ::-1], cross.angle_torsion)
    turned = dataclasses.replace(cross, bond_angle=bond_angle, angle_torsion=angle_torsion)
    return dataclasses.replace(
        turned, **{name: getattr(turned, name)[sources[rows]] for name, rows in cross.rows.items()}
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CoupledRows:
    """Which rows of a topology the cross terms couple (`pipeline.schema.CrossTerms`)."""

    angle_bonds: IntArray
    """(n_angles, 2): the bonds i-j and j-k of an angle i-j-k"""
    proper_bond: IntArray
    """(n_propers,): the bond j-k of a proper i-j-k-l"""
    proper_angles: IntArray
    """(n_propers, 2): the angles i-j-k and j-k-l"""


def coupled_rows(topology: Topology) -> CoupledRows:
    """Find the bonds and angles in each angle and proper."""
    bonds = {frozenset(row): number for number, row in enumerate(topology.bonds.tolist())}
    angles = {(j, frozenset((i, k))): number for number, (i, j, k) in enumerate(topology.angles.tolist())}
    of_angles = [(bonds[frozenset((i, j))], bonds[frozenset((j, k))]) for i, j, k in topology.angles.tolist()]
    propers = topology.propers.tolist()
    of_propers = [(angles[j, frozenset((i, k))], angles[k, frozenset((j, m))]) for i, j, k, m in propers]
    return CoupledRows(
        angle_bonds=np.array(of_angles, dtype=np.int64).reshape(-1, 2),
        proper_bond=np.array([bonds[frozenset((j, k))] for _, j, k, _ in propers], dtype=np.int64),
        proper_angles=np.array(of_propers, dtype=np.int64).reshape(-1, 2),
    )


def _sorted_rows(rows: IntArray, columns: tuple[int, ...]) -> tuple[IntArray, IntArray]:
    """Rows sorted by the columns named, first the most significant, and where each came from."""
    source = np.lexsort([rows[:, column] for column in reversed(columns)])
    return rows[source], source


def _is_reversed(rows: IntArray) -> NDArray[np.bool_]:
    """Rows whose first atom comes after the last; they are written the other way round."""
    return np.asarray(rows[:, 0] > rows[:, -1])


def _smaller_end_first(rows: IntArray) -> IntArray:
    return np.where(_is_reversed(rows)[:, None], rows[:, ::-1], rows)


def _turn_trefoils(rows: IntArray) -> IntArray:
    """Write each row as `_trefoils` does: after the last atom c, in cyclic sorted order, come a and b."""
    neighbours = np.sort(rows[:, [0, 2, 3]], axis=1)
    last = np.argmax(neighbours == rows[:, 3:], axis=1)
    row_idxs = np.arange(len(rows))
    first, second = neighbours[row_idxs, (last + 1) % 3], neighbours[row_idxs, (last + 2) % 3]
    return np.stack([first, rows[:, 1], second, rows[:, 3]], axis=1)


def linear_centres(mol: Chem.Mol) -> set[int]:
    """Atoms whose two bonds are collinear: alkynes, nitriles, allenes, azides, isocyanates, isocyanides."""
    kekulised = Chem.Mol(mol)
    Chem.Kekulize(kekulised, clearAromaticFlags=True)
    linear = set()
    for atom in atoms_of(kekulised):
        if atom.GetAtomicNum() in (6, 7) and atom.GetDegree() == 2:
            orders = sorted(bond.GetBondTypeAsDouble() for bond in atom.GetBonds())
            if orders[1] == 3.0 or orders == [2.0, 2.0]:
                linear.add(atom.GetIdx())
    return linear


def _trefoils(mol: Chem.Mol, neighbours: list[list[int]]) -> list[tuple[int, int, int, int]]:
    """Three same-handed orderings per trigonal centre (SMIRNOFF specification, `ImproperTorsions`)."""
    rows = []
    for atom in atoms_of(mol):
        centre = atom.GetIdx()
        if atom.GetAtomicNum() in IMPROPER_CENTRES and len(neighbours[centre]) == 3:
            a, b, c = neighbours[centre]
            rows += [(a, centre, b, c), (b, centre, c, a), (c, centre, a, b)]
    return rows


def _pairs_three_bonds_apart(neighbours: list[list[int]]) -> list[tuple[int, int]]:
    """Pairs at graph distance exactly three, by breadth-first search from every atom."""
    pairs = []
    for start in range(len(neighbours)):
        seen, frontier = {start}, {start}
        for _ in range(3):
            frontier = {n for atom in frontier for n in neighbours[atom]} - seen
            seen |= frontier
        pairs += [(start, end) for end in sorted(frontier) if start < end]
    return pairs
