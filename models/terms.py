"""The values of the torch energy: which atoms interact, with what parameters, and what each term is worth.

A batch is the concatenation of its molecules: atoms along dimension 0, every term beside the number of the
molecule that owns it. A single molecule is a batch of one.
"""

import dataclasses
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from pipeline.schema import CrossTerms, IntArray, MMParameters, PairsOrNone, Topology
from pipeline.topology import coupled_rows

SCALE_14_VDW = 0.5
SCALE_14_COULOMB = 0.8333333333


class _TensorFields:
    """Moves every tensor field of a frozen dataclass to another device."""

    def to(self, device: torch.device | str) -> Self:
        """Return the same value on another device."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        movable = (Tensor, _TensorFields)
        moved = {name: v.to(device) if isinstance(v, movable) else v for name, v in fields.items()}
        return type(self)(**moved)


@dataclass(frozen=True, kw_only=True, eq=False)
class MMIndices(_TensorFields):
    """Every interaction of a batch of molecules, each once, with the molecule that owns it."""

    bonds: Tensor
    """(n_bonds, 2), int64, atom of the batch"""
    angles: Tensor
    """(n_angles, 3), int64, centre in column 1"""
    propers: Tensor
    """(n_propers, 4), int64"""
    impropers: Tensor
    """(n_impropers, 4), int64, centre in column 1 as in Topology; three rows per centre"""
    pairs: Tensor
    """(n_pairs, 2), int64: atoms of one molecule, i < j, neither 1-2 nor 1-3"""
    pair_scale_vdw: Tensor
    """(n_pairs,), float64: 0.5 for 1-4 pairs, else 1"""
    pair_scale_coulomb: Tensor
    """(n_pairs,), float64: 0.8333333333 for 1-4 pairs, else 1"""
    pair_bonds: Tensor
    """(n_pairs,), int64: as in Topology"""
    atom_molecule: Tensor
    """(n_atoms_total,), int64: number of the molecule in the batch; so are the next five"""
    bond_molecule: Tensor
    """(n_bonds,), int64"""
    angle_molecule: Tensor
    """(n_angles,), int64"""
    proper_molecule: Tensor
    """(n_propers,), int64"""
    improper_molecule: Tensor
    """(n_impropers,), int64"""
    pair_molecule: Tensor
    """(n_pairs,), int64"""
    angle_bonds: Tensor
    """(n_angles, 2), int64: rows of `bonds` of the sides of an angle; this and the next are for class II"""
    proper_bond: Tensor
    """(n_propers,), int64: row of `bonds` of the middle bond of a proper"""
    proper_angles: Tensor
    """(n_propers, 2), int64: rows of `angles` of either end of a proper"""
    n_molecules: int

    @property
    def n_atoms(self) -> int:
        """Number of atoms of the whole batch."""
        return len(self.atom_molecule)

    @property
    def improper_dihedrals(self) -> Tensor:
        """(n_impropers, 4): the atoms of each improper row in the order of its dihedral, centre first."""
        return self.impropers[:, [1, 0, 2, 3]]


_ATOM_COLUMNS = ("bonds", "angles", "propers", "impropers", "pairs")
_OWNERS = (
    "atom_molecule",
    "bond_molecule",
    "angle_molecule",
    "proper_molecule",
    "improper_molecule",
    "pair_molecule",
)
_COUPLED = {"angle_bonds": "bonds", "proper_bond": "bonds", "proper_angles": "angles"}
"""numbers of rows, and of which table"""
_OF_PAIRS = ("pair_scale_vdw", "pair_scale_coulomb", "pair_bonds")


@dataclass(frozen=True, kw_only=True, eq=False)
class TorchCross(_TensorFields, PairsOrNone):
    """`pipeline.schema.CrossTerms` as tensors: same names, shapes and units, rows beside MMIndices."""

    bond_k3: Tensor
    bond_k4: Tensor
    angle_k3: Tensor
    angle_k4: Tensor
    bond_bond: Tensor
    bond_angle: Tensor
    bond_torsion: Tensor
    angle_torsion: Tensor
    angle_angle_torsion: Tensor
    pair_coulomb: Tensor
    pair_repulsion: Tensor
    pair_dispersion: Tensor

    @classmethod
    def from_cross(cls, cross: CrossTerms, dtype: torch.dtype = torch.float64) -> Self:
        """Copy one ligand's terms into tensors."""
        return cls(**{n: torch.tensor(np.array(getattr(cross, n)), dtype=dtype) for n in _names(cls)})

    def to_cross(self) -> CrossTerms:
        """Copy back to numpy, float64."""
        return CrossTerms(**{n: getattr(self, n).detach().cpu().double().numpy() for n in _names(type(self))})


@dataclass(frozen=True, kw_only=True, eq=False)
class TorchParameters(_TensorFields):
    """`pipeline.schema.MMParameters` as tensors: same names, shapes and units, rows beside MMIndices."""

    bond_k: Tensor
    """(n_bonds,), kcal/mol/angstrom^2"""
    bond_length: Tensor
    """(n_bonds,), angstrom"""
    angle_k: Tensor
    """(n_angles,), kcal/mol/radian^2"""
    angle_theta: Tensor
    """(n_angles,), radian"""
    proper_k: Tensor
    """(n_propers, 6), kcal/mol; column c holds periodicity c + 1"""
    improper_k: Tensor
    """(n_impropers, 2), kcal/mol; column c holds periodicity c + 1; per trefoil row"""
    charge: Tensor
    """(n_atoms_total,), elementary charges"""
    sigma: Tensor
    """(n_atoms_total,), angstrom"""
    epsilon: Tensor
    """(n_atoms_total,), kcal/mol"""

    cross: TorchCross | None = None
    """the terms beyond class I"""

    @classmethod
    def from_mm(cls, parameters: MMParameters, dtype: torch.dtype = torch.float64) -> Self:
        """Copy one ligand's parameters into tensors."""
        names = [name for name in _names(cls) if name != "cross"]
        cross = None if parameters.cross is None else TorchCross.from_cross(parameters.cross, dtype)
        tensors = {n: torch.tensor(np.array(getattr(parameters, n)), dtype=dtype) for n in names}
        return cls(**tensors, cross=cross)

    def to_mm(self) -> MMParameters:
        """Copy back to numpy, float64."""
        names = [name for name in _names(type(self)) if name != "cross"]
        cross = None if self.cross is None else self.cross.to_cross()
        return MMParameters(
            **{n: getattr(self, n).detach().cpu().double().numpy() for n in names}, cross=cross
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class EnergyTerms:
    """Energies of a batch of molecules in each of their conformers, (n_molecules, n_confs), kcal/mol."""

    bond: Tensor
    angle: Tensor
    proper: Tensor
    improper: Tensor
    vdw: Tensor
    coulomb: Tensor
    cross: Tensor
    """all class II terms"""

    @property
    def total(self) -> Tensor:
        """Sum of all terms, (n_molecules, n_confs), kcal/mol."""
        return self.bond + self.angle + self.proper + self.improper + self.vdw + self.coulomb + self.cross

    def __add__(self, other: "EnergyTerms") -> "EnergyTerms":
        """Add term by term, e.g. the valence and the nonbonded part of one energy."""
        names = _names(type(self))
        return EnergyTerms(**{n: getattr(self, n) + getattr(other, n) for n in names})


def indices_from_topology(topology: Topology, *, pairs: bool = True) -> MMIndices:
    """List the interactions of one molecule, 1-4 pairs scaled by 0.5 (vdW) and 0.8333333333 (Coulomb).

    Without `pairs` the nonbonded ones are left out, which bonded terms do not need.
    """
    columns = {name: torch.tensor(np.array(getattr(topology, name))) for name in _ATOM_COLUMNS[:4]}
    counts = (topology.n_atoms, *map(len, columns.values()))
    owners = {n: torch.zeros(count, dtype=torch.int64) for n, count in zip(_OWNERS[:5], counts, strict=True)}
    rows = coupled_rows(topology)
    coupled = {name: torch.tensor(np.array(getattr(rows, name))) for name in _COUPLED}
    none = np.zeros((0, 2), dtype=np.int64)
    of_pairs = pair_columns(topology.pairs, topology.pair_bonds) if pairs else pair_columns(none, none[:, 0])
    return MMIndices(**columns, **of_pairs, **owners, **coupled, n_molecules=1)


def pair_columns(pairs: IntArray, bonds: IntArray) -> dict[str, Tensor]:
    """All that MMIndices knows of the pairs of one molecule; arguments as in Topology."""
    is_14 = bonds == 3
    return {
        "pairs": torch.tensor(np.array(pairs)),
        "pair_bonds": torch.tensor(np.array(bonds)),
        "pair_scale_vdw": torch.tensor(np.where(is_14, SCALE_14_VDW, 1.0)),
        "pair_scale_coulomb": torch.tensor(np.where(is_14, SCALE_14_COULOMB, 1.0)),
        "pair_molecule": torch.zeros(len(pairs), dtype=torch.int64),
    }


def collate_indices(batch: list[MMIndices]) -> MMIndices:
    """Concatenate molecules (or batches) into one batch, shifting atom and molecule numbers."""
    atom_offsets = np.cumsum([0, *(part.n_atoms for part in batch)])
    molecule_offsets = np.cumsum([0, *(part.n_molecules for part in batch)])

    def joined(name: str, offsets: np.ndarray | None) -> Tensor:
        shifts = [0] * len(batch) if offsets is None else [int(offset) for offset in offsets[:-1]]
        return torch.cat([getattr(part, name) + shift for part, shift in zip(batch, shifts, strict=True)])

    return MMIndices(
        **{name: joined(name, atom_offsets) for name in _ATOM_COLUMNS},
        **{name: joined(name, molecule_offsets) for name in _OWNERS},
        **{name: joined(name, None) for name in _OF_PAIRS},
        **{
            name: joined(name, np.cumsum([0, *(len(getattr(part, rows)) for part in batch)]))
            for name, rows in _COUPLED.items()
        },
        n_molecules=int(molecule_offsets[-1]),
    )


def collate_parameters(batch: list[TorchParameters]) -> TorchParameters:
    """Concatenate the parameters of molecules in the order in which `collate_indices` gets them."""
    names = [name for name in _names(TorchParameters) if name != "cross"]
    joined = {n: torch.cat([getattr(part, n) for part in batch]) for n in names}
    crosses = [part.cross for part in batch if part.cross is not None]
    if 0 < len(crosses) < len(batch):
        raise ValueError("a batch is of class I or of class II")
    return TorchParameters(**joined, cross=collate_cross(crosses) if crosses else None)


def collate_cross(batch: list[TorchCross]) -> TorchCross:
    """Concatenate class II terms."""
    return TorchCross(**{n: torch.cat([getattr(part, n) for part in batch]) for n in _names(TorchCross)})


def _names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]
