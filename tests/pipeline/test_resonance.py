"""The graph that all drawings of one ion share; the drawings themselves: test_ligand.py."""

import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from pipeline.resonance import bare_graph


def draw(smiles):
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CC(=O)[O-]", "CC([O-])=O"),
        ("C[N+](=O)[O-]", "C[N+]([O-])=O"),
        ("NC(N)=[NH2+]", "[NH2+]=C(N)N"),
        ("C[S+](C)[O-]", "CS(C)=O"),
        ("C[C@H](N)O", "C[C@@H](N)O"),
        ("F/C=C/F", "F/C=C\\F"),
        ("Cn1cc[nH+]c1", "C[n+]1cc[nH]c1"),
    ],
)
def test_drawings_of_one_molecule_share_their_graph(one, other):
    """Charges, bond orders, aromaticity and stereo are gone; elements and connections are there."""
    graphs = [bare_graph(draw(smiles)) for smiles in (one, other)]
    assert Chem.MolToSmiles(graphs[0]) == Chem.MolToSmiles(graphs[1])
    for graph in graphs:
        assert {bond.GetBondType() for bond in graph.GetBonds()} == {Chem.BondType.SINGLE}
        assert not any(atom.GetFormalCharge() or atom.GetIsAromatic() for atom in graph.GetAtoms())


def test_charges_stay_where_wanted():
    """A protonated and a neutral amine with as many hydrogens in all differ by their charges alone."""
    one, other = draw("C[NH+](C)CC(=O)[O-]"), draw("C[NH+](C)CC(=O)[O-]")
    other.GetAtomWithIdx(1).SetFormalCharge(0)
    assert Chem.MolToSmiles(bare_graph(one)) == Chem.MolToSmiles(bare_graph(other))
    assert Chem.MolToSmiles(bare_graph(one, with_charges=True)) != Chem.MolToSmiles(
        bare_graph(other, with_charges=True)
    )


def test_what_belongs_to_the_atoms_stays():
    """Their order, their elements and the conformers; the molecule given is not touched."""
    mol = draw("C[C@H](O)c1ccccc1")
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    before = Chem.MolToSmiles(mol)
    graph = bare_graph(mol)
    assert Chem.MolToSmiles(mol) == before
    assert [a.GetAtomicNum() for a in graph.GetAtoms()] == [a.GetAtomicNum() for a in mol.GetAtoms()]
    assert (graph.GetConformer().GetPositions() == mol.GetConformer().GetPositions()).all()
