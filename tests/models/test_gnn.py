"""Message passing: dgl and pure torch give the same numbers, to second derivatives."""

import numpy as np
import pytest
import torch

from models.energy import energy
from models.features import N_ATOM_FEATURES, N_EDGE_FEATURES, N_PI_FEATURES, build_graph
from models.gnn import GraphEncoder
from models.graph import collate_graphs
from models.network import ValenceNetwork
from models.predict import build_batch
from pipeline.errors import RefusedLigandError
from pipeline.topology import build_topology

AGREEMENT = 1e-6
"""relative: what the two aggregations may differ by"""


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).abs().max() / other.abs().max()).item()


def test_dgl_and_torch_embeddings_agree(build_ligand):
    """Both aggregations give the same embeddings on a batch of three molecules."""
    torch.manual_seed(1)
    encoder = GraphEncoder(48, 4).double()
    graphs = [build_graph(build_ligand(s)) for s in ("CCO", "c1ccncc1Cl", "CC(=O)[O-]")]
    batch = collate_graphs(graphs, dtype=torch.float64)
    assert relative(encoder(batch, "dgl"), encoder(batch, "torch")) < AGREEMENT


def test_dgl_and_torch_energies_agree_to_second_order(build_ligand):
    """Energy, its gradient in coordinates, and the derivative of a force norm in the weights agree."""
    torch.manual_seed(2)
    ligand = build_ligand("NC(=O)c1ccccc1F")
    topology = build_topology(ligand)
    batch, indices = build_batch([(ligand, topology)])
    network = ValenceNetwork(24, 3).double()
    start = torch.randn(topology.n_atoms, 2, 3, dtype=torch.float64) * 2.0
    results = {}
    for backend in ("torch", "dgl"):
        coords = start.clone().requires_grad_(True)
        zero = torch.zeros(topology.n_atoms, dtype=torch.float64)
        parameters = network(batch, indices, backend).with_nonbonded(zero, zero, zero)
        total = energy(indices, parameters, coords).total.sum()
        (gradient,) = torch.autograd.grad(total, coords, create_graph=True)
        weights = [p for p in network.parameters() if p.requires_grad]
        second = torch.autograd.grad(gradient.square().sum(), weights)
        results[backend] = (total.detach(), gradient.detach(), torch.cat([s.flatten() for s in second]))
    for one, other in zip(results["dgl"], results["torch"], strict=True):
        assert relative(one, other) < AGREEMENT


def test_features_have_the_stated_width(build_ligand):
    """Feature arrays have the widths the networks are built for, each bond in both directions."""
    graph = build_graph(build_ligand("C1CC1C#N"))
    assert graph.atom_features.shape == (10, N_ATOM_FEATURES + N_PI_FEATURES)
    assert graph.edge_features.shape == (20, N_EDGE_FEATURES + N_PI_FEATURES)
    assert {tuple(e) for e in graph.edges} == {tuple(e[::-1]) for e in graph.edges}


def test_ring_features_of_methylcyclopropane(build_ligand):
    """The three ring carbons, and only they, are marked as members of a three-membered ring."""
    graph = build_graph(build_ligand("CC1CC1"))
    three_ring = 10 + 7 + 1
    assert np.flatnonzero(graph.atom_features[:, three_ring]).tolist() == [1, 2, 3]


def test_conjugated_ring_without_bond_orders(build_ligand):
    """Benzene, pyrrole and thiazole count as conjugated; cyclohexene and piperidine do not."""
    column = N_EDGE_FEATURES - 2
    flags = [
        bool(build_graph(build_ligand(s)).edge_features[:, column].any())
        for s in ("c1ccccc1", "c1cc[nH]c1", "c1cscn1", "C1CCC=CC1", "C1CCNCC1")
    ]
    assert flags == [True, True, True, False, False]


def test_an_element_outside_the_training_is_refused(build_ligand):
    """Silicon is refused with a reason, not given the parameters of something else."""
    with pytest.raises(RefusedLigandError, match="Si"):
        build_graph(build_ligand("C[Si](C)(C)C"))
