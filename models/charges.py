"""Partial charges by electronegativity and hardness equilibration, total charge exact.

Minimising sum_i (e_i q_i + s_i q_i^2 / 2) under sum_i q_i = Q gives (Gilson, Gilson and Potter, J. Chem. Inf.
Comput. Sci. 2003, 43, 1982, eq. 3)

    q_i = -e_i / s_i + (1 / s_i) (Q + sum_j e_j / s_j) / (sum_j 1 / s_j)
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from models.gnn import Backend, GraphEncoder
from models.graph import GraphBatch
from models.sharing import Shared

MIN_HARDNESS = 0.1


class ChargeNetwork(nn.Module):
    """Graph in, partial charges out."""

    def __init__(self, width: int, n_layers: int, dropout: float = 0.0, *, pi: bool = False) -> None:
        super().__init__()
        self.encoder = GraphEncoder(width, n_layers, dropout, pi=pi)
        self.readout = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2))

    def forward(self, batch: GraphBatch, backend: Backend = "torch") -> Tensor:
        """Return (n_atoms,) elementary charges."""
        return equilibrate(*self.pulls(batch, backend), batch)

    def pulls(self, batch: GraphBatch, backend: Backend = "torch") -> tuple[Tensor, Tensor]:
        """Electronegativity and hardness of each atom, (n_atoms,) each."""
        electronegativity, raw_hardness = self.readout(self.encoder(batch, backend)).unbind(dim=1)
        return electronegativity, MIN_HARDNESS + nn.functional.softplus(raw_hardness + 1.0)


class ChargeEnsemble(nn.Module):
    """Charge networks of one size that were trained alike from other seeds; their mean is the charge."""

    def __init__(self, members: Sequence[ChargeNetwork]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def n_members(self) -> int:
        """Number of networks."""
        return len(self.members)

    def forward(self, batch: GraphBatch, backend: Backend = "torch") -> Tensor:
        """Return (n_atoms,) elementary charges."""
        return self.each(batch, backend).mean(dim=0)

    def each(self, batch: GraphBatch, backend: Backend = "torch") -> Tensor:
        """What every member says on its own, (n_members, n_atoms)."""
        return torch.stack([member(batch, backend) for member in self.members])

    def each_shared(self, shared: Shared, batch: GraphBatch) -> Tensor:
        """Do the same where the atoms that look alike are known."""
        pulls = [cast(ChargeNetwork, member).pulls(shared.batch) for member in self.members]
        return torch.stack([equilibrate(shared.of_atoms(e), shared.of_atoms(s), batch) for e, s in pulls])


def equilibrate(electronegativity: Tensor, hardness: Tensor, batch: GraphBatch) -> Tensor:
    """Charges (n_atoms,) from electronegativity and hardness (n_atoms,), summing to each total charge."""
    softness = 1.0 / hardness
    free = electronegativity * softness
    zeros = torch.zeros_like(batch.total_charge)
    sum_free = zeros.index_add(0, batch.atom_molecule, free)
    sum_softness = zeros.index_add(0, batch.atom_molecule, softness)
    potential = (batch.total_charge + sum_free) / sum_softness
    return softness * potential.index_select(0, batch.atom_molecule) - free
