"""From a ligand to its parameters with shipped weights; torch only, float64, the same numbers every time.

What else is in a batch changes the order of sums, and so the last of sixteen digits. Parameters are rounded
far above that and far below what the networks know: a molecule has its numbers whatever it is predicted with.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.alternation import count_blurred_double_bonds
from models.domain import spread_of
from models.features import MolecularGraph, build_graph
from models.graph import GraphBatch, collate_graphs
from models.network import mean_parameters
from models.readouts import CLASS1_NAMES, ValenceParameters
from models.sharing import ROWS_OF, share
from models.terms import MMIndices, TorchCross, collate_indices, indices_from_topology
from models.weights import Model, load_model
from pipeline.ligand import to_rdkit
from pipeline.schema import Confidence, FloatArray, Ligand, MMParameters, Topology
from pipeline.settings import Form
from pipeline.topology import linear_centres
from pipeline.vdw import assign_vdw

_DECIMALS = {
    "bond_k": 4,
    "bond_length": 8,
    "angle_k": 5,
    "angle_theta": 8,
    "proper_k": 7,
    "improper_k": 7,
    "charge": 9,
    "bond_k3": 5,
    "bond_k4": 5,
}
"""places after the point, in the units of MMParameters and CrossTerms"""
_OTHER_DECIMALS = 6
"""of class II terms"""


class Predictor:
    """Assigns every parameter of a ligand, in one form of a model."""

    def __init__(self, model: Model, form: Form = "class1") -> None:
        self.model = model
        self.valence = model.valence_of(form)
        self.has_pairs = self.valence.has_pairs
        """whether nonbonded pairs get factors of their own"""
        self.n_layers, self.reads_pi = model.n_layers, model.reads_pi
        self.others = [one for one in model.ensembles if one is not self.valence and model.domain]
        self.name = model.name if form == "class1" else f"{model.name} {form}"
        self.version, self.sha256 = model.version, model.sha256

    def predict(self, ligand: Ligand, topology: Topology) -> MMParameters:
        """Return parameters row by row beside the topology.

        Charges sum to the total charge to the last bit that float64 allows. Whatever else is predicted with
        it changes no number. Raises RefusedLigandError for an
        element outside the training, ParametersError for an atom without vdW type.
        """
        return self.predict_many([(ligand, topology)])[0]

    @torch.no_grad()
    def predict_many(self, ligands: Sequence[tuple[Ligand, Topology]]) -> list[MMParameters]:
        """Do the same for several ligands in one pass of the network."""
        graphs = [build_graph(ligand, pi=self.reads_pi) for ligand, _ in ligands]
        topologies = [topology for _, topology in ligands]
        batch, indices = collate(graphs, topologies, pairs=self.has_pairs)
        shared = share(batch, indices, self.n_layers)
        members = [shared.of_rows(one) for one in self.valence.each(shared.batch, shared.indices)]
        sizes = [topology.n_atoms for topology in topologies]
        each_charge = self.model.charges.each_shared(shared, batch)
        charges = made_exact(each_charge.mean(dim=0), batch).split(sizes)
        means = split_valence(mean_parameters(members), topologies)
        each_valence = [split_valence(one, topologies) for one in members]
        n_propers = [len(topology.propers) for topology in topologies]
        others = [
            shared.of_propers(proper_k).split(n_propers)
            for ensemble in self.others
            for proper_k in ensemble.propers(shared.batch, shared.indices)
        ]
        confidences = self._confidences(
            ligands, graphs, means, each_valence, others, each_charge.split(sizes, dim=1)
        )
        parameters = [
            straighten(assemble(part, charge, assign_vdw(ligand)), topology, linear_centres(to_rdkit(ligand)))
            for part, charge, (ligand, topology) in zip(means, charges, ligands, strict=True)
        ]
        return [replace(one, confidence=sure) for one, sure in zip(parameters, confidences, strict=True)]

    def _confidences(
        self,
        ligands: Sequence[tuple[Ligand, Topology]],
        graphs: Sequence[MolecularGraph],
        means: Sequence[ValenceParameters],
        members: Sequence[Sequence[ValenceParameters]],
        others: Sequence[Sequence[Tensor]],
        charges: Sequence[Tensor],
    ) -> list[Confidence | None]:
        """How sure the model is of each ligand; None where its domain was not recorded.

        `means` by ligand, `members` by network and ligand, `others` the propers by the networks of the other
        forms alike.
        """
        domain = self.model.domain
        if domain is None:
            return [None] * len(graphs)
        spreads = [
            spread_of([one[i] for one in members], charge, *ligand, others=[one[i] for one in others])
            for i, (ligand, charge) in enumerate(zip(ligands, charges, strict=True))
        ]
        blurred = [
            count_blurred_double_bonds(*ligand, mean.bond_length.detach().numpy())
            for ligand, mean in zip(ligands, means, strict=True)
        ]
        return [
            domain.assess(graph, spread, n_blurred=n)
            for graph, spread, n in zip(graphs, spreads, blurred, strict=True)
        ]

    @torch.no_grad()
    def predict_charges(self, batch: GraphBatch) -> Tensor:
        """Return (n_atoms,) charges as `predict` gives them."""
        return made_exact(self.model.charges(batch), batch)


def made_exact(charges: Tensor, batch: GraphBatch) -> Tensor:
    """Round charges (n_atoms,) and spread the residual of each molecule evenly."""
    charges = charges.round(decimals=_DECIMALS["charge"])
    zeros = torch.zeros_like(batch.total_charge)
    residual = batch.total_charge - zeros.index_add(0, batch.atom_molecule, charges)
    per_atom = residual / torch.bincount(batch.atom_molecule)
    return charges + per_atom.index_select(0, batch.atom_molecule)


def load_predictor(name: str, form: Form = "class1") -> Predictor:
    """Load shipped weights (`default`, `name`, `name/version`) or a folder of weights.

    Raises SettingsError when there are none, or none of this form.
    """
    return Predictor(load_model(name), form)


def build_batch(
    ligands: Sequence[tuple[Ligand, Topology]], *, pairs: bool = False
) -> tuple[GraphBatch, MMIndices]:
    """Graphs and interaction indices of several ligands, float64; with or without nonbonded pairs."""
    graphs = [build_graph(ligand) for ligand, _ in ligands]
    return collate(graphs, [topology for _, topology in ligands], pairs=pairs)


def collate(
    graphs: Sequence[MolecularGraph], topologies: Sequence[Topology], *, pairs: bool
) -> tuple[GraphBatch, MMIndices]:
    """Do the same where the graphs are built already."""
    indices = [indices_from_topology(topology, pairs=pairs) for topology in topologies]
    return collate_graphs(graphs, dtype=torch.float64), collate_indices(indices)


def split_valence(valence: ValenceParameters, topologies: Sequence[Topology]) -> list[ValenceParameters]:
    """Cut a batch's valence parameters into one set per ligand."""

    def cut(values: Tensor, rows: str) -> Sequence[Tensor]:
        return values.split([len(getattr(topology, rows)) for topology in topologies])

    parts = {name: cut(getattr(valence, name), ROWS_OF[name.split("_")[0]]) for name in CLASS1_NAMES}
    crosses: list[TorchCross | None] = [None] * len(topologies)
    if valence.cross is not None:
        whole = valence.cross
        pieces = {name: cut(getattr(whole, name), rows) for name, rows in whole.rows.items()}
        crosses = [replace(whole, **{n: p[i] for n, p in pieces.items()}) for i in range(len(topologies))]
    return [
        ValenceParameters(**{n: p[i] for n, p in parts.items()}, cross=cross)
        for i, cross in enumerate(crosses)
    ]


def straighten(parameters: MMParameters, topology: Topology, centres: set[int]) -> MMParameters:
    """Give angles at linear centres the rest value pi, and no term that is odd in their bending.

    An angle never exceeds pi: with a rest value below, the energy has a cusp at the straight geometry, which
    molecular dynamics crosses all the time (openmm#1672).
    """
    if not centres:
        return parameters
    is_linear = np.isin(topology.angles[:, 1], list(centres))
    straight = replace(parameters, angle_theta=np.where(is_linear, np.pi, parameters.angle_theta))
    if straight.cross is None:
        return straight
    cross = replace(
        straight.cross,
        angle_k3=np.where(is_linear, 0.0, straight.cross.angle_k3),
        bond_angle=np.where(is_linear[:, None], 0.0, straight.cross.bond_angle),
    )
    return replace(straight, cross=cross)


def assemble(valence: ValenceParameters, charge: Tensor, vdw: tuple[FloatArray, FloatArray]) -> MMParameters:
    """Join valence parameters, charges and vdW into one value."""
    sigma, epsilon = vdw
    arrays: dict[str, Any] = {n: _rounded(n, getattr(valence, n).detach().numpy()) for n in CLASS1_NAMES}
    cross = None if valence.cross is None else valence.cross.to_cross()
    if cross is not None:
        cross = replace(cross, **{n: _rounded(n, values) for n, values in vars(cross).items()})
    return MMParameters(**arrays, charge=charge.detach().numpy(), sigma=sigma, epsilon=epsilon, cross=cross)


def _rounded(name: str, values: FloatArray) -> FloatArray:
    return np.round(values, _DECIMALS.get(name, _OTHER_DECIMALS))
