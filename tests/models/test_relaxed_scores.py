"""Scores of relaxed geometries and conformers: hand-made numbers, RDKit's MMFF94, symmetries, files."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from models.dataset import QMExample, read_qm_examples
from models.evaluation.conformer_energies import (
    correlation,
    evaluate_conformers,
    read_conformer_set,
    summarise_conformers,
)
from models.evaluation.evaluate import EvaluationSettings, GoalReport, evaluate
from models.evaluation.geometry import compare_geometries
from models.evaluation.points import spread_over_sources
from models.evaluation.published import read_published
from models.evaluation.relaxed import (
    RelaxedRow,
    RelaxedScores,
    class1_relaxer,
    evaluate_relaxed,
    mmff94_relaxer,
    pooled_dde,
    relaxed_in_common,
    score_relaxed,
    summarise_relaxed,
    worst_molecules,
)
from models.evaluation.relaxed_cache import scores_from_json, scores_or_compute, scores_to_json
from models.evaluation.scoring import Prediction
from models.relax import Relaxed
from pipeline.errors import LigandError, ParametersError, SettingsError
from pipeline.ligand import to_rdkit
from pipeline.schema import FloatArray, Ligand, MMParameters, Topology

MADE = ("CCCO", "O=C(NCCC)c1ccccc1", "FCCCCl")


class SpringPredictor:
    """Springs whose rest values are drawn from elements: any molecule has a minimum near its geometry."""

    name, version, sha256 = "springs", "0", "0" * 64

    def predict(self, ligand: Ligand, topology: Topology) -> MMParameters:
        is_h = topology.atomic_numbers == 1
        if 17 in topology.atomic_numbers:
            raise ParametersError(f"{ligand.name}: no chlorine here")
        n_atoms = topology.n_atoms
        proper_k = np.zeros((len(topology.propers), 6))
        proper_k[:, 2] = 0.2
        return MMParameters(
            bond_k=np.full(len(topology.bonds), 650.0),
            bond_length=np.where(is_h[topology.bonds].any(axis=1), 1.09, 1.45),
            angle_k=np.full(len(topology.angles), 120.0),
            angle_theta=np.full(len(topology.angles), 1.95),
            proper_k=proper_k,
            improper_k=np.tile([0.0, -1.0], (len(topology.impropers), 1)),
            charge=np.full(n_atoms, ligand.total_charge / n_atoms),
            sigma=np.full(n_atoms, 2.8),
            epsilon=np.full(n_atoms, 0.05),
        )


def minima_row(number: int, smiles: str, n_confs: int = 4) -> dict:
    """A row of MMFF94 minima, which stand for QM minima here."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMultipleConfs(mol, n_confs, randomSeed=7)
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94")
    coords, energy = [], []
    for conf in range(n_confs):
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(
            mol, properties, confId=conf, nonBondedThresh=1000.0
        )
        for _ in range(20):
            if field.Minimize(maxIts=1000, forceTol=1e-7, energyTol=1e-12) == 0:
                break
        energy.append(field.CalcEnergy())
        coords.append(mol.GetConformer(conf).GetPositions())
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(atom.GetIdx() + 1)
    return {
        "source": "made",
        "kind": "minima",
        "level": "mmff94",
        "key": smiles,
        "mapped_smiles": Chem.MolToSmiles(mol),
        "charge": 0,
        "n_atoms": mol.GetNumAtoms(),
        "n_confs": n_confs,
        "coords": np.array(coords, dtype=np.float32).ravel(),
        "energy": np.array(energy) - 1e5,
        "gradient": None,
        "dihedral": None,
        "grid": None,
        "record_ids": [100 * number + conf for conf in range(n_confs)],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with three molecules, published figures for one, and a conformer set."""
    root = tmp_path_factory.mktemp("data")
    (root / "qm").mkdir()
    (root / "benchmarks").mkdir()
    rows = [minima_row(number, smiles) for number, smiles in enumerate(MADE)]
    pd.DataFrame(rows).to_parquet(root / "qm" / "dev.parquet")
    published = pd.DataFrame({"record_id": rows[0]["record_ids"]})
    for prefix in ("openff-2.2.1", "espaloma-0.3"):
        published[f"{prefix}_dde"] = [np.nan, 1.0, -2.0, 0.5]
        published[f"{prefix}_rmsd"] = 0.25
        published[f"{prefix}_tfd"] = 0.125
    published.to_parquet(root / "benchmarks" / "industry_dev_baselines.parquet")
    conformers = [
        {
            "name": row["key"],
            "mapped_smiles": row["mapped_smiles"],
            "charge": 0,
            "coords_angstrom": row["coords"].reshape(row["n_confs"], -1)[conf],
            # Coupled cluster's atomisation energies: the lower the energy, the larger.
            "dlpno": 5000.0 - 2.0 * row["energy"][conf],
        }
        for row in rows
        for conf in range(row["n_confs"])
    ]
    lonely = {**conformers[0], "name": "lonely"}
    pd.DataFrame([*conformers, lonely]).to_parquet(root / "benchmarks" / "folmsbee2020_conformers.parquet")
    return root


@pytest.fixture(scope="module")
def examples(folder: Path) -> list[QMExample]:
    return read_qm_examples(folder / "qm" / "dev.parquet")[0]


def relaxed_of(example: QMExample, energy: Sequence[float], coords: FloatArray | None = None) -> Relaxed:
    """A made-up result of minimisation."""
    n_confs = len(energy)
    return Relaxed(
        coords=example.coords.astype(np.float64) if coords is None else coords,
        energy=np.array(energy),
        largest_force=np.zeros(n_confs),
        converged=np.array([True] * (n_confs - 1) + [False]),
        n_evaluations=np.ones(n_confs, dtype=np.int64),
    )


def test_dde_is_measured_from_the_qm_minimum(examples: list[QMExample]) -> None:
    """QM 3, 0, 1, 5 and MM 10, 8, 6, 20: (MM - 8) - QM is -1, 0, -3, 7 by hand."""
    example = dataclasses.replace(examples[0], energy=np.array([3.0, 0.0, 1.0, 5.0]))
    row = score_relaxed(4, example, relaxed_of(example, [10.0, 8.0, 6.0, 20.0]))
    np.testing.assert_allclose(row.dde, [-1.0, 0.0, -3.0, 7.0], atol=1e-12)
    assert row.is_reference.tolist() == [False, True, False, False]
    np.testing.assert_allclose(row.rmsd, 0.0, atol=1e-5)  # float32 coordinates
    np.testing.assert_allclose(row.tfd, 0.0, atol=1e-5)
    scores = RelaxedScores(method="made", rows=(row,), left_out=())
    summary = summarise_relaxed(scores)
    assert sorted(pooled_dde(scores).tolist()) == [-3.0, -1.0, 7.0]
    assert (summary.n_confs, summary.n_not_converged) == (3, 1)
    assert (summary.median_dde, summary.mean_dde) == (3.0, pytest.approx(11 / 3))
    assert summary.signed_dde == pytest.approx(1.0)


def test_moving_and_relabelling_atoms_is_no_deviation(examples: list[QMExample]) -> None:
    """Rotated, shifted, with the ortho and meta carbons of the phenyl exchanged: RMSD and TFD zero (1e-4)."""
    example = examples[1]
    mol = to_rdkit(example.ligand)
    matches = mol.GetSubstructMatches(mol, uniquify=False, maxMatches=100)
    mirrored = next(m for m in matches if sum(a != b for a, b in enumerate(m)) >= 8)
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    rotation *= np.linalg.det(rotation)
    coords = example.coords.astype(np.float64)
    moved = coords[:, list(mirrored)] @ rotation.T + 5.0
    deviations = compare_geometries(example.ligand, moved, coords)
    np.testing.assert_allclose(deviations.rmsd, 0.0, atol=1e-4)
    np.testing.assert_allclose(deviations.tfd, 0.0, atol=1e-4)


def test_hydrogens_do_not_count_in_the_rmsd(examples: list[QMExample]) -> None:
    """Every hydrogen moved by an angstrom: heavy atoms are where they were (1e-5: float32)."""
    example = examples[0]
    coords = example.coords.astype(np.float64)
    moved = coords + (example.topology.atomic_numbers == 1)[None, :, None] * 1.0
    np.testing.assert_allclose(compare_geometries(example.ligand, moved, coords).rmsd, 0.0, atol=1e-5)


def test_rmsd_of_one_displaced_atom(examples: list[QMExample]) -> None:
    """A bond of two heavy atoms stretched by 0.2: each is 0.1 off after superposition, RMSD 0.1 exactly."""
    mol = Chem.AddHs(Chem.MolFromSmiles("CF"))
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(atom.GetIdx() + 1)
    ligand = Ligand(name="CF", mapped_smiles=Chem.MolToSmiles(mol), total_charge=0)
    coords = mol.GetConformer().GetPositions()[None]
    axis = coords[0, 1] - coords[0, 0]
    stretched = coords.copy()
    stretched[0, 1] += 0.2 * axis / np.linalg.norm(axis)
    deviations = compare_geometries(ligand, stretched, coords)
    assert deviations.rmsd[0] == pytest.approx(0.1, abs=1e-6)
    assert np.isnan(deviations.tfd[0])  # no torsion between heavy atoms


def test_tfd_sees_a_turned_torsion(examples: list[QMExample]) -> None:
    """The gauche and the anti conformer of a chain differ in RMSD and TFD; TFD lies between 0 and 1."""
    example = examples[0]
    coords = example.coords.astype(np.float64)
    pairs = [(a, b) for a in range(4) for b in range(a)]
    values = [compare_geometries(example.ligand, coords[[a]], coords[[b]]) for a, b in pairs]
    tfd, rmsd = np.array([v.tfd[0] for v in values]), np.array([v.rmsd[0] for v in values])
    assert (tfd >= 0).all()
    assert (tfd <= 1).all()
    assert tfd.max() > 0.05
    assert rmsd[np.argmax(tfd)] > 0.1


def test_mmff94_against_its_own_minima(examples: list[QMExample]) -> None:
    """MMFF94 'QM' minima stay where they are under MMFF94: ddE, RMSD and TFD zero.

    Coordinates pass through float32 (1e-7 relative): 1e-3 kcal/mol, 0.02 angstrom on a flat torsion.
    """
    scores = evaluate_relaxed(examples, mmff94_relaxer(), "MMFF94")
    assert [row.key for row in scores.rows] == list(MADE)
    for row in scores.rows:
        np.testing.assert_allclose(row.dde, 0.0, atol=1e-3)
        np.testing.assert_allclose(row.rmsd, 0.0, atol=0.02)
        assert row.converged.all()


def test_no_row_is_lost(examples: list[QMExample]) -> None:
    """The chloride is refused, with the reason; the others are scored and converged."""
    scores = evaluate_relaxed(examples, class1_relaxer(SpringPredictor().predict), "springs")
    assert [row.row for row in scores.rows] == [0, 1]
    assert [(row.row, row.reason) for row in scores.left_out] == [(2, "FCCCCl: no chlorine here")]
    assert all(row.converged.all() for row in scores.rows)
    assert all((row.rmsd > 1e-3).any() for row in scores.rows)


def test_infinite_energies_are_left_out(examples: list[QMExample]) -> None:
    """A conformer without finite energy takes its molecule out, with a reason."""

    def broken(asked: Sequence[QMExample]) -> list[Relaxed | LigandError]:
        return [relaxed_of(example, [0.0, np.nan, 1.0, 2.0]) for example in asked]

    scores = evaluate_relaxed(examples, broken, "broken")
    assert scores.rows == ()
    assert len(scores.left_out) == 3
    assert "not finite" in scores.left_out[0].reason


def made_row(number: int, dde: list[float]) -> RelaxedRow:
    n_confs = len(dde)
    return RelaxedRow(
        row=number,
        key=f"molecule {number}",
        total_charge=0,
        qm_energy=np.arange(n_confs, dtype=np.float64),
        dde=np.array(dde),
        rmsd=np.full(n_confs, 0.1 * (number + 1)),
        tfd=np.full(n_confs, np.nan),
        converged=np.ones(n_confs, dtype=bool),
    )


def test_methods_are_compared_on_common_molecules() -> None:
    """Molecules 0, 1 and 1, 2 have only 1 in common; a method without any row does not empty the table."""
    one = RelaxedScores(method="one", rows=(made_row(0, [0, 1]), made_row(1, [0, 2])), left_out=())
    two = RelaxedScores(method="two", rows=(made_row(1, [0, 3]), made_row(2, [0, 4])), left_out=())
    none = RelaxedScores(method="none", rows=(), left_out=())
    common = relaxed_in_common([one, two, none])
    assert [(method.method, [row.row for row in method.rows]) for method in common] == [
        ("one", [1]),
        ("two", [1]),
    ]
    assert relaxed_in_common([none]) == ()
    assert np.isnan(summarise_relaxed(one).median_tfd)
    # Conformers, not molecules, are pooled: 0.1, 0.1, 0.2, 0.2.
    assert summarise_relaxed(one).median_rmsd == pytest.approx(0.15)


def test_worst_molecules_come_first() -> None:
    """Mean |ddE| 2, 5 and 0.5, the reference not counted; one conformer alone has no ddE."""
    rows = (made_row(0, [0, -1, 3]), made_row(1, [0, -5, 5]), made_row(2, [0, 0.5]), made_row(3, [0]))
    worst = worst_molecules(RelaxedScores(method="made", rows=rows, left_out=()), 2)
    assert [(figure, row.row) for figure, row in worst] == [(5.0, 1), (2.0, 0)]


def test_kept_scores_come_back_equal(examples: list[QMExample], tmp_path: Path) -> None:
    """JSON and back: every number to the last bit, NaN included; the same identity is not computed twice."""
    scores = evaluate_relaxed(examples, class1_relaxer(SpringPredictor().predict), "springs")
    back = scores_from_json(scores_to_json(scores))
    assert back.left_out == scores.left_out
    for a, b in zip(back.rows, scores.rows, strict=True):
        for field in dataclasses.fields(RelaxedRow):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))
    calls = []

    def compute() -> RelaxedScores:
        calls.append(1)
        return scores

    for identity in (("springs", "a"), ("springs", "a"), ("springs", "b")):
        scores_or_compute(tmp_path, identity, compute)
    assert len(calls) == 2
    for path in tmp_path.iterdir():
        path.write_text('{"half": ')
    scores_or_compute(tmp_path, ("springs", "a"), compute)
    assert len(calls) == 3


def test_published_figures_stand_on_our_rows(folder: Path, examples: list[QMExample]) -> None:
    """One of three molecules is in the table: |ddE| 1, 2 and 0.5, or those that are not the reference."""
    table = folder / "benchmarks" / "industry_dev_baselines.parquet"
    openff, espaloma = read_published(table, folder / "qm" / "dev.parquet", examples)
    assert (openff.method, espaloma.method) == ("published OpenFF 2.2.1", "published espaloma 0.3")
    np.testing.assert_array_equal(openff.rows[0].dde, [np.nan, 1.0, -2.0, 0.5])
    assert np.isnan(openff.rows[1].dde).all()
    reference = int(np.argmin(examples[0].energy))
    expected = [value for conf, value in enumerate([np.nan, 1.0, -2.0, 0.5]) if conf not in (0, reference)]
    assert sorted(pooled_dde(openff)) == sorted(expected)
    assert read_published(folder / "none.parquet", folder / "qm" / "dev.parquet", examples) == ()


def test_conformer_energies_correlate(folder: Path) -> None:
    """MMFF94 against twice itself: R2 is 1 and the sign right; upside down: R2 still 1, correlation -1."""
    examples, left_out = read_conformer_set(folder / "benchmarks" / "folmsbee2020_conformers.parquet")
    assert [row.key for row in left_out] == ["lonely"]
    energy = {example.key: example.energy / 2 for example in examples}
    straight = evaluate_conformers(examples, lambda e: Prediction(energy=energy[e.key], gradient=None), "a")
    turned = evaluate_conformers(examples, lambda e: Prediction(energy=-energy[e.key], gradient=None), "b")
    first, second = summarise_conformers([straight, turned])
    assert first.n_molecules == 3
    assert (first.median_r_squared, first.median_correlation) == (pytest.approx(1), pytest.approx(1))
    assert (second.median_r_squared, second.median_correlation) == (pytest.approx(1), pytest.approx(-1))


def test_correlation_of_flat_profiles_is_none() -> None:
    """A constant explains nothing; three points by hand: r of (0, 1, 2) and (0, 1, 0) is 0."""
    assert correlation(np.zeros(3), np.arange(3.0)) == 0.0
    assert correlation(np.array([np.nan, 1.0, 2.0]), np.arange(3.0)) == 0.0
    assert correlation(np.arange(3.0), np.array([0.0, 1.0, 0.0])) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(SettingsError, match="no conformer set"):
        read_conformer_set(Path("nowhere.parquet"))


def test_rows_are_taken_evenly(examples: list[QMExample]) -> None:
    """Two of three rows of one source: the first and the second half begin at 0 and 1."""
    assert [example.key for example in spread_over_sources(examples, 2)] == [MADE[0], MADE[1]]
    assert spread_over_sources(examples, None) == examples
    assert len(spread_over_sources(examples, 9)) == 3


def test_a_folder_gives_the_whole_table(folder: Path, tmp_path: Path) -> None:
    """`evaluate` on a data folder: report, curves and drawings; without Sage's files there is no Sage."""
    settings = EvaluationSettings(n_resamples=20)
    report = evaluate(SpringPredictor(), folder, tmp_path / "out", settings=settings)
    assert isinstance(report, GoalReport)
    assert [summary.method for summary in report.relaxed] == ["springs 0", "MMFF94"]
    assert dict(report.left_out) == {"springs 0": 1, "MMFF94": 0}
    # Two molecules of four conformers are common to both: three ddE each.
    assert [summary.n_confs for summary in report.relaxed] == [6, 6]
    assert report.relaxed[1].median_dde < 1e-3
    assert [summary.n_molecules for summary in report.conformers] == [2, 2]
    # Exactly MMFF94's own energies, up to float32 coordinates.
    assert report.conformers[1].median_correlation == pytest.approx(1.0, abs=1e-3)
    for name in ("relaxed.png", "worst.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    values = json.loads((tmp_path / "out" / "goals.json").read_text())
    assert values["relaxed"][0]["method"] == "springs 0"
    rows = pd.read_csv(tmp_path / "out" / "relaxed.csv")
    assert len(rows) == 2 * 2 * 4
    text = report.to_text()
    assert "published espaloma 0.3" in text
    assert "median R2" in text
