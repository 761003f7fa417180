"""The stiff part of the Hessian, cheap and positive definite: what a minimiser starts from.

    P = sum over bonds, angles, propers, impropers of k_q (dq/dx)(dq/dx)^T + c 1

It leaves out nonbonded terms and the curvature of the coordinates themselves, so it is positive definite
wherever the molecule is (Mones, Ortner and Csanyi, Sci. Rep. 8, 13991, 2018: FF-based preconditioning).
"""

import torch
from torch import Tensor

from models.internals import measure_angles, measure_dihedrals, measure_lengths
from models.terms import MMIndices, TorchParameters

FLOOR = 5.0
"""kcal/mol/angstrom^2: stiffness of every coordinate beside the valence terms, about that of a contact"""
TORSION_FLOOR = 1.0
"""kcal/mol/radian^2: least stiffness of a dihedral"""


def inverse_stiffness(
    indices: MMIndices, parameters: TorchParameters, coords: Tensor, slots: Tensor, width: int
) -> Tensor:
    """Invert the stiffness of every molecule of a batch at coords (n_atoms_total, 3), angstrom.

    `slots` (n_atoms_total,) is each atom's place in the padded array of n_molecules x width atoms. Returns
    (n_molecules, 3 width, 3 width), angstrom^2 mol/kcal.
    """
    x = coords.T[..., None].contiguous()
    n_dof = 3 * width
    matrix = torch.zeros(indices.n_molecules * n_dof * n_dof, dtype=coords.dtype)
    bonds, angles = measure_lengths(x, indices.bonds), measure_angles(x, indices.angles)
    propers = measure_dihedrals(x, indices.propers)
    impropers = measure_dihedrals(x, indices.improper_dihedrals)
    for atoms, derivatives, k in (
        (indices.bonds, bonds.derivatives(), parameters.bond_k),
        (indices.angles, angles.derivatives(), parameters.angle_k),
        (indices.propers, propers.derivatives(), _torsion_stiffness(parameters.proper_k)),
        (indices.improper_dihedrals, impropers.derivatives(), _torsion_stiffness(parameters.improper_k)),
    ):
        index, value = _blocks(slots[atoms], torch.stack(derivatives)[..., 0], k.to(x.dtype), width)
        matrix = matrix.index_add_(0, index, value)
    # Where atoms lie on top of each other, derivatives are not numbers; where three of a dihedral's are
    # nearly in line, they are so large that rounding makes the sum indefinite: then the floor stands alone.
    valence = matrix.reshape(-1, n_dof, n_dof)
    valence = torch.where(torch.isfinite(valence).all(dim=(1, 2), keepdim=True), valence, 0.0)
    floor = torch.eye(n_dof, dtype=coords.dtype)
    factor, failed = torch.linalg.cholesky_ex(valence + FLOOR * floor)
    factor = torch.where(failed.bool()[:, None, None], FLOOR**0.5 * floor, factor)
    return torch.cholesky_inverse(factor)


def _torsion_stiffness(k: Tensor) -> Tensor:
    """Largest curvature of a cosine series (n, n_periodicities): sum n^2 |k_n|, at least the floor."""
    periodicity = torch.arange(1, k.shape[1] + 1, dtype=k.dtype)
    return (periodicity**2 * k.abs()).sum(1).clamp(min=TORSION_FLOOR)


def _blocks(slots: Tensor, derivatives: Tensor, k: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Entries of k (dq/dx)(dq/dx)^T: positions in the flat matrices and values.

    slots (n, n_columns); derivatives (n_columns, 3, n); k (n,).
    """
    n_dof = 3 * width
    by_dof = derivatives.flatten(0, 1)
    dof = (3 * (slots % width).T[:, None, :] + torch.arange(3)[None, :, None]).reshape(by_dof.shape)
    molecule = slots[:, 0] // width
    index = (molecule * n_dof + dof[:, None, :]) * n_dof + dof[None, :, :]
    value = k * by_dof[:, None, :] * by_dof[None, :, :]
    return index.reshape(-1), value.reshape(-1)
