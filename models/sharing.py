"""Atoms and terms that look alike to the networks, so that each kind is computed once.

A network of n layers sees of an atom what lies within n bonds of it. Atoms whose surroundings agree that far,
in one ligand (the hydrogens of a methyl group) or in several (the scaffold of a series), have one embedding,
and terms over such atoms one set of parameters. Colour refinement finds them: n rounds in which an atom's
kind becomes its kind so far and the kinds of its bonds and neighbours (Weisfeiler and Leman, 1968).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.graph import GraphBatch
from models.readouts import CLASS1_NAMES, ValenceParameters
from models.terms import MMIndices, TorchCross
from pipeline.schema import IntArray

ROWS_OF = {"bond": "bonds", "angle": "angles", "proper": "propers", "improper": "impropers"}
"""the rows of a topology beside which a class I parameter stands, by the first word of its name"""
BY_END = ("bond_angle", "angle_torsion")
"""class II terms whose dimension 1 is the two ends of the row"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shared:
    """One atom and one term of each kind, and which atoms and rows are of that kind."""

    batch: GraphBatch
    """atoms: one per kind; molecules: those of the whole batch"""
    indices: MMIndices
    """terms: one per kind, over the atoms of `batch`"""
    atoms: Tensor
    """(n_atoms,), int64: the kind of each atom of the whole batch"""
    rows: dict[str, Tensor]
    """`bonds`, `angles`, `propers`, `impropers`, `pairs`: (n_rows,), int64, the kind of each row"""
    turned: dict[str, Tensor]
    """`angles`, `propers`: (n_rows,), bool, rows that run the other way than the one of their kind"""

    def of_atoms(self, values: Tensor) -> Tensor:
        """Give every atom the values of its kind, (n_kinds, ...) -> (n_atoms, ...)."""
        return values.index_select(0, self.atoms)

    def of_rows(self, valence: ValenceParameters) -> ValenceParameters:
        """Give every row the parameters of its kind."""
        rows = {name: self.rows[ROWS_OF[name.split("_")[0]]] for name in CLASS1_NAMES}
        terms = {name: getattr(valence, name).index_select(0, kind) for name, kind in rows.items()}
        return ValenceParameters(**terms, cross=None if valence.cross is None else self._cross(valence.cross))

    def of_propers(self, values: Tensor) -> Tensor:
        """Do the same for parameters of propers alone."""
        return values.index_select(0, self.rows["propers"])

    def _cross(self, cross: TorchCross) -> TorchCross:
        terms = {
            name: getattr(cross, name).index_select(0, self.rows[rows]) for name, rows in cross.rows.items()
        }
        for name in BY_END:
            values, turned = terms[name], self.turned[cross.rows[name]]
            terms[name] = torch.where(turned.reshape(-1, *[1] * (values.dim() - 1)), values.flip(1), values)
        return replace(cross, **terms)


def share(batch: GraphBatch, indices: MMIndices, n_layers: int) -> Shared:
    """Find what networks of at most `n_layers` layers cannot tell apart."""
    kinds, first = kinds_of_atoms(batch, n_layers)
    i, j = (kinds[column] for column in indices.bonds.numpy().T)
    bonds = _paths((i, j), (j, i))
    i, j, k = (kinds[column] for column in indices.angles.numpy().T)
    angles = _paths((i, j), (k, j))
    i, j, k, m = (kinds[column] for column in indices.propers.numpy().T)
    propers = _paths((i, j), (m, k))
    impropers = _centres(kinds[indices.impropers.numpy()])
    pairs = _pairs(kinds[indices.pairs.numpy()], indices.pair_bonds.numpy())
    taken = {"bonds": bonds, "angles": angles, "propers": propers, "impropers": impropers, "pairs": pairs}
    return Shared(
        batch=_one_of_each(batch, kinds, first),
        indices=_terms_of_each(indices, kinds, first, taken),
        atoms=torch.as_tensor(kinds),
        rows={name: torch.as_tensor(one.kinds) for name, one in taken.items()},
        turned={name: torch.as_tensor(taken[name].turned) for name in ("angles", "propers")},
    )


def kinds_of_atoms(batch: GraphBatch, n_layers: int) -> tuple[IntArray, IntArray]:
    """Return the kind of each atom (n_atoms,), and an atom of each kind (n_kinds,)."""
    source, destination = batch.edge_source.numpy(), batch.edge_destination.numpy()
    by_atom = np.argsort(destination, kind="stable")
    degree = np.bincount(destination, minlength=batch.n_atoms)
    slot = np.empty_like(destination)
    slot[by_atom] = np.arange(len(destination)) - np.repeat(np.cumsum(degree) - degree, degree)
    first, kinds = _distinct(batch.atom_features.numpy())
    bond_kinds = _distinct(batch.edge_features.numpy())[1]
    around = np.empty((batch.n_atoms, degree.max(initial=0) + 1), dtype=np.int64)
    for _ in range(n_layers):
        around[:, 1:] = -1
        around[destination, slot + 1] = kinds[source] * (bond_kinds.max(initial=0) + 1) + bond_kinds
        around[:, 1:].sort(axis=1)
        around[:, 0] = kinds
        n_before = len(first)
        first, kinds = _distinct(around)
        if len(first) == n_before:
            break
    return kinds, first


@dataclass(frozen=True, kw_only=True, eq=False)
class _Taken:
    """The rows of one table by kind."""

    first: IntArray
    """(n_kinds,): a row of each kind"""
    kinds: IntArray
    """(n_rows,): the kind of each row"""
    turned: NDArray[np.bool_]
    """(n_rows,): rows that run the other way than the first of their kind"""


def _paths(one_end: tuple[IntArray, IntArray], other_end: tuple[IntArray, IntArray]) -> _Taken:
    """Rows by the kinds (end, inner) of their two ends, whichever comes first."""
    n_rows = len(one_end[0])
    ends = np.concatenate([np.stack(one_end, axis=1), np.stack(other_end, axis=1)])
    one, other = _distinct(ends)[1].reshape(2, n_rows)
    first, kinds = _distinct(np.sort(np.stack([one, other], axis=1), axis=1))
    backwards = one > other
    return _Taken(first=first, kinds=kinds, turned=backwards != backwards[first][kinds])


def _pairs(ends: IntArray, bonds: IntArray) -> _Taken:
    """Pairs by the kinds of their two atoms, whichever comes first, and the bonds between them."""
    first, kinds = _distinct(np.column_stack([np.sort(ends, axis=1), bonds]))
    return _Taken(first=first, kinds=kinds, turned=np.zeros(len(ends), dtype=bool))


def _centres(impropers: IntArray) -> _Taken:
    """Rows, three per centre, by the kinds of the centre and of its neighbours in any order."""
    rows = impropers[::3]
    first, kinds = _distinct(np.column_stack([rows[:, 1], np.sort(rows[:, [0, 2, 3]], axis=1)]))
    three = np.arange(3)
    return _Taken(
        first=(3 * first[:, None] + three).reshape(-1),
        kinds=(3 * kinds[:, None] + three).reshape(-1),
        turned=np.zeros(len(impropers), dtype=bool),
    )


def _one_of_each(batch: GraphBatch, kinds: IntArray, first: IntArray) -> GraphBatch:
    """Keep an atom of each kind, and the edges that end at it; they come from the kinds of its neighbours."""
    atoms = torch.as_tensor(first)
    is_kept = np.zeros(batch.n_atoms, dtype=bool)
    is_kept[first] = True
    edges = torch.as_tensor(np.flatnonzero(is_kept[batch.edge_destination.numpy()]))
    kind_of = torch.as_tensor(kinds)
    return replace(
        batch,
        atom_features=batch.atom_features[atoms],
        edge_source=kind_of[batch.edge_source[edges]],
        edge_destination=kind_of[batch.edge_destination[edges]],
        edge_features=batch.edge_features[edges],
        atom_molecule=batch.atom_molecule[atoms],
    )


def _terms_of_each(
    indices: MMIndices, kinds: IntArray, first: IntArray, taken: dict[str, _Taken]
) -> MMIndices:
    """Keep a row of each kind; its atoms, bonds and angles become their kinds."""
    kind_of = torch.as_tensor(kinds)
    tables: dict[str, Any] = {}
    owners: dict[str, Any] = {}
    for name, one in taken.items():
        rows = torch.as_tensor(one.first)
        tables[name] = kind_of[getattr(indices, name)[rows]]
        owner = name.removesuffix("s") + "_molecule"
        owners[owner] = getattr(indices, owner)[rows]
    bond_kinds, angle_kinds = (torch.as_tensor(taken[name].kinds) for name in ("bonds", "angles"))
    of_angle, of_proper, of_pair = (
        torch.as_tensor(taken[name].first) for name in ("angles", "propers", "pairs")
    )
    return replace(
        indices,
        **tables,
        **owners,
        atom_molecule=indices.atom_molecule[torch.as_tensor(first)],
        angle_bonds=bond_kinds[indices.angle_bonds[of_angle]],
        proper_bond=bond_kinds[indices.proper_bond[of_proper]],
        proper_angles=angle_kinds[indices.proper_angles[of_proper]],
        pair_bonds=indices.pair_bonds[of_pair],
        pair_scale_vdw=indices.pair_scale_vdw[of_pair],
        pair_scale_coulomb=indices.pair_scale_coulomb[of_pair],
    )


def _distinct(rows: NDArray[np.generic]) -> tuple[IntArray, IntArray]:
    """Return where each distinct row comes first, and the number of each row's distinct row."""
    _, first, kinds = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first, kinds.reshape(-1)
