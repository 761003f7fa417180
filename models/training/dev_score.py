"""How good a network is between two epochs: torsion drives, and a few dev minima relaxed."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from models.charges import ChargeEnsemble
from models.dataset import QMExample, read_qm_examples
from models.evaluation.points import spread_over_sources
from models.evaluation.relaxed import class1_relaxer, evaluate_relaxed, summarise_relaxed
from models.loss import TrainingRow, draw_batch, qm_errors
from models.network import ValenceEnsemble, ValenceNetwork
from models.predict import Predictor
from models.training.optimise import device_of
from models.weights import Model

SCORE_BATCH = 24
MINIMA_SOURCE = "industry"
MAX_CONFS = 4
"""conformers relaxed per molecule"""


@torch.no_grad()
def score_torsions(model: ValenceNetwork | ValenceEnsemble, rows: Sequence[TrainingRow]) -> dict[str, float]:
    """Mean over rows of the energy RMSE (kcal/mol), and of the gradient RMSE where there is one."""
    energy_rmse, gradient_rmse = [], []
    generator = np.random.default_rng(0)
    for start in range(0, len(rows), SCORE_BATCH):
        part = rows[start : start + SCORE_BATCH]
        n_points = max(row.n_points for row in part)
        batch = draw_batch(part, n_points, generator, pairs=model.has_pairs).to(device_of(model))
        energy_error, gradient_error = qm_errors(model(batch.graphs, batch.indices), batch)
        n_used = batch.is_used.sum(dim=1)
        energy_rmse.append((energy_error.square().sum(dim=1) / n_used).sqrt())
        summed = gradient_error.square().sum(dim=(1, 2))
        by_molecule = torch.zeros_like(n_used).index_add(0, batch.graphs.atom_molecule, summed)
        n_components = 3.0 * torch.bincount(batch.graphs.atom_molecule) * n_used
        gradient_rmse.append((by_molecule / n_components).sqrt()[batch.has_gradient > 0])
    return {
        "energy_rmse": float(torch.cat(energy_rmse).mean()),
        "gradient_rmse": float(torch.cat(gradient_rmse).mean()),
    }


def read_dev_minima(table: Path, n_molecules: int) -> list[QMExample]:
    """Some molecules of the table's minima, evenly spread, the lowest and a few more conformers of each."""
    examples, _ = read_qm_examples(table, sources={MINIMA_SOURCE: 0})
    return [_few_conformers(example) for example in spread_over_sources(examples, n_molecules)]


def _few_conformers(example: QMExample) -> QMExample:
    lowest = int(np.argmin(example.energy))
    kept = [lowest, *(conf for conf in range(len(example.energy)) if conf != lowest)][:MAX_CONFS]
    return replace(
        example,
        coords=example.coords[kept],
        energy=example.energy[kept],
        gradient=None if example.gradient is None else example.gradient[kept],
    )


def predictor_of(charges: ChargeEnsemble, valence: ValenceEnsemble) -> Predictor:
    """A predictor of networks in training, in float64; they stay as they are."""
    networks = deepcopy(valence).double().eval()
    model = Model(
        name="in training",
        version="",
        sha256="",
        charges=deepcopy(charges).double(),
        valence=networks,
        sizes={},
        class2=networks if networks.form == "class2" else None,
    )
    return Predictor(model, networks.form)


def score_minima(
    charges: ChargeEnsemble, model: ValenceNetwork, examples: Sequence[QMExample]
) -> dict[str, float]:
    """Mean |ddE|, kcal/mol, mean RMSD, angstrom, and mean TFD after relaxing every conformer."""
    predictor = predictor_of(charges, ValenceEnsemble([deepcopy(model).cpu()]))
    summary = summarise_relaxed(evaluate_relaxed(examples, class1_relaxer(predictor.predict), "in training"))
    return {"dde": summary.median_dde, "rmsd": summary.mean_rmsd, "tfd": summary.mean_tfd}
