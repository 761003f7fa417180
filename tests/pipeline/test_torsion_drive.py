"""Torsion drives: the wavefront on a model surface, and butane with a real engine through the store."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem, rdMolTransforms

from pipeline.errors import QMError
from pipeline.outcome import Failure, failure_from_exception
from pipeline.qm.batch import run_tasks
from pipeline.qm.levels import spec_by_name
from pipeline.qm.optimise import dihedral_angle
from pipeline.qm.torsion_drive import DriveTask, Ending, TorsionProfile, run_drives
from pipeline.schema import QMRecord, QMTask
from pipeline.settings import QMSettings
from pipeline.store import QMStore

SPEC = dataclasses.replace(spec_by_name("fast"), driver="optimise")
PEROXIDE = (2, 0, 1, 3)


def make_drive(smiles: str, dihedral: tuple[int, int, int, int], spacing: int) -> DriveTask:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=7)
    AllChem.MMFFOptimizeMolecule(mol)
    return DriveTask(
        key=smiles,
        atomic_numbers=np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]),
        starts=mol.GetConformer().GetPositions()[None],
        total_charge=0,
        dihedral=dihedral,
        spacing=spacing,
        spec=SPEC,
    )


def model_energy(angle: float) -> float:
    """kcal/mol; minima at +-60 degrees"""
    return 2.0 * (1.0 + math.cos(3 * angle)) + 1.5 * (1.0 + math.cos(angle + math.pi))


def turn_on_model(task: QMTask) -> QMRecord:
    """Set the dihedral and take the model's energy: an optimisation without an engine."""
    mol = Chem.AddHs(Chem.MolFromSmiles(task.ligand_key))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    conformer = mol.GetConformer()
    conformer.SetPositions(np.array(task.coords))
    (held,) = task.constraints
    assert held.angle is not None
    rdMolTransforms.SetDihedralRad(conformer, *held.atoms, held.angle)
    energy = model_energy(held.angle) - 1000.0
    return QMRecord(
        task_key=task.key,
        ligand_key=task.ligand_key,
        spec=task.spec,
        coords=conformer.GetPositions(),
        energy=energy,
        gradient=None,
    )


def test_wavefront_covers_the_circle() -> None:
    """On the model surface every point has the model's energy, at its own angle, from one start."""
    drive = make_drive("OO", PEROXIDE, 30)
    profile = run_drives([drive], lambda tasks: {t.key: turn_on_model(t) for t in tasks})["OO"]
    assert isinstance(profile, TorsionProfile)
    np.testing.assert_allclose(np.degrees(profile.angles), np.arange(-150, 181, 30))
    expected = np.array([model_energy(angle) for angle in profile.angles])
    np.testing.assert_allclose(profile.energies, expected - expected.min(), atol=1e-9)
    for angle, record in zip(profile.angles, profile.records, strict=True):
        off = dihedral_angle(record.coords, PEROXIDE) - angle
        assert abs(math.remainder(off, 2 * math.pi)) < 1e-6


def test_failed_points_are_left_out() -> None:
    """Where every optimisation fails or reacts, the profile has no point, counts it, and goes on around."""
    drive = make_drive("OO", PEROXIDE, 30)

    def compute(tasks: Sequence[QMTask]) -> Mapping[str, Ending]:
        endings: dict[str, Ending] = {}
        for task in tasks:
            degrees = round(math.degrees(task.constraints[0].angle or 0.0))
            record = turn_on_model(task)
            if degrees == 90:
                error = QMError("no", kind="scf")
                endings[task.key] = failure_from_exception(error, ligand="OO", stage="qm")
            elif degrees == 120:
                flags = (("changed_bonds", "broken O1-H3"), ("flags", "connectivity"))
                endings[task.key] = dataclasses.replace(record, provenance=flags)
            else:
                endings[task.key] = record
        return endings

    profile = run_drives([drive], compute)["OO"]
    assert isinstance(profile, TorsionProfile)
    assert {90, 120} & set(np.degrees(profile.angles).round().astype(int)) == set()
    assert len(profile.angles) == 10
    assert profile.n_failed >= 2

    def refuse(tasks: Sequence[QMTask]) -> Mapping[str, Ending]:
        error = QMError("nothing works", kind="engine")
        return {t.key: failure_from_exception(error, ligand="OO", stage="qm") for t in tasks}

    ending = run_drives([drive], refuse)["OO"]
    assert isinstance(ending, Failure)
    assert (ending.kind, ending.message) == ("engine", "nothing works")


def test_spacing_divides_the_circle() -> None:
    """25 degrees do not come around."""
    with pytest.raises(ValueError, match="25 degrees"):
        make_drive("OO", PEROXIDE, 25)


def test_butane_through_the_store(tmp_path: Path) -> None:
    """GFN2-xTB, 60 degrees: stopped after two waves and started again, nothing is computed twice; the profile
    is mirror-symmetric with trans < gauche < eclipsed < cis, and a replay computes nothing."""
    drive = make_drive("CCCC", (0, 1, 2, 3), 60)
    waves = []

    def compute(tasks: Sequence[QMTask]) -> Mapping[str, Ending]:
        waves.append(len(tasks))
        if len(waves) == 3:
            raise KeyboardInterrupt
        settings = QMSettings(seconds_per_job=280)
        return run_tasks(tasks, store, settings, jobs=2, on_result=lambda *_: None)

    with QMStore(tmp_path / "s") as store:
        with pytest.raises(KeyboardInterrupt):
            run_drives([drive], compute)
        n_before = len(store)
        assert n_before == sum(waves[:2])
        profile = run_drives([drive], compute)["CCCC"]
        assert isinstance(profile, TorsionProfile)
        keys = [attempt.task_key for attempt in store.attempts()]
        assert len(keys) == len(set(keys)) == profile.n_optimisations == len(store)
        replay = run_drives([drive], compute)["CCCC"]
        assert isinstance(replay, TorsionProfile)
        assert len(store.attempts()) == len(keys)
    np.testing.assert_array_equal(profile.energies, replay.energies)
    assert profile.n_failed == 0
    eclipsed, gauche, cis, other_gauche, other_eclipsed, trans = profile.energies
    # 0.02 kcal/mol: optimisations from both sides stop within the convergence thresholds
    assert gauche == pytest.approx(other_gauche, abs=0.02)
    assert eclipsed == pytest.approx(other_eclipsed, abs=0.02)
    assert trans == 0.0
    assert 0.2 < gauche < 1.2 < 2.0 < eclipsed < cis < 7.0
