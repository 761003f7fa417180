"""Pull the shipped readouts towards the ligands' own QM, and keep the old parameters where that did not help.

Only the readouts move; the embeddings of the atoms stay, so what is learnt on one ligand serves its like. The
loss is the squared error on the training points of every ligand plus an L2 pull of the weights to the shipped
ones. Points left out judge: energies are compared after the offset that aligns the *training* points.
"""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from models.energy import learned_energy_and_gradient
from models.network import EnsembleReadouts
from models.predict import Predictor, assemble, build_batch, split_valence, straighten
from models.readouts import ValenceParameters
from models.targets import nonbonded_of
from models.terms import MMIndices, indices_from_topology
from pipeline.ligand import to_rdkit
from pipeline.schema import FloatArray, MMParameters, Reference
from pipeline.settings import FineTuneSettings
from pipeline.topology import linear_centres
from pipeline.vdw import assign_vdw

ENERGY_SCALE = 1.0
"""kcal/mol"""
GRADIENT_SCALE = 5.0
"""kcal/mol/angstrom"""
WORSE = 1.1
"""An energy or force error that grew by more than this factor is worse, whatever the other one won."""
MIN_POINTS = 3
"""two to train on, one to judge"""


@dataclass(frozen=True, kw_only=True, eq=False)
class LigandFit:
    """What fine-tuning did for one ligand; errors on the points left out."""

    parameters: MMParameters
    kept: Literal["fine-tuned", "shipped"]
    energy_rmse_before: float
    """kcal/mol"""
    energy_rmse_after: float
    """kcal/mol, of the parameters kept"""
    force_rmse_before: float
    """kcal/mol/angstrom, by component"""
    force_rmse_after: float
    """kcal/mol/angstrom, by component, of the parameters kept"""
    n_train: int
    n_held_out: int


@dataclass(frozen=True, kw_only=True, eq=False)
class _Target:
    """One reference as tensors."""

    indices: MMIndices
    nonbonded: tuple[Tensor, Tensor, Tensor]
    """charge, sigma and epsilon, each (n_atoms,)"""
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
    """Fine-tune the readouts jointly on all references, beside their own charges where they bring some.

    Gives one fit per reference, in order.
    `on_step` hears the step and the loss. Raises ValueError for a reference with fewer than three points or
    without gradients. The predictor is not changed.
    """
    if not references:
        return []
    ligands = [(reference.ligand, reference.topology) for reference in references]
    batch, indices = build_batch(ligands, pairs=predictor.has_pairs)
    with torch.no_grad():
        embedding = predictor.valence.encoder(batch)
        predicted = predictor.predict_charges(batch).split([topology.n_atoms for _, topology in ligands])
    charges = [
        charge if reference.charges is None else torch.tensor(reference.charges, dtype=charge.dtype)
        for reference, charge in zip(references, predicted, strict=True)
    ]
    targets = [
        _target(reference, charge, settings) for reference, charge in zip(references, charges, strict=True)
    ]
    topologies = [topology for _, topology in ligands]

    def predict(readouts: EnsembleReadouts) -> list[ValenceParameters]:
        return split_valence(readouts(embedding, batch.atom_features, indices), topologies)

    shipped = predictor.valence.readouts
    tuned = _optimise(shipped, predict, targets, settings, on_step)
    with torch.no_grad():
        before, after = predict(shipped), predict(tuned)
    fits = [
        _judge(old, new, target, (charge, assign_vdw(ligand)))
        for old, new, target, charge, (ligand, _) in zip(
            before, after, targets, charges, ligands, strict=True
        )
    ]
    shipped_parameters = predictor.predict_many(ligands)
    return [_finished(*rest) for rest in zip(fits, references, shipped_parameters, strict=True)]


def _finished(fit: LigandFit, reference: Reference, shipped: MMParameters) -> LigandFit:
    """Shipped parameters as they are, tuned ones straight at linear centres; both with shipped confidence.

    Tuning moves no charge, and its few points near minima do not settle what the training left open: each
    doubt about the shipped parameters is one about the tuned ones.
    """
    beside = shipped if reference.charges is None else shipped.with_charges(reference.charges)
    if fit.kept == "shipped":
        return dataclasses.replace(fit, parameters=beside)
    centres = linear_centres(to_rdkit(reference.ligand))
    tuned = straighten(fit.parameters, reference.topology, centres)
    return dataclasses.replace(fit, parameters=dataclasses.replace(tuned, confidence=beside.confidence))


def _target(reference: Reference, charge: Tensor, settings: FineTuneSettings) -> _Target:
    """QM minus nonbonded for one reference, and which of its points are trained on."""
    name, n_points = reference.ligand.name, len(reference.records)
    if n_points < MIN_POINTS:
        raise ValueError(f"{name}: fine-tuning needs at least {MIN_POINTS} QM points, there are {n_points}")
    gradients = [record.gradient for record in reference.records if record.gradient is not None]
    if len(gradients) < n_points:
        raise ValueError(f"{name}: fine-tuning needs gradients, some QM records have none")
    indices = indices_from_topology(reference.topology)
    coords = torch.as_tensor(np.stack([record.coords for record in reference.records], axis=1))
    sigma, epsilon = (torch.as_tensor(np.array(values)) for values in assign_vdw(reference.ligand))
    nonbonded = (charge, sigma, epsilon)
    energy, gradient = nonbonded_of(indices, nonbonded, coords)
    return _Target(
        indices=indices,
        nonbonded=nonbonded,
        coords=coords,
        energy=torch.tensor([record.energy for record in reference.records]).double() - energy,
        gradient=torch.as_tensor(np.stack(gradients, axis=1)) - gradient,
        is_train=_split(n_points, settings),
    )


def _split(n_points: int, settings: FineTuneSettings) -> Tensor:
    """Choose the training points: seeded, at least two, at least one left out."""
    n_held_out = min(max(1, round(settings.holdout_fraction * n_points)), n_points - 2)
    order = np.random.default_rng([settings.seed, n_points]).permutation(n_points)
    is_train = torch.ones(n_points, dtype=torch.bool)
    is_train[torch.as_tensor(order[:n_held_out])] = False
    return is_train


def _errors(valence: ValenceParameters, target: _Target) -> tuple[Tensor, Tensor]:
    """Energy errors (n_points,), zero mean over training points; gradient errors (n_atoms, n_points, 3)."""
    parameters = valence.with_nonbonded(*target.nonbonded)
    terms, gradient = learned_energy_and_gradient(target.indices, parameters, target.coords)
    difference = terms.total[0] - target.energy
    return difference - difference[target.is_train].mean(), gradient - target.gradient


def _optimise(
    shipped: EnsembleReadouts,
    predict: Callable[[EnsembleReadouts], list[ValenceParameters]],
    targets: Sequence[_Target],
    settings: FineTuneSettings,
    on_step: Callable[[int, float], None] | None,
) -> EnsembleReadouts:
    """Adam on the readouts: every ligand the same weight, plus the pull."""
    tuned = copy.deepcopy(shipped).requires_grad_(True)
    anchors = [weight.detach().clone() for weight in shipped.parameters()]
    optimiser = torch.optim.Adam(tuned.parameters(), lr=settings.learning_rate)
    for step in range(settings.steps):
        optimiser.zero_grad(set_to_none=True)
        loss = torch.zeros((), dtype=torch.float64)
        for valence, target in zip(predict(tuned), targets, strict=True):
            energy, gradient = _errors(valence, target)
            energy, gradient = energy[target.is_train], gradient[:, target.is_train]
            loss = (
                loss + (energy / ENERGY_SCALE).square().mean() + (gradient / GRADIENT_SCALE).square().mean()
            )
        weights = zip(tuned.parameters(), anchors, strict=True)
        pull = torch.stack([(weight - anchor).square().sum() for weight, anchor in weights]).sum()
        loss = loss / len(targets) + settings.pull * pull
        loss.backward()
        optimiser.step()
        if on_step is not None:
            on_step(step + 1, loss.item())
    return tuned.requires_grad_(False)


def _judge(
    old: ValenceParameters,
    new: ValenceParameters,
    target: _Target,
    fixed: tuple[Tensor, tuple[FloatArray, FloatArray]],
) -> LigandFit:
    """Compare both sets of parameters on the points left out; the new ones must win and lose nothing."""
    held_out = ~target.is_train
    rmse = {}
    for name, valence in (("before", old), ("after", new)):
        energy, gradient = _errors(valence, target)
        rmse[name] = (_rms(energy[held_out]), _rms(gradient[:, held_out]))
    kept = "after" if is_improvement(rmse["before"], rmse["after"]) else "before"
    charge, vdw = fixed
    return LigandFit(
        parameters=assemble(new if kept == "after" else old, charge, vdw),
        kept="fine-tuned" if kept == "after" else "shipped",
        energy_rmse_before=rmse["before"][0],
        energy_rmse_after=rmse[kept][0],
        force_rmse_before=rmse["before"][1],
        force_rmse_after=rmse[kept][1],
        n_train=int(target.is_train.sum()),
        n_held_out=int(held_out.sum()),
    )


def is_improvement(before: tuple[float, float], after: tuple[float, float]) -> bool:
    """Whether energy and force errors (kcal/mol, kcal/mol/angstrom) together fell and neither rose much."""
    is_worse = any(new > WORSE * old for old, new in zip(before, after, strict=True))
    return _score(after) < _score(before) and not is_worse


def _score(errors: tuple[float, float]) -> float:
    energy, force = errors
    return (energy / ENERGY_SCALE) ** 2 + (force / GRADIENT_SCALE) ** 2


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
