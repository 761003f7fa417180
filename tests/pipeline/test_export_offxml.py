"""Patterns of the OFFXML: right for each term, few, small, and independent of how the ligand was drawn."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from rdkit import Chem

from pipeline.errors import ExportError
from pipeline.export.offxml import write_offxml
from pipeline.export.smarts import Environment
from pipeline.ligand import to_rdkit
from pipeline.smirnoff import label, read_smirnoff


def _elements(text: str, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(text.encode()).iter(tag))


@pytest.mark.parametrize(
    "smiles",
    ["CC(=O)Nc1ccc(O)cc1", "C12C3C4C1C5C2C3C45", "C1CC12CC2", "OC(=O)c1ccc(cc1)C#N", "N=[N+]=[N-]"],
)
def test_each_term_gets_its_own_parameters(smiles, build_ligand, parametrize_ligand):
    """Our reader finds for every row the numbers that were written; 1e-9 for the units' round trip."""
    parametrized = parametrize_ligand(build_ligand(smiles))
    labelled = label(read_smirnoff(write_offxml(parametrized)), parametrized.ligand, parametrized.topology)
    for name in ("bond_k", "angle_theta", "proper_k", "improper_k", "charge", "sigma", "epsilon"):
        np.testing.assert_allclose(
            getattr(labelled, name), getattr(parametrized.parameters, name), rtol=1e-9, atol=1e-9
        )


def test_equivalent_terms_share_a_pattern(build_ligand, parametrize_ligand):
    """Benzene has two kinds of bond, two of angle, three of proper, one improper, two kinds of atom."""
    text = write_offxml(parametrize_ligand(build_ligand("c1ccccc1")))
    counts = {tag: len(_elements(text, tag)) for tag in ("Bond", "Angle", "Proper", "Improper", "Atom")}
    assert counts == {"Bond": 2, "Angle": 2, "Proper": 1 + 3, "Improper": 1, "Atom": 2}


def test_patterns_are_small(build_ligand, parametrize_ligand):
    """Ethanol's C-O bond needs no environment: two atoms say which it is."""
    text = write_offxml(parametrize_ligand(build_ligand("CCO")))
    assert "[#6X4H2x0:1]~[#8X2H1x0:2]" in [bond.get("smirks") for bond in _elements(text, "Bond")]


def test_idivf_is_explicit_and_impropers_sum_three_rows(build_ligand, parametrize_ligand):
    """Every k has its idivf: 1 for propers, 3 for impropers, whose k is three times the row's."""
    parametrized = parametrize_ligand(build_ligand("CC(=O)C"))
    text = write_offxml(parametrized)
    for tag, idivf in (("Proper", "1"), ("Improper", "3")):
        for element in _elements(text, tag):
            numbers = [name[1:] for name in element.keys() if name.startswith("k")]  # noqa: SIM118 - an Element
            assert numbers == [str(number + 1) for number in range(len(numbers))]
            assert all(element.get(f"idivf{number}") == idivf for number in numbers)
            assert all(element.get(f"phase{number}") == "0.0 * degree" for number in numbers)
    k1 = float(_elements(text, "Improper")[0].get("k1").split()[0])
    assert k1 == pytest.approx(3 * parametrized.parameters.improper_k[0, 0], rel=1e-12)


def test_the_first_proper_matches_everything_with_zero(build_ligand, parametrize_ligand):
    """Torsions over the linear centre of a nitrile find the zero term and nothing later."""
    text = write_offxml(parametrize_ligand(build_ligand("CCC#N")))
    first = _elements(text, "Proper")[0]
    assert first.get("smirks") == "[*:1]~[*:2]~[*:3]~[*:4]"
    assert first.get("k1").startswith("0.0 ")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CC(=O)[O-]", "CC([O-])=O"),
        ("CC(=[NH2+])N", "CC(N)=[NH2+]"),
        ("Cc1ccccc1O", "CC1=CC=CC=C1O"),
        ("C[N+](=O)[O-]", "C[N+]([O-])=O"),
    ],
)
def test_another_drawing_gives_the_same_patterns(one, other, build_ligand, parametrize_ligand):
    """Resonance forms with the same atom order give the same file but for the name and drawing."""
    first, second = (parametrize_ligand(build_ligand(smiles)) for smiles in (one, other))
    patterns = [
        [element.get("smirks") for element in ElementTree.fromstring(write_offxml(p).encode()).iter()]
        for p in (first, second)
    ]
    assert patterns[0] == patterns[1]


@pytest.mark.parametrize(
    "smiles", ["C" * 20, "CC(C)(C)c1cc(C(C)(C)C)cc(C(C)(C)C)c1", "FC(F)(F)C(F)(F)C(F)(F)F"]
)
def test_no_pattern_matches_more_than_a_reader_lists(smiles, build_ligand, parametrize_ligand):
    """Readers with RDKit's default stop at 1,000 matches in silence; symmetric ligands stay below."""
    parametrized = parametrize_ligand(build_ligand(smiles))
    mol = to_rdkit(parametrized.ligand)
    for element in ElementTree.fromstring(write_offxml(parametrized).encode()).iter():
        smirks = element.get("smirks")
        if smirks is not None:
            query = Chem.MolFromSmarts(smirks)
            assert len(mol.GetSubstructMatches(query, uniquify=False, maxMatches=2000)) < 1000


def test_unequal_parameters_of_equivalent_atoms_are_refused(build_ligand, parametrize_ligand):
    """One methyl hydrogen with another sigma cannot be written: no SMARTS tells it apart (hazard 28)."""
    parametrized = parametrize_ligand(build_ligand("CO"))
    sigma = parametrized.parameters.sigma.copy()
    sigma[2] += 0.1
    uneven = replace(parametrized, parameters=replace(parametrized.parameters, sigma=sigma))
    with pytest.raises(ExportError, match="H3 and H4 are equivalent"):
        write_offxml(uneven)


def test_uneven_trefoil_is_refused(build_ligand, parametrize_ligand):
    """Three rows about one centre with different k have no SMIRNOFF improper."""
    parametrized = parametrize_ligand(build_ligand("C=O"))
    improper_k = parametrized.parameters.improper_k.copy()
    improper_k[1] += 0.5
    uneven = replace(parametrized, parameters=replace(parametrized.parameters, improper_k=improper_k))
    with pytest.raises(ExportError, match="improper rows about atom 1"):
        write_offxml(uneven)


@pytest.mark.parametrize("name", ["a--b---c", "<&>\"'", "nul\x00bell\x07", "-", "雪"])
def test_any_name_leaves_well_formed_xml(name, build_ligand, parametrize_ligand):
    """Names that would end the comment or the element are made harmless, and the file still reads."""
    parametrized = parametrize_ligand(build_ligand("O"))
    named = replace(parametrized, ligand=replace(parametrized.ligand, name=name))
    assert len(read_smirnoff(write_offxml(named)).bonds) == 1


def test_smarts_of_the_whole_ligand_match_its_symmetries_only(build_ligand):
    """Cubane without hydrogens has 48 symmetries, each a match of the pattern that tags all carbons."""
    mol = to_rdkit(build_ligand("C12C3C4C1C5C2C3C45"))
    environment = Environment(mol)
    carbons = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() == 6]
    smarts = environment.draw(carbons, set(carbons))
    assert len(environment.match(smarts)) == 48
