"""The class II terms in torch: anharmonicity and couplings, with closed coordinate derivatives.

The convention is that of pipeline.schema.CrossTerms. Coordinates stand component-first, as in
models.internals. The derivatives are the chain rule over the primitive coordinates r, theta, phi of each row,
so that training on forces needs one backward pass, as for class I.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.internals import (
    cosines_of_multiples,
    measure_angles,
    measure_dihedrals,
    measure_lengths,
    sines_of_multiples,
)
from models.terms import MMIndices, TorchCross
from pipeline.schema import N_CROSS_PERIODICITIES


@dataclass(frozen=True, kw_only=True, eq=False)
class _Strains:
    """Displacements of bonds and angles from rest, and cosines and sines of dihedrals; (n, n_confs) each."""

    bond: Tensor
    angle: Tensor
    cos: Tensor
    """(n_propers, 3, n_confs): cos n phi"""
    sin: Tensor
    """(n_propers, 3, n_confs): sin n phi"""


def cross_energy_and_gradient(
    indices: MMIndices, rest: tuple[Tensor, Tensor], cross: TorchCross, coords: Tensor
) -> tuple[Tensor, Tensor]:
    """Energies (n_molecules, n_confs) of all class II terms and their dE/dx (n_atoms, n_confs, 3).

    `rest` is the bond lengths (n_bonds,) and angles (n_angles,) of the class I part; coords
    (n_atoms, n_confs, 3), angstrom. kcal/mol and kcal/mol/angstrom.
    """
    x = coords.permute(2, 0, 1).contiguous()
    bonds, angles = measure_lengths(x, indices.bonds), measure_angles(x, indices.angles)
    propers = measure_dihedrals(x, indices.propers)
    strains = _Strains(
        bond=bonds.value - rest[0][:, None],
        angle=angles.value - rest[1][:, None],
        cos=torch.stack(cosines_of_multiples(propers.cos, N_CROSS_PERIODICITIES), dim=1),
        sin=torch.stack(sines_of_multiples(propers.cos, propers.sin(), N_CROSS_PERIODICITIES), dim=1),
    )
    energy = coords.new_zeros(indices.n_molecules, coords.shape[1])
    slopes = [torch.zeros_like(strains.bond), torch.zeros_like(strains.angle), torch.zeros_like(propers.cos)]
    for term in (_anharmonic, _angle_couplings, _torsion_couplings):
        energies, by_coordinate = term(strains, indices, cross)
        for value, owner in zip(energies, _owners(indices), strict=True):
            if value is not None:
                energy = energy.index_add(0, owner, value)
        slopes = [slope + more for slope, more in zip(slopes, by_coordinate, strict=True)]
    contributions = [
        (rows[:, column], slope * by_x)
        for rows, slope, derivatives in (
            (indices.bonds, slopes[0], bonds.derivatives()),
            (indices.angles, slopes[1], angles.derivatives()),
            (indices.propers, slopes[2], propers.derivatives()),
        )
        for column, by_x in enumerate(derivatives)
    ]
    owners = torch.cat([atoms for atoms, _ in contributions])
    values = torch.cat([value for _, value in contributions], dim=1)
    zero = torch.zeros_like(coords[..., 0])
    return energy, torch.stack([zero.index_add(0, owners, value) for value in values], dim=-1)


def _owners(indices: MMIndices) -> tuple[Tensor, Tensor, Tensor]:
    return indices.bond_molecule, indices.angle_molecule, indices.proper_molecule


Contribution = tuple[tuple[Tensor | None, Tensor | None, Tensor | None], tuple[Tensor, Tensor, Tensor]]
"""Energies by bond, angle and proper row, and slopes dE/dr, dE/dtheta, dE/dphi; all (n, n_confs)."""


def _anharmonic(strains: _Strains, indices: MMIndices, cross: TorchCross) -> Contribution:  # noqa: ARG001
    """k3 d^3 + k4 d^4 of every bond and angle."""

    def quartic(d: Tensor, k3: Tensor, k4: Tensor) -> tuple[Tensor, Tensor]:
        square = d * d
        cubic, quartic = k3[:, None] * square, k4[:, None] * square * d
        return (cubic + quartic) * d, 3 * cubic + 4 * quartic

    bond, bond_slope = quartic(strains.bond, cross.bond_k3, cross.bond_k4)
    angle, angle_slope = quartic(strains.angle, cross.angle_k3, cross.angle_k4)
    return (bond, angle, None), (bond_slope, angle_slope, torch.zeros_like(strains.cos[:, 0]))


def _angle_couplings(strains: _Strains, indices: MMIndices, cross: TorchCross) -> Contribution:
    """The two bonds of an angle with each other and with the angle."""
    one, other = (strains.bond.index_select(0, indices.angle_bonds[:, end]) for end in (0, 1))
    bond_bond = cross.bond_bond[:, None]
    by_one, by_other = (cross.bond_angle[:, end, None] for end in (0, 1))
    pull = by_one * one + by_other * other
    energy = bond_bond * one * other + strains.angle * pull
    on_one = bond_bond * other + strains.angle * by_one
    on_other = bond_bond * one + strains.angle * by_other
    on_bonds = _add_rows(
        strains.bond, [(indices.angle_bonds[:, 0], on_one), (indices.angle_bonds[:, 1], on_other)]
    )
    return (None, energy, None), (on_bonds, pull, torch.zeros_like(strains.cos[:, 0]))


def _torsion_couplings(strains: _Strains, indices: MMIndices, cross: TorchCross) -> Contribution:
    """The middle bond and the two angles of a proper with its dihedral."""
    bond = strains.bond.index_select(0, indices.proper_bond)
    one, other = (strains.angle.index_select(0, indices.proper_angles[:, end]) for end in (0, 1))
    n = torch.arange(1, N_CROSS_PERIODICITIES + 1, dtype=bond.dtype, device=bond.device)
    series = torch.stack([cross.bond_torsion, cross.angle_torsion[:, 0], cross.angle_torsion[:, 1]])
    waves = torch.einsum("stn,tnc->stc", series, strains.cos)
    turns = torch.einsum("stn,tnc->stc", -n * series, strains.sin)
    both = cross.angle_angle_torsion[:, None]
    cos, sin = strains.cos[:, 0], strains.sin[:, 0]
    energy = bond * waves[0] + one * waves[1] + other * waves[2] + both * one * other * cos
    on_phi = bond * turns[0] + one * turns[1] + other * turns[2] - both * one * other * sin
    on_bonds = _add_rows(strains.bond, [(indices.proper_bond, waves[0])])
    on_angles = _add_rows(
        strains.angle,
        [
            (indices.proper_angles[:, 0], waves[1] + both * other * cos),
            (indices.proper_angles[:, 1], waves[2] + both * one * cos),
        ],
    )
    return (None, None, energy), (on_bonds, on_angles, on_phi)


def _add_rows(like: Tensor, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum values (n, n_confs) into the rows they belong to."""
    total = torch.zeros_like(like)
    for rows, values in parts:
        total = total.index_add(0, rows, values)
    return total
