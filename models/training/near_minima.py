"""The energy surface around a DFT minimum, learned from a cheap level without moving the minimum.

At a DFT minimum x0 the DFT force is zero, the cheap level's is not. Its linear part is taken out in internal
coordinates q (bonds, angles, dihedrals), so that it stays with the bond when a torsion turns the bond around:

    E(x) = E_cheap(x) - E_cheap(x0) - sum_q f_q (q(x) - q(x0)),    g(x) = g_cheap(x) - B(x)^T f
    f = K B(x0) d,   d = P^-1 g_cheap(x0),   P = B^T K B     (f: smallest in the metric 1/K with B^T f = g)

x0 is a stationary point of E; away from it E has the cheap level's curvature. Which geometries teach most is
read off P: along its soft modes a force field's minimum is easily lost.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.internals import measure_angles, measure_dihedrals, measure_lengths
from models.terms import MMIndices, TorchParameters
from pipeline.schema import FloatArray

RIGID = 1e-3
"""kcal/mol/angstrom^2: keeps P invertible along translations and rotations"""
TORSION_STIFFNESS = 2.0
"""kcal/mol/radian^2: least stiffness of a dihedral in the metric"""
CONTACT_STIFFNESS = 1.0
"""kcal/mol/angstrom^2"""
KT = 0.5961
"""kcal/mol at 300 K"""
LARGEST_TURN = 1.05
"""radian: beyond this, on any dihedral, a linear part taken at the minimum means nothing"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Internals:
    """Internal coordinates of one geometry and how they change with it."""

    value: FloatArray
    """(n_q,): bonds (angstrom), then angles, propers, impropers (radian)"""
    jacobian: FloatArray
    """(n_q, 3 n_atoms), B = dq/dx"""
    n_stretch: int
    """the first so many are bonds and angles; the others turn and are periodic"""

    def difference(self, start: "Internals") -> FloatArray:
        """(n_q,) this minus `start`, dihedrals the short way round."""
        change = self.value - start.value
        turn = change[self.n_stretch :]
        change[self.n_stretch :] = np.arctan2(np.sin(turn), np.cos(turn))
        return change


def measure_internals(indices: MMIndices, coords: FloatArray) -> Internals:
    """Measure one molecule at coords (n_atoms, 3), angstrom."""
    value, jacobian = _measure(indices, torch.as_tensor(np.array(coords, dtype=np.float64))[:, None, :])
    n_stretch = len(indices.bonds) + len(indices.angles)
    return Internals(value=value[:, 0].numpy(), jacobian=jacobian[0].numpy(), n_stretch=n_stretch)


def _measure(indices: MMIndices, coords: Tensor) -> tuple[Tensor, Tensor]:
    """Values (n_q, n_confs) and Jacobians (n_confs, n_q, 3 n_atoms) at coords (n_atoms, n_confs, 3)."""
    x = coords.permute(2, 0, 1).contiguous()
    bonds, angles = measure_lengths(x, indices.bonds), measure_angles(x, indices.angles)
    dihedrals = [measure_dihedrals(x, rows) for rows in (indices.propers, indices.improper_dihedrals)]
    turns = [torch.atan2(d.sin(), d.cos) for d in dihedrals]
    rows = (indices.bonds, indices.angles, indices.propers, indices.improper_dihedrals)
    derivatives = (bonds.derivatives(), angles.derivatives(), *(d.derivatives() for d in dihedrals))
    blocks = [_jacobian(r, torch.stack(d), len(coords)) for r, d in zip(rows, derivatives, strict=True)]
    return torch.cat([bonds.value, angles.value, *turns]), torch.cat(blocks, dim=1)


def _jacobian(rows: Tensor, derivatives: Tensor, n_atoms: int) -> Tensor:
    """(n_confs, n, 3 n_atoms) from derivatives (n_columns, 3, n, n_confs) by the atoms in `rows`."""
    full = derivatives.new_zeros(derivatives.shape[3], len(rows), n_atoms, 3)
    for column in range(rows.shape[1]):
        full[:, torch.arange(len(rows)), rows[:, column]] += derivatives[column].permute(2, 1, 0)
    return full.reshape(len(full), len(rows), 3 * n_atoms)


def stiffness_of_internals(parameters: TorchParameters) -> FloatArray:
    """(n_q,) force constants of a force field, the metric K; of a torsion, sum n^2 |k_n| with a floor."""

    def turning(k: Tensor) -> Tensor:
        periodicity = torch.arange(1, k.shape[1] + 1, dtype=k.dtype)
        return (periodicity**2 * k.abs()).sum(1).clamp(min=TORSION_STIFFNESS)

    parts = (
        parameters.bond_k,
        parameters.angle_k,
        turning(parameters.proper_k),
        turning(parameters.improper_k),
    )
    return torch.cat(parts).double().numpy()


@dataclass(frozen=True, kw_only=True, eq=False)
class Anchor:
    """A DFT minimum with what the cheap level says there."""

    indices: MMIndices
    coords: FloatArray
    """(n_atoms, 3), angstrom"""
    internals: Internals
    energy: float
    """kcal/mol, cheap level"""
    pull: FloatArray
    """(n_q,), f: what the cheap level would change, by internal coordinate"""

    def relative(
        self, coords: FloatArray, energy: float, gradient: FloatArray
    ) -> tuple[float, FloatArray, float]:
        """Energy and gradient (n_atoms, 3) on the corrected surface, and the largest turn of a dihedral."""
        here = measure_internals(self.indices, coords)
        change = here.difference(self.internals)
        turn = np.abs(change[here.n_stretch :]).max(initial=0.0)
        corrected = gradient - (here.jacobian.T @ self.pull).reshape(-1, 3)
        return float(energy - self.energy - self.pull @ change), corrected, float(turn)


def anchor_at(
    indices: MMIndices, coords: FloatArray, stiffness: FloatArray, cheap: tuple[float, FloatArray]
) -> Anchor:
    """Build the anchor from the cheap level's energy and gradient (n_atoms, 3) at the DFT minimum."""
    energy, gradient = cheap
    internals = measure_internals(indices, coords)
    jacobian = internals.jacobian
    metric = jacobian.T @ (stiffness[:, None] * jacobian) + RIGID * np.eye(jacobian.shape[1])
    newton = np.linalg.solve(metric, gradient.reshape(-1))
    return Anchor(
        indices=indices,
        coords=coords,
        internals=internals,
        energy=energy,
        pull=stiffness * (jacobian @ newton),
    )


def soft_modes(internals: Internals, stiffness: FloatArray, n_modes: int) -> tuple[FloatArray, FloatArray]:
    """The softest modes of the metric P that deform the molecule: stiffness (m,), vectors (m, 3 n_atoms).

    The six rigid motions (five of a line) are left out: they have no stiffness.
    """
    values, vectors = _lowest(torch.as_tensor(internals.jacobian), torch.as_tensor(stiffness), n_modes)
    return values.numpy(), vectors.numpy()


def _lowest(jacobian: Tensor, stiffness: Tensor, n_modes: int) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(jacobian.T @ (stiffness[:, None] * jacobian))
    chosen = (values > 10 * RIGID).nonzero()[:n_modes, 0]
    return values[chosen], vectors[:, chosen].T


def soft_projections(indices: MMIndices, stiffness: FloatArray, coords: Tensor, n_modes: int) -> Tensor:
    """Rows u/sqrt(lambda + floor) of the softest modes: (n_confs, m, 3 n_atoms).

    coords: (n_atoms, n_confs, 3), angstrom.
    A force f along them costs |f . u|^2 / (2 lambda) kcal/mol: what relaxing in the metric P would win. The
    floor stands for the contacts, which P leaves out: behind a triple bond a rotor has no stiffness in P.
    Float16, padded with zeros where a molecule has fewer modes.
    """
    _, jacobians = _measure(indices, coords.double())
    out = torch.zeros(len(jacobians), n_modes, jacobians.shape[2], dtype=torch.float16)
    for conf, jacobian in enumerate(jacobians):
        values, vectors = _lowest(jacobian, torch.as_tensor(stiffness), n_modes)
        out[conf, : len(values)] = (vectors / (values + CONTACT_STIFFNESS).sqrt()[:, None]).half()
    return out


def displace_along(
    modes: tuple[FloatArray, FloatArray], temperature_kt: float, generator: np.random.Generator
) -> FloatArray:
    """A random displacement (n_atoms, 3) that gives every mode kT/2 on average in the metric P."""
    values, vectors = modes
    amplitude = generator.normal(size=len(values)) * np.sqrt(temperature_kt / values)
    return (amplitude @ vectors).reshape(-1, 3)
