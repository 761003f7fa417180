"""Pi electrons: textbook values, one answer for all drawings of a molecule, and equivalent atoms alike."""

import numpy as np
import pytest
import torch
from rdkit import Chem

from models.charges import ChargeEnsemble, ChargeNetwork
from models.config import NetworkConfig
from models.features import N_ATOM_FEATURES, N_EDGE_FEATURES, N_PI_FEATURES, graph_of_molecule
from models.gnn import GraphEncoder
from models.graph import collate_graphs
from models.huckel import pi_electrons
from models.network import ValenceEnsemble, ValenceNetwork
from models.predict import Predictor, build_batch
from models.training.dev_score import predictor_of
from models.weights import Model
from pipeline.topology import build_topology


def molecule(smiles: str) -> Chem.Mol:
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


def orders(smiles: str) -> dict[tuple[int, int], float]:
    mol = molecule(smiles)
    _, order = pi_electrons(mol)
    ends = [sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())) for bond in mol.GetBonds()]
    return {(i, j): float(value) for (i, j), value in zip(ends, order, strict=True)}


@pytest.mark.parametrize(
    ("smiles", "bond", "expected"),
    [
        ("C=C", (0, 1), 1.0),
        ("C=CC=C", (0, 1), 2 / 5**0.5),
        ("C=CC=C", (1, 2), 1 / 5**0.5),
        ("c1ccccc1", (0, 1), 2 / 3),
        ("CCC", (0, 1), 0.0),
        ("c1ccccc1C", (5, 6), 0.0),
        ("CC(=O)[O-]", (0, 1), 0.0),
    ],
)
def test_bond_orders_of_the_textbook(smiles: str, bond: tuple[int, int], expected: float) -> None:
    """Coulson's bond orders of hydrocarbons, and none where there are no pi electrons."""
    assert orders(smiles)[bond] == pytest.approx(expected, abs=0.005)


def test_a_nitrogen_lends_its_pair_and_an_oxygen_draws() -> None:
    """Amide: the C-N bond is a third of a double one; electrons go from nitrogen and carbon to oxygen."""
    excess, _ = pi_electrons(molecule("CC(=O)N"))
    order = orders("CC(=O)N")
    assert 0.4 < order[1, 3] < 0.6 < order[1, 2] < 0.9
    assert excess[2] > 0.4
    assert excess[1] < 0
    assert excess[3] < 0


@pytest.mark.parametrize(
    ("smiles", "charge"), [("c1ccccc1", 0), ("CC(=O)[O-]", -1), ("NC(=[NH2+])N", 1), ("C[N+](=O)[O-]", 0)]
)
def test_the_charge_is_spread_over_the_system(smiles: str, charge: int) -> None:
    """What the atoms have beyond what they bring adds up to minus the charge."""
    excess, _ = pi_electrons(molecule(smiles))
    assert excess.sum() == pytest.approx(-charge, abs=1e-6)


DRAWINGS = [
    ("[O:1]=[N+:2]([O-:3])[C:4]", "[O-:1][N+:2](=[O:3])[C:4]"),
    ("[NH2:1][C:2](=[NH2+:3])[C:4]", "[NH2+:1]=[C:2]([NH2:3])[C:4]"),
    ("[C:1][S:2](=[O:3])(=[O:4])[N-:5][c:6]1[c:7][c:8][c:9][c:10][c:11]1",
     "[C:1][S:2]([O-:3])(=[O:4])=[N:5][c:6]1[c:7][c:8][c:9][c:10][c:11]1"),
    ("[C:1][N:2]=[N+:3]=[N-:4]", "[C:1][N-:2][N+:3]#[N:4]"),
    ("[C:1][P+:2]([C:3])([C:4])[CH-:5][C:6]=[O:7]", "[C:1][P:2]([C:3])([C:4])=[CH:5][C:6]=[O:7]"),
    ("[O-:1][n+:2]1[c:3][c:4][c:5][c:6][c:7]1", "[O:1]=[N+:2]1[C-:3][C:4]=[C:5][C:6]=[C:7]1"),
]  # fmt: skip


@pytest.mark.parametrize("drawings", DRAWINGS, ids=lambda pair: pair[0])
def test_every_drawing_has_the_same_electrons(drawings: tuple[str, str]) -> None:
    """Resonance forms differ in charges and bond orders, and in nothing here."""
    answers = []
    for smiles in drawings:
        mol = Chem.MolFromSmiles(smiles, sanitize=False)
        order = np.argsort([atom.GetAtomMapNum() for atom in mol.GetAtoms()])
        mol = Chem.RenumberAtoms(mol, order.tolist())
        for atom in mol.GetAtoms():
            atom.SetAtomMapNum(0)
        mol.UpdatePropertyCache(strict=False)
        excess, bonds = pi_electrons(_with_hydrogens(mol))
        answers.append(np.concatenate([excess[: mol.GetNumAtoms()], bonds[: mol.GetNumBonds()]]))
    assert np.abs(answers[0]).max() > 0.1
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-9)


def _with_hydrogens(mol: Chem.Mol) -> Chem.Mol:
    """Carbons drawn without hydrogens get the same degree in both drawings."""
    degree = {6: 3, 7: 2, 8: 1, 15: 4, 16: 4}
    grown = Chem.RWMol(mol)
    for atom in mol.GetAtoms():
        is_carbon_end = atom.GetAtomicNum() == 6 and atom.GetDegree() == 1
        wanted = 4 if is_carbon_end else degree[atom.GetAtomicNum()]
        wanted = max(wanted, atom.GetDegree() + atom.GetNumExplicitHs())
        for _ in range(wanted - atom.GetDegree()):
            grown.AddBond(atom.GetIdx(), grown.AddAtom(Chem.Atom(1)), Chem.BondType.SINGLE)
    return grown.GetMol()


@pytest.mark.parametrize("smiles", ["C1=CC=C1", "c1ccc2c(c1)c1ccccc1c1ccccc21", "NC(=[NH2+])N", "c1ccsc1"])
def test_equivalent_atoms_have_equal_features(smiles: str) -> None:
    """To the last bit, in any order of the atoms, also where two orbitals share the last electrons."""
    mol = molecule(smiles)
    ranks = ranks_of_skeleton(mol)
    rng = np.random.default_rng(0)
    seen: dict[int, set[float]] = {}
    for _ in range(5):
        order = rng.permutation(mol.GetNumAtoms())
        graph = graph_of_molecule(Chem.RenumberAtoms(mol, order.tolist()), name="", total_charge=0)
        for old, row in zip(order, graph.atom_features, strict=True):
            seen.setdefault(ranks[old], set()).add(float(row[-1]))
    assert len(seen) < mol.GetNumAtoms()
    assert [len(values) for values in seen.values()] == [1] * len(seen)


def ranks_of_skeleton(mol: Chem.Mol) -> list[int]:
    """Classes of equivalent atoms, whatever bonds and charges are drawn."""
    bare = Chem.Mol(mol)
    for atom in bare.GetAtoms():
        atom.SetFormalCharge(0)
        atom.SetIsAromatic(False)
    for bond in bare.GetBonds():
        bond.SetBondType(Chem.BondType.SINGLE)
        bond.SetIsAromatic(False)
    return list(Chem.CanonicalRankAtoms(bare, breakTies=False))


def test_far_ends_are_felt() -> None:
    """The middle of a chain of six double bonds, which looks alike for five bonds around both."""
    order = orders("C=CC=CC=CC=CC=CC=C")
    assert order[4, 5] - order[5, 6] > 0.1


def test_a_network_reads_them_or_does_not() -> None:
    """One made without them gives the same embedding whatever they are, and without them; one made with them
    does not.
    """
    graph = graph_of_molecule(molecule("C=CC=O"), name="", total_charge=0)
    assert graph.atom_features.shape[1] == N_ATOM_FEATURES + N_PI_FEATURES
    assert graph.edge_features.shape[1] == N_EDGE_FEATURES + N_PI_FEATURES
    batch = collate_graphs([graph])
    other = collate_graphs([graph])
    other.atom_features[:, N_ATOM_FEATURES:] = 0
    other.edge_features[:, N_EDGE_FEATURES:] = 0
    torch.manual_seed(0)
    blind, seeing = GraphEncoder(16, 2), GraphEncoder(16, 2, pi=True)
    bare = graph_of_molecule(molecule("C=CC=O"), name="", total_charge=0, pi=False)
    assert bare.atom_features.shape[1] == N_ATOM_FEATURES
    assert torch.equal(blind(batch), blind(other))
    assert torch.equal(blind(batch), blind(collate_graphs([bare])))
    assert not torch.allclose(seeing(batch), seeing(other))


@pytest.mark.parametrize("seeing", ["charges", "valence", "neither"])
def test_a_prediction_has_the_features_that_its_networks_read(seeing: str, build_ligand) -> None:
    """Also where only one kind of network reads pi electrons, and in training: as of all features."""
    ligand = build_ligand("C=CC=O")
    pair = (ligand, build_topology(ligand))
    torch.manual_seed(3)
    sizes = {part: NetworkConfig(width=16, n_layers=2, pi=part == seeing) for part in ("charges", "valence")}
    charges = ChargeEnsemble([ChargeNetwork(16, 2, pi=sizes["charges"].pi)]).double()
    valence = ValenceEnsemble([ValenceNetwork(16, 2, pi=sizes["valence"].pi).double()]).eval()
    model = Model(name="m", version="1", sha256="", charges=charges, valence=valence, sizes=sizes)
    predicted = Predictor(model).predict(*pair)
    batch, indices = build_batch([pair])
    with torch.no_grad():
        expected = model.valence(batch, indices)
        charge = model.charges(batch)
    assert predicted.charge == pytest.approx(charge.numpy(), abs=1e-8)
    assert predicted.bond_k == pytest.approx(expected.bond_k.numpy(), abs=1e-4)
    assert predicted.proper_k == pytest.approx(expected.proper_k.numpy(), abs=1e-6)
    in_training = predictor_of(charges, valence).predict(*pair)
    assert np.array_equal(in_training.bond_k, predicted.bond_k)
    assert np.array_equal(in_training.charge, predicted.charge)
