"""DOOR to the training tables: parquet rows in, examples out.

The format of the tables is described in data/qm/README.md. Rows with an element outside the network's are
left out and counted, never dropped in silence.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from models.features import MolecularGraph, build_graph
from pipeline.atoms import atoms_of, bonds_of
from pipeline.errors import LigandError, RecordError, SettingsError
from pipeline.ligand import ligand_from_rdkit
from pipeline.schema import FloatArray, Ligand, Topology
from pipeline.topology import build_topology
from pipeline.units import KCAL_PER_HARTREE

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class ChargeExample:
    """One molecule with its AM1-BCC charges."""

    key: str
    graph: MolecularGraph
    charges: FloatArray
    """(n_atoms,) elementary charges"""


@dataclass(frozen=True, kw_only=True, eq=False)
class QMExample:
    """One molecule in one group of points at one level of theory."""

    key: str
    source: str
    kind: str
    """minima or torsiondrive; of training's own making: near-minimum, relaxed-minima or relaxed-scan"""
    level: str
    ligand: Ligand
    graph: MolecularGraph
    topology: Topology
    coords: NDArray[np.float32]
    """(n_confs, n_atoms, 3), angstrom"""
    energy: FloatArray
    """(n_confs,), kcal/mol, relative to the group's lowest"""
    gradient: NDArray[np.float32] | None
    """(n_confs, n_atoms, 3), kcal/mol/angstrom; zero by construction for minima"""
    dihedral: tuple[int, int, int, int] | None
    """the scanned torsion, where known"""
    grid: FloatArray | None
    """(n_confs,) angle of the scanned torsion, degree, where known"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Profile:
    """A torsion drive of which only the energies are known."""

    key: str
    level: str
    ligand: Ligand
    dihedral: tuple[int, int, int, int]
    angles: FloatArray
    """(n_points,), degree"""
    energy: FloatArray
    """(n_points,), kcal/mol, relative to the lowest"""


def read_charge_examples(
    path: Path, split: str, *, limit: int | None = None
) -> tuple[list[ChargeExample], int]:
    """Read the AM1-BCC table of one split; return the examples and the number of rows left out."""
    table = _read_table(path)
    rows = table[table["split"] == split] if "split" in table else table
    if limit is not None and limit < len(rows):
        rows = rows.sample(n=limit, random_state=0).sort_index()
    return _collect(rows, _charge_example)


def read_qm_examples(*paths: Path, sources: dict[str, int] | None = None) -> tuple[list[QMExample], int]:
    """Read QM tables; `sources` limits the rows per source (0: all). Return examples and rows left out."""
    return examples_of(read_qm_rows(*paths, sources=sources))


def read_qm_rows(*paths: Path, sources: dict[str, int] | None = None) -> pd.DataFrame:
    """Read the rows of QM tables as they are; `sources` limits them per source (0: all)."""
    table = pd.concat([_read_table(path) for path in paths])
    if sources is not None:
        unknown = set(sources) - set(table["source"])
        if unknown:
            names = ", ".join(path.name for path in paths)
            raise SettingsError(f"{names}: no source {', '.join(sorted(unknown))}")
        parts = [_take(table[table["source"] == source], n) for source, n in sources.items()]
        table = pd.concat(parts)
    return table


def examples_of(table: pd.DataFrame) -> tuple[list[QMExample], int]:
    """Build the examples of a QM table that is read already; return them and the number left out."""
    return _collect(table, qm_example)


def read_profile_rows(paths: Sequence[Path], without: Collection[str]) -> pd.DataFrame:
    """Read profile tables, but for the molecules (keys) that are not wanted."""
    table = pd.concat([_read_table(path) for path in paths])
    return table[~table["key"].isin(list(without))]


def profiles_of(table: pd.DataFrame) -> tuple[list[Profile], int]:
    """Build the profiles of a table that is read already; return them and the number left out."""
    return _collect(table, _profile)


def _take(rows: pd.DataFrame, n: int) -> pd.DataFrame:
    return rows if n == 0 or n >= len(rows) else rows.sample(n=n, random_state=0).sort_index()


def _read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise SettingsError(f"no training table {path}; see data/qm/README.md for how it is made")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are of these two
        raise SettingsError(f"{path}: not a parquet table: {error}") from error


def _collect(rows: pd.DataFrame, build: Callable[[Any], T]) -> tuple[list[T], int]:
    examples, left_out = [], 0
    for row in rows.itertuples(index=False):
        try:
            examples.append(build(row))
        except LigandError:
            left_out += 1
    return examples, left_out


def _ligand(row: Any) -> Ligand:
    name = row.key if hasattr(row, "key") else row.name
    charge = int(row.charge) if hasattr(row, "charge") else round(float(np.sum(row.charges)))
    return Ligand(name=name, mapped_smiles=row.mapped_smiles, total_charge=charge)


def _charge_example(row: Any) -> ChargeExample:
    ligand = _ligand(row)
    charges = np.asarray(row.charges, dtype=np.float64)
    return ChargeExample(key=ligand.name, graph=build_graph(ligand), charges=charges)


def qm_example(row: Any) -> QMExample:
    """Build the example of one row of a QM table; LigandError where its molecule is not for the model."""
    ligand = _ligand(row)
    shape = (row.n_confs, row.n_atoms, 3)
    gradient = None
    if row.gradient is not None:
        gradient = np.asarray(row.gradient, dtype=np.float32).reshape(shape)
    elif row.kind == "minima":
        gradient = np.zeros(shape, dtype=np.float32)
    energy = np.asarray(row.energy, dtype=np.float64)
    i, j, k, m = row.dihedral if row.dihedral is not None else (0, 0, 0, 0)
    return QMExample(
        key=row.key,
        source=row.source,
        kind=row.kind,
        level=row.level,
        ligand=ligand,
        graph=build_graph(ligand),
        topology=build_topology(ligand),
        coords=np.asarray(row.coords, dtype=np.float32).reshape(shape),
        energy=energy - energy.min(),
        gradient=gradient,
        dihedral=None if row.dihedral is None else (int(i), int(j), int(k), int(m)),
        grid=None if row.grid is None else np.asarray(row.grid, dtype=np.float64),
    )


def _profile(row: Any) -> Profile:
    with rdBase.BlockLogs():
        mol = Chem.MolFromMolBlock(row.molblock, removeHs=False)
        if mol is None:
            raise RecordError(f"{row.key}: RDKit cannot read the molblock of this profile")
        Chem.AssignStereochemistryFrom3D(mol)
        dihedral = row.dihedral_idx if row.dihedral_idx is not None else _tagged_atoms(row.smiles_tagged, mol)
    atoms = [int(atom) for atom in dihedral]
    bonded = {frozenset((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())) for bond in bonds_of(mol)}
    if len(atoms) != 4 or not all(frozenset(pair) in bonded for pair in pairwise(atoms)):
        raise RecordError(f"{row.key}: the atoms of this profile's dihedral are not bonded in a row")
    angles, first = np.unique(np.asarray(row.angles, dtype=np.float64), return_index=True)
    energy = np.asarray(row.energy_hartree, dtype=np.float64)[first] * KCAL_PER_HARTREE
    known = np.isfinite(energy)
    if not known.any():
        raise RecordError(f"{row.key}: a profile without an energy")
    return Profile(
        key=row.key,
        level=row.method,
        ligand=ligand_from_rdkit(mol, row.key),
        dihedral=(atoms[0], atoms[1], atoms[2], atoms[3]),
        angles=angles[known],
        energy=(energy - energy[known].min())[known],
    )


def _tagged_atoms(smiles: str, mol: Chem.Mol) -> tuple[int, ...]:
    """Which atoms of `mol` are those with the map numbers 1 to 4."""
    options = Chem.SmilesParserParams()
    options.removeHs = False
    pattern = Chem.MolFromSmiles(smiles, options)
    numbers = [] if pattern is None else [atom.GetAtomMapNum() for atom in atoms_of(pattern)]
    if sorted(numbers)[-4:] != [1, 2, 3, 4]:
        raise RecordError(f"{smiles}: the four atoms of a dihedral are not tagged 1 to 4")
    for atom in atoms_of(pattern):
        atom.SetAtomMapNum(0)
    match = mol.GetSubstructMatch(pattern)
    if len(match) != mol.GetNumAtoms():
        raise RecordError(f"{smiles}: not the molecule of the molblock")
    return tuple(match[numbers.index(tag)] for tag in (1, 2, 3, 4))


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Split into consecutive pieces of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
