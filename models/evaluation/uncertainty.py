"""Does the error grow with the uncertainty? Both for the molecules of a table, and a picture of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from scipy.stats import spearmanr

from models.dataset import QMExample
from models.evaluation.relaxed import RelaxedScores
from pipeline.parametrize import Predictor
from pipeline.schema import FloatArray

N_GROUPS = 5


@dataclass(frozen=True, kw_only=True)
class UncertaintySummary:
    """How the mean |ddE| of a molecule follows the model's uncertainty about it."""

    n_molecules: int
    rank_correlation: float
    """Spearman's rho"""
    group_uncertainty: tuple[float, ...]
    """kcal/mol: mean of each fifth of the molecules, least uncertain first"""
    group_error: tuple[float, ...]
    """kcal/mol: their mean |ddE|"""
    n_disputed: int
    """molecules about whose torsions the networks disagree by more than is usual"""
    error_disputed: float
    """kcal/mol: their mean |ddE|; NaN where there is none"""
    n_strange: int
    """the others outside the domain, for their surroundings or their charges"""
    error_strange: float
    error_inside: float
    """kcal/mol, of those inside"""


def error_against_uncertainty(
    model: Predictor, examples: Sequence[QMExample], scores: RelaxedScores, path: Path
) -> UncertaintySummary | None:
    """Compare, and draw the picture; None for a model without a recorded domain or too few molecules."""
    uncertainty, error, disputed, flagged = [], [], [], []
    for row in scores.rows:
        example = examples[row.row]
        confidence = model.predict(example.ligand, example.topology).confidence
        counted = np.abs(row.dde[~row.is_reference])
        if confidence is not None and len(counted):
            uncertainty.append(confidence.uncertainty)
            error.append(float(counted.mean()))
            disputed.append(confidence.uncertainty > confidence.limit)
            flagged.append(bool(confidence.doubts))
    if len(error) < N_GROUPS:
        return None
    x, y, doubted, out = (np.array(values) for values in (uncertainty, error, disputed, flagged))
    strange = out & ~doubted
    groups = np.array_split(np.argsort(x), N_GROUPS)
    summary = UncertaintySummary(
        n_molecules=len(x),
        rank_correlation=float(spearmanr(x, y).statistic),
        group_uncertainty=tuple(float(x[group].mean()) for group in groups),
        group_error=tuple(float(y[group].mean()) for group in groups),
        n_disputed=int(doubted.sum()),
        error_disputed=_mean(y[doubted]),
        n_strange=int(strange.sum()),
        error_strange=_mean(y[strange]),
        error_inside=_mean(y[~out]),
    )
    _draw(x, y, out, summary).savefig(path, dpi=130)
    return summary


def _mean(errors: FloatArray) -> float:
    return float(errors.mean()) if len(errors) else float("nan")


def _draw(x: FloatArray, y: FloatArray, out: np.ndarray, summary: UncertaintySummary) -> Figure:
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.scatter(x[~out], y[~out], s=9, color="#1b5e9e", alpha=0.6, linewidths=0, label="inside the domain")
    axes.scatter(x[out], y[out], s=12, color="#d1662a", alpha=0.8, linewidths=0, label="flagged")
    axes.plot(summary.group_uncertainty, summary.group_error, "o-", color="black", label="means of fifths")
    axes.set(xlabel="uncertainty / kcal/mol", ylabel="mean |ddE| of the molecule / kcal/mol")
    axes.set(ylim=(0, float(np.quantile(y, 0.99))), xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(f"Spearman's rho {summary.rank_correlation:.2f}, {summary.n_molecules} molecules")
    axes.legend(frameon=False)
    return figure
