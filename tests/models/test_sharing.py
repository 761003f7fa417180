"""What looks alike to the networks is computed once, and nothing else is."""

from dataclasses import fields

import pytest
import torch
from rdkit import Chem
from torch import Tensor

from models.features import build_graph
from models.graph import collate_graphs
from models.predict import Predictor, build_batch
from models.readouts import ValenceParameters
from models.sharing import kinds_of_atoms, share
from models.terms import TorchCross
from models.weights import load_model
from pipeline.ledger_values import to_json
from pipeline.schema import CROSS_ROWS, PAIR_FACTORS
from pipeline.topology import build_topology

SAME = 1e-11
"""relative to the largest: sums in another order"""
SMILES = (
    "CC(C)(C)c1ccccc1",  # nine hydrogens, two pairs of ring atoms
    "Cc1ccccc1",  # shares a ring and a methyl group
    "CC(=O)NCC(=O)[O-]",
    "C[C@H](N)C(=O)Nc1ccc(Cl)cc1",
    "[NH4+]",
    "O",
    "FC(F)(F)C#CC=C=C",
    "C[N+](C)(C)C",
    "O=[N+]([O-])c1ccc(S(N)(=O)=O)cc1",
)


@pytest.fixture(scope="module")
def model():
    return load_model("default")


@pytest.fixture
def ligands(build_ligand):
    """Molecules with and without symmetry, some with atoms in common; the fourth once more, backwards."""
    mol = Chem.AddHs(Chem.MolFromSmiles(SMILES[3]))
    backwards = Chem.RenumberAtoms(mol, list(range(mol.GetNumAtoms()))[::-1])
    options = Chem.SmilesWriteParams()
    options.canonical = False
    written = Chem.MolToSmiles(backwards, options)
    return [build_ligand(smiles) for smiles in (*SMILES, written)]


def tensors(parameters: ValenceParameters | TorchCross) -> dict[str, Tensor]:
    named = {f.name: getattr(parameters, f.name) for f in fields(parameters)}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


@pytest.mark.parametrize("form", ["class1", "class2"])
@torch.no_grad()
def test_every_row_gets_what_the_network_says_of_it(model, ligands, form):
    """Terms of either form and charges equal those computed atom by atom, whichever way a row runs."""
    networks = model.valence_of(form)
    batch, indices = build_batch(
        [(ligand, build_topology(ligand)) for ligand in ligands], pairs=networks.has_pairs
    )
    shared = share(batch, indices, 4)
    assert len(shared.batch.atom_features) < 0.75 * batch.n_atoms
    assert len(shared.indices.propers) < 0.75 * len(indices.propers)
    assert not networks.has_pairs or len(shared.indices.pairs) < 0.75 * len(indices.pairs)
    assert shared.turned["propers"].any()
    assert shared.turned["angles"].any()
    for one, whole in zip(
        networks.each(shared.batch, shared.indices), networks.each(batch, indices), strict=True
    ):
        spread = shared.of_rows(one)
        compared = tensors(spread) | (tensors(spread.cross) if spread.cross else {})
        expected = tensors(whole) | (tensors(whole.cross) if whole.cross else {})
        assert len(compared) == (6 if form == "class1" else 6 + len(CROSS_ROWS))
        for name, values in expected.items():
            assert values.abs().max() > 0, name
            assert name not in PAIR_FACTORS or values.std() > 0.01, name
            assert (compared[name] - values).abs().max() <= SAME * values.abs().max(), name
    charges = model.charges.each_shared(shared, batch)
    assert (charges - model.charges.each(batch)).abs().max() <= SAME
    for shares, whole in zip(
        networks.propers(shared.batch, shared.indices), networks.propers(batch, indices), strict=True
    ):
        assert (shared.of_propers(shares) - whole).abs().max() <= SAME * whole.abs().max()


@pytest.mark.parametrize(
    ("smiles", "n_layers", "n_kinds"),
    [
        ("c1ccccc1", 4, 2),
        ("Cc1ccccc1", 4, 9),  # methyl C and H; ipso; ortho, meta and para, C and H each
        ("CCO", 4, 6),
        ("CCCCCCCCCCCC", 0, 3),  # CH3, CH2, H
        ("CCCCCCCCCCCC", 1, 5),  # the CH2 beside the end, hydrogens of CH3
        ("CCCCCCCCCCCC", 2, 7),
        ("CCCCCCCCCCCC", 99, 12),
        ("O", 3, 2),
        ("[Cl-]", 3, 1),
    ],
)
def test_kinds_of_atoms_by_hand(build_ligand, smiles, n_layers, n_kinds):
    """Colour refinement of known molecules; one atom of each kind is named."""
    batch = collate_graphs([build_graph(build_ligand(smiles))])
    kinds, first = kinds_of_atoms(batch, n_layers)
    assert kinds.max() + 1 == n_kinds
    assert sorted(kinds[first]) == list(range(n_kinds))


def test_copies_of_a_molecule_cost_nothing_more(build_ligand):
    """Three copies have as many kinds of atoms and of terms as one."""
    ligand = build_ligand("CC(C)Cc1ccc(cc1)C(C)C(=O)[O-]")
    one, three = (
        share(*build_batch([(ligand, build_topology(ligand))] * copies), n_layers=4) for copies in (1, 3)
    )
    for name in ("bonds", "angles", "propers", "impropers"):
        assert len(getattr(one.indices, name)) == len(getattr(three.indices, name)), name
    assert len(one.batch.atom_features) == len(three.batch.atom_features) < len(one.atoms)


@pytest.mark.parametrize("form", ["class1", "class2"])
def test_what_a_ligand_is_predicted_with_changes_no_number(model, ligands, form):
    """Alone, among others, and among others in another order: the same bits, the confidence's too."""
    predictor = Predictor(model, form)
    pairs = [(ligand, build_topology(ligand)) for ligand in ligands]
    alone = [predictor.predict(*pair) for pair in pairs]
    together = predictor.predict_many(pairs)
    turned = predictor.predict_many(pairs[::-1])[::-1]
    for one, *others in zip(alone, together, turned, strict=True):
        assert one.confidence is not None
        for other in others:
            assert to_json(one) == to_json(other)
