"""Scoring against QM: hand-made profiles, RDKit's own MMFF94, OpenMM, and the files that are left behind."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem, rdForceFieldHelpers

from models.dataset import QMExample, read_qm_examples
from models.evaluation.baselines import mmff94_energies, mmff94_method, mmff94_prediction, read_charge_table
from models.evaluation.evaluate import EvaluationSettings, compare, evaluate, evaluate_torsions
from models.evaluation.scoring import (
    Prediction,
    Scores,
    centred_rmse,
    class1_method,
    evaluate_rows,
    restrict_to_common,
    score_row,
    summarise,
)
from pipeline.errors import OutputFolderError, ParametersError, SettingsError
from pipeline.export.openmm_system import build_system
from pipeline.readback.energies import evaluate as evaluate_with_openmm
from pipeline.schema import Ligand, MMParameters, Topology

SETTINGS = EvaluationSettings(n_resamples=50)


class PlainPredictor:
    """Every interaction gets the same parameters: a force field whose energies OpenMM can check."""

    name, version, sha256 = "plain", "0", "0" * 64

    def predict(self, ligand: Ligand, topology: Topology) -> MMParameters:
        n_bonds, n_angles, n_atoms = len(topology.bonds), len(topology.angles), topology.n_atoms
        return MMParameters(
            bond_k=np.full(n_bonds, 600.0),
            bond_length=np.full(n_bonds, 1.3),
            angle_k=np.full(n_angles, 100.0),
            angle_theta=np.full(n_angles, 1.95),
            proper_k=np.full((len(topology.propers), 6), 0.1),
            improper_k=np.full((len(topology.impropers), 2), 0.3),
            charge=np.full(n_atoms, ligand.total_charge / n_atoms),
            sigma=np.full(n_atoms, 2.5),
            epsilon=np.full(n_atoms, 0.1),
        )


def table_row(smiles: str, kind: str = "torsiondrive", n_confs: int = 8) -> dict:
    """A row of a data table with shaken RDKit geometries; 'QM' is MMFF94, with its gradients."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=5)
    rest = mol.GetConformer().GetPositions()
    shake = np.random.default_rng(4).normal(scale=0.05, size=(n_confs, *rest.shape))
    coords = (rest + shake).astype(np.float32)
    charge = Chem.GetFormalCharge(mol)
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(atom.GetIdx() + 1)
    mapped = Chem.MolToSmiles(mol)
    ligand = Ligand(name=smiles, mapped_smiles=mapped, total_charge=charge)
    reference = mmff94_prediction(ligand, coords.astype(np.float64))
    return {
        "source": f"made-{kind}",
        "kind": kind,
        "level": "mmff94",
        "key": smiles,
        "mapped_smiles": mapped,
        "charge": charge,
        "n_atoms": mol.GetNumAtoms(),
        "n_confs": n_confs,
        "coords": coords.ravel(),
        "energy": reference.energy - 1e5,
        "gradient": reference.gradient.astype(np.float32).ravel() if kind == "torsiondrive" else None,
        "dihedral": [0, 1, 2, 3] if kind == "torsiondrive" else None,
        "grid": np.linspace(-165.0, 180.0, n_confs) if kind == "torsiondrive" else None,
    }


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "made.parquet"
    rows = [table_row(smiles) for smiles in ("CCCO", "CC(=O)NC", "CC(=O)[O-]", "CCSC")]
    pd.DataFrame([*rows, table_row("CCCCO", kind="minima")]).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def examples(table: Path) -> list[QMExample]:
    return read_qm_examples(table)[0]


def profile(example: QMExample, energy: list[float]) -> QMExample:
    return dataclasses.replace(
        example, energy=np.array(energy), coords=example.coords[: len(energy)], gradient=None
    )


def test_rmse_ignores_a_constant_and_nothing_else() -> None:
    """Differences -1, 0, 1 around any constant have RMSE sqrt(2/3) (rounding only)."""
    qm = np.array([0.0, 2.0, 5.0])
    assert centred_rmse(qm + 7.0, qm) == pytest.approx(0.0, abs=1e-12)
    assert centred_rmse(qm + np.array([6.0, 7.0, 8.0]), qm) == pytest.approx(np.sqrt(2 / 3))


def test_window_leaves_out_only_high_points(examples: list[QMExample]) -> None:
    """An error of 30 at a point of 50 kcal/mol counts in the full RMSE, not in the windowed one."""
    example = profile(examples[0], [0.0, 1.0, 2.0, 50.0])
    prediction = Prediction(energy=np.array([3.0, 4.0, 5.0, 83.0]), gradient=None)
    score = score_row(0, example, prediction, SETTINGS)
    assert score.in_window.tolist() == [True, True, True, False]
    assert score.energy_rmse_windowed == pytest.approx(0.0, abs=1e-12)
    assert score.energy_rmse == pytest.approx(30 * np.sqrt(3) / 4)  # one of four points off by 30
    np.testing.assert_allclose(score.mm_energy[:3], [0.0, 1.0, 2.0], atol=1e-12)
    assert score.force_rmse is None


def test_mmff94_equals_rdkits_own_conformer_energies(examples: list[QMExample]) -> None:
    """One force field fed with coordinates gives what RDKit gives per conformer, any order of atoms."""
    mol = Chem.AddHs(Chem.MolFromSmiles("CC(=O)NC"))
    AllChem.EmbedMultipleConfs(mol, 3, randomSeed=3)
    coords = np.array([conformer.GetPositions() for conformer in mol.GetConformers()])
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    expected = [
        rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties, confId=index).CalcEnergy()
        for index in range(3)
    ]
    order = np.random.default_rng(1).permutation(mol.GetNumAtoms())
    shuffled = Chem.RenumberAtoms(mol, order.tolist())
    for atom in shuffled.GetAtoms():
        atom.SetAtomMapNum(atom.GetIdx() + 1)
    ligand = Ligand(name="nma", mapped_smiles=Chem.MolToSmiles(shuffled), total_charge=0)
    np.testing.assert_allclose(mmff94_energies(ligand, coords[:, order]), expected, rtol=1e-9)


def test_mmff94_refuses_untyped_atoms() -> None:
    """Boron has no MMFF94 type: a refusal, not an energy."""
    ligand = Ligand(name="borane", mapped_smiles="[B:1]([H:2])([H:3])[H:4]", total_charge=0)
    with pytest.raises(ParametersError, match="no type"):
        mmff94_energies(ligand, np.zeros((1, 4, 3)))


def test_class1_method_equals_openmm(examples: list[QMExample]) -> None:
    """Energies and gradients behind a score equal OpenMM's on the same geometries (1e-5 relative)."""
    predictor = PlainPredictor()
    example = examples[2]
    prediction = class1_method(predictor.predict)(example)
    parameters = predictor.predict(example.ligand, example.topology)
    reports, forces = evaluate_with_openmm(
        build_system(example.topology, parameters), example.coords.astype(np.float64)
    )
    np.testing.assert_allclose(prediction.energy, [report.total for report in reports], rtol=1e-5)
    np.testing.assert_allclose(prediction.gradient, -forces.sum(axis=1), rtol=1e-4, atol=1e-3)


def test_the_reference_scores_zero_against_itself(examples: list[QMExample]) -> None:
    """MMFF94 against MMFF94 'QM': no energy error; force error only from float32 storage (1e-4)."""
    scores = evaluate_rows(examples[:4], mmff94_method, "MMFF94", SETTINGS)
    assert len(scores.rows) == 4
    for row in scores.rows:
        assert row.energy_rmse == pytest.approx(0.0, abs=1e-6)
        assert row.force_rmse == pytest.approx(0.0, abs=1e-4)


def test_evaluate_torsions_takes_the_torsion_drives_only(examples: list[QMExample]) -> None:
    """Four of the five made rows are drives (counted by hand)."""
    scores = evaluate_torsions(examples, PlainPredictor().predict, SETTINGS)
    assert [row.key for row in scores.rows] == ["CCCO", "CC(=O)NC", "CC(=O)[O-]", "CCSC"]


def fails_on_sulfur(example: QMExample) -> Prediction:
    if 16 in example.topology.atomic_numbers:
        raise ParametersError("no sulfur here")
    return mmff94_method(example)


def test_no_row_is_lost(examples: list[QMExample]) -> None:
    """Scored and left out add up to the table; the comparison keeps only rows that both methods score."""
    partial = evaluate_rows(examples, fails_on_sulfur, "no-sulfur", SETTINGS)
    full = evaluate_rows(examples, mmff94_method, "MMFF94", SETTINGS)
    assert len(partial.rows) + len(partial.left_out) == len(examples)
    assert [(row.row, row.reason) for row in partial.left_out] == [(3, "no sulfur here")]
    assert [len(method.rows) for method in restrict_to_common([partial, full])] == [4, 4]


def test_summary_is_the_mean_over_rows(examples: list[QMExample]) -> None:
    """Two drives with RMSE 1 and 3 over 2 points each: mean 2, pooled sqrt(5), interval inside [1, 3]."""
    settings = EvaluationSettings(min_points=2, n_resamples=200)
    rows = tuple(
        score_row(
            number,
            profile(examples[number], [0.0, 10.0]),
            Prediction(energy=np.array([rmse, 10.0 - rmse]), gradient=None),
            settings,
        )
        for number, rmse in enumerate((1.0, 3.0))
    )
    summaries = summarise([Scores(method="made", rows=rows, left_out=())], settings)
    assert [summary.scope for summary in summaries] == ["all", "common"]
    summary = summaries[0]
    assert (summary.mean, summary.median, summary.n_points) == (pytest.approx(2.0), pytest.approx(2.0), 4)
    assert summary.pooled == pytest.approx(np.sqrt(5.0))
    assert 1.0 <= summary.mean_low <= 2.0 <= summary.mean_high <= 3.0


def test_charges_follow_the_atoms(tmp_path: Path) -> None:
    """A ligand with its atoms in another order gets each atom's own charge, summing to the total exactly."""
    path = tmp_path / "charges.parquet"
    stored = "[C:1]([O:2][H:6])([H:3])([H:4])[H:5]"
    charges = [0.12, -0.60, 0.03, 0.03, 0.03, 0.40]
    pd.DataFrame([{"key": "CO", "mapped_smiles": stored, "charges": charges}]).to_parquet(path)
    look_up = read_charge_table(path)
    shuffled = Ligand(name="CO", mapped_smiles="[H:1][O:2][C:3]([H:4])([H:5])[H:6]", total_charge=0)
    have = look_up(shuffled)
    residual = sum(charges) / 6  # 0.01 too much, spread over six atoms
    np.testing.assert_allclose(have, np.array([0.40, -0.60, 0.12, 0.03, 0.03, 0.03]) - residual, atol=1e-12)
    assert have.sum() == pytest.approx(0.0, abs=1e-15)
    with pytest.raises(ParametersError, match="no charges"):
        look_up(Ligand(name="C", mapped_smiles="[C:1]([H:2])([H:3])([H:4])[H:5]", total_charge=0))


def test_report_holds_every_row_and_the_plots_are_images(table: Path, tmp_path: Path) -> None:
    """JSON, CSV and PNGs of a real run: counts by hand, the baseline's errors zero, PNG signatures."""
    report = evaluate(PlainPredictor(), table, tmp_path / "out", settings=SETTINGS)
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert written["n_rows"] == 5
    assert written["model"] == {"name": "plain", "version": "0", "sha256": "0" * 64}
    assert written["left_out"] == {"plain 0": [], "MMFF94": []}
    with (tmp_path / "out" / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["plain 0"] * 5 + ["MMFF94"] * 5
    assert all(float(row["energy_rmse"]) < 1e-6 for row in rows[5:])
    for name in ("parity.png", "errors.png", "torsions.png"):
        assert name in report.files
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    assert "made-torsiondrive" in report.to_text()


def test_same_run_same_report(table: Path, tmp_path: Path) -> None:
    """Nothing random and no clock in the figures: two runs write the same bytes."""
    texts = [
        compare({"MMFF94": mmff94_method}, table, tmp_path / name, settings=SETTINGS).to_json()
        for name in ("a", "b")
    ]
    assert texts[0] == texts[1]
    assert (tmp_path / "a" / "rows.csv").read_bytes() == (tmp_path / "b" / "rows.csv").read_bytes()


def test_missing_table_and_blocked_folder_are_one_sentence(table: Path, tmp_path: Path) -> None:
    """A wrong path is a usage error before anything is computed."""
    with pytest.raises(SettingsError, match="no training table"):
        evaluate(PlainPredictor(), tmp_path / "none.parquet", tmp_path / "out")
    with pytest.raises(SettingsError, match="no training table"):
        evaluate(PlainPredictor(), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputFolderError, match="choose another folder"):
        evaluate(PlainPredictor(), table, tmp_path / "file" / "out")
