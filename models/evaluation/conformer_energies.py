"""Score single-point conformer energies against coupled cluster: Folmsbee and Hutchison's conformers.

Folmsbee and Hutchison, Int. J. Quantum Chem. 121, e26381 (2021): per molecule, the squared correlation of a
method's energies with DLPNO-CCSD(T) over about ten conformers; the median over molecules is the figure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from models.dataset import QMExample
from models.evaluation.scoring import LeftOut, Method
from models.features import build_graph
from pipeline.errors import LigandError, SettingsError
from pipeline.schema import FloatArray, Ligand
from pipeline.topology import build_topology

MIN_CONFS = 3
"""molecules with fewer conformers are not scored: two points always correlate perfectly"""
LEVEL = "dlpno-ccsd(t)"
KIND = "conformers"


@dataclass(frozen=True, kw_only=True)
class ConformerScores:
    """One method over the molecules of a conformer set."""

    method: str
    r_squared: tuple[tuple[str, float], ...]
    """per molecule its name and squared correlation, by row"""
    correlation: tuple[float, ...]
    """per molecule the correlation with its sign: below zero the order of the conformers is upside down"""
    error: tuple[float, ...]
    """per molecule the mean absolute error after aligning the means, kcal/mol"""
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True, kw_only=True)
class ConformerSummary:
    """One method over the molecules that all methods score."""

    method: str
    n_molecules: int
    median_r_squared: float
    median_correlation: float
    median_error: float
    """kcal/mol"""


def read_conformer_set(path: Path) -> tuple[list[QMExample], list[LeftOut]]:
    """Read the table of conformers; one example per molecule, and the molecules left out.

    Columns: name, mapped_smiles, charge, coords_angstrom (n_atoms * 3), dlpno: an atomisation energy in
    kcal/mol, larger is more stable, so that the energy is its negative. Conformers without it are dropped.
    """
    if not path.is_file():
        raise SettingsError(f"no conformer set {path}; see data/qm/README.md for how it is made")
    columns = ["name", "mapped_smiles", "charge", "coords_angstrom", "dlpno"]
    table = pd.read_parquet(path, columns=columns)
    examples, left_out = [], []
    for number, (name, rows) in enumerate(table.dropna(subset=["dlpno"]).groupby("name", sort=True)):
        if len(rows) < MIN_CONFS or np.ptp(rows["dlpno"]) == 0:
            reason = f"{name}: fewer than {MIN_CONFS} different conformers"
            left_out.append(LeftOut(row=number, key=str(name), source=KIND, reason=reason))
            continue
        try:
            examples.append(_example(str(name), rows))
        except LigandError as error:
            left_out.append(LeftOut(row=number, key=str(name), source=KIND, reason=str(error)))
    return examples, left_out


def _example(name: str, rows: pd.DataFrame) -> QMExample:
    first = rows.iloc[0]
    ligand = Ligand(name=name, mapped_smiles=first["mapped_smiles"], total_charge=int(first["charge"]))
    topology = build_topology(ligand)
    coords = np.stack([np.asarray(x, dtype=np.float32).reshape(-1, 3) for x in rows["coords_angstrom"]])
    energy = -rows["dlpno"].to_numpy(dtype=np.float64)
    return QMExample(
        key=name,
        source=KIND,
        kind=KIND,
        level=LEVEL,
        ligand=ligand,
        graph=build_graph(ligand),
        topology=topology,
        coords=coords,
        energy=energy - energy.min(),
        gradient=None,
        dihedral=None,
        grid=None,
    )


def evaluate_conformers(examples: Sequence[QMExample], method: Method, name: str) -> ConformerScores:
    """Score a method's single points on every molecule; one that it cannot do is kept as LeftOut."""
    r_squared, correlations, errors, left_out = [], [], [], []
    for number, example in enumerate(examples):
        try:
            mm = method(example).energy
        except LigandError as error:
            left_out.append(LeftOut(row=number, key=example.key, source=KIND, reason=str(error)))
            continue
        difference = mm - example.energy
        r = correlation(mm, example.energy)
        r_squared.append((example.key, r * r))
        correlations.append(r)
        errors.append(float(np.mean(np.abs(difference - difference.mean()))))
    return ConformerScores(
        method=name,
        r_squared=tuple(r_squared),
        correlation=tuple(correlations),
        error=tuple(errors),
        left_out=tuple(left_out),
    )


def correlation(a: FloatArray, b: FloatArray) -> float:
    """Pearson correlation of two profiles (n_points,); zero where one of them is flat or not finite."""
    if not np.isfinite(a).all() or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def summarise_conformers(scores: Sequence[ConformerScores]) -> tuple[ConformerSummary, ...]:
    """Take medians over the molecules that all methods score; one that scores none is left aside."""
    shown = [method for method in scores if method.r_squared]
    if not shown:
        return ()
    common = set.intersection(*({key for key, _ in method.r_squared} for method in shown))
    summaries = []
    for method in shown:
        kept = [i for i, (key, _) in enumerate(method.r_squared) if key in common]
        if kept:
            summaries.append(
                ConformerSummary(
                    method=method.method,
                    n_molecules=len(kept),
                    median_r_squared=float(np.median([method.r_squared[i][1] for i in kept])),
                    median_correlation=float(np.median([method.correlation[i] for i in kept])),
                    median_error=float(np.median([method.error[i] for i in kept])),
                )
            )
    return tuple(summaries)
