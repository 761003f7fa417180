import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from pipeline.ligand import canonical_ligand, canonical_order, ligand_from_rdkit, reorder_ligand
from pipeline.schema import Confidence, Ligand, MMParameters, Topology
from pipeline.topology import build_topology, list_linear_chains, restore_order

RINGS_AND_CAGES = {
    "cyclopropane": "C1CC1",
    "cyclobutane": "C1CCC1",
    "bicyclobutane": "C12CC1C2",
    "norbornane": "C1CC2CCC1C2",
    "cubane": "C12C3C4C1C5C2C3C45",
    "spiro[2.2]pentane": "C1CC11CC1",
    "spiro[3.3]heptane": "C1CC2(C1)CCC2",
    "benzene": "c1ccccc1",
    "tetrahedrane": "C12C3C1C23",
}
LINEAR = {
    "acetonitrile": ("CC#N", {"C2"}),
    "propyne": ("CC#C", {"C2", "C3"}),
    "allene": ("C=C=C", {"C2"}),
    "benzonitrile": ("N#Cc1ccccc1", {"C2"}),
    "methyl azide": ("CN=[N+]=[N-]", {"N3"}),
    "methyl isocyanide": ("C[N+]#[C-]", {"N2"}),
    "methyl isocyanate": ("CN=C=O", {"C3"}),
    "diazomethane": ("C=[N+]=[N-]", {"N2"}),
    "but-1-en-3-yne": ("C=CC#C", {"C3", "C4"}),
}
ARRAYS = ("atomic_numbers", "bonds", "angles", "propers", "impropers", "pairs_14")


def make_ligand(smiles: str) -> Ligand:
    return ligand_from_rdkit(Chem.AddHs(Chem.MolFromSmiles(smiles)), "test")


def bond_graph(topology: Topology) -> np.ndarray:
    graph = np.zeros((topology.n_atoms, topology.n_atoms), dtype=int)
    graph[topology.bonds[:, 0], topology.bonds[:, 1]] = 1
    return graph + graph.T


def walks(graph: np.ndarray, n_atoms: int) -> set[tuple[int, ...]]:
    """All self-avoiding walks of n atoms, by trying every tuple; each in one direction."""
    found = set()
    for atoms in itertools.permutations(range(len(graph)), n_atoms):
        if all(graph[i, j] for i, j in itertools.pairwise(atoms)):
            found.add(min(atoms, atoms[::-1]))
    return found


def distances(graph: np.ndarray) -> np.ndarray:
    """Number of bonds between atoms, by powers of the adjacency matrix."""
    found = np.where(np.eye(len(graph), dtype=bool), 0, 99)
    power = np.eye(len(graph), dtype=int)
    for n in range(1, len(graph)):
        power = power @ graph
        found = np.where((found == 99) & (power > 0), n, found)
    return found


def as_set(rows: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(int(i) for i in row) for row in rows}


@pytest.mark.parametrize("name", RINGS_AND_CAGES)
def test_rings_and_cages_equal_brute_force(name):
    """Angles, propers and 1-4 pairs equal an enumeration of all atom tuples of the bond graph, each once."""
    topology = build_topology(make_ligand(RINGS_AND_CAGES[name]))
    graph = bond_graph(topology)
    heavy = np.flatnonzero(topology.atomic_numbers > 1)
    for rows, width in ((topology.angles, 3), (topology.propers, 4)):
        assert len(as_set(rows)) == len(rows)
        kept = rows[np.isin(rows, heavy).all(axis=1)]
        assert as_set(kept) == walks(graph[: len(heavy), : len(heavy)], width)
    apart = distances(graph)
    expected = {(i, j) for i, j in itertools.combinations(range(topology.n_atoms), 2) if apart[i, j] == 3}
    assert as_set(topology.pairs_14) == expected
    assert len(topology.pairs_14) == len(expected)


@pytest.mark.parametrize(
    ("smiles", "counts"),
    [
        ("C1CC1", (9, 18, 24, 12)),
        ("C1CCC1", (12, 24, 36, 24)),
        ("CC", (7, 12, 9, 9)),
        ("C=C", (5, 6, 4, 4)),
        ("O", (2, 1, 0, 0)),
    ],
)
def test_counts_by_hand(smiles, counts):
    """Hand counts of bonds, angles, propers, 1-4 pairs.

    Cyclopropane: per ring bond 3 x 3 propers less the one that closes the triangle; pairs are H-H on two
    carbons, 3 x 4. Cyclobutane: H-H on neighbours, 4 x 4, and each hydrogen with the opposite carbon, 8.
    """
    topology = build_topology(make_ligand(smiles))
    found = (len(topology.bonds), len(topology.angles), len(topology.propers), len(topology.pairs_14))
    assert found == counts


@pytest.mark.parametrize("name", LINEAR)
def test_no_torsion_over_a_linear_centre(name):
    """Hand table of the linear atoms: no proper has one in its axis, and every other axis has its propers."""
    smiles, linear = LINEAR[name]
    topology = build_topology(make_ligand(smiles))
    numbers = {int(atom[1:]) - 1 for atom in linear}
    assert not numbers & set(topology.propers[:, 1:3].ravel().tolist())
    graph = bond_graph(topology)
    rotatable = {
        (int(i), int(j))
        for i, j in topology.bonds
        if not {int(i), int(j)} & numbers and graph[i].sum() > 1 and graph[j].sum() > 1
    }
    assert {(min(j, k), max(j, k)) for j, k in topology.propers[:, 1:3].tolist()} == rotatable


@pytest.mark.parametrize("smiles", [*(smiles for smiles, _ in LINEAR.values()), "N#CC1CC1", "CC"])
def test_linear_chains_are_the_walks_that_no_proper_takes(smiles):
    """Brute force: every chain of four that is no proper, each once; none where no centre is linear."""
    topology = build_topology(make_ligand(smiles))
    chains = list_linear_chains(topology)
    found = {min(chain, chain[::-1]) for chain in chains}
    propers = {min(row, row[::-1]) for row in as_set(topology.propers)}
    assert found == walks(bond_graph(topology), 4) - propers
    assert len(chains) == len(found)


@pytest.mark.parametrize(
    ("smiles", "n_centres"), [("CC(=O)NC", 2), ("c1ccccc1", 6), ("CN(C)C", 1), ("CS(=O)C", 0), ("C=C=C", 2)]
)
def test_trefoils_run_round_each_trigonal_centre(smiles, n_centres):
    """Three rows per centre; each neighbour is last once, and all three rows have one handedness."""
    topology = build_topology(make_ligand(smiles))
    assert len(topology.impropers) == 3 * n_centres
    for rows in topology.impropers.reshape(-1, 3, 4):
        assert len(set(rows[:, 1].tolist())) == 1
        outer = rows[:, [0, 2, 3]]
        assert {tuple(np.roll(outer[0], shift)) for shift in range(3)} == as_set(outer)


def dihedral(coords: np.ndarray) -> np.ndarray:
    """Dihedral angles (n,) of points (n, 4, 3), from the arms projected on the plane across the axis."""
    axis = coords[:, 2] - coords[:, 1]
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    arms = [coords[:, 0] - coords[:, 1], coords[:, 3] - coords[:, 2]]
    first, last = (arm - (arm * axis).sum(axis=1, keepdims=True) * axis for arm in arms)
    return np.arctan2((np.cross(axis, first) * last).sum(axis=1), (first * last).sum(axis=1))


def energies(topology: Topology, parameters: MMParameters, coords: np.ndarray) -> np.ndarray:
    """Bonds, angles, propers, impropers (centre first) and a per-atom sum, written out term by term."""
    ends = coords[topology.bonds]
    lengths = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    arms = coords[topology.angles][:, [0, 2]] - coords[topology.angles][:, [1]]
    arms /= np.linalg.norm(arms, axis=2, keepdims=True)
    angles = np.arccos((arms[:, 0] * arms[:, 1]).sum(axis=1))
    n = np.arange(1, 7)
    propers = dihedral(coords[topology.propers])
    impropers = dihedral(coords[topology.impropers[:, [1, 0, 2, 3]]])
    return np.array(
        [
            np.sum(parameters.bond_k / 2 * (lengths - parameters.bond_length) ** 2),
            np.sum(parameters.angle_k / 2 * (angles - parameters.angle_theta) ** 2),
            np.sum(parameters.proper_k * (1 + np.cos(n * propers[:, None]))),
            np.sum(parameters.improper_k * (1 + np.cos(n[:2] * impropers[:, None]))),
            np.sum(parameters.charge * topology.atomic_numbers * coords[:, 0]),
            np.sum(parameters.sigma * parameters.epsilon * coords[:, 1]),
        ]
    )


def random_parameters(topology: Topology, rng: np.random.Generator) -> MMParameters:
    return MMParameters(
        bond_k=rng.normal(size=len(topology.bonds)),
        bond_length=rng.normal(size=len(topology.bonds)),
        angle_k=rng.normal(size=len(topology.angles)),
        angle_theta=rng.normal(size=len(topology.angles)),
        proper_k=rng.normal(size=(len(topology.propers), 6)),
        improper_k=rng.normal(size=(len(topology.impropers), 2)),
        charge=rng.normal(size=topology.n_atoms),
        sigma=rng.normal(size=topology.n_atoms),
        epsilon=rng.normal(size=topology.n_atoms),
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
@pytest.mark.parametrize(
    "smiles", ["CC(=O)Nc1ccccc1", "C1CC2CCC1C2", "CC(=O)[O-]", "C[C@@H]1C[C@H](C)C1", "C#CCN=[N+]=[N-]", "O"]
)
def test_restoring_the_order_changes_labels_only(smiles, seed):
    """Every term keeps its energy in a random geometry, and the rows are those build_topology would list.

    All parameters are random, also within a trefoil. Tolerance: sums of a few hundred rounded terms of
    order one, in another order.
    """
    rng = np.random.default_rng(seed)
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    ligand = ligand_from_rdkit(
        Chem.RenumberAtoms(mol, rng.permutation(mol.GetNumAtoms()).tolist()), "shuffled"
    )
    order = canonical_order(ligand)
    topology = build_topology(canonical_ligand(ligand))
    parameters = random_parameters(topology, rng)
    restored, relabelled = restore_order(topology, parameters, order)
    built = build_topology(ligand)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(restored, name), getattr(built, name))
    coords = rng.normal(size=(topology.n_atoms, 3))
    before = energies(topology, parameters, coords[order])
    np.testing.assert_allclose(energies(restored, relabelled, coords), before, rtol=1e-9, atol=1e-9)


def test_restoring_the_same_order_changes_nothing():
    """The identity permutation gives back the very arrays."""
    ligand = canonical_ligand(make_ligand("CC(=O)NC"))
    topology = build_topology(ligand)
    parameters = random_parameters(topology, np.random.default_rng(0))
    restored, same = restore_order(topology, parameters, np.arange(topology.n_atoms))
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(restored, name), getattr(topology, name))
    np.testing.assert_array_equal(same.improper_k, parameters.improper_k)
    np.testing.assert_array_equal(same.proper_k, parameters.proper_k)


def test_topology_follows_its_atoms():
    """Symmetry: the topology of a reordered ligand is the relabelled topology."""
    ligand = make_ligand("CC(=O)Nc1ccccc1C#N")
    topology = build_topology(ligand)
    order = np.random.default_rng(5).permutation(topology.n_atoms)
    reordered = build_topology(reorder_ligand(ligand, order))
    assert as_set(np.sort(order[reordered.bonds], axis=1)) == as_set(topology.bonds)
    assert {min(r, r[::-1]) for r in as_set(order[reordered.propers])} == {
        min(r, r[::-1]) for r in as_set(topology.propers)
    }
    assert as_set(np.sort(order[reordered.pairs_14], axis=1)) == as_set(topology.pairs_14)


def test_confidence_follows_its_rows():
    """In another atom order each row keeps the number that its parameters have: here they are the same."""
    rng = np.random.default_rng(1)
    mol = Chem.AddHs(Chem.MolFromSmiles("CC(=O)NC"))
    order = rng.permutation(mol.GetNumAtoms()).tolist()
    ligand = ligand_from_rdkit(Chem.RenumberAtoms(mol, order), "shuffled")
    topology = build_topology(canonical_ligand(ligand))
    plain = random_parameters(topology, rng)
    strange = 3  # the nitrogen of the drawing
    confidence = Confidence(
        unseen=(canonical_order(ligand).tolist().index(order.index(strange)),),
        uncertainty=0.5,
        limit=1.0,
        doubt="",
        bond=plain.bond_k,
        angle=plain.angle_k,
        proper=plain.proper_k[:, 0],
        improper=plain.improper_k[:, 0],
        charge=plain.charge,
    )
    parameters = dataclasses.replace(plain, confidence=confidence)
    _, restored = restore_order(topology, parameters, canonical_order(ligand))
    np.testing.assert_array_equal(restored.confidence.bond, restored.bond_k)
    np.testing.assert_array_equal(restored.confidence.angle, restored.angle_k)
    np.testing.assert_array_equal(restored.confidence.proper, restored.proper_k[:, 0])
    np.testing.assert_array_equal(restored.confidence.improper, restored.improper_k[:, 0])
    np.testing.assert_array_equal(restored.confidence.charge, restored.charge)
    assert restored.confidence.unseen == (order.index(strange),)
    assert f"atoms {order.index(strange) + 1} were" in restored.confidence.doubts
