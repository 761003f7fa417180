"""Lennard-Jones parameters: the published numbers on known molecules, and the symmetries."""

import numpy as np
import pytest
from rdkit import Chem

from pipeline.errors import ParametersError
from pipeline.ligand import ligand_from_rdkit, to_rdkit
from pipeline.resonance import bare_graph
from pipeline.schema import Ligand
from pipeline.vdw import assign_vdw

RMIN_HALF = 2 ** (5 / 6)
"""sigma = rmin_half 2^(5/6)"""


def ligand(smiles: str) -> Ligand:
    return ligand_from_rdkit(Chem.AddHs(Chem.MolFromSmiles(smiles)), smiles)


def test_water_is_tip3p() -> None:
    """TIP3P: sigma 3.1507 angstrom and epsilon 0.1521 kcal/mol on oxygen, nothing on hydrogen."""
    sigma, epsilon = assign_vdw(ligand("O"))
    assert sigma.tolist() == [3.1507, 1.0, 1.0]
    assert epsilon.tolist() == [0.1521, 0.0, 0.0]


@pytest.mark.parametrize(
    ("smiles", "rmin_half", "epsilon"),
    [
        ("[Li+]", 1.025, 0.0279896),
        ("[Na+]", 1.369, 0.0874393),
        ("[K+]", 1.705, 0.1936829),
        ("[Rb+]", 1.813, 0.3278219),
        ("[Cs+]", 1.976, 0.4065394),
        ("[F-]", 2.303, 0.003364),
        ("[Cl-]", 2.513, 0.035591),
        ("[Br-]", 2.608, 0.0586554),
        ("[I-]", 2.860, 0.0536816),
    ],
)
def test_ions_are_joung_and_cheatham(smiles: str, rmin_half: float, epsilon: float) -> None:
    """The monovalent ions of Joung and Cheatham for TIP3P water (J. Phys. Chem. B 2008, 112, 9020)."""
    found_sigma, found_epsilon = assign_vdw(ligand(smiles))
    # 1e-15: the table's sigma is rmin_half 2/2^(1/6), rounded once more or less than here
    assert found_sigma.tolist() == pytest.approx([rmin_half * RMIN_HALF], rel=1e-15)
    assert found_epsilon.tolist() == [epsilon]


@pytest.mark.parametrize(
    ("smiles", "atom", "rmin_half", "epsilon"),
    [
        ("C", 0, 1.896698071741, 0.1088406109251),  # tetrahedral carbon
        ("C", 1, 1.48419980825, 0.01577948280971),  # its hydrogen
        ("CO", 1, 1.682099169199, 0.2094735324129),  # hydroxyl oxygen
        ("CO", 5, 0.2999999999997, 1.232599966667e-05),  # hydroxyl hydrogen
        ("CO", 2, 1.449786411317, 0.01640924602775),  # hydrogen beside one electronegative atom
        ("FC(F)(F)[H]", 4, 1.187, 0.0157),  # beside three
        ("COC", 1, 1.697783613804, 0.1684651402602),  # ether oxygen
        ("C[NH3+]", 2, 1.1, 0.0157),  # hydrogen beside a cation
        ("C=O", 1, 1.706036917087, 0.2102061007896),  # carbonyl oxygen
        ("CC#N", 1, 1.908, 0.21),  # linear carbon
        ("c1ccccc1", 0, 1.953447017081, 0.0868793154488),  # aromatic carbon
        ("c1ccccc1", 6, 1.443812569645, 0.01561134320353),  # its hydrogen
        ("CN", 1, 1.799798315098, 0.1676915150424),  # nitrogen
        ("CS", 1, 2.0, 0.25),
        ("CF", 1, 1.75, 0.061),
        ("CCl", 1, 1.85628721824, 0.2656001046527),
        ("CBr", 1, 1.969806594135, 0.3218986365974),
        ("CI", 1, 2.35, 0.4),
        ("CP", 1, 2.1, 0.2),
    ],
)
def test_atoms_get_sages_published_numbers(smiles: str, atom: int, rmin_half: float, epsilon: float) -> None:
    """The types of Sage 2.2.1 as printed in its file, on an atom of each."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles, sanitize=True))
    sigma, found_epsilon = assign_vdw(ligand_from_rdkit(molecule, smiles))
    assert sigma[atom] == pytest.approx(rmin_half * RMIN_HALF, rel=1e-15)
    assert found_epsilon[atom] == epsilon


def test_parameters_follow_the_atoms_when_they_are_renumbered() -> None:
    """Shuffled atoms of paracetamol carry their parameters with them."""
    mol = Chem.AddHs(Chem.MolFromSmiles("CC(=O)Nc1ccc(O)cc1"))
    order = np.random.default_rng(1).permutation(mol.GetNumAtoms())
    expected = np.array(assign_vdw(ligand_from_rdkit(mol, "paracetamol")))
    shuffled = ligand_from_rdkit(Chem.RenumberAtoms(mol, order.tolist()), "shuffled")
    assert (np.array(assign_vdw(shuffled)) == expected[:, order]).all()


def test_equivalent_atoms_are_equal() -> None:
    """Atoms that a symmetry of the graph exchanges have the same numbers."""
    mol = Chem.AddHs(Chem.MolFromSmiles("CC(C)(C)c1ccc(cc1)S(=O)(=O)N(C)C"))
    values = np.array(assign_vdw(ligand_from_rdkit(mol, "sulfonamide"))).T
    ranks = np.array(Chem.CanonicalRankAtoms(mol, breakTies=False))
    for rank in set(ranks.tolist()):
        assert np.ptp(values[ranks == rank], axis=0).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CS(=N)(=O)C", "C[S+]([NH-])(=O)C"),
        ("CS(=N)C", "C[S+]([NH-])C"),
        ("CP(=S)(C)C", "C[P+]([S-])(C)C"),
        ("CC=P(C)(C)C", "C[CH-][P+](C)(C)C"),
        ("CP(=NC)(C)C", "C[P+]([N-]C)(C)C"),
        ("CN=[N+]=[N-]", "C[N-][N+]#N"),
        ("Cn1cc[n+]([O-])c1", "C[n+]1ccn([O-])c1"),
        ("CNC(C)=[NH2+]", "C[NH+]=C(C)N"),
        ("CN(C)C=CC=O", "C[N+](C)=CC=C[O-]"),
        ("COC=CC=[NH2+]", "C[O+]=CC=CN"),
    ],
)
def test_two_drawings_get_the_same_numbers(one: str, other: str) -> None:
    """Charges that only one resonance form has do not matter; both SMILES list their atoms alike."""
    values = np.array([assign_vdw(ligand(smiles)) for smiles in (one, other)])
    assert (values[0] == values[1]).all()


@pytest.mark.parametrize(
    "smiles",
    [
        "Cn1cc[n+](C)c1",
        "CN(C)C(=[N+](C)C)N(C)C",
        "CN(C)c1ccc2nc3ccc(cc3[s+]c2c1)N(C)C",
        "CN(C)c1ccc(cc1)C(=C1C=CC(=[N+](C)C)C=C1)c1ccc(cc1)N(C)C",
        "CCN1c2ccccc2S/C1=C/C=C/c1sc2ccccc2[n+]1CC",  # stereo that the mirror image draws elsewhere
    ],
)
def test_a_charge_shared_by_equal_atoms_leaves_them_equal(smiles: str) -> None:
    """Atoms that a symmetry of the graph without bond orders and charges exchanges have the same numbers."""
    shared = ligand(smiles)
    values = np.array(assign_vdw(shared)).T
    ranks = np.array(Chem.CanonicalRankAtoms(bare_graph(to_rdkit(shared)), breakTies=False))
    for rank in set(ranks.tolist()):
        assert np.ptp(values[ranks == rank], axis=0).tolist() == [0.0, 0.0]


def test_a_charge_that_cannot_move_counts() -> None:
    """Hydrogens beside a pyridinium and a nitro group are Sage's n6, those beside a guanidinium are n3."""
    for smiles, rmin_half in (
        ("C[n+]1ccccc1", 1.1),
        ("C[N+](=O)[O-]", 1.1),
        ("CNC(N)=[NH2+]", 1.449786411317),
    ):
        sigma, _ = assign_vdw(ligand(smiles))
        molecule = to_rdkit(ligand(smiles))
        (methyl,) = molecule.GetSubstructMatches(Chem.MolFromSmarts("[CH3]"))
        hydrogens = [
            a.GetIdx() for a in molecule.GetAtomWithIdx(*methyl).GetNeighbors() if a.GetAtomicNum() == 1
        ]
        assert sigma[hydrogens].tolist() == pytest.approx([rmin_half * RMIN_HALF] * 3, rel=1e-15)


def test_an_element_outside_the_table_is_named() -> None:
    """Silicon has no parameters: the message names the ligand and the atom."""
    with pytest.raises(ParametersError, match=r"no Lennard-Jones parameters for Si2"):
        assign_vdw(ligand("C[SiH3]"))
