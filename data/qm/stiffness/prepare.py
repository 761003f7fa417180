"""Make stiffness data: how GFN2-xTB's force changes when a DFT minimum is displaced.

Minima and torsion drives say little about how stiff bonds and angles are. A cheap level says it well, if its
own minimum is kept out: at the DFT minimum x0 the DFT force is zero, so the row stores

    gradient(x) = g_cheap(x) - g_cheap(x0)        for x = x0 + random Cartesian displacement

which moves no minimum. Rows have the format of data/qm/README.md; kind `displaced`, no energies (zeros).

    python data/qm/stiffness/prepare.py TABLE.parquet OUT.parquet --rows 3000 --points 2
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tblite.exceptions import TBLiteRuntimeError
from tblite.interface import Calculator

from pipeline.units import ANGSTROM_PER_BOHR, KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR

LEVEL = "gfn2-xtb"
SIGMA = 0.04
"""angstrom, per Cartesian component"""


def compute_gradient(numbers: np.ndarray, coords: np.ndarray, charge: int) -> np.ndarray:
    """GFN2-xTB dE/dx, (n_atoms, 3), kcal/mol/angstrom."""
    calculator = Calculator("GFN2-xTB", numbers, coords / ANGSTROM_PER_BOHR, charge=charge)
    calculator.set("verbosity", 0)
    calculator.set("accuracy", 0.1)
    return calculator.singlepoint().get("gradient") * KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR


def displaced_row(row: Any, n_points: int, generator: np.random.Generator) -> dict[str, Any]:
    """One row of stiffness data from one row of DFT minima: its lowest conformer, displaced."""
    shape = (row.n_confs, row.n_atoms, 3)
    start = np.asarray(row.coords, dtype=np.float64).reshape(shape)[int(np.argmin(row.energy))]
    numbers = np.asarray(row.atomic_numbers)
    at_minimum = compute_gradient(numbers, start, row.charge)
    coords = start + generator.normal(scale=SIGMA, size=(n_points, *start.shape))
    gradients = [compute_gradient(numbers, x, row.charge) - at_minimum for x in coords]
    return {
        "source": "stiffness",
        "kind": "displaced",
        "level": LEVEL,
        "key": row.key,
        "mapped_smiles": row.mapped_smiles,
        "charge": row.charge,
        "n_atoms": row.n_atoms,
        "n_confs": n_points,
        "atomic_numbers": numbers,
        "coords": coords.astype(np.float32).ravel(),
        "energy": np.zeros(n_points),
        "gradient": np.array(gradients, dtype=np.float32).ravel(),
        "dihedral": None,
        "grid": None,
    }


def main() -> None:
    """Read a table of minima, displace, and write the new table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--points", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    table = pd.read_parquet(arguments.table)
    minima = table[table["kind"] == "minima"]
    chosen = minima.sample(n=min(arguments.rows, len(minima)), random_state=arguments.seed)
    generator = np.random.default_rng(arguments.seed)
    made, failed = [], 0
    for row in chosen.itertuples(index=False):
        try:
            made.append(displaced_row(row, arguments.points, generator))
        except TBLiteRuntimeError:
            failed += 1
        if len(made) % 100 == 0:
            print(f"{len(made)} of {len(chosen)}, {failed} not converged", flush=True)
    pd.DataFrame(made).to_parquet(arguments.out)
    print(f"{len(made)} rows in {arguments.out}, {failed} left out: not converged")


if __name__ == "__main__":
    main()
