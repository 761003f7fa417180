"""Charges that the user brings in the library."""

import csv
import json

import numpy as np
import openmm
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem
from typer.testing import CliRunner

from flows.cli import app


def molecule(smiles: str, charges, name: str, *, order=None) -> Chem.Mol:
    """An SDF record with the field that the OpenFF toolkit writes; `charges`: numbers, text, or None."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    if order is not None:
        mol = Chem.RenumberAtoms(mol, order)
    mol.SetProp("_Name", name)
    mol.SetProp("before", "1 2 3")
    if charges is not None:
        text = charges if isinstance(charges, str) else " ".join(f"{q:.6f}" for q in charges)
        mol.SetProp("atom.dprop.PartialCharge", text)
    return mol


METHANOL = [0.117, -0.599, 0.028, 0.028, 0.028, 0.398]
SHUFFLED = [3, 0, 5, 1, 4, 2]


@pytest.fixture
def assign(tmp_path, model_folder):
    """Run assign on records; the outcome rows and the folder of the run."""

    def run(molecules, *options):
        library, out = tmp_path / "library.sdf", tmp_path / "out"
        with Chem.SDWriter(str(library)) as writer:
            for mol in molecules:
                writer.write(mol)
        arguments = [
            "assign",
            library,
            "--out",
            out,
            "--model",
            model_folder,
            "--formats",
            "openmm",
            *options,
        ]
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        rows = list(csv.DictReader((out / "outcomes.csv").open())) if out.exists() else []
        return result, rows, out

    return run


def charges_in(folder) -> np.ndarray:
    """What the written system has."""
    system = openmm.XmlSerializer.deserialize((folder / "openmm_system.xml").read_text())
    (force,) = (f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    return np.array([force.getParticleParameters(i)[0]._value for i in range(force.getNumParticles())])


def test_the_records_own_charges_are_in_the_files(assign):
    """One molecule twice, in two orders and with other charges: each has its own, in its own order, though
    the molecule is predicted once.
    """
    other = np.array(METHANOL) + np.array([0.01, -0.01, 0.0, 0.0, 0.0, 0.0])
    shuffled = molecule("CO", np.array(METHANOL)[SHUFFLED], "b", order=SHUFFLED)
    result, rows, out = assign([molecule("CO", other, "a"), shuffled], "--charges", "input")
    assert result.exit_code == 0, result.output
    written = [charges_in(out / row["folder"]) for row in rows]
    np.testing.assert_allclose(written[0], other, atol=1e-9)
    np.testing.assert_allclose(written[1], np.array(METHANOL)[SHUFFLED], atol=1e-9)
    document = json.loads((out / rows[0]["folder"] / "parameters.json").read_text())
    assert document["provenance"]["charges"] == "input"


def test_equivalent_atoms_get_the_mean_of_their_charges(assign):
    """The charges of one conformer, as any program gives them: delivered in all formats, and said."""
    one_conformer = np.array(METHANOL) + np.array([0.0, 0.0, 0.006, -0.004, -0.002, 0.0])
    mols = [molecule("CO", one_conformer, "a"), molecule("CO", METHANOL, "b")]
    result, rows, out = assign(mols, "--charges", "input", "--formats", "offxml,openmm")
    assert result.exit_code == 0, result.output
    for row in rows:
        np.testing.assert_allclose(charges_in(out / row["folder"]), METHANOL, atol=1e-9)
    said = "charges of equivalent atoms averaged; those of H3, H4, H5 differed by 0.0100"
    assert rows[0]["message"].startswith(said)
    assert "average" not in rows[1]["message"]


def test_without_the_option_the_models_charges_are_used(assign):
    """The field alone changes nothing; asking for it afterwards computes the records anew."""
    mol = molecule("CO", METHANOL, "a")
    _, rows, out = assign([mol])
    assert np.abs(charges_in(out / rows[0]["folder"]) - METHANOL).max() > 1e-3
    _, rows, out = assign([mol], "--charges", "input")
    np.testing.assert_allclose(charges_in(out / rows[0]["folder"]), METHANOL, atol=1e-9)


def test_what_printed_digits_leave_is_spread(assign):
    """A sum of 0.0006 becomes zero, a ten-thousandth per atom."""
    _, rows, out = assign([molecule("CO", np.array(METHANOL) + 1e-4, "a")], "--charges", "input")
    written = charges_in(out / rows[0]["folder"])
    assert abs(written.sum()) < 1e-12
    np.testing.assert_allclose(written, METHANOL, atol=1e-9)


@pytest.mark.parametrize(
    ("charges", "says"),
    [
        (None, "no field"),
        (METHANOL[:-1], "5 charges for 6 atoms"),
        (np.array(METHANOL) + 0.1, "sum to 0.6000, +0.6000 from the total charge +0"),
        ("0.1 0.2 n/a 0 0 0", "could not convert"),
        (
            np.array(METHANOL)[SHUFFLED],
            "of the equivalent atoms H3, H4, H5 differ by 0.9970, over 0.1: correct their order",
        ),
        ("0.1 nan 0 0 0 0", "sum to nan"),
    ],
)
def test_charges_that_do_not_fit_are_refused(assign, charges, says):
    """Each mistake is one failed row of kind `charges` that says what is wrong; the other record is done."""
    result, rows, _ = assign(
        [molecule("CO", charges, "bad"), molecule("CO", METHANOL, "good")], "--charges", "input"
    )
    assert result.exit_code == 3
    assert [row["status"] for row in rows] == ["failed", "ok"]
    assert (rows[0]["stage"], rows[0]["kind"]) == ("standardise", "charges")
    assert says in rows[0]["message"]


def mol2(charges, name: str) -> str:
    """Methanol as a docking program writes it, geometry by hand; `charges`: None for none."""
    atoms = ["C.3 0 0 0", "O.3 1.4 0 0", "H -0.4 1 0", "H -0.4 -0.5 0.9", "H -0.4 -0.5 -0.9", "H 1.7 0.9 0"]
    bonds = ["1 2", "1 3", "1 4", "1 5", "2 6"]
    lines = ["@<TRIPOS>MOLECULE", name, "6 5", "SMALL", "NO_CHARGES" if charges is None else "USER_CHARGES"]
    lines.append("@<TRIPOS>ATOM")
    for n, atom in enumerate(atoms, start=1):
        kind, place = atom.split(" ", 1)
        lines.append(f"{n} X{n} {place} {kind}" + ("" if charges is None else f" 1 L {charges[n - 1]:.4f}"))
    lines += ["@<TRIPOS>BOND", *(f"{n} {bond} 1" for n, bond in enumerate(bonds, start=1))]
    return "\n".join(lines) + "\n"


def test_the_charges_of_a_mol2_are_in_the_files(tmp_path, model_folder):
    """Three records: charges that fit arrive; a record without any and one whose sum is 0.6 are refused."""
    library, out = tmp_path / "library.mol2", tmp_path / "out"
    wrong = np.array(METHANOL) + 0.1
    library.write_text(mol2(METHANOL, "good") + mol2(None, "none") + mol2(wrong, "wrong"))
    arguments = ["assign", library, "--out", out, "--model", model_folder, "--formats", "openmm"]
    result = CliRunner().invoke(app, [str(a) for a in [*arguments, "--charges", "input"]])
    assert result.exit_code == 3, result.output
    rows = list(csv.DictReader((out / "outcomes.csv").open()))
    assert [(row["name"], row["kind"]) for row in rows] == [
        ("good", ""),
        ("none", "charges"),
        ("wrong", "charges"),
    ]
    np.testing.assert_allclose(charges_in(out / rows[0]["folder"]), METHANOL, atol=1e-9)
    assert "no charges in its atom lines" in rows[1]["message"]
    assert "total charge of +0, the partial charges sum to +1" in rows[2]["message"]


def test_refine_says_that_it_cannot(tmp_path, model_folder):
    """Refining beside other charges than the model's is a usage error that leaves no folder."""
    (tmp_path / "parmflow.toml").write_text('charges = "input"\n')
    library = tmp_path / "a.smi"
    library.write_text("CO a\n")
    arguments = ["refine", library, "--out", tmp_path / "out", "--config", tmp_path / "parmflow.toml"]
    result = CliRunner().invoke(app, [str(a) for a in [*arguments, "--model", model_folder]])
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_doubts_about_the_models_charges_do_not_count_beside_other_charges(assign):
    """Pyrylium, for whose charge the training showed no place: said, but not where the charges are given."""
    pyrylium = molecule("C1=CC=[O+]C=C1", [1 / 11] * 11, "pyrylium")
    result, (row,), _ = assign([pyrylium], "--model", "default")
    assert result.exit_code == 0, result.output
    assert "seat a positive charge" in row["message"]
    result, (row,), out = assign([pyrylium], "--model", "default", "--charges", "input")
    assert result.exit_code == 0, result.output
    assert "charge" not in row["message"]
    confidence = json.loads((out / row["folder"] / "parameters.json").read_text())["confidence"]
    assert "charge" not in confidence["doubt"]
    assert not any(confidence["charges"])
