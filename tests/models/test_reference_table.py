"""From QCArchive's records to the rows that training reads."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem

from models.dataset import read_qm_examples
from models.reference_table import is_held_out, key_of, table_of
from pipeline.store.qcschema import read_qcschema
from pipeline.units import ANGSTROM_PER_BOHR, KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR, KCAL_PER_HARTREE

PEROXIDE = "[O:1]([O:2][H:4])[H:3]"
BENT = [[0.0, 1.39, 0.0], [0.0, -1.39, 0.0], [1.6, 1.7, 0.9], [-1.6, -1.7, 0.9]]
LEVEL = {"program": "psi4", "method": "b3lyp-d3bj", "basis": "dzvp", "keywords": {"maxiter": 200}}


def optimisation(number: int, energy: float, gradient: float | None = None, smiles: str = PEROXIDE) -> dict:
    """A record as qcportal dumps it; the last step's gradient has one value."""
    geometry = np.array(BENT) * (1 + 0.001 * number)
    record = {
        "id": number,
        "record_type": "optimization",
        "status": "complete",
        "specification": {"program": "geometric", "qc_specification": LEVEL},
        "final_molecule": {
            "symbols": ["O", "O", "H", "H"],
            "geometry": geometry.tolist(),
            "molecular_charge": 0.0,
            "molecular_multiplicity": 1,
            "identifiers": {"canonical_isomeric_explicit_hydrogen_mapped_smiles": smiles},
        },
        "energies": [energy + 1, energy],
    }
    if gradient is not None:
        record["trajectory_records"] = [{}, {"properties": {"return_gradient": [gradient] * 12}}]
    return record


def drive(number: int, points: dict[str, dict]) -> dict:
    return {
        "id": number,
        "record_type": "torsiondrive",
        "status": "complete",
        "specification": {"keywords": {"dihedrals": [[2, 0, 1, 3]]}},
        "optimization_records": {grid: [record] for grid, record in points.items()},
    }


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Two minima, a drive of three angles out of order, one of a single angle, one without bonds."""
    unknown = optimisation(9, -150.0)
    unknown["final_molecule"]["identifiers"] = {}
    documents = [
        optimisation(1, -151.0),
        optimisation(2, -151.25),
        drive(
            30,
            {
                "[0]": optimisation(4, -150.5, 0.01),
                "[-90]": optimisation(3, -150.75, 0.02),
                "[90]": optimisation(5, -150.25, 0.03),
            },
        ),
        drive(31, {"[0]": optimisation(6, -150.5, 0.01)}),
        unknown,
        {**optimisation(7, 0.0), "status": "error"},
    ]
    path = tmp_path / "records.json"
    path.write_text("\n".join(json.dumps(document) for document in documents))
    return path


def test_records_become_rows(records: Path) -> None:
    """Minima of one molecule are one row with zero gradient; a drive is one row in order of its angles, with
    the gradients of its last steps; what says nothing is refused in a sentence.
    """
    table = table_of(read_qcschema(records), "set")
    minima, driven = sorted(table.rows, key=lambda row: row["kind"])
    assert len(table.refused) == 3
    assert (minima["kind"], minima["n_confs"], minima["dihedral"]) == ("minima", 2, None)
    assert not np.any(minima["gradient"])
    np.testing.assert_allclose(minima["energy"], np.array([-151.0, -151.25]) * KCAL_PER_HARTREE)
    assert minima["record_ids"] == [1, 2]
    assert (driven["kind"], driven["dihedral"]) == ("torsiondrive", [2, 0, 1, 3])
    np.testing.assert_array_equal(driven["grid"], [-90.0, 0.0, 90.0])
    np.testing.assert_allclose(driven["energy"], np.array([-150.75, -150.5, -150.25]) * KCAL_PER_HARTREE)
    gradient = driven["gradient"].reshape(3, 12)[:, 0]
    np.testing.assert_allclose(
        gradient, np.array([0.02, 0.01, 0.03]) * KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR, rtol=1e-6
    )
    np.testing.assert_allclose(
        driven["coords"].reshape(3, 4, 3)[0], np.array(BENT) * 1.003 * ANGSTROM_PER_BOHR, rtol=1e-6
    )
    assert {row["level"] for row in table.rows} == {"b3lyp-d3bj/dzvp"}


def test_the_recipe_makes_tables_that_training_reads(records: Path, tmp_path: Path) -> None:
    """The script as a user runs it, everything held out; read as training reads it."""
    train, dev = tmp_path / "train.parquet", tmp_path / "dev.parquet"
    script = [sys.executable, "-m", "data.qm.qcarchive.prepare", str(train), str(dev)]
    done = subprocess.run(
        [*script, f"set={records}", "--share", "1"], capture_output=True, text=True, check=True, timeout=240
    )
    assert "set: 2 rows, 3 results not used" in done.stdout
    assert len(pd.read_parquet(train)) == 0
    examples, left_out = read_qm_examples(dev)
    assert left_out == 0
    assert sorted(example.kind for example in examples) == ["minima", "torsiondrive"]
    assert {example.key for example in examples} == {"OO"}


def test_the_sides_follow_the_scaffold() -> None:
    """Alkylbenzenes are on one side whatever the share; a tenth of many scaffolds is about a tenth."""
    shares = np.linspace(0.0, 1.0, 21)
    toluene, ethylbenzene = mapped("Cc1ccccc1"), mapped("CCc1ccccc1")
    assert [is_held_out(toluene, s) for s in shares] == [is_held_out(ethylbenzene, s) for s in shares]
    chains = [mapped("C" * n + "O" * m) for n in range(1, 21) for m in range(1, 6)]
    assert 3 <= sum(is_held_out(smiles, 0.1) for smiles in chains) <= 20
    assert not any(is_held_out(smiles, 0.0) for smiles in chains)


def test_the_key_knows_no_stereo() -> None:
    """Both enantiomers of bromochlorofluoromethane have the same key, without hydrogens or numbers."""
    keys = {key_of(mapped(smiles)) for smiles in ("F[C@H](Cl)Br", "F[C@@H](Cl)Br")}
    assert keys == {"FC(Cl)Br"}


def mapped(smiles: str) -> str:
    """A mapped SMILES with all hydrogens."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(atom.GetIdx() + 1)
    return Chem.MolToSmiles(mol)
