"""Tripos mol2 by hand: what each habit of writing bonds means, against the SMILES of the same molecule."""

from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.errors import RecordError, RefusedLigandError
from pipeline.library import ReadLimits, Record, read_library
from pipeline.ligand import ligand_key, standardise, to_rdkit
from pipeline.mol2 import charge_words
from pipeline.settings import LigandRules

RULES = LigandRules()


def mol2(
    types: str,
    bonds: str,
    charges: Sequence[float] | None = None,
    *,
    name: str = "m",
    coords: Sequence[Sequence[float]] | None = None,
) -> str:
    """One record from atom types in order and bonds `1-2:ar`, flat where no coordinates are given."""
    kinds, pairs = types.split(), bonds.split()
    places = [(1.2 * i, i % 2, 0.0) for i in range(len(kinds))] if coords is None else coords
    lines = ["@<TRIPOS>MOLECULE", name, f" {len(kinds)} {len(pairs)} 0 0 0", "SMALL"]
    lines += ["NO_CHARGES" if charges is None else "USER_CHARGES", "", "@<TRIPOS>ATOM"]
    for n, (kind, place) in enumerate(zip(kinds, places, strict=True), start=1):
        tail = "" if charges is None else f" 1 UNL1 {charges[n - 1]:.4f}"
        lines.append(f"{n:5d} X{n} {place[0]:.4f} {place[1]:.4f} {place[2]:.4f} {kind}{tail}")
    lines.append("@<TRIPOS>BOND")
    for n, pair in enumerate(pairs, start=1):
        ends, order = pair.split(":")
        lines.append(f"{n:5d} {ends.replace('-', ' ')} {order}")
    return "\n".join(lines) + "\n"


def ligand_of(text: str):
    return standardise(Record(number=1, name="m", source="test", form="mol2", text=text), RULES)[0]


def key_of_smiles(smiles: str) -> str:
    record = Record(number=1, name="m", source="test", form="smiles", text=smiles)
    return ligand_key(standardise(record, RULES)[0])


RING = "1-2:ar 2-3:ar 3-4:ar 4-5:ar 5-6:ar 6-1:ar"
BENZOATE = "C.ar C.ar C.ar C.ar C.ar C.ar C.2 O.co2 O.co2 H H H H H"
BENZOATE_BONDS = f"{RING} 1-7:1 2-10:1 3-11:1 4-12:1 5-13:1 6-14:1"
GUANIDINIUM = "C.cat N.pl3 N.pl3 N.pl3 H H H H H H"
GUANIDINIUM_BONDS = "2-5:1 2-6:1 3-7:1 3-8:1 4-9:1 4-10:1"
METHYL = "1-2:1 1-3:1 1-4:1"
PYRIDAZINE = "N.ar N.ar C.ar C.ar C.ar C.ar C.3 H H H H H H H"
PYRIDAZINE_BONDS = f"{RING} 1-7:1 3-8:1 4-9:1 5-10:1 6-11:1 7-12:1 7-13:1 7-14:1"

HABITS = {
    "benzoate, aromatic carboxylate": (BENZOATE, f"{BENZOATE_BONDS} 7-8:ar 7-9:ar", "[O-]C(=O)c1ccccc1"),
    "benzoate, localised": (BENZOATE, f"{BENZOATE_BONDS} 7-8:2 7-9:1", "[O-]C(=O)c1ccccc1"),
    "guanidinium, aromatic": (GUANIDINIUM, f"{GUANIDINIUM_BONDS} 1-2:ar 1-3:ar 1-4:ar", "NC(N)=[NH2+]"),
    "guanidinium, localised": (GUANIDINIUM, f"{GUANIDINIUM_BONDS} 1-2:1 1-3:2 1-4:1", "NC(N)=[NH2+]"),
    "nitro, five bonds": ("C.3 H H H N.pl3 O.2 O.2", f"{METHYL} 1-5:1 5-6:2 5-7:2", "C[N+](=O)[O-]"),
    "nitro, four bonds": ("C.3 H H H N.pl3 O.2 O.3", f"{METHYL} 1-5:1 5-6:2 5-7:1", "C[N+](=O)[O-]"),
    "nitro, aromatic": ("C.3 H H H N.pl3 O.co2 O.co2", f"{METHYL} 1-5:1 5-6:ar 5-7:ar", "C[N+](=O)[O-]"),
    "pyridine": (
        "N.ar C.ar C.ar C.ar C.ar C.ar H H H H H",
        f"{RING} 2-7:1 3-8:1 4-9:1 5-10:1 6-11:1",
        "c1ccncc1",
    ),
    "pyridine, its bonds in no order": (
        "N.ar C.ar C.ar C.ar C.ar C.ar H H H H H",
        "1-2:ar 3-4:ar 5-6:ar 2-7:1 2-3:ar 4-5:ar 6-1:ar 3-8:1 4-9:1 5-10:1 6-11:1",
        "c1ccncc1",
    ),
    "pyridinium": (
        "N.ar C.ar C.ar C.ar C.ar C.ar H H H H H H",
        f"{RING} 2-7:1 3-8:1 4-9:1 5-10:1 6-11:1 1-12:1",
        "c1cc[nH+]cc1",
    ),
    "pyridine oxide, five bonds": (
        "N.ar C.ar C.ar C.ar C.ar C.ar H H H H H O.2",
        f"{RING} 2-7:1 3-8:1 4-9:1 5-10:1 6-11:1 1-12:2",
        "c1cc[n+]([O-])cc1",
    ),
    "pyrrole": (
        "N.pl3 C.ar C.ar C.ar C.ar H H H H H",
        "1-2:ar 2-3:ar 3-4:ar 4-5:ar 5-1:ar 1-6:1 2-7:1 3-8:1 4-9:1 5-10:1",
        "c1cc[nH]c1",
    ),
    "imidazolium": (
        "N.pl3 C.ar N.pl3 C.ar C.ar H H H H H",
        "1-2:ar 2-3:ar 3-4:ar 4-5:ar 5-1:ar 1-6:1 2-7:1 3-8:1 4-9:1 5-10:1",
        "c1c[nH+]c[nH]1",
    ),
    "tetrazolide": (
        "N.ar N.ar N.ar N.ar C.ar H",
        "1-2:ar 2-3:ar 3-4:ar 4-5:ar 5-1:ar 5-6:1",
        "c1nnn[n-]1",
    ),
    "sulfonamide": (
        "C.3 H H H S.o2 O.2 O.2 N.3 H H",
        f"{METHYL} 1-5:1 5-6:2 5-7:2 5-8:1 8-9:1 8-10:1",
        "CS(=O)(=O)N",
    ),
    "sulfonamide anion": (
        "C.3 H H H S.o2 O.2 O.2 N.am H",
        f"{METHYL} 1-5:1 5-6:2 5-7:2 5-8:am 8-9:1",
        "CS(=O)(=O)[NH-]",
    ),
    "sulfonate, aromatic": (
        "C.3 H H H S.3 O.co2 O.co2 O.co2",
        f"{METHYL} 1-5:1 5-6:ar 5-7:ar 5-8:ar",
        "CS(=O)(=O)[O-]",
    ),
    "phosphonate, aromatic": (
        "C.3 H H H P.3 O.co2 O.co2 O.co2",
        f"{METHYL} 1-5:1 5-6:ar 5-7:ar 5-8:ar",
        "CP(=O)([O-])[O-]",
    ),
    "methylammonium": ("C.3 H H H N.4 H H H", f"{METHYL} 1-5:1 5-6:1 5-7:1 5-8:1", "C[NH3+]"),
    "amide": ("C.2 O.2 N.am H H H", "1-2:2 1-3:am 1-4:1 3-5:1 3-6:1", "C(=O)N"),
    "isocyanide": ("C.3 H H H N.1 C.1", f"{METHYL} 1-5:1 5-6:3", "C[N+]#[C-]"),
    "pyridazinium": (PYRIDAZINE, PYRIDAZINE_BONDS, "C[n+]1ncccc1"),
}


@pytest.mark.parametrize(("types", "bonds", "smiles"), HABITS.values(), ids=HABITS)
def test_what_the_bonds_mean(types, bonds, smiles):
    """Each habit gives the molecule of the SMILES, atoms in the order of the record."""
    ligand = ligand_of(mol2(types, bonds))
    assert ligand_key(ligand) == key_of_smiles(smiles)
    elements = [atom.GetSymbol() for atom in to_rdkit(ligand).GetAtoms()]
    assert elements == [kind.partition(".")[0] for kind in types.split()]


@pytest.mark.parametrize(("total", "smiles"), [(1, "C[n+]1ncccc1"), (-1, "CN1[N-]C=CC=C1")])
def test_partial_charges_decide_what_aromatic_bonds_leave_open(total, smiles):
    """The atoms of N-methylpyridazinium may hold two electrons more; the sum of the charges says which."""
    n_atoms = len(PYRIDAZINE.split())
    ligand = ligand_of(mol2(PYRIDAZINE, PYRIDAZINE_BONDS, [total / n_atoms] * n_atoms))
    assert ligand_key(ligand) == key_of_smiles(smiles)


def test_bonds_and_charges_that_disagree_are_refused_with_both_numbers():
    """Guanidinium whose partial charges sum to zero; charges that are all zero say nothing."""
    bonds = f"{GUANIDINIUM_BONDS} 1-2:ar 1-3:ar 1-4:ar"
    with pytest.raises(
        RefusedLigandError, match=r"total charge of \+1, the partial charges sum to \+0"
    ) as said:
        ligand_of(mol2(GUANIDINIUM, bonds, [0.6, -0.6] + [0.0] * 8))
    assert said.value.kind == "charges"
    assert ligand_of(mol2(GUANIDINIUM, bonds, [0.0] * 10)).total_charge == 1


@pytest.mark.parametrize(("sign", "smiles"), [(1, "[C@H](F)(Cl)Br"), (-1, "[C@@H](F)(Cl)Br")])
def test_stereo_is_read_from_the_coordinates(sign, smiles):
    """CHFClBr by hand: seen from H, at +z, F, Cl and Br run anticlockwise; in the mirror image not."""
    around = [(np.cos(a), sign * np.sin(a), -0.4) for a in np.deg2rad([0.0, 120.0, -120.0])]
    coords = [(0.0, 0.0, 0.0), (0.0, 0.0, 1.1), *around]
    text = mol2("C.3 H F Cl Br", "1-2:1 1-3:1 1-4:1 1-5:1", coords=coords)
    assert ligand_key(ligand_of(text)) == key_of_smiles(smiles)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        (mol2("C.3 H H H H", METHYL + " 1-5:1").replace(" 5 4 ", " 6 4 "), RecordError, "6 lines of ATOM"),
        (
            mol2("C.3 H H H H", METHYL + " 1-5:1").replace(" 5 4 0 0 0", " 5"),
            RecordError,
            "0 lines of BOND and has 4",
        ),
        (
            mol2("C.3 H H H H", METHYL + " 1-5:1").replace(" H\n@<TRIPOS>BOND", "\n@<TRIPOS>BOND"),
            RecordError,
            "5 lines of ATOM and has 4",
        ),
        (mol2("C.3 H H H H", METHYL + " 1-9:1"), RecordError, "bond 4: .*'9'"),
        (mol2("C.3 H H H H", METHYL + " 1-5:un"), RecordError, "bond 4: .*'un'"),
        (mol2("c3 hc hc hc hc", METHYL + " 1-5:1"), RecordError, "'c3', which is not of Tripos"),
        (mol2("C.3 H H H H", METHYL + " 1-5:1").replace(" 0.0000 C", " x C"), RecordError, "coordinates"),
        ("@<TRIPOS>MOLECULE\nm\n", RecordError, "no line of counts"),
        (mol2("C.3 H H H Du", METHYL + " 1-5:1"), RefusedLigandError, "placeholder"),
        (mol2("C.3 H H H N.3", METHYL + " 1-5:1"), RefusedLigandError, "hydrogens"),
        (
            mol2("N.3 C.ar C.ar C.ar H H H", "1-2:ar 2-3:ar 2-4:ar 3-5:1 4-6:1 1-7:1"),
            RefusedLigandError,
            "no single and double bonds fit",
        ),
    ],
)
def test_what_cannot_be_read_says_why(text, error, says):
    """Each damage is one error that names the place."""
    with pytest.raises(error, match=says):
        ligand_of(text)


def test_the_line_of_counts_may_end_after_the_bonds():
    """The numbers after atoms and bonds are optional in the format."""
    text = mol2("C.3 H H H H", METHYL + " 1-5:1").replace(" 5 4 0 0 0", " 5 4")
    assert ligand_key(ligand_of(text)) == key_of_smiles("C")


def test_records_of_a_file_come_out_one_by_one(tmp_path):
    """Comments, sections we do not know, a blank name, a cut record, a stray head: five in, five out."""
    methane, bonds = "C.3 H H H H", METHYL + " 1-5:1"
    good = mol2(methane, bonds, [-0.4, 0.1, 0.1, 0.1, 0.1], name="one")
    unknown = "@<TRIPOS>SUBSTRUCTURE\n 1 UNL1 1\n@<TRIPOS>UNITY_ATOM_ATTR\n1 1\ncharge 3\n"
    cut = mol2(methane, bonds, name="three").partition("@<TRIPOS>BOND")[0]
    path = tmp_path / "few.mol2"
    path.write_text(
        f"stray\n# made by hand\n{good}{unknown}\n# next\n{mol2(methane, bonds, name='')}{cut}{good}"
    )
    records = list(read_library([path]))
    assert [(r.number, r.name, bool(r.problem)) for r in records] == [
        (1, "few-1", True),
        (2, "one", False),
        (3, "few-3", False),
        (4, "three", False),
        (5, "one", False),
    ]
    assert "UNITY" not in records[1].text
    assert charge_words(records[1].text) == ["-0.4000"] + ["0.1000"] * 4
    assert charge_words(records[2].text) == []
    with pytest.raises(RecordError, match="4 lines of BOND and has 0"):
        standardise(records[3], RULES)
    assert {ligand_key(standardise(records[n], RULES)[0]) for n in (1, 2, 4)} == {key_of_smiles("C")}


def test_a_record_beyond_the_limits_is_one_with_a_problem(tmp_path):
    """Too many bytes in the first record, too long a line in the second: the third is read."""
    methane = mol2("C.3 H H H H", METHYL + " 1-5:1")
    path = tmp_path / "big.mol2"
    path.write_text(methane + ("#" * 30 + "\n") * 40 + methane.replace("m\n", "m" * 150 + "\n", 1) + methane)
    records = list(read_library([path], ReadLimits(line_bytes=100, record_bytes=900)))
    assert [r.problem.split(" than")[0] for r in records] == [
        "the record is longer",
        "the line is longer",
        "",
    ]
