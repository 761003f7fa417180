"""The picture of a refine: errors against QM on geometries left out, before and after fine-tuning."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BEFORE, AFTER = "#9aa0a6", "#1b5e9e"
MAX_NAMED = 40
"""Up to so many ligands each gets a line with its name; beyond, a point in a before-against-after plot."""
QUANTITIES = (("energy", "energy RMSE, kcal/mol"), ("force", "force RMSE, kcal/mol/Å"))


def write_fits_plot(folder: Path) -> None:
    """Draw fits.png beside fits.csv, where a run has fits."""
    table_path = folder / "fits.csv"
    if not table_path.is_file():
        return
    table = pd.read_csv(table_path, dtype={"name": str}, keep_default_na=False)
    if table.empty:
        return
    temporary = folder / ".fits.png.tmp"
    draw_fits(table).savefig(temporary, dpi=130, format="png")
    temporary.replace(folder / "fits.png")


def draw_fits(table: pd.DataFrame) -> Figure:
    """Draw the two errors of every ligand from the columns of fits.csv."""
    few = len(table) <= MAX_NAMED
    height = 1.6 + 0.32 * len(table) if few else 4.6
    figure = Figure(figsize=(9.0, height), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, 2, sharey=few), QUANTITIES, strict=True):
        before, after = (table[f"{name}_rmse_{when}"].to_numpy(float) for when in ("before", "after"))
        if few:
            _draw_lines(axes, before, after, label)
        else:
            _draw_points(axes, before, after, label)
    if few:
        axes = figure.axes[0]
        axes.set_yticks(range(len(table)), [_short(name) for name in table["name"]])
        axes.invert_yaxis()
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle("Error against QM on geometries left out of the tuning", fontsize=11)
    return figure


def _draw_lines(axes: Axes, before: np.ndarray, after: np.ndarray, label: str) -> None:
    """One line per ligand from the error before to the error after."""
    rows = np.arange(len(before))
    axes.hlines(
        rows, np.minimum(before, after), np.maximum(before, after), color="#d5d8dc", linewidth=3, zorder=1
    )
    legend = axes.get_subplotspec().is_first_col()  # type: ignore[union-attr]
    axes.scatter(before, rows, color=BEFORE, zorder=2, label="shipped network" if legend else None)
    axes.scatter(after, rows, color=AFTER, zorder=3, label="delivered" if legend else None)
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_points(axes: Axes, before: np.ndarray, after: np.ndarray, label: str) -> None:
    """One point per ligand; below the diagonal it got better."""
    top = 1.05 * max(before.max(), after.max())
    axes.plot([0, top], [0, top], color="#d5d8dc", zorder=1)
    axes.scatter(before, after, s=12, alpha=0.6, color=AFTER, zorder=2)
    axes.set(xlim=(0, top), ylim=(0, top), xlabel=f"shipped: {label}", ylabel="delivered")
    axes.spines[["top", "right"]].set_visible(False)


def _short(name: str) -> str:
    """A name that fits beside an axis, with nothing that matplotlib would read as mathematics."""
    return (name if len(name) <= 28 else f"{name[:27]}…").replace("$", r"\$")
