"""Taking the fixed nonbonded part out of QM energies and gradients; the rest is for the valence terms."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from models.energy import nonbonded_energy_and_gradient
from models.readouts import ValenceParameters
from models.terms import MMIndices, pair_columns
from pipeline.schema import N_IMPROPER_PERIODICITIES, N_PROPER_PERIODICITIES, pairs_apart


def nonbonded_of(
    indices: MMIndices, nonbonded: tuple[Tensor, Tensor, Tensor], coords: Tensor
) -> tuple[Tensor, Tensor]:
    """Nonbonded energy (n_confs,) and gradient (n_atoms, n_confs, 3) of one molecule, float64.

    `nonbonded` is charge, sigma, epsilon, each (n_atoms,); coords (n_atoms, n_confs, 3), angstrom.
    """

    def zeros(rows: Tensor, *width: int) -> Tensor:
        return torch.zeros(len(rows), *width, dtype=torch.float64)

    no_valence = ValenceParameters(
        bond_k=zeros(indices.bonds),
        bond_length=zeros(indices.bonds),
        angle_k=zeros(indices.angles),
        angle_theta=zeros(indices.angles),
        proper_k=zeros(indices.propers, N_PROPER_PERIODICITIES),
        improper_k=zeros(indices.impropers, N_IMPROPER_PERIODICITIES),
    )
    charge, sigma, epsilon = (values.double() for values in nonbonded)
    parameters = no_valence.with_nonbonded(charge, sigma, epsilon)
    terms, gradient = nonbonded_energy_and_gradient(indices, parameters, coords.double())
    return terms.total[0], gradient


def with_pairs(indices: MMIndices) -> MMIndices:
    """List the nonbonded pairs of one molecule again, from its bonds."""
    pairs, bonds = pairs_apart(indices.n_atoms, indices.bonds.numpy())
    columns: dict[str, Any] = pair_columns(pairs, bonds)
    return replace(indices, **columns)


def without_pairs(indices: MMIndices) -> MMIndices:
    """Drop the nonbonded pairs, which the valence loss of class I does not need."""
    none = slice(0, 0)
    return replace(
        indices,
        pairs=indices.pairs[none],
        pair_scale_vdw=indices.pair_scale_vdw[none],
        pair_scale_coulomb=indices.pair_scale_coulomb[none],
        pair_bonds=indices.pair_bonds[none],
        pair_molecule=indices.pair_molecule[none],
    )
