"""The MM energy of a batch of molecules and conformers in torch, with closed coordinate derivatives.

    E = sum k/2 (r - l)^2 + sum k/2 (theta - theta0)^2 + sum_n k_n (1 + cos n phi) over propers and trefoil
      improper rows + Lennard-Jones + Coulomb            (the convention of pipeline.schema.MMParameters)
      + class II terms where there are any               (models.class2, models.nonbonded)

Layout of coordinates everywhere: (n_atoms_total, n_confs, 3), angstrom, the atoms of all molecules of the
batch concatenated, every molecule with the same number of conformers. Pad a molecule that has fewer with
copies of one of its conformers (never with zeros: atoms on top of each other have no finite energy) and mask
the loss.

Two ways to a gradient, equal to rounding:
- `energy(...)` by autograd, as often differentiable in the coordinates as wanted;
- `valence_energy_and_gradient`, `nonbonded_energy_and_gradient`: dE/dx = dE/dq dq/dx written out, so that
  the gradient is an ordinary function of the *parameters* and training on forces needs one backward pass.
"""

import torch
from torch import Tensor

from models.class2 import cross_energy_and_gradient
from models.internals import (
    Dihedrals,
    cosines_of_multiples,
    measure_angles,
    measure_dihedrals,
    measure_lengths,
    sines_of_multiples,
)
from models.nonbonded import compute_pairs
from models.terms import (
    EnergyTerms,
    MMIndices,
    TorchParameters,
    collate_indices,
    collate_parameters,
    indices_from_topology,
)

__all__ = [
    "EnergyTerms",
    "MMIndices",
    "TorchParameters",
    "collate_indices",
    "collate_parameters",
    "energy",
    "energy_and_gradient",
    "indices_from_topology",
    "learned_energy_and_gradient",
    "nonbonded_energy_and_gradient",
    "valence_energy_and_gradient",
]

AtomContribution = tuple[Tensor, Tensor]
"""Atom indices (n,) and their share of dE/dx, (3, n, n_confs)."""


def energy(indices: MMIndices, parameters: TorchParameters, coords: Tensor) -> EnergyTerms:
    """Compute every term of the energy, kcal/mol, differentiable in parameters and coordinates.

    coords: (n_atoms_total, n_confs, 3), angstrom. Returns terms of shape (n_molecules, n_confs).
    """
    x = _component_first(coords)
    bonds, angles = measure_lengths(x, indices.bonds), measure_angles(x, indices.angles)
    propers = measure_dihedrals(x, indices.propers)
    impropers = measure_dihedrals(x, indices.improper_dihedrals)
    pairs, _ = compute_pairs(indices, parameters, x)
    cross, _ = _cross(indices, parameters, coords)
    per_term = (
        (_spring(parameters.bond_k, bonds.value, parameters.bond_length)[0], indices.bond_molecule),
        (_spring(parameters.angle_k, angles.value, parameters.angle_theta)[0], indices.angle_molecule),
        (_series(parameters.proper_k, propers), indices.proper_molecule),
        (_series(parameters.improper_k, impropers), indices.improper_molecule),
        (pairs.vdw, indices.pair_molecule),
        (pairs.coulomb, indices.pair_molecule),
    )
    bond, angle, proper, improper, vdw, coulomb = (
        _sum_by_molecule(value, owner, indices.n_molecules) for value, owner in per_term
    )
    return EnergyTerms(
        bond=bond, angle=angle, proper=proper, improper=improper, vdw=vdw, coulomb=coulomb, cross=cross
    )


def _cross(indices: MMIndices, parameters: TorchParameters, coords: Tensor) -> tuple[Tensor, Tensor | None]:
    """Class II energy (n_molecules, n_confs) and gradient; zero and none where the form is class I."""
    if parameters.cross is None:
        return coords.new_zeros(indices.n_molecules, coords.shape[1]), None
    rest = (parameters.bond_length, parameters.angle_theta)
    return cross_energy_and_gradient(indices, rest, parameters.cross, coords)


def energy_and_gradient(
    indices: MMIndices, parameters: TorchParameters, coords: Tensor
) -> tuple[EnergyTerms, Tensor]:
    """Compute all terms (n_molecules, n_confs) and dE/dx (n_atoms_total, n_confs, 3), kcal/mol/angstrom."""
    valence, valence_gradient = valence_energy_and_gradient(indices, parameters, coords)
    nonbonded, nonbonded_gradient = nonbonded_energy_and_gradient(indices, parameters, coords)
    return valence + nonbonded, valence_gradient + nonbonded_gradient


def valence_energy_and_gradient(
    indices: MMIndices, parameters: TorchParameters, coords: Tensor
) -> tuple[EnergyTerms, Tensor]:
    """Compute all bonded terms and their part of dE/dx; vdw and coulomb are zero.

    coords: (n_atoms_total, n_confs, 3), angstrom. The gradient has the same shape, kcal/mol/angstrom.
    """
    x = _component_first(coords)
    bonds, angles = measure_lengths(x, indices.bonds), measure_angles(x, indices.angles)
    propers = measure_dihedrals(x, indices.propers)
    impropers = measure_dihedrals(x, indices.improper_dihedrals)
    bond, bond_slope = _spring(parameters.bond_k, bonds.value, parameters.bond_length)
    angle, angle_slope = _spring(parameters.angle_k, angles.value, parameters.angle_theta)
    proper, proper_slope = _torsion(parameters.proper_k, propers)
    improper, improper_slope = _torsion(parameters.improper_k, impropers)
    contributions = [
        *_contributions(indices.bonds, bond_slope, bonds.derivatives()),
        *_contributions(indices.angles, angle_slope, angles.derivatives()),
        *_contributions(indices.propers, proper_slope, propers.derivatives()),
        *_contributions(indices.improper_dihedrals, improper_slope, impropers.derivatives()),
    ]
    n_molecules = indices.n_molecules
    cross, cross_gradient = _cross(indices, parameters, coords)
    zero = coords.new_zeros(n_molecules, coords.shape[1])
    terms = EnergyTerms(
        bond=_sum_by_molecule(bond, indices.bond_molecule, n_molecules),
        angle=_sum_by_molecule(angle, indices.angle_molecule, n_molecules),
        proper=_sum_by_molecule(proper, indices.proper_molecule, n_molecules),
        improper=_sum_by_molecule(improper, indices.improper_molecule, n_molecules),
        vdw=zero,
        coulomb=zero,
        cross=cross,
    )
    gradient = _sum_by_atom(contributions, coords)
    return terms, gradient if cross_gradient is None else gradient + cross_gradient


def learned_energy_and_gradient(
    indices: MMIndices, parameters: TorchParameters, coords: Tensor
) -> tuple[EnergyTerms, Tensor]:
    """Compute all that networks give: the bonded terms, and what class II makes of the nonbonded ones.

    The rest is the nonbonded part of class I, which training takes out of the QM (models.targets).
    """
    bonded, gradient = valence_energy_and_gradient(indices, parameters, coords)
    if parameters.cross is None or not parameters.cross.has_pairs:
        return bonded, gradient
    more, more_gradient = nonbonded_energy_and_gradient(indices, parameters, coords, beyond_class1=True)
    return bonded + more, gradient + more_gradient


def nonbonded_energy_and_gradient(
    indices: MMIndices, parameters: TorchParameters, coords: Tensor, *, beyond_class1: bool = False
) -> tuple[EnergyTerms, Tensor]:
    """Compute Lennard-Jones and Coulomb and their part of dE/dx; the valence terms are zero.

    coords: (n_atoms_total, n_confs, 3), angstrom. The gradient has the same shape, kcal/mol/angstrom.
    `beyond_class1`: only what the factors of a class II form add to the terms of class I.
    """
    pairs, vectors = compute_pairs(indices, parameters, _component_first(coords), beyond_class1=beyond_class1)
    pull = vectors * (pairs.vdw_slope + pairs.coulomb_slope)
    gradient = _sum_by_atom([(indices.pairs[:, 0], -pull), (indices.pairs[:, 1], pull)], coords)
    zero = coords.new_zeros(indices.n_molecules, coords.shape[1])
    vdw = _sum_by_molecule(pairs.vdw, indices.pair_molecule, indices.n_molecules)
    coulomb = _sum_by_molecule(pairs.coulomb, indices.pair_molecule, indices.n_molecules)
    terms = EnergyTerms(
        bond=zero, angle=zero, proper=zero, improper=zero, vdw=vdw, coulomb=coulomb, cross=zero
    )
    return terms, gradient


def _component_first(coords: Tensor) -> Tensor:
    """(n_atoms, n_confs, 3) -> (3, n_atoms, n_confs), contiguous."""
    return coords.permute(2, 0, 1).contiguous()


def _spring(k: Tensor, value: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """Energy k/2 (q - q0)^2 and slope k (q - q0), each (n, n_confs), of values (n, n_confs)."""
    stretch = value - rest.to(value.dtype)[:, None]
    slope = k.to(value.dtype)[:, None] * stretch
    return slope * stretch / 2, slope


def _series(k: Tensor, dihedrals: Dihedrals) -> Tensor:
    """Energy sum_n k_n (1 + cos n phi), (n, n_confs), of k (n, n_periodicities)."""
    waves = torch.stack(cosines_of_multiples(dihedrals.cos, k.shape[1]), dim=1)
    return torch.einsum("tn,tnc->tc", k.to(waves.dtype), 1 + waves)


def _torsion(k: Tensor, dihedrals: Dihedrals) -> tuple[Tensor, Tensor]:
    """Energy of `_series` and slope dE/dphi = -sum_n n k_n sin n phi, each (n, n_confs)."""
    waves = torch.stack(sines_of_multiples(dihedrals.cos, dihedrals.sin(), k.shape[1]), dim=1)
    periodicity = torch.arange(1, k.shape[1] + 1, device=k.device, dtype=waves.dtype)
    slope = torch.einsum("tn,tnc->tc", -periodicity * k.to(waves.dtype), waves)
    return _series(k, dihedrals), slope


def _contributions(atoms: Tensor, slope: Tensor, derivatives: tuple[Tensor, ...]) -> list[AtomContribution]:
    """Chain rule: dE/dx = dE/dq dq/dx for the atom in each column of `atoms` (n, n_columns)."""
    return [(atoms[:, column], slope * by_x) for column, by_x in enumerate(derivatives)]


def _sum_by_atom(contributions: list[AtomContribution], coords: Tensor) -> Tensor:
    """Add up what every interaction does to each atom, (n_atoms, n_confs, 3)."""
    owners = torch.cat([atoms for atoms, _ in contributions])
    values = torch.cat([value for _, value in contributions], dim=1)
    zero = torch.zeros_like(coords[..., 0])
    return torch.stack([zero.index_add(0, owners, value) for value in values], dim=-1)


def _sum_by_molecule(values: Tensor, owner: Tensor, n_molecules: int) -> Tensor:
    """Add up the terms (n, n_confs) of each molecule, (n_molecules, n_confs)."""
    return values.new_zeros(n_molecules, values.shape[1]).index_add(0, owner, values)
