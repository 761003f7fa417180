"""Torsion drives as references: planned on fragments, run through the bench, joined to the ligands' own."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.campaign import Campaign
from pipeline.conformers import embed_conformers
from pipeline.drives import (
    WINDOW,
    DriveBench,
    compute_drives,
    drive_references,
    foreseen_tasks,
    join_references,
    prepare_drives,
)
from pipeline.ligand import canonical_ligand
from pipeline.outcome import Failure
from pipeline.qm.levels import spec_by_name
from pipeline.qm.optimise import dihedral_angle
from pipeline.run_folder import open_ledger
from pipeline.schema import Ligand, QMRecord, QMSpec, QMTask, Reference
from pipeline.settings import ConformerSettings, FragmentSettings
from pipeline.topology import build_topology

CHEAP = dataclasses.replace(spec_by_name("fast"), driver="optimise")


class Watch:
    """Keeps what was said and how much of what was announced is left; nothing else may advance."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.left: Counter[str] = Counter()

    def begin(self, stage: str, total: int) -> None:
        """Keep it."""
        self.left[stage] += total

    def advance(self, stage: str) -> None:
        """Count it off."""
        assert self.left[stage] > 0, stage
        self.left[stage] -= 1

    def say(self, sentence: str) -> None:
        """Keep it."""
        self.said.append(sentence)


class TurningBench:
    """QM in which only the driven dihedral costs energy: 12 (1 - cos phi) kcal/mol, at any level."""

    spec = QMSpec()

    def __init__(self) -> None:
        self.store: dict[str, QMRecord] = {}
        self.dihedrals: dict[str, tuple[int, int, int, int]] = {}
        self.n_computed = 0
        self.stop_after: int | None = None

    def find(self, keys):
        return {key: self.store[key] for key in keys if key in self.store}

    def elsewhere(self, *_: object):
        return 0, ""

    def estimate_seconds(self, tasks):
        return float(len(tasks))

    def what_would_fit(self, *_: object) -> str:
        return ""

    def compute(
        self, tasks: Sequence[QMTask], on_result: Callable[[QMTask, QMRecord | Failure], None]
    ) -> None:
        for task in tasks:
            if task.key not in self.store:
                if self.n_computed == self.stop_after:
                    raise KeyboardInterrupt
                self.n_computed += 1
                self.store[task.key] = self._result(task)
            on_result(task, self.store[task.key])

    def _result(self, task: QMTask) -> QMRecord:
        coords = np.array(task.coords)
        if task.constraints:
            (held,) = task.constraints
            self.dihedrals[task.ligand_key] = held.atoms
            coords = turned(coords, held.atoms, float(held.angle or 0.0))
        angle = dihedral_angle(coords, self.dihedrals[task.ligand_key])
        return QMRecord(
            task_key=task.key,
            ligand_key=task.ligand_key,
            spec=task.spec,
            coords=coords,
            energy=12.0 * (1 - math.cos(angle)) - 1000.0,
            gradient=np.zeros_like(coords),
        )


def turned(coords: np.ndarray, atoms: tuple[int, int, int, int], angle: float) -> np.ndarray:
    """Set a dihedral by moving its last atom alone: enough for a world without bonds."""
    _, j, k, m = atoms
    axis = (coords[k] - coords[j]) / np.linalg.norm(coords[k] - coords[j])
    theta = angle - dihedral_angle(coords, atoms)
    arm = coords[m] - coords[k]
    moved = coords.copy()
    moved[m] = coords[k] + (
        arm * math.cos(theta)
        + np.cross(axis, arm) * math.sin(theta)
        + axis * (axis @ arm) * (1 - math.cos(theta))
    )
    assert math.remainder(dihedral_angle(moved, atoms) - angle, 2 * math.pi) == pytest.approx(0, abs=1e-9)
    return moved


def make_starts(ligand: Ligand) -> np.ndarray:
    return embed_conformers(ligand, ConformerSettings(n_embed=1), seed=1).coords


DRIVES = DriveBench(fragments=FragmentSettings(), spec=CHEAP, spacing=60, make_starts=make_starts)


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    ticks = itertools.count()
    return Campaign(
        folder=tmp_path,
        ledger=open_ledger(tmp_path),
        line=None,  # type: ignore[arg-type] - no ligand is prepared or delivered here
        watch=Watch(),
        clock=lambda: float(next(ticks)),
        jobs=1,
    )


def test_drives_become_references(campaign: Campaign, build_ligand: Callable[..., Ligand]) -> None:
    """Two biphenyls that share a fragment: one drive, its cost foreseen, points above the window left out,
    stopped and gone on without computing anything twice, and nothing left to foresee."""
    ligands = [
        canonical_ligand(build_ligand(smiles)) for smiles in ("c1ccccc1-c1ccccn1", "n1ccccc1-c1ccccc1")
    ]
    planned = prepare_drives(campaign, DRIVES, ligands)
    assert len(planned) == 1
    assert len(planned[0].drive.uses) == 2
    assert isinstance(campaign.watch, Watch)
    assert campaign.watch.left == {"fragment conformers": 0}
    qm = TurningBench()
    foreseen = foreseen_tasks(qm, planned)
    assert [task.spec.method for task in foreseen].count("b3lyp") == 6
    assert len(foreseen) == 6 + round(2.2 * 6)
    qm.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        compute_drives(campaign, qm, planned)
    qm.stop_after = None
    compute_drives(campaign, qm, prepare_drives(campaign, DRIVES, ligands))
    assert qm.n_computed == len(qm.store)
    assert foreseen_tasks(qm, planned) == []
    (reference,) = drive_references(qm, planned)
    assert reference.ligand.mapped_smiles == ligands[0].mapped_smiles
    energies = np.array([record.energy for record in reference.records]) + 1000.0
    # 0, 60, 120 and their mirror images; 180 degrees cost 24, more than the window of 20
    np.testing.assert_allclose(sorted(energies), [0.0, 6.0, 6.0, 18.0, 18.0], atol=1e-6)
    assert energies.max() < WINDOW
    assert {record.spec for record in reference.records} == {QMSpec()}


def test_flagged_points_are_no_references(campaign: Campaign, build_ligand: Callable[..., Ligand]) -> None:
    """One single point of a wrong SCF state is left out, the others stay; where all are flagged, no reference
    is left.
    """
    planned = prepare_drives(campaign, DRIVES, [canonical_ligand(build_ligand("c1ccccc1-c1ccccn1"))])
    qm = TurningBench()
    compute_drives(campaign, qm, planned)
    (whole,) = drive_references(qm, planned)
    assert len(whole.records) == 5
    for n_left, record in zip((4, 3, 2, 1), whole.records, strict=False):
        qm.store[record.task_key] = dataclasses.replace(record, provenance=(("flags", "outlier"),))
        (reference,) = drive_references(qm, planned)
        assert [one.task_key for one in reference.records] == [
            one.task_key for one in whole.records[-n_left:]
        ]
    last = whole.records[-1]
    qm.store[last.task_key] = dataclasses.replace(last, provenance=(("flags", "outlier"),))
    assert drive_references(qm, planned) == []


def test_references_are_joined(build_ligand: Callable[..., Ligand]) -> None:
    """A driven ligand's points come after its own; a fragment stands for itself; one with two points not."""

    def reference(smiles: str, n_points: int) -> Reference:
        ligand = canonical_ligand(build_ligand(smiles))
        topology = build_topology(ligand)
        record = QMRecord(
            task_key=f"{smiles}-{n_points}",
            ligand_key=smiles,
            spec=QMSpec(),
            coords=np.zeros((topology.n_atoms, 3)),
            energy=-1.0,
            gradient=None,
        )
        return Reference(ligand=ligand, topology=topology, records=(record,) * n_points)

    own = [reference("CCO", 5), dataclasses.replace(reference("CCCO", 4), charges=np.zeros(12))]
    driven = [reference("CCCO", 9), reference("CCC", 6), reference("CC", 2)]
    joined = join_references(own, driven, 3)
    assert [len(one.records) for one in joined] == [5, 13, 6]
    assert [one.ligand.name for one in joined] == [
        own[0].ligand.name,
        own[1].ligand.name,
        driven[1].ligand.name,
    ]
    assert joined[1].records[:4] == own[1].records
    assert joined[1].charges is own[1].charges


def test_a_fragment_without_geometry_is_said(campaign: Campaign, build_ligand: Callable[..., Ligand]) -> None:
    """No conformer, no drive; the run goes on and says which."""

    def fail(ligand: Ligand) -> np.ndarray:
        raise RuntimeError("no geometry")

    drives = dataclasses.replace(DRIVES, make_starts=fail)
    ligand = canonical_ligand(build_ligand("c1ccccc1-c1ccccn1"))
    assert prepare_drives(campaign, drives, [ligand]) == []
    assert isinstance(campaign.watch, Watch)
    assert campaign.watch.said == ["fragment c1ccc(-c2ccccn2)cc1: not driven: RuntimeError: no geometry"]
