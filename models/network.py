"""The valence network, graph in, bonds, angles, propers and impropers out; and several of them as one."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from models.gnn import Backend, GraphEncoder
from models.graph import GraphBatch
from models.readouts import ValenceParameters, ValenceReadouts
from models.terms import MMIndices, TorchCross
from pipeline.settings import Form


class ValenceNetwork(nn.Module):
    """One graph encoder shared by the four valence readouts."""

    def __init__(
        self,
        width: int,
        n_layers: int,
        dropout: float = 0.0,
        form: Form = "class1",
        *,
        pi: bool = False,
        pairs: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = GraphEncoder(width, n_layers, dropout, pi=pi)
        self.form: Form = form
        self.has_pairs = pairs
        """whether it gives factors of the nonbonded pairs, which must be in the indices then"""
        self.readouts = ValenceReadouts(width, form, pairs=pairs)

    def forward(self, batch: GraphBatch, indices: MMIndices, backend: Backend = "torch") -> ValenceParameters:
        """Predict every valence parameter of a batch; rows beside `indices`."""
        return self.readouts(self.encoder(batch, backend), batch.atom_features, indices)


class ValenceEnsemble(nn.Module):
    """Networks of one size that were trained alike from other seeds; their mean is the force field."""

    def __init__(self, members: Sequence[ValenceNetwork]) -> None:
        super().__init__()
        self.form: Form = members[0].form
        self.has_pairs = members[0].has_pairs
        self.encoders = nn.ModuleList(member.encoder for member in members)
        self.readouts = EnsembleReadouts([member.readouts for member in members])

    @property
    def n_members(self) -> int:
        """Number of networks."""
        return len(self.encoders)

    def encoder(self, batch: GraphBatch, backend: Backend = "torch") -> tuple[Tensor, ...]:
        """Embeddings (n_atoms, width) by every member."""
        return tuple(encoder(batch, backend) for encoder in self.encoders)

    def forward(self, batch: GraphBatch, indices: MMIndices, backend: Backend = "torch") -> ValenceParameters:
        """Predict every valence parameter of a batch; rows beside `indices`."""
        return self.readouts(self.encoder(batch, backend), batch.atom_features, indices)

    def each(self, batch: GraphBatch, indices: MMIndices) -> list[ValenceParameters]:
        """What every member predicts on its own."""
        return self.readouts.each(self.encoder(batch), batch.atom_features, indices)

    def propers(self, batch: GraphBatch, indices: MMIndices) -> list[Tensor]:
        """Of each member's prediction only the propers, each (n_propers, n_periodicities)."""
        pairs = zip(self.readouts.members, self.encoder(batch), strict=True)
        return [cast(ValenceReadouts, one).propers(embedding, indices) for one, embedding in pairs]


class EnsembleReadouts(nn.Module):
    """The readouts of every member; what fine-tuning moves."""

    def __init__(self, members: Sequence[ValenceReadouts]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def each(
        self, embeddings: Sequence[Tensor], atom_features: Tensor, indices: MMIndices
    ) -> list[ValenceParameters]:
        """Read each member's embeddings."""
        return [
            readouts(embedding, atom_features, indices)
            for readouts, embedding in zip(self.members, embeddings, strict=True)
        ]

    def forward(
        self, embeddings: Sequence[Tensor], atom_features: Tensor, indices: MMIndices
    ) -> ValenceParameters:
        """Read each member's embeddings and take the mean."""
        return mean_parameters(self.each(embeddings, atom_features, indices))


def mean_parameters(members: Sequence[ValenceParameters]) -> ValenceParameters:
    """The force field whose energy is the mean of the members' energies, up to a constant.

    Harmonic terms k_m (x - x_m)^2 average to k = mean k_m, x = sum k_m x_m / sum k_m; cosines linearly.
    """

    def mean(name: str) -> Tensor:
        return torch.stack([getattr(member, name) for member in members]).mean(0)

    def centre(k: str, rest: str) -> Tensor:
        pulls = torch.stack([getattr(member, k) * getattr(member, rest) for member in members]).mean(0)
        return pulls / mean(k)

    return ValenceParameters(
        bond_k=mean("bond_k"),
        bond_length=centre("bond_k", "bond_length"),
        angle_k=mean("angle_k"),
        angle_theta=centre("angle_k", "angle_theta"),
        proper_k=mean("proper_k"),
        improper_k=mean("improper_k"),
        cross=_mean_cross([member.cross for member in members if member.cross is not None]),
    )


def _mean_cross(members: Sequence[TorchCross]) -> TorchCross | None:
    """Term by term; the rest values they refer to differ little between members.

    Factors of pairs are linear in the energy too.
    """
    if not members:
        return None
    names = vars(members[0])
    return TorchCross(**{n: torch.stack([getattr(member, n) for member in members]).mean(0) for n in names})
