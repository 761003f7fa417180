"""The valence network: graph in, bonds, angles, propers and impropers out."""

from torch import nn

from models.gnn import Backend, GraphEncoder
from models.graph import GraphBatch
from models.readouts import ValenceParameters, ValenceReadouts
from models.terms import MMIndices


class ValenceNetwork(nn.Module):
    """One graph encoder shared by the four valence readouts."""

    def __init__(self, width: int, n_layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = GraphEncoder(width, n_layers, dropout)
        self.readouts = ValenceReadouts(width)

    def forward(self, batch: GraphBatch, indices: MMIndices, backend: Backend = "torch") -> ValenceParameters:
        """Predict every valence parameter of a batch; rows beside `indices`."""
        return self.readouts(self.encoder(batch, backend), batch.atom_features, indices)
