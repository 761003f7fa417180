import pytest
from rdkit import Chem

from pipeline.fragments.functional_groups import find_functional_groups

# One example of each group of the table.
GROUPS = {
    "carbonyl": "CC(C)=O",
    "amide": "CC(=O)NC",
    "ester or acid": "CC(=O)OC",
    "carboxylate": "CC(=O)[O-]",
    "thioester": "CC(=O)SC",
    "acyl halide": "CC(=O)Cl",
    "carbamate": "CNC(=O)OC",
    "urea": "CNC(=O)NC",
    "thiocarbonyl": "CC(C)=S",
    "thioamide": "CC(=S)NC",
    "amidine": "CC(=[NH2+])N",
    "guanidine": "CNC(=N)N",
    "imidate": "CC(=NC)OC",
    "imine": "CC(C)=NC",
    "oxime or hydrazone": "CC(C)=NO",
    "N-N": "CNNC",
    "N-O": "CNOC",
    "azo": "CN=NC",
    "nitroso": "CN=O",
    "nitro": "C[N+](=O)[O-]",
    "N-oxide": "C[N+](C)(C)[O-]",
    "azide": "CN=[N+]=[N-]",
    "diazo": "CC=[N+]=[N-]",
    "nitrile": "CC#N",
    "cyanamide": "CNC#N",
    "cyanate": "CSC#N",
    "isonitrile": "C[N+]#[C-]",
    "isocyanate": "CN=C=O",
    "alkene": "CC=CC",
    "allene": "CC=C=CC",
    "alkyne": "CC#CC",
    "enamine or enol ether": "CC=COC",
    "sulfone": "CS(C)(=O)=O",
    "sulfonamide": "CS(=O)(=O)NC",
    "sulfonate": "CS(=O)(=O)[O-]",
    "sulfonyl halide": "CS(=O)(=O)F",
    "sulfoxide": "CS(C)=O",
    "sulfinamide": "CS(=O)NC",
    "sulfinate": "CS(=O)OC",
    "sulfoximine": "CS(C)(=O)=N",
    "sulfilimine": "CS(C)=N",
    "sulfenamide": "CSNC",
    "S-S or S-O": "CSSC",
    "peroxide": "COOC",
    "phosphoryl": "CP(C)(C)=O",
    "phosphate or phosphonate": "COP(=O)([O-])OC",
    "phosphoramide": "CNP(=O)(OC)OC",
    "phosphite or phosphinite": "COP(OC)OC",
    "trifluoromethyl": "CC(F)(F)F",
    "difluoromethyl": "CC(F)F",
    "trifluoromethoxy": "COC(F)(F)F",
    "trihalomethyl": "CC(Cl)(Cl)Cl",
    "alpha-halo ether or amine": "COCF",
    "acetal": "COCOC",
    "aminal": "COCN(C)C",
    "haloamine": "CN(C)Cl",
}


def names_in(smiles: str) -> set[str]:
    return {group.name for group in find_functional_groups(Chem.AddHs(Chem.MolFromSmiles(smiles)))}


@pytest.mark.parametrize("name", GROUPS)
def test_each_group_of_the_table_is_found(name: str) -> None:
    """The molecule that a chemist would give as the example of a group has it."""
    assert name in names_in(GROUPS[name])


@pytest.mark.parametrize("smiles", ["CCC", "c1ccncc1", "CCN(C)C", "CCOC", "C1CCNCC1", "CCCl", "C[N+](C)(C)C"])
def test_plain_chains_rings_and_amines_have_no_group(smiles: str) -> None:
    """A single heteroatom between carbons is no group: its bonds may be cut."""
    assert not names_in(smiles)


def test_overlapping_groups_name_their_atoms() -> None:
    """An N-acyl sulfonamide is an amide and a sulfonamide that share the nitrogen."""
    found = find_functional_groups(Chem.AddHs(Chem.MolFromSmiles("CC(=O)NS(C)(=O)=O")))
    atoms = {group.name: group.atoms for group in found}
    assert atoms["amide"] == {1, 2, 3}
    assert atoms["sulfonamide"] == {3, 4, 6, 7}
