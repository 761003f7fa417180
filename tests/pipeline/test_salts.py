"""What is kept of a salt: acids and bases that are known from drugs are left out; two drugs are refused."""

import itertools

import pytest
from rdkit import Chem

from pipeline.errors import RefusedLigandError
from pipeline.library import Record
from pipeline.ligand import Standardised, ligand_key, standardise
from pipeline.salts import is_counter_ion
from pipeline.settings import LigandRules

RULES = LigandRules(strip_salts=True)
PYRANTEL = "CN1CCCN=C1/C=C/c1cccs1"
PAMOIC_ACID = "OC(=O)c1cc2ccccc2c(Cc2c(O)c(C(=O)O)cc3ccccc23)c1O"
IBUPROFEN = "CC(C)Cc1ccc(cc1)[C@H](C)C(=O)[O-]"
CAFFEINE = "Cn1c(=O)c2c(ncn2C)n(C)c1=O"


def strip(smiles: str) -> Standardised:
    record = Record(number=1, name="test", source="test", form="smiles", text=smiles)
    return standardise(record, RULES)


@pytest.mark.parametrize(
    ("kept", "others"),
    [
        ("CC(=O)[O-]", ["[Na+]"]),
        ("CC", ["CC"]),
        (PYRANTEL, [PAMOIC_ACID]),
        ("CC[NH3+]", ["Cc1ccc(cc1)S(=O)(=O)[O-]"]),
        ("CCN", ["OC(=O)CC(O)(CC(=O)O)C(=O)O", "O"]),
        ("NCC1CCCCC1", ["O[C@@H]([C@H](O)C(=O)O)C(=O)O", "O", "O"]),
        (IBUPROFEN, ["NCCCC[C@H]([NH3+])C(=O)O"]),
        (IBUPROFEN, ["OCC([NH3+])(CO)CO"]),
        ("OC(=O)CCCc1ccccc1", ["c1ccccc1"]),
        ("[O-]S(=O)(=O)c1ccccc1", ["[K+]", "O"]),
        ("CCC", ["F[B-](F)(F)F", "[Cs+]"]),
    ],
)
def test_counter_ions_are_left_out(kept: str, others: list[str]) -> None:
    """Whatever the order: the ligand alone, also where its counter-ion is larger; the note names both."""
    alone = strip(kept)
    assert alone.note == ""
    for parts in itertools.permutations([kept, *others]):
        found = strip(".".join(parts))
        assert ligand_key(found.ligand) == ligand_key(alone.ligand)
        left_out = " + ".join(sorted(Chem.CanonSmiles(other) for other in others))
        assert found.note == f"kept {Chem.CanonSmiles(kept)}, left out {left_out}"


@pytest.mark.parametrize("smiles", [f"{CAFFEINE}.{IBUPROFEN}", "CO.CN", f"{CAFFEINE}.c1ccc2ccccc2c1.O"])
def test_two_that_may_be_the_ligand_are_refused(smiles: str) -> None:
    """Neither of two drugs is chosen, nor one of two equally large molecules; the message names both."""
    with pytest.raises(RefusedLigandError, match="may be the ligand") as caught:
        strip(smiles)
    assert caught.value.kind == "salt"
    for part in smiles.removesuffix(".O").split("."):
        assert Chem.CanonSmiles(part) in str(caught.value)


def test_acids_and_bases_of_drugs_are_known() -> None:
    """By their SMILES from elsewhere, charged or not; a drug is none, nor is an acid with one atom more."""
    known = (
        "[O-]S(=O)(=O)c1ccccc1",
        "OC(=O)CCC(O)=O",
        "CCCCCCCC/C=C\\CCCCCCCC([O-])=O",
        "CN[CH2][C@H](O)[C@@H](O)[C@H](O)[C@H](O)CO",
        "O=C([O-])c1ccc2ccccc2c1O",
        "CC1(C)[C@@H]2CC[C@@]1(CS(O)(=O)=O)C(=O)C2",
        "O=C1[N-]S(=O)(=O)c2ccccc12",
        "NC(=[NH2+])NCCC[C@H](N)C(=O)O",
        "OC(=O)c1cccnc1",
        "C[N+](C)(C)CCO",
        "C(C[NH2+]Cc1ccccc1)[NH2+]Cc1ccccc1",
        "F[P-](F)(F)(F)(F)F",
    )
    strange = (CAFFEINE, "OC(=O)c1ccccn1", "OC(=O)c1ccccc1C", "CCCCCCCCCCCCCCCCCCC(=O)O", "C1CCCCC1")
    assert [text for text in known if not is_counter_ion(Chem.MolFromSmiles(text))] == []
    assert [text for text in strange if is_counter_ion(Chem.MolFromSmiles(text))] == []
