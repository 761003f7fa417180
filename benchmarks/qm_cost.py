"""Cost before the run against wall time after it, for thirty mixed jobs; and how full the machine was."""

import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from pipeline.ligand import ligand_from_rdkit, ligand_key
from pipeline.qm.batch import run_tasks
from pipeline.qm.cost import Calibration
from pipeline.schema import QMSpec, QMTask
from pipeline.settings import QMSettings
from pipeline.store import Attempt, QMStore

LEARNT_FROM = ("O", "CO", "CC#N", "CC=O", "CCC")
MOLECULES = ("C", "CN", "C=O", "CF", "CC", "CCO", "NC=O", "CS", "CC(=O)O", "c1ccoc1")
SPECS = (
    QMSpec(program="tblite", method="gfn2-xtb", basis=None, dispersion=None),
    QMSpec(program="pyscf", method="hf", basis="dzvp", dispersion=None),
    QMSpec(program="pyscf", method="b3lyp", basis="dzvp", dispersion="d3bj"),
)
N_CORES = 2


def make_tasks(smiles: str) -> list[QMTask]:
    """One geometry of a molecule at every level."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMolecule(mol, randomSeed=7)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    coords = mol.GetConformer().GetPositions()
    key = ligand_key(ligand_from_rdkit(mol, smiles))
    return [
        QMTask(ligand_key=key, atomic_numbers=numbers, coords=coords, total_charge=0, spec=spec)
        for spec in SPECS
    ]


def main() -> None:
    """Learn from fifteen jobs, then predict and run thirty others."""
    learnt = [task for smiles in LEARNT_FROM for task in make_tasks(smiles)]
    asked = {smiles: make_tasks(smiles) for smiles in MOLECULES}
    tasks = [task for some in asked.values() for task in some]
    with tempfile.TemporaryDirectory(prefix="parmflow-bench-") as name, QMStore(Path(name) / "qm") as store:
        settings = QMSettings()
        run_tasks(learnt, store, settings, jobs=N_CORES, on_result=lambda *_: None)
        calibration, bare = Calibration(store.timings(platform.node())), Calibration([])
        before = psutil.cpu_times()
        start = time.monotonic()
        run_tasks(tasks, store, settings, jobs=N_CORES, on_result=lambda *_: None)
        wall = time.monotonic() - start
        after = psutil.cpu_times()
        attempts = {attempt.task_key: attempt for attempt in store.attempts()}
        print_rows(asked, attempts, calibration, bare)
    took = [attempts[task.key] for task in tasks]
    foreseen = calibration.batch_seconds(tasks, N_CORES)
    print(f"whole batch: {foreseen:.0f} s foreseen, {wall:.0f} s taken, ratio {wall / foreseen:.2f}")
    held = sum(one.seconds * (one.n_cores or 1) for one in took) / (N_CORES * wall)
    cpu = sum(one.cpu_seconds or 0.0 for one in took)
    idle = after.idle - before.idle
    others = N_CORES * wall - idle - cpu
    print(
        f"two cores: {held:.0%} of the time held by jobs; CPU {cpu:.0f} s of ours, {max(others, 0.0):.0f} s "
        f"of all else, {idle:.0f} s idle ({1 - idle / (psutil.cpu_count() * wall):.0%} busy)"
    )


def print_rows(
    asked: dict[str, list[QMTask]],
    attempts: dict[str, Attempt],
    calibration: Calibration,
    bare: Calibration,
) -> None:
    """A row per job, and how many were within a factor of two."""
    print("molecule   level               cores  no history  foreseen    taken  taken/foreseen")
    ratios: dict[Calibration, list[float]] = {calibration: [], bare: []}
    for smiles, tasks in asked.items():
        for task in tasks:
            attempt = attempts[task.key]
            foreseen = calibration.seconds(task)
            one_core = attempt.seconds * (attempt.n_cores or 1) ** 0.8
            for model, some in ratios.items():
                some.append(one_core / model.seconds(task))
            print(
                f"{smiles:10s} {task.spec.level:20s} {attempt.n_cores:4d} {bare.seconds(task):11.2f} "
                f"{foreseen:9.2f} {one_core:8.2f} {one_core / foreseen:9.2f}"
            )
    for name, model in (("with this machine's history", calibration), ("without, by a probe", bare)):
        some = ratios[model]
        good = sum(0.5 <= ratio <= 2.0 for ratio in some)
        print(
            f"{name}: {good} of {len(some)} within a factor of two; median {statistics.median(some):.2f}, "
            f"range {min(some):.2f} to {max(some):.2f}"
        )
