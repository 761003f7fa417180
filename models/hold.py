"""A stiff spring that holds a dihedral: E = K (1 - cos(phi - phi0)), with one minimum per turn."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.internals import measure_dihedrals
from pipeline.schema import FloatArray

HOLD_STIFFNESS = 300.0
"""kcal/mol/radian^2: a torsion that pulls with 5 kcal/mol/radian turns it by one degree"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Hold:
    """One dihedral of a molecule, and where it is held in each of its conformers."""

    dihedral: tuple[int, int, int, int]
    angles: FloatArray
    """(n_confs,), radian"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Springs:
    """At most one spring for each conformer of a batch."""

    conformers: Tensor
    """(n_springs,), int64: number of the conformer"""
    atoms: Tensor
    """(n_springs, 4), int64: rows of the batch's coordinates"""
    angles: Tensor
    """(n_springs,), radian"""

    def pull(self, coords: Tensor, energy: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Add the springs to energies (n_confs,), kcal/mol, and dE/dx (n_atoms_total, 3) at coords alike."""
        if not len(self.conformers):
            return energy, gradient
        dihedrals = measure_dihedrals(coords.T[..., None].contiguous(), self.atoms)
        cos, sin = dihedrals.cos[:, 0], dihedrals.sin()[:, 0]
        cos0, sin0 = self.angles.cos(), self.angles.sin()
        stored = HOLD_STIFFNESS * (1.0 - cos * cos0 - sin * sin0)
        slope = HOLD_STIFFNESS * (sin * cos0 - cos * sin0)
        forces = [(slope * by_x[..., 0]).T for by_x in dihedrals.derivatives()]
        energy = energy.index_add(0, self.conformers, stored)
        return energy, gradient.index_add(0, self.atoms.T.reshape(-1), torch.cat(forces))


def springs_of(holds: Sequence[tuple[Hold, int] | None], n_atoms: Sequence[int]) -> Springs:
    """Springs of conformers side by side, of `n_atoms` each: a hold and which of its conformers, or none."""
    start, rows = 0, []
    for number, (hold, size) in enumerate(zip(holds, n_atoms, strict=True)):
        if hold is not None:
            rows.append((number, [start + atom for atom in hold[0].dihedral], hold[0].angles[hold[1]]))
        start += size
    numbers, atoms, angles = ([row[column] for row in rows] for column in range(3))
    return Springs(
        conformers=torch.tensor(numbers, dtype=torch.int64),
        atoms=torch.tensor(atoms, dtype=torch.int64).reshape(-1, 4),
        angles=torch.tensor(angles, dtype=torch.float64),
    )
