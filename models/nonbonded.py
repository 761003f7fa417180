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


@dataclass(frozen=True, kw_only=True, eq=False)
class PairParameters:
    """What the energy of a pair is made of, each (n_pairs, 1)."""

    sigma: Tensor
    """angstrom"""
    repulsion: Tensor
    """kcal/mol: 4 eps, with its factor, before (sigma/r)^12"""
    dispersion: Tensor
    """kcal/mol: 4 eps, with its factor, before (sigma/r)^6"""
    charge: Tensor
    """kcal/mol angstrom: C q_i q_j with its factor"""


def compute_pairs(
    indices: MMIndices, parameters: TorchParameters, x: Tensor, *, beyond_class1: bool = False
) -> tuple[PairEnergies, Tensor]:
    """Compute the pair energies of coordinates (3, n_atoms, n_confs) and the vectors i -> j.

    E = 4 eps ((sigma/r)^12 - (sigma/r)^6) + C q_i q_j / r with Lorentz-Berthelot combination, no cut-off,
    times the factors of 1-4 pairs or, in class II, of every pair. `beyond_class1`: of the factors of class II
    only what they differ from those of class I.
    """
    vectors = vectors_between(x, indices.pairs[:, 0], indices.pairs[:, 1])
    inverse_square = 1 / dot(vectors, vectors)
    pair = pair_parameters(indices, parameters, x.dtype, beyond_class1=beyond_class1)
    sixth = (pair.sigma * pair.sigma * inverse_square) ** 3
    attraction = pair.dispersion * sixth
    repulsion = pair.repulsion * sixth * sixth
    coulomb = pair.charge * inverse_square.sqrt()
    return PairEnergies(
        vdw=repulsion - attraction,
        coulomb=coulomb,
        vdw_slope=(6 * attraction - 12 * repulsion) * inverse_square,
        coulomb_slope=-coulomb * inverse_square,
    ), vectors


def pair_parameters(
    indices: MMIndices, parameters: TorchParameters, dtype: torch.dtype, *, beyond_class1: bool = False
) -> PairParameters:
    """Combine atoms to pairs, with the factors of the pairs."""
    i, j = indices.pairs[:, 0], indices.pairs[:, 1]
    sigma = (parameters.sigma[i] + parameters.sigma[j]) / 2
    product = parameters.epsilon[i] * parameters.epsilon[j]
    # The square root has no finite slope at zero: hydroxyl hydrogens with epsilon 0 would give NaN gradients.
    positive = product > 0
    depth = 4 * torch.where(positive, torch.where(positive, product, 1.0).sqrt(), 0.0)
    charge = COULOMB_CONSTANT * parameters.charge[i] * parameters.charge[j]
    repulsion, dispersion, coulomb = _factors(indices, parameters, beyond_class1=beyond_class1)
    return PairParameters(
        sigma=sigma.to(dtype)[:, None],
        repulsion=(depth * repulsion).to(dtype)[:, None],
        dispersion=(depth * dispersion).to(dtype)[:, None],
        charge=(charge * coulomb).to(dtype)[:, None],
    )


def _factors(
    indices: MMIndices, parameters: TorchParameters, *, beyond_class1: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of the terms in r^-12, r^-6 and r^-1, each (n_pairs,)."""
    vdw, coulomb = indices.pair_scale_vdw, indices.pair_scale_coulomb
    cross = parameters.cross
    if cross is None or not cross.has_pairs:
        return vdw, vdw, coulomb
    if not beyond_class1:
        return cross.pair_repulsion, cross.pair_dispersion, cross.pair_coulomb
    return cross.pair_repulsion - vdw, cross.pair_dispersion - vdw, cross.pair_coulomb - coulomb
