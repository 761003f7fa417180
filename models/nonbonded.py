"""Lennard-Jones and Coulomb energies and their gradients over an explicit list of pairs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.internals import dot, vectors_between
from models.terms import MMIndices, TorchParameters
from pipeline.units import COULOMB_CONSTANT


@dataclass(frozen=True, kw_only=True, eq=False)
class PairEnergies:
    """Energies of every pair in every conformer and dE/dr over r, all (n_pairs, n_confs)."""

    vdw: Tensor
    """kcal/mol"""
    coulomb: Tensor
    """kcal/mol"""
    vdw_slope: Tensor
    """(dE/dr) / r, kcal/mol/angstrom^2"""
    coulomb_slope: Tensor
    """(dE/dr) / r, kcal/mol/angstrom^2"""


def compute_pairs(indices: MMIndices, parameters: TorchParameters, x: Tensor) -> tuple[PairEnergies, Tensor]:
    """Compute the pair energies of coordinates (3, n_atoms, n_confs) and the vectors i -> j.

    E = 4 eps ((sigma/r)^12 - (sigma/r)^6) + C q_i q_j / r with Lorentz-Berthelot combination, no cut-off.
    """
    i, j = indices.pairs[:, 0], indices.pairs[:, 1]
    vectors = vectors_between(x, i, j)
    inverse_square = 1 / dot(vectors, vectors)
    sigma, depth, charge = pair_parameters(indices, parameters, x.dtype)
    sixth = (sigma * sigma * inverse_square) ** 3
    attraction = depth * sixth
    repulsion = attraction * sixth
    coulomb = charge * inverse_square.sqrt()
    return PairEnergies(
        vdw=repulsion - attraction,
        coulomb=coulomb,
        vdw_slope=(6 * attraction - 12 * repulsion) * inverse_square,
        coulomb_slope=-coulomb * inverse_square,
    ), vectors


def pair_parameters(
    indices: MMIndices, parameters: TorchParameters, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Combine atoms to pairs: sigma_ij, scaled 4 eps_ij and scaled C q_i q_j, each (n_pairs, 1)."""
    i, j = indices.pairs[:, 0], indices.pairs[:, 1]
    sigma = (parameters.sigma[i] + parameters.sigma[j]) / 2
    product = parameters.epsilon[i] * parameters.epsilon[j]
    # The square root has no finite slope at zero: hydroxyl hydrogens with epsilon 0 would give NaN gradients.
    positive = product > 0
    epsilon = torch.where(positive, torch.where(positive, product, 1.0).sqrt(), 0.0)
    charge = COULOMB_CONSTANT * parameters.charge[i] * parameters.charge[j]
    scaled = (sigma, 4 * epsilon * indices.pair_scale_vdw, charge * indices.pair_scale_coulomb)
    sigma, depth, charge = (value.to(dtype)[:, None] for value in scaled)
    return sigma, depth, charge
