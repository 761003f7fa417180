"""The bar for any weights: MMFF94 and Sage 2.2.1 (AM1-BCC) on the dev torsion drives.

PARMFLOW_DATA names the folder with qm/, charges/ and forcefields/. Without MODELS the figures are those of
the baselines; the models that it names are scored beside them. Reports go to OUT (default
runs/torsion_mmff94).

    PARMFLOW_DATA=... MODELS="sixth" python -m benchmarks torsion_mmff94
"""

import os
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.tables import DATA, HOW
from models.evaluation.baselines import mmff94_method, read_charge_table, smirnoff_method
from models.evaluation.evaluate import compare
from models.evaluation.scoring import Method, class1_method
from models.predict import load_predictor

OUT = Path(os.environ.get("OUT", "runs/torsion_mmff94"))


def main() -> None:
    data = DATA
    if not (data / "qm" / "dev.parquet").is_file():
        print(f"{Path(__file__).stem}: skipped, {HOW}")
        return
    methods: dict[str, Method] = {}
    for name in os.environ.get("MODELS", "").split():
        predictor = load_predictor(name)
        methods[f"{predictor.name} {predictor.version}"] = class1_method(predictor.predict)
    charges = read_charge_table(data / "charges" / "am1bcc.parquet")
    sage = smirnoff_method(data / "forcefields" / "openff_unconstrained-2.2.1.offxml", charges)
    methods |= {"Sage 2.2.1": sage, "MMFF94": mmff94_method}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "dev-torsions.parquet"
        rows = pd.read_parquet(data / "qm" / "dev.parquet")
        rows[rows["kind"] == "torsiondrive"].to_parquet(table)
        report = compare(methods, table, OUT)
    print(report.to_text())
    for method, left_out in report.left_out:
        print(f"{method}: {len(left_out)} rows left out")
        for row in left_out[:3]:
            print(f"    {row.reason}")


if __name__ == "__main__":
    main()
