"""Make data about the surroundings of DFT minima from GFN2-xTB; models/near_minima.py says how.

For one conformer per molecule, a row of up to seven points: the minimum itself, where a model would have the
minimum (half-way and at the end of its relaxation), and random displacements, along the soft modes and along
all. Rows have the format of data/qm/README.md; kind `near-minimum`, energies relative to the minimum.

    python data/qm/near_minima/prepare.py TABLE.parquet OUT.parquet --model first --part 0 --parts 2
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tblite.exceptions import TBLiteRuntimeError
from tblite.interface import Calculator

from models.dataset import QMExample, chunks, examples_of
from models.near_minima import (
    KT,
    LARGEST_TURN,
    Anchor,
    anchor_at,
    displace_along,
    measure_internals,
    soft_modes,
    stiffness_of_internals,
)
from models.predict import Predictor, load_predictor
from models.relax import RelaxSettings, RelaxTask, relax
from models.terms import TorchParameters, indices_from_topology
from pipeline.errors import ParametersError
from pipeline.schema import FloatArray, MMParameters
from pipeline.units import ANGSTROM_PER_BOHR, KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR, KCAL_PER_HARTREE

LEVEL = "gfn2-xtb"
GROUP = 50
"""molecules relaxed together and saved together"""
HALFWAY = 6
"""evaluations after which a relaxation is about half done"""
SOFT, N_SOFT = 24, 2
"""soft modes displaced, each by kT/2; points"""
ALL_KT = 0.4 * KT
"""temperature of the displacements along all modes, which together hold many kT"""


class Gfn2:
    """GFN2-xTB of one molecule, each geometry starting from the density of the last."""

    def __init__(self, numbers: np.ndarray, charge: int) -> None:
        self._numbers, self._charge = numbers, charge
        self._calculator: Calculator | None = None
        self._last: Any = None

    def __call__(self, coords: FloatArray) -> tuple[float, FloatArray]:
        """Energy, kcal/mol, and gradient (n_atoms, 3), kcal/mol/angstrom."""
        positions = coords / ANGSTROM_PER_BOHR
        if self._calculator is None:
            self._calculator = Calculator("GFN2-xTB", self._numbers, positions, charge=self._charge)
            self._calculator.set("verbosity", 0)
            self._calculator.set("accuracy", 0.5)
        else:
            self._calculator.update(positions)
        self._last = self._calculator.singlepoint(self._last)
        gradient = self._last.get("gradient") * KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR
        return float(self._last.get("energy")) * KCAL_PER_HARTREE, gradient


def geometries(
    example: QMExample, anchor: Anchor, parameters: MMParameters, seed: int
) -> Iterator[FloatArray]:
    """Random displacements of the minimum."""
    generator = np.random.default_rng(seed)
    stiffness = stiffness_of_internals(TorchParameters.from_mm(parameters))
    soft = soft_modes(anchor.internals, stiffness, SOFT)
    every = soft_modes(anchor.internals, stiffness, 3 * example.topology.n_atoms)
    for _ in range(N_SOFT):
        yield anchor.coords + displace_along(soft, KT, generator)
    yield anchor.coords + displace_along(every, ALL_KT, generator)


def row_of(
    example: QMExample, conf: int, parameters: MMParameters, relaxed: list[FloatArray], seed: int
) -> dict[str, Any]:
    """One row of the table: the minimum, then what lies around it."""
    start = example.coords[conf].astype(np.float64)
    cheap = Gfn2(np.array(example.topology.atomic_numbers), example.ligand.total_charge)
    indices = indices_from_topology(example.topology)
    stiffness = stiffness_of_internals(TorchParameters.from_mm(parameters))
    anchor = anchor_at(indices, start, stiffness, cheap(start))
    points: list[tuple[FloatArray, float, FloatArray]] = [(start, 0.0, np.zeros_like(start))]
    for coords in (*relaxed, *geometries(example, anchor, parameters, seed)):
        here = measure_internals(indices, coords).difference(anchor.internals)
        if np.abs(here[anchor.internals.n_stretch :]).max(initial=0.0) > LARGEST_TURN:
            continue
        energy, gradient, _ = anchor.relative(coords, *cheap(coords))
        points.append((coords, energy, gradient))
    return {
        "source": "near-minima",
        "kind": "near-minimum",
        "level": LEVEL,
        "key": example.key,
        "mapped_smiles": example.ligand.mapped_smiles,
        "charge": example.ligand.total_charge,
        "n_atoms": example.topology.n_atoms,
        "n_confs": len(points),
        "atomic_numbers": np.array(example.topology.atomic_numbers),
        "coords": np.array([p[0] for p in points], dtype=np.float32).ravel(),
        "energy": np.array([p[1] for p in points]),
        "gradient": np.array([p[2] for p in points], dtype=np.float32).ravel(),
        "dihedral": None,
        "grid": None,
    }


def rows_of(
    examples: list[QMExample], predictor: Predictor, seed: int, lowest: bool
) -> Iterator[dict[str, Any] | None]:
    """The rows of some molecules, None where the cheap level does not converge."""
    tasks, confs = [], []
    for example in examples:
        try:
            parameters = predictor.predict(example.ligand, example.topology)
        except ParametersError:
            continue
        generator = np.random.default_rng([seed, example.topology.n_atoms, len(example.energy)])
        conf = int(np.argmin(example.energy)) if lowest else int(generator.integers(len(example.energy)))
        coords = example.coords[conf : conf + 1].astype(np.float64)
        tasks.append(RelaxTask(topology=example.topology, parameters=parameters, coords=coords))
        confs.append((example, conf))
    halfway = relax(tasks, RelaxSettings(max_evaluations=HALFWAY))
    ends = relax(tasks)
    for (example, conf), task, half, end in zip(confs, tasks, halfway, ends, strict=True):
        try:
            yield row_of(example, conf, task.parameters, [half.coords[0], end.coords[0]], seed)
        except TBLiteRuntimeError:
            yield None


def main() -> None:
    """Read a table of minima, and write the table of what lies around them, as it grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="default", help="whose minima are visited")
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1, help="run that many of these side by side")
    parser.add_argument("--skip", type=int, default=0, help="so many first rows of the part, made before")
    parser.add_argument("--rows", type=int, default=0, help="at most so many; 0: all")
    parser.add_argument("--random", action="store_true", help="a random conformer instead of the lowest")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = pd.read_parquet(arguments.table)
    minima = table[table["kind"] == "minima"].sample(frac=1.0, random_state=arguments.seed)
    minima = minima.iloc[arguments.part :: arguments.parts][arguments.skip :][: arguments.rows or None]
    predictor = load_predictor(arguments.model)
    made, n_failed = [], 0
    for part in chunks(range(len(minima)), GROUP):
        examples, _ = examples_of(minima.iloc[part[0] : part[-1] + 1])
        for row in rows_of(examples, predictor, arguments.seed, not arguments.random):
            if row is None:
                n_failed += 1
            else:
                made.append(row)
        temporary = arguments.out.with_suffix(".new")
        pd.DataFrame(made).to_parquet(temporary)
        temporary.replace(arguments.out)
        print(f"{part[-1] + 1} of {len(minima)}; {len(made)} rows, {n_failed} not converged", flush=True)


if __name__ == "__main__":
    main()
