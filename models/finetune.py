"""Pull the shipped readouts towards the ligands' own QM, and keep the old parameters where that did not help.

Only the readouts move; the embeddings of the atoms stay, so what is learnt on one ligand serves its like. The loss
is the training loss on the training points of every ligand plus an L2 pull of the weights to the shipped ones.
Points left out judge: energies are compared after the offset that aligns the *training* points.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from models.energy import valence_energy_and_gradient
from models.graph import collate_graphs
from models.loss import with_zero_nonbonded
from models.predict import Predictor, assemble, build_batch, split_valence
from models.readouts import ValenceParameters, ValenceReadouts
from models.targets import nonbonded_of, without_pairs
from models.terms import MMIndices, indices_from_topology
from pipeline.schema import Ligand, MMParameters, QMRecord, Topology
from pipeline.settings import FineTuneSettings
from pipeline.vdw import assign_vdw

ENERGY_SCALE = 1.0
"""kcal/mol"""
GRADIENT_SCALE = 5.0
"""kcal/mol/angstrom"""
MIN_POINTS = 3
"""two to train on, one to judge"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """A ligand with its QM points, all at one level of theory, in the ligand's atom order."""

    ligand: Ligand
    topology: Topology
    records: tuple[QMRecord, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class LigandFit:
    """What fine-tuning did for one ligand; errors on the points left out."""

    parameters: MMParameters
    kept: Literal["fine-tuned", "shipped"]
    energy_rmse_before: float
    """kcal/mol"""
    energy_rmse_after: float
    """kcal/mol, of the fine-tuned parameters whether kept or not"""
    gradient_rmse_before: float
    """kcal/mol/angstrom"""
    gradient_rmse_after: float
    """kcal/mol/angstrom"""
    n_train: int
    n_held_out: int


@dataclass(frozen=True, kw_only=True, eq=False)
class _Target:
    """One reference as tensors."""

    indices: MMIndices
    coords: Tensor
    """(n_atoms, n_points, 3)"""
    energy: Tensor
    """(n_points,) QM minus nonbonded"""
    gradient: Tensor
    """(n_atoms, n_points, 3) QM minus nonbonded"""
    is_train: Tensor
    """(n_points,) bool"""


def fine_tune(
    predictor: Predictor,
    references: Sequence[Reference],
    settings: FineTuneSettings,
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> list[LigandFit]:
    """Fine-tune the readouts jointly on all references; one fit per reference, in order.

    `on_step` hears the step and the loss. Raises ValueError for a reference with fewer than three points or
    without gradients. The predictor is not changed.
    """
    if not references:
        return []
    ligands = [(reference.ligand, reference.topology) for reference in references]
    batch, indices = build_batch(ligands)
    model = predictor.model
    with torch.no_grad():
        embedding = model.valence.encoder(batch)
        charges = predictor.predict_charges(batch).split([topology.n_atoms for _, topology in ligands])
    targets = [
        _target(reference, charge, settings) for reference, charge in zip(references, charges, strict=True)
    ]
    topologies = [topology for _, topology in ligands]

    def predict(readouts: ValenceReadouts) -> list[ValenceParameters]:
        return split_valence(readouts(embedding, batch.atom_features, indices), topologies)

    shipped = model.valence.readouts
    tuned = _optimise(shipped, predict, targets, settings, on_step)
    with torch.no_grad():
        before, after = predict(shipped), predict(tuned)
    return [
        _judge(old, new, target, (charge, assign_vdw(ligand)))
        for old, new, target, charge, (ligand, _) in zip(before, after, targets, charges, ligands, strict=True)
    ]
