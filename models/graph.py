"""Batches of molecular graphs as tensors; one of the two files that know dgl."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.features import MolecularGraph


@dataclass(frozen=True, kw_only=True, eq=False)
class GraphBatch:
    """Several molecular graphs side by side: atoms concatenated, edges with offsets."""

    atom_features: Tensor
    """(n_atoms, N_ATOM_FEATURES + N_PI_FEATURES)"""
    edge_source: Tensor
    """(n_edges,) atom indices"""
    edge_destination: Tensor
    """(n_edges,) atom indices"""
    edge_features: Tensor
    """(n_edges, N_EDGE_FEATURES + N_PI_FEATURES)"""
    atom_molecule: Tensor
    """(n_atoms,) which molecule an atom belongs to"""
    total_charge: Tensor
    """(n_molecules,) elementary charges"""

    @property
    def n_atoms(self) -> int:
        """Number of atoms of all molecules."""
        return len(self.atom_features)

    @property
    def n_molecules(self) -> int:
        """Number of molecules."""
        return len(self.total_charge)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "GraphBatch":
        """Move to a device; change the floating-point type where one is given."""
        moved = {}
        for field in fields(self):
            tensor = getattr(self, field.name)
            moved[field.name] = tensor.to(device, dtype if tensor.is_floating_point() else None)
        return GraphBatch(**moved)


def collate_graphs(graphs: Sequence[MolecularGraph], dtype: torch.dtype = torch.float32) -> GraphBatch:
    """Put graphs side by side."""
    counts = [len(graph.atom_features) for graph in graphs]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    edges = np.concatenate([graph.edges + offset for graph, offset in zip(graphs, offsets, strict=False)])
    return GraphBatch(
        atom_features=torch.as_tensor(np.concatenate([g.atom_features for g in graphs])).to(dtype),
        edge_source=torch.as_tensor(edges[:, 0].copy()),
        edge_destination=torch.as_tensor(edges[:, 1].copy()),
        edge_features=torch.as_tensor(np.concatenate([g.edge_features for g in graphs])).to(dtype),
        atom_molecule=torch.as_tensor(np.repeat(np.arange(len(graphs)), counts)),
        total_charge=torch.tensor([float(g.total_charge) for g in graphs], dtype=dtype),
    )


def to_dgl(batch: GraphBatch) -> Any:
    """Build the dgl graph of a batch; edges in the batch's order."""
    import dgl

    return dgl.graph((batch.edge_source, batch.edge_destination), num_nodes=batch.n_atoms)
