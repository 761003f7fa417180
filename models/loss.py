"""What the valence network is asked for: QM energies and gradients, small torsions, prior stiffness."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.config import ValenceStage
from models.energy import learned_energy_and_gradient
from models.features import MolecularGraph
from models.graph import GraphBatch, collate_graphs
from models.readouts import CLASS1_NAMES, ValenceParameters
from models.targets import with_pairs
from models.terms import MMIndices, collate_indices

BOND_LENGTH_SCALE = 0.02
"""angstrom: the difference that counts as one"""
ANGLE_SCALE = 0.05
"""radian"""
LOG_K_SCALE = 0.3
"""natural logarithm of a ratio of force constants"""
TORSION_SCALE = 0.5
"""kcal/mol"""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingRow:
    """One molecule in one group of QM points, ready for the loss."""

    source: str
    """of the points, as in the table"""
    graph: MolecularGraph
    indices: MMIndices
    """without nonbonded pairs: their energy is already in the targets"""
    coords: Tensor
    """(n_atoms, n_points, 3), angstrom, float32"""
    energy: Tensor
    """(n_points,), kcal/mol, float32: QM minus fixed nonbonded"""
    gradient: Tensor | None
    """(n_atoms, n_points, 3), kcal/mol/angstrom, float32: QM minus fixed nonbonded"""
    nonbonded: Tensor
    """(3, n_atoms), float32: the charge, sigma and epsilon of what was taken out"""
    prior: ValenceParameters | None
    """what a classical force field assigns, float32; None where it has no parameter"""
    soft: Tensor | None
    """(n_points, n_modes, 3 n_atoms), float16: see training.near_minima.soft_projections; None as gradient"""
    height: Tensor
    """(n_points,), kcal/mol, float32: QM energy above the row's lowest point"""

    @property
    def n_points(self) -> int:
        """Number of QM points."""
        return len(self.energy)

    def below(self, height: float) -> "TrainingRow":
        """Return the row without the points higher than that, kcal/mol."""
        low = torch.nonzero(self.height <= height)[:, 0]
        if len(low) == self.n_points:
            return self
        energy = self.energy.index_select(0, low)
        return replace(
            self,
            coords=self.coords.index_select(1, low),
            energy=energy - energy.mean(),
            gradient=None if self.gradient is None else self.gradient.index_select(1, low),
            soft=None if self.soft is None else self.soft.index_select(0, low),
            height=self.height.index_select(0, low),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingBatch:
    """Rows side by side, the same number of conformers drawn from each."""

    graphs: GraphBatch
    indices: MMIndices
    coords: Tensor
    """(n_atoms, n_confs, 3)"""
    energy: Tensor
    """(n_molecules, n_confs)"""
    gradient: Tensor
    """(n_atoms, n_confs, 3), zero where there is none"""
    is_used: Tensor
    """(n_molecules, n_confs), 1 where a point is real, 0 where it pads"""
    has_gradient: Tensor
    """(n_molecules,) 1 or 0"""
    nonbonded: Tensor
    """(3, n_atoms): charge, sigma and epsilon"""
    soft: tuple[Tensor | None, ...]
    """per molecule (n_confs, n_modes, 3 n_atoms); None without gradient"""

    def to(self, device: torch.device) -> "TrainingBatch":
        """Return the same batch on another device."""
        return TrainingBatch(
            graphs=self.graphs.to(device),
            indices=self.indices.to(device),
            coords=self.coords.to(device),
            energy=self.energy.to(device),
            gradient=self.gradient.to(device),
            is_used=self.is_used.to(device),
            has_gradient=self.has_gradient.to(device),
            nonbonded=self.nonbonded.to(device),
            soft=tuple(None if rows is None else rows.to(device) for rows in self.soft),
        )


def draw_batch(
    rows: Sequence[TrainingRow], max_confs: int, generator: np.random.Generator, *, pairs: bool = False
) -> TrainingBatch:
    """Draw up to `max_confs` points of every row; rows with fewer are padded with their first point.

    `pairs`: with the nonbonded pairs, of which networks of a class II form may give factors. They are listed
    anew from the bonds: kept in all rows of a full training they would fill a gigabyte.
    """
    n_confs = min(max_confs, max(row.n_points for row in rows))
    coords, energy, gradient, is_used, soft = [], [], [], [], []
    for row in rows:
        n_drawn = min(row.n_points, n_confs)
        drawn = np.zeros(n_confs, dtype=np.int64)
        drawn[:n_drawn] = generator.permutation(row.n_points)[:n_drawn]
        drawn[n_drawn:] = drawn[0]
        points = torch.from_numpy(drawn)
        coords.append(row.coords.index_select(1, points))
        energy.append(row.energy.index_select(0, points))
        gradient.append(torch.zeros_like(coords[-1]) if row.gradient is None else row.gradient[:, points])
        is_used.append(torch.arange(n_confs) < n_drawn)
        soft.append(None if row.soft is None else row.soft.index_select(0, points).float())
    return TrainingBatch(
        graphs=collate_graphs([row.graph for row in rows]),
        indices=collate_indices([with_pairs(row.indices) if pairs else row.indices for row in rows]),
        coords=torch.cat(coords),
        energy=torch.stack(energy),
        gradient=torch.cat(gradient),
        is_used=torch.stack(is_used).float(),
        has_gradient=torch.tensor([float(row.gradient is not None) for row in rows]),
        nonbonded=torch.cat([row.nonbonded for row in rows], dim=1),
        soft=tuple(soft),
    )


def qm_errors(valence: ValenceParameters, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
    """Energy errors (n_molecules, n_confs), centred, and gradient errors (n_atoms, n_confs, 3)."""
    parameters = valence.with_nonbonded(*batch.nonbonded)
    terms, gradient = learned_energy_and_gradient(batch.indices, parameters, batch.coords)
    difference = (terms.total - batch.energy) * batch.is_used
    mean = difference.sum(dim=1, keepdim=True) / batch.is_used.sum(dim=1, keepdim=True)
    known = (batch.is_used * batch.has_gradient[:, None]).index_select(0, batch.graphs.atom_molecule)
    return (difference - mean) * batch.is_used, (gradient - batch.gradient) * known[:, :, None]


def valence_loss(
    valence: ValenceParameters,
    batch: TrainingBatch,
    config: ValenceStage,
    *,
    energy_weight: Tensor | float = 1.0,
    energy_huber: float | None = None,
) -> Tensor:
    """Huber loss of energies and gradients, every molecule the same weight, plus the torsion penalty.

    `energy_weight`: what energies count against gradients, one number or (n_molecules,).
    `energy_huber`: the scaled error from which on energies count linearly; None: as gradients.
    """
    energy_error, gradient_error = qm_errors(valence, batch)
    n_used = batch.is_used.sum(dim=1)
    bend = config.huber if energy_huber is None else energy_huber
    energy = _huber(energy_error / config.energy_scale, bend).sum(dim=1) / n_used
    by_atom = _huber(gradient_error / config.gradient_scale, config.huber).sum(dim=(1, 2))
    by_molecule = torch.zeros_like(n_used).index_add(0, batch.graphs.atom_molecule, by_atom)
    n_components = 3.0 * torch.bincount(batch.graphs.atom_molecule) * n_used
    gradient = (by_molecule / n_components).sum() / batch.has_gradient.sum().clamp(min=1.0)
    penalty = _mean_square(valence.proper_k) + _mean_square(valence.improper_k)
    soft = config.soft_weight * soft_cost(gradient_error, batch, config.soft_huber)
    return (energy_weight * energy).mean() + gradient + soft + config.torsion_penalty * penalty


def soft_cost(gradient_error: Tensor, batch: TrainingBatch, bend: float) -> Tensor:
    """Mean energy, kcal/mol, that gradient errors (n_atoms, n_confs, 3) along soft modes cost per molecule.

    In Cartesian components a bond's error drowns that of a torsion, which moves the atoms much further:
    each mode counts as |f . u|^2 / (2 lambda) (training.near_minima), beyond `bend` linearly in |f . u|.
    """
    counts = torch.bincount(batch.graphs.atom_molecule).tolist()
    costs = [
        _huber(torch.bmm(soft, error.transpose(0, 1).reshape(len(soft), -1, 1)), bend).sum() / used.sum()
        for soft, error, used in zip(batch.soft, gradient_error.split(counts), batch.is_used, strict=True)
        if soft is not None
    ]
    return torch.stack(costs).mean() if costs else gradient_error.new_zeros(())


def prior_loss(valence: ValenceParameters, rows: Sequence[TrainingRow]) -> Tensor:
    """Mean squared scaled distance to the classical parameters of the rows, all of which must have them."""
    device = valence.bond_k.device
    prior = {n: torch.cat([getattr(row.prior, n) for row in rows]).to(device) for n in CLASS1_NAMES}
    return (
        _scaled(valence.bond_length, prior["bond_length"], BOND_LENGTH_SCALE)
        + _scaled(valence.angle_theta, prior["angle_theta"], ANGLE_SCALE)
        + _scaled(valence.bond_k.log(), prior["bond_k"].log(), LOG_K_SCALE)
        + _scaled(valence.angle_k.log(), prior["angle_k"].log(), LOG_K_SCALE)
        + _scaled(valence.proper_k, prior["proper_k"], TORSION_SCALE)
        + _scaled(valence.improper_k, prior["improper_k"], TORSION_SCALE)
    )


def stiffness_pull(valence: ValenceParameters, rows: Sequence[TrainingRow]) -> Tensor:
    """Mean squared logarithm of bond and angle stiffness over the prior's, over the rows that have a prior.

    Minima and torsion drives say little about stiffness; without the pull it drifts.
    """
    total = valence.bond_k.new_zeros(())
    for name, sizes in (
        ("bond_k", [len(row.indices.bonds) for row in rows]),
        ("angle_k", [len(row.indices.angles) for row in rows]),
    ):
        parts = getattr(valence, name).split(sizes)
        pairs = [(part, getattr(row.prior, name)) for part, row in zip(parts, rows, strict=True) if row.prior]
        if pairs:
            ours = torch.cat([a for a, _ in pairs])
            theirs = torch.cat([b for _, b in pairs]).to(ours.device)
            total = total + _scaled(ours.log(), theirs.log(), LOG_K_SCALE)
    return total


def _mean_square(values: Tensor) -> Tensor:
    """Squared length of an average row (n, m); zero of none, where a mean would not be a number."""
    return values.square().sum(dim=1).mean() if len(values) else values.new_zeros(())


def _scaled(ours: Tensor, theirs: Tensor, scale: float) -> Tensor:
    return ((ours - theirs) / scale).square().mean() if ours.numel() else ours.new_zeros(())


def _huber(error: Tensor, bend: float) -> Tensor:
    """Half the square below `bend`, linear beyond."""
    size = error.abs()
    return torch.where(size < bend, 0.5 * error.square(), bend * (size - 0.5 * bend))
