"""Pictures of relaxed geometries: how many conformers are how good, and the molecules that are worst."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rdkit import Chem
from rdkit.Chem import Draw

from models.evaluation.plots import COLOURS
from models.evaluation.relaxed import RelaxedRow, RelaxedScores, pooled, pooled_dde
from pipeline.schema import FloatArray

MAX_DDE, MAX_RMSD, MAX_TFD = 6.0, 1.2, 0.25
"""ends of the axes: kcal/mol, angstrom, none"""


def write_relaxed_plots(scores: Sequence[RelaxedScores], out: Path) -> tuple[str, ...]:
    """Write relaxed.png, the cumulative curves; return its name, or nothing when no method scored a row."""
    shown = [method for method in scores if method.rows]
    if not shown:
        return ()
    draw_relaxed(shown).savefig(out / "relaxed.png", dpi=130)
    return ("relaxed.png",)


def draw_relaxed(scores: Sequence[RelaxedScores]) -> Figure:
    """Draw the fraction of conformers below an |ddE|, an RMSD and a TFD, a curve per method."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    energy, rmsd, tfd = figure.subplots(1, 3, sharey=True)
    for number, method in enumerate(scores):
        colour = COLOURS[number % len(COLOURS)]
        _step(energy, np.abs(pooled_dde(method)), method.method, colour)
        _step(rmsd, pooled(method, "rmsd"), method.method, colour)
        _step(tfd, pooled(method, "tfd"), method.method, colour)
    energy.set(xlim=(0, MAX_DDE), xlabel="|ddE| / kcal/mol", ylabel="fraction of conformers below")
    rmsd.set(xlim=(0, MAX_RMSD), xlabel="heavy-atom RMSD to the QM minimum / angstrom")
    tfd.set(xlim=(0, MAX_TFD), xlabel="torsion fingerprint deviation")
    for axes in (energy, rmsd, tfd):
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize=8)
    return figure


def _step(axes: Axes, values: FloatArray, name: str, colour: str) -> None:
    if not len(values):
        return
    fraction = np.arange(1, len(values) + 1) / len(values)
    label = f"{name}: median {np.median(values):.3g}"
    axes.step(np.sort(values), fraction, where="post", color=colour, label=label)


def draw_worst(worst: Sequence[tuple[float, RelaxedRow]], path: Path) -> None:
    """Draw the molecules with the largest mean |ddE| as a PNG, the figure below each."""
    mols = [Chem.MolFromSmiles(row.key) for _, row in worst]
    legends = [f"mean |ddE| {figure:.1f} kcal/mol, n = {len(row.dde) - 1}" for figure, row in worst]
    image = Draw.MolsToGridImage(mols, molsPerRow=5, subImgSize=(320, 260), legends=legends)
    image.save(path)
