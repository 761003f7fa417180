"""The three pictures of an evaluation: QM against MM, how many rows are how good, and torsions to look at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.dataset import QMExample
from models.evaluation.scoring import RowScore, Scores

COLOURS = ("#1b5e9e", "#d1662a", "#6f7378", "#7a4fa3", "#3a8a4d")
MAX_ENERGY = 20.0
"""kcal/mol, end of the axes of the QM-against-MM histograms"""
MAX_RMSE = 5.0
"""kcal/mol, end of the cumulative curves"""
MIN_ENERGY = -4.0
"""kcal/mol, start of the axes: means are aligned, so MM energies may lie below QM's lowest point"""
GRAIN = 0.25
"""kcal/mol, bin of the histograms"""
MAX_STEP = 40.0
"""degree: profiles are not drawn across larger gaps of a scan"""


def write_plots(scores: Sequence[Scores], examples: Sequence[QMExample], out: Path) -> tuple[str, ...]:
    """Write parity.png, errors.png and, where there are torsion drives, torsions.png; return the names."""
    shown = [method for method in scores if method.rows]
    if not shown:
        return ()
    figures = {"parity.png": draw_parity(shown), "errors.png": draw_errors(shown)}
    drives = [row for row in shown[0].rows if row.kind == "torsiondrive"]
    if drives:
        figures["torsions.png"] = draw_torsions(shown, drives, examples)
    for name, figure in figures.items():
        figure.savefig(out / name, dpi=130)
    return tuple(figures)


def draw_parity(scores: Sequence[Scores]) -> Figure:
    """Draw a histogram of MM against QM relative energy of every point, a panel per method."""
    figure = Figure(figsize=(4.4 * len(scores) + 1, 4.6), layout="constrained")
    panels = figure.subplots(1, len(scores), squeeze=False)[0]
    edges = np.arange(MIN_ENERGY, MAX_ENERGY + GRAIN, GRAIN)
    for axes, method in zip(panels, scores, strict=True):
        qm = np.concatenate([row.qm_energy for row in method.rows])
        mm = np.concatenate([row.mm_energy for row in method.rows])
        counts = np.histogram2d(qm, mm, bins=(edges, edges))[0]
        # Logarithm of the count: the many points near zero would otherwise hide the rest.
        image = np.where(counts > 0, np.log10(np.maximum(counts, 1)), np.nan).T
        mesh = axes.pcolormesh(edges, edges, image, cmap="viridis")
        axes.plot([0, MAX_ENERGY], [0, MAX_ENERGY], color="black", linewidth=0.8)
        axes.set(xlim=(-1, MAX_ENERGY), ylim=(MIN_ENERGY, MAX_ENERGY))
        axes.set(title=method.method, xlabel="QM energy / kcal/mol", box_aspect=1)
        outside = np.mean((mm < edges[0]) | (mm > edges[-1]) | (qm > edges[-1]))
        axes.text(
            0.03, 0.96, f"{100 * outside:.1f} % outside", transform=axes.transAxes, va="top", fontsize=8
        )
    panels[0].set_ylabel("MM energy, means aligned / kcal/mol")
    figure.colorbar(mesh, ax=panels.tolist(), label="log10(points)", shrink=0.8)
    return figure


def draw_errors(scores: Sequence[Scores]) -> Figure:
    """Draw the fraction of rows below an energy RMSE, a panel per source, a curve per method."""
    sources = sorted({row.source for method in scores for row in method.rows})
    figure = Figure(figsize=(4.6 * len(sources), 3.8), layout="constrained")
    panels = figure.subplots(1, len(sources), squeeze=False, sharey=True)[0]
    for axes, source in zip(panels, sources, strict=True):
        for number, method in enumerate(scores):
            values = sorted(row.energy_rmse_windowed for row in method.rows if row.source == source)
            if values:
                fraction = np.arange(1, len(values) + 1) / len(values)
                name = f"{method.method}: median {np.median(values):.2f}"
                axes.step(values, fraction, where="post", color=_colour(number), label=name)
        axes.set(title=source, xlabel="energy RMSE of a row / kcal/mol", xlim=(0, MAX_RMSE), ylim=(0, 1))
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize=8)
    panels[0].set_ylabel("fraction of rows below")
    return figure


def draw_torsions(
    scores: Sequence[Scores], drives: Sequence[RowScore], examples: Sequence[QMExample]
) -> Figure:
    """Draw QM and MM profiles of the best, the middle and the worst three drives of the first method."""
    ranked = sorted(drives, key=lambda row: row.energy_rmse_windowed)
    middle = max(0, len(ranked) // 2 - 1)
    chosen = [("best", ranked[:3]), ("median", ranked[middle : middle + 3]), ("worst", ranked[-3:])]
    figure = Figure(figsize=(12, 9.5), layout="constrained")
    grid = figure.subplots(3, 3)
    for panels, (name, rows) in zip(grid, chosen, strict=True):
        for axes, row in zip(panels, rows, strict=False):
            _draw_profile(axes, row, scores, examples[row.row])
            axes.set_title(f"{name}: {_shortened(row.key)}\nRMSE {row.energy_rmse_windowed:.2f}", fontsize=8)
        for axes in panels[len(rows) :]:
            axes.set_axis_off()
    for axes in grid[-1]:
        axes.set_xlabel("dihedral / degree")
    for axes in grid[:, 0]:
        axes.set_ylabel("energy / kcal/mol")
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names))
    return figure


def _draw_profile(axes: Axes, row: RowScore, scores: Sequence[Scores], example: QMExample) -> None:
    angle = np.arange(len(row.qm_energy), dtype=np.float64) if example.grid is None else example.grid
    order = np.argsort(angle)
    angle = angle[order]
    gaps = np.flatnonzero(np.diff(angle) > MAX_STEP) + 1
    axes.plot(angle, row.qm_energy[order], "o", color="black", markersize=3.5, label="QM")
    for number, method in enumerate(scores):
        twin = next((other for other in method.rows if other.row == row.row), None)
        if twin is not None:
            # A NaN breaks the line.
            profile = np.insert(twin.mm_energy[order], gaps, np.nan)
            width = 1.8 if number == 0 else 0.9
            (line,) = axes.plot(np.insert(angle, gaps, np.nan), profile, label=method.method)
            line.set(color=_colour(number), linewidth=width)
    axes.grid(alpha=0.3)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _shortened(text: str, length: int = 38) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
