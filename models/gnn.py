"""Message passing over the bonds, in pure torch or with dgl; the other file that knows dgl.

    m_ij = silu(W_s h_j + W_e e_ij),   a_i = sum_j m_ij,   h_i <- h_i + W_2 silu(W_1 [norm(h_i), a_i])

Sums over neighbours, no batch statistics: the embedding of an atom does not depend on atom order nor on what
else is in the batch. Both aggregations give the same numbers (tests/models/test_gnn.py); inference needs
torch only.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from models.features import N_ATOM_FEATURES, N_EDGE_FEATURES, N_PI_FEATURES
from models.graph import GraphBatch, to_dgl

Aggregate = Callable[[Tensor], Tensor]
"""(n_edges, width) messages -> (n_atoms, width) sums at the destinations"""
Backend = Literal["torch", "dgl"]


def torch_aggregate(batch: GraphBatch) -> Aggregate:
    """Sum messages with index_add."""

    def aggregate(messages: Tensor) -> Tensor:
        zeros = messages.new_zeros(batch.n_atoms, messages.shape[1])
        return zeros.index_add(0, batch.edge_destination, messages)

    return aggregate


def dgl_aggregate(batch: GraphBatch) -> Aggregate:
    """Sum messages with dgl's message passing."""
    import dgl.function as fn

    graph = to_dgl(batch)

    def aggregate(messages: Tensor) -> Tensor:
        with graph.local_scope():
            graph.edata["message"] = messages
            graph.update_all(fn.copy_e("message", "message"), fn.sum("message", "sum"))
            return graph.ndata["sum"]

    return aggregate


AGGREGATES: dict[str, Callable[[GraphBatch], Aggregate]] = {"torch": torch_aggregate, "dgl": dgl_aggregate}


class MessageLayer(nn.Module):
    """One round of messages along the bonds, added to the atom embedding."""

    def __init__(self, width: int, n_edge_features: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.source = nn.Linear(width, width)
        self.edge = nn.Linear(n_edge_features, width, bias=False)
        self.update = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, embedding: Tensor, batch: GraphBatch, aggregate: Aggregate) -> Tensor:
        """(n_atoms, width) -> (n_atoms, width)."""
        normed = self.norm(embedding)
        source = self.source(normed).index_select(0, batch.edge_source)
        messages = nn.functional.silu(source + self.edge(batch.edge_features[:, : self.edge.in_features]))
        return embedding + self.update(self.dropout(torch.cat([normed, aggregate(messages)], dim=1)))


class GraphEncoder(nn.Module):
    """Atom features in, atom embeddings out; `pi`: of the features, pi electrons too."""

    def __init__(self, width: int, n_layers: int, dropout: float = 0.0, *, pi: bool = False) -> None:
        super().__init__()
        n_more = N_PI_FEATURES if pi else 0
        self.embed = nn.Linear(N_ATOM_FEATURES + n_more, width)
        self.layers = nn.ModuleList(
            MessageLayer(width, N_EDGE_FEATURES + n_more, dropout) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.reads_pi = pi

    def forward(self, batch: GraphBatch, backend: Backend = "torch") -> Tensor:
        """Return (n_atoms, width)."""
        aggregate = AGGREGATES[backend](batch)
        embedding = self.embed(batch.atom_features[:, : self.embed.in_features])
        for layer in self.layers:
            embedding = layer(embedding, batch, aggregate)
        return self.norm(embedding)
