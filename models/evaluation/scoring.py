"""Score energies and forces against QM on the same geometries: one row of a data table, one RowScore."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from models.dataset import QMExample
from models.energy import TorchParameters, energy_and_gradient, indices_from_topology
from pipeline.errors import LigandError, ParametersError
from pipeline.schema import FloatArray, Ligand, MMParameters, Topology

Parametrise = Callable[[Ligand, Topology], MMParameters]
"""Anything that gives a ligand its class I parameters: our network, or another force field's tables."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is counted when energies are compared."""

    energy_window: float = 40.0
    """kcal/mol above the row's lowest QM energy: points beyond count only in the unwindowed figures"""
    min_points: int = 3
    """rows (and windows) with fewer points are not scored: their mean takes most of the error with it"""
    max_rows: int | None = None
    """rows per source, evenly spread over it; None: all"""
    n_resamples: int = 1000
    """bootstrap resamples, over molecules, behind every interval"""
    seed: int = 0
    """of the bootstrap"""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.energy_window <= 0 or self.min_points < 2 or self.n_resamples < 1:
            raise ValueError("EvaluationSettings: energy_window > 0, min_points >= 2, n_resamples >= 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What a method says about the geometries of one row."""

    energy: FloatArray
    """(n_confs,), kcal/mol, any zero"""
    gradient: FloatArray | None
    """(n_confs, n_atoms, 3), dE/dx, kcal/mol/angstrom"""


Method = Callable[[QMExample], Prediction]


@dataclass(frozen=True, kw_only=True, eq=False)
class RowScore:
    """How well one method follows QM over the geometries of one row."""

    row: int
    """number of the row among the examples"""
    key: str
    source: str
    kind: str
    """torsiondrive or minima"""
    total_charge: int
    qm_energy: FloatArray
    """(n_confs,), kcal/mol, lowest is 0"""
    mm_energy: FloatArray
    """(n_confs,), kcal/mol, shifted so that over the points in the window its mean is QM's"""
    in_window: np.ndarray
    """(n_confs,) bool"""
    energy_rmse: float
    """kcal/mol, all points, means aligned"""
    energy_rmse_windowed: float
    """kcal/mol, points in the window, means aligned"""
    force_rmse: float | None
    """kcal/mol/angstrom per component over the points in the window; None without QM gradients"""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A row that a method cannot score, and why."""

    row: int
    key: str
    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One method over a table: every row is either scored or left out."""

    method: str
    rows: tuple[RowScore, ...]
    left_out: tuple[LeftOut, ...]


def class1_method(parametrise: Parametrise) -> Method:
    """Make a method of anything that assigns class I parameters: same energy code for all of them."""

    def predict(example: QMExample) -> Prediction:
        return predict_class1(parametrise(example.ligand, example.topology), example)

    return predict


def predict_class1(parameters: MMParameters, example: QMExample) -> Prediction:
    """Compute the class I energies and gradients of a row's geometries in float64."""
    coords = torch.from_numpy(np.array(example.coords, dtype=np.float64)).transpose(0, 1)
    with torch.no_grad():
        terms, gradient = energy_and_gradient(
            indices_from_topology(example.topology), TorchParameters.from_mm(parameters), coords
        )
    return Prediction(energy=terms.total[0].numpy(), gradient=gradient.transpose(0, 1).numpy())


def evaluate_rows(
    examples: Sequence[QMExample], method: Method, name: str, settings: EvaluationSettings
) -> Scores:
    """Score a method on every row; a row it cannot do (LigandError) is kept as LeftOut with the reason."""
    rows, left_out = [], []
    for number, example in enumerate(examples):
        try:
            rows.append(score_row(number, example, method(example), settings))
        except LigandError as error:
            left_out.append(LeftOut(row=number, key=example.key, source=example.source, reason=str(error)))
    return Scores(method=name, rows=tuple(rows), left_out=tuple(left_out))


def evaluate_torsions(
    examples: Sequence[QMExample],
    parametrise: Parametrise,
    settings: EvaluationSettings | None = None,
) -> Scores:
    """Score class I parameters on the torsion drives among the rows, at their QM geometries."""
    drives = [example for example in examples if example.kind == "torsiondrive"]
    return evaluate_rows(drives, class1_method(parametrise), "class1", settings or EvaluationSettings())


def score_row(row: int, example: QMExample, prediction: Prediction, settings: EvaluationSettings) -> RowScore:
    """Compare one row's energies and gradients with QM; raise ParametersError when it cannot be scored."""
    qm = example.energy - example.energy.min()
    mm = prediction.energy
    if not np.isfinite(mm).all():
        raise ParametersError(f"{example.key}: energies that are not finite", kind="not-finite")
    in_window = qm <= settings.energy_window
    if in_window.sum() < settings.min_points:
        raise ParametersError(f"{example.key}: fewer than {settings.min_points} points", kind="few-points")
    return RowScore(
        row=row,
        key=example.key,
        source=example.source,
        kind=example.kind,
        total_charge=example.ligand.total_charge,
        qm_energy=qm,
        mm_energy=mm - mm[in_window].mean() + qm[in_window].mean(),
        in_window=in_window,
        energy_rmse=centred_rmse(mm, qm),
        energy_rmse_windowed=centred_rmse(mm[in_window], qm[in_window]),
        force_rmse=_force_rmse(example, prediction, in_window),
    )


def centred_rmse(a: FloatArray, b: FloatArray) -> float:
    """RMS difference of two energy profiles (n_points,) after the best constant shift, the unit of both."""
    difference = a - b
    return float(np.sqrt(np.mean((difference - difference.mean()) ** 2)))


def _force_rmse(example: QMExample, prediction: Prediction, in_window: np.ndarray) -> float | None:
    if example.gradient is None or prediction.gradient is None:
        return None
    difference = (prediction.gradient - example.gradient)[in_window]
    return float(np.sqrt(np.mean(difference**2)))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One method over one source of rows. Energies kcal/mol, forces kcal/mol/angstrom."""

    method: str
    source: str
    kind: str
    scope: str
    """all: every row the method scores; common: the rows that all methods of the comparison score"""
    n_rows: int
    n_points: int
    """points in the window"""
    mean: float
    """mean over rows of the windowed energy RMSE"""
    mean_low: float
    """2.5 % end of the mean's bootstrap interval over molecules"""
    mean_high: float
    """97.5 % end"""
    median: float
    p90: float
    pooled: float
    """windowed RMSE over all points of all rows"""
    mean_unwindowed: float
    force: float | None
    """RMS over rows of the force RMSE; None where there are no QM gradients"""


def restrict_to_common(scores: Sequence[Scores]) -> tuple[Scores, ...]:
    """Keep the rows that every method scores, so that all are compared on the same molecules."""
    common = set.intersection(*({score.row for score in method.rows} for method in scores))
    return tuple(
        replace(method, rows=tuple(row for row in method.rows if row.row in common)) for method in scores
    )


def summarise(scores: Sequence[Scores], settings: EvaluationSettings) -> tuple[Summary, ...]:
    """Sum up every method per source, over its own rows and over the rows common to all methods."""
    summaries = []
    for scope, methods in (("all", scores), ("common", restrict_to_common(scores))):
        for method in methods:
            for source, kind in sorted({(row.source, row.kind) for row in method.rows}):
                rows = [row for row in method.rows if (row.source, row.kind) == (source, kind)]
                summaries.append(_summary(method.method, scope, rows, settings))
    return tuple(summaries)


def _summary(method: str, scope: str, rows: list[RowScore], settings: EvaluationSettings) -> Summary:
    rmse = np.array([row.energy_rmse_windowed for row in rows])
    n_points = np.array([row.in_window.sum() for row in rows])
    forces = [row.force_rmse for row in rows if row.force_rmse is not None]
    low, high = _bootstrap_mean(rmse, [row.key for row in rows], settings)
    return Summary(
        method=method,
        source=rows[0].source,
        kind=rows[0].kind,
        scope=scope,
        n_rows=len(rows),
        n_points=int(n_points.sum()),
        mean=float(rmse.mean()),
        mean_low=low,
        mean_high=high,
        median=float(np.median(rmse)),
        p90=float(np.quantile(rmse, 0.9)),
        pooled=float(np.sqrt(np.sum(rmse**2 * n_points) / n_points.sum())),
        mean_unwindowed=float(np.mean([row.energy_rmse for row in rows])),
        force=float(np.sqrt(np.mean(np.square(forces)))) if forces else None,
    )


def _bootstrap_mean(
    values: FloatArray, keys: Sequence[str], settings: EvaluationSettings
) -> tuple[float, float]:
    """95 % interval of the mean; whole molecules are drawn, because drives of one molecule are alike."""
    _, molecule = np.unique(np.array(keys), return_inverse=True)
    sums, counts = np.bincount(molecule, weights=values), np.bincount(molecule)
    generator = np.random.default_rng(settings.seed)
    drawn = generator.integers(len(sums), size=(settings.n_resamples, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
