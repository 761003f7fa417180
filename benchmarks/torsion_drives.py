"""Our torsion drives against OpenFF's, at the same level: B3LYP-D3BJ/DZVP, butane and a biaryl.

The reference drives were made with psi4, geomeTRIC and torsiondrive in steps of 15 degrees; ours start at one
of their geometries and take coarser steps. Results are kept in a store in the system's temporary folder, so a
stopped benchmark goes on.
"""

import dataclasses
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.tables import DATA, HOW
from pipeline.outcome import Failure
from pipeline.qm.batch import run_tasks
from pipeline.qm.levels import spec_by_name
from pipeline.qm.torsion_drive import DriveTask, Ending, run_drives
from pipeline.schema import QMTask
from pipeline.settings import QMSettings
from pipeline.store import QMStore

MOLECULES = {"CCCC": 60, "c1cnc(-c2ncco2)nc1": 90}
"""butane, 2-(oxazolyl)pyrimidine -> spacing, degree"""
REFERENCE_SPACING = 15
"""degree"""
JOBS = 2
SETTINGS = QMSettings(seconds_per_job=8 * 3600.0)
"""an optimisation takes minutes of a core; a busy machine must not end it"""


def main() -> None:
    """Print, per molecule, both profiles (kcal/mol above their lowest common point) and the differences."""
    paths = [DATA / "qm" / name for name in ("train.parquet", "dev.parquet")]
    if not all(path.is_file() for path in paths):
        print(f"torsion drives: skipped, no data ({HOW})")
        return
    asked = [("source", "==", "gen2-torsion"), ("key", "in", list(MOLECULES))]
    rows = pd.concat([pd.read_parquet(path, filters=asked) for path in paths])
    full_turns = rows[rows["n_confs"] == 360 // REFERENCE_SPACING]  # those about bonds of rings go part of it
    folder = Path(tempfile.gettempdir()) / "parmflow-bench-torsion-drives"
    with QMStore(folder / "qm.sqlite") as store:
        for row in full_turns.drop_duplicates("key").itertuples():
            _compare(row, store)


def _compare(row: tuple, store: QMStore) -> None:
    start = time.perf_counter()
    reference = dict(zip(np.round(row.grid).astype(int), np.asarray(row.energy), strict=True))
    coords = np.asarray(row.coords, dtype=float).reshape(row.n_confs, row.n_atoms, 3)
    drive = DriveTask(
        key=row.key,
        atomic_numbers=np.asarray(row.atomic_numbers),
        starts=coords[[int(np.argmin(row.energy))]],
        total_charge=int(row.charge),
        dihedral=tuple(int(atom) for atom in row.dihedral),
        spacing=MOLECULES[row.key],
        spec=dataclasses.replace(spec_by_name("openff-default"), driver="optimise"),
    )

    def compute(tasks: Sequence[QMTask]) -> Mapping[str, Ending]:
        endings = run_tasks(tasks, store, SETTINGS, jobs=JOBS, on_result=lambda *_: None)
        print(f"  {row.key}: a wave of {len(tasks)} done", file=sys.stderr, flush=True)
        return endings

    profile = run_drives([drive], compute)[drive.key]
    if isinstance(profile, Failure):
        print(f"torsion drive {row.key}: failed: {profile.message}")
        return
    degrees = np.degrees(profile.angles).round().astype(int)
    shared = [place for place, angle in enumerate(degrees) if angle in reference]
    ours = profile.energies[shared]
    theirs = np.array([reference[degrees[place]] for place in shared])
    ours, theirs = ours - ours[theirs.argmin()], theirs - theirs.min()
    seconds = time.perf_counter() - start
    print(
        f"torsion drive {row.key} ({profile.n_optimisations} optimisations, {profile.n_failed} failed, "
        f"{seconds:.0f} s)"
    )
    print("  angle   ours  OpenFF  difference, kcal/mol")
    for place, mine, yours in zip(shared, ours, theirs, strict=True):
        print(f"  {degrees[place]:>5} {mine:>6.3f} {yours:>7.3f} {mine - yours:>+8.3f}")
    print(f"  largest difference {np.abs(ours - theirs).max():.3f} kcal/mol")


if __name__ == "__main__":
    main()
