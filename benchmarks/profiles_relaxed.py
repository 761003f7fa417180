"""Relaxed scans along torsion profiles of molecules that no training or dev table has.

The profiles (data/qm/README.md) have energies at B3LYP-D3BJ/DZVP and no geometries: a scan that is far off
may be of another conformer, so look at the median. Sage has the first model's charges, AM1-BCC's but
for 0.02 e.

    PARMFLOW_DATA=... ROWS=60 MODELS="sixth" python -m benchmarks profiles_relaxed
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.tables import DATA, HOW
from models.dataset import profiles_of, read_profile_rows
from models.evaluation.baselines import smirnoff_parametrise
from models.evaluation.goals import DEV, SAGE, SAGE_NAME
from models.evaluation.scans import scan_profiles
from models.predict import load_predictor
from pipeline.schema import FloatArray, Ligand
from pipeline.topology import build_topology

TABLE = Path("qm") / "torsion_profiles_without_geometry.parquet"
TRAIN = Path("qm") / "train.parquet"
SEED = 1


def main() -> None:
    if not (DATA / TABLE).is_file():
        print(f"{Path(__file__).stem}: skipped, {HOW}")
        return
    known = {key for table in (TRAIN, DEV) for key in pd.read_parquet(DATA / table, columns=["key"])["key"]}
    rows = read_profile_rows([DATA / TABLE], without=known)
    chosen = rows.sample(n=min(int(os.environ.get("ROWS", "60")), len(rows)), random_state=SEED)
    profiles, left_out = profiles_of(chosen)
    print(f"{len(rows)} profiles of {rows['key'].nunique()} molecules; of {len(chosen)}, {left_out} not read")
    models = [load_predictor(name) for name in os.environ.get("MODELS", "default").split()]

    def charges(ligand: Ligand) -> FloatArray:
        return models[0].predict(ligand, build_topology(ligand)).charge

    methods = {model.name: model.predict for model in models}
    methods[SAGE_NAME] = smirnoff_parametrise(DATA / SAGE, charges)
    rmse: dict[str, dict[int, float]] = {}
    for name, parametrise in methods.items():
        scans = scan_profiles(profiles, parametrise, SEED)
        rmse[name] = {id(scan.profile): scan.rmse for scan in scans}
    common = set.intersection(*(set(of_method) for of_method in rmse.values()))
    for name, of_method in rmse.items():
        values = np.array([of_method[key] for key in common])
        print(
            f"{name:<20} {len(values)} scans, RMSE median {np.median(values):.2f} mean {values.mean():.2f} "
            f"90 % below {np.quantile(values, 0.9):.2f} kcal/mol"
        )


if __name__ == "__main__":
    main()
