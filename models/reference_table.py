"""Results of QM stores and archives -> the training tables that data/qm/README.md describes."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from pipeline.ligand import to_rdkit
from pipeline.schema import Ligand
from pipeline.store.rows import Entry

MINIMA, DRIVE = "minima", "torsiondrive"


@dataclass(kw_only=True)
class ReferenceTable:
    """Rows of one data set, and what could not be used."""

    source: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """a sentence each"""

    def part(self, *, dev: bool, share: float) -> list[dict[str, Any]]:
        """Rows of one of two parts; all molecules of one Murcko scaffold are in the same, in every table."""
        return [row for row in self.rows if is_held_out(row["mapped_smiles"], share) == dev]


def table_of(entries: Iterable[Entry | str], source: str) -> ReferenceTable:
    """Group results of an archive into rows: points of one torsion drive, or minima of one molecule.

    Points of a row have the same level and the same mapped SMILES, so the same order of atoms. A row of a
    drive with one point, and results without bonds, say nothing and are refused in a sentence.
    """
    table = ReferenceTable(source=source)
    groups: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for entry in entries:
        if isinstance(entry, str):
            table.refused.append(entry)
        elif entry.composition is None or entry.composition.mapped_smiles is None:
            table.refused.append(f"{entry.record.ligand_key}: no mapped SMILES, so its bonds are not known")
        else:
            drive = dict(entry.record.provenance).get("drive", "")
            groups[entry.record.spec.level, entry.composition.mapped_smiles, drive].append(entry)
    for (_, smiles, drive), points in groups.items():
        if drive and len(points) < 2:
            table.refused.append(f"{smiles}: drive {drive} has one point")
        else:
            table.rows.append(_row(points, source, DRIVE if drive else MINIMA))
    return table


def _row(points: list[Entry], source: str, kind: str) -> dict[str, Any]:
    facts = [dict(point.record.provenance) for point in points]
    if kind == DRIVE:
        angles = [float(fact["grid"].split()[0]) for fact in facts]
        order = np.argsort(angles, kind="stable")
    else:
        order = np.arange(len(points))
    points, facts = [points[n] for n in order], [facts[n] for n in order]
    composition, records = points[0].composition, [point.record for point in points]
    assert composition is not None
    assert composition.mapped_smiles is not None
    coords = np.array([record.coords for record in records], dtype=np.float32)
    gradients = [record.gradient for record in records]
    gradient = None
    if kind == MINIMA:
        gradient = np.zeros_like(coords)
    elif all(each is not None for each in gradients):
        gradient = np.array(gradients, dtype=np.float32)
    one_angle = kind == DRIVE and all("dihedral" in f and len(f["grid"].split()) == 1 for f in facts)
    row = table_row(
        source=source,
        kind=kind,
        level=records[0].spec.level,
        key=key_of(composition.mapped_smiles),
        mapped_smiles=composition.mapped_smiles,
        charge=composition.total_charge,
        atomic_numbers=composition.atomic_numbers,
        coords=coords,
        energy=np.array([record.energy for record in records]),
        gradient=gradient,
        dihedral=[int(atom) for atom in facts[0]["dihedral"].split()] if one_angle else None,
        grid=np.array([float(fact["grid"]) for fact in facts]) if one_angle else None,
    )
    return row | {"record_ids": [int(fact.get("qcarchive_id", -1)) for fact in facts]}


def table_row(
    *,
    source: str,
    kind: str,
    level: str,
    key: str,
    mapped_smiles: str,
    charge: int,
    atomic_numbers: ArrayLike,
    coords: NDArray[np.floating],
    energy: NDArray[np.floating],
    gradient: NDArray[np.floating] | None = None,
    dihedral: Sequence[int] | None = None,
    grid: NDArray[np.floating] | None = None,
) -> dict[str, Any]:
    """One row as data/qm/README.md describes it.

    coords (n_confs, n_atoms, 3), angstrom; energy (n_confs,), kcal/mol; gradient like coords,
    kcal/mol/angstrom; grid (n_confs,), degree.
    """
    return {
        "source": source,
        "kind": kind,
        "level": level,
        "key": key,
        "mapped_smiles": mapped_smiles,
        "charge": charge,
        "n_atoms": coords.shape[1],
        "n_confs": len(coords),
        "atomic_numbers": np.array(atomic_numbers),
        "coords": coords.astype(np.float32).ravel(),
        "energy": energy,
        "gradient": None if gradient is None else gradient.astype(np.float32).ravel(),
        "dihedral": None if dihedral is None else list(dihedral),
        "grid": grid,
    }


def key_of(mapped_smiles: str) -> str:
    """Canonical SMILES without stereo and maps: what splits are made on."""
    return Chem.MolToSmiles(_plain(mapped_smiles), isomericSmiles=False)


def is_held_out(mapped_smiles: str, share: float) -> bool:
    """Whether a molecule belongs to the held-out part, which holds about this share of all scaffolds.

    By a hash of the Murcko scaffold, or of the molecule where it has no ring: no table needs to know another.
    """
    mol = _plain(mapped_smiles)
    Chem.RemoveStereochemistry(mol)
    scaffold = Chem.MolToSmiles(MurckoScaffold.GetScaffoldForMol(mol)) or Chem.MolToSmiles(mol)
    digest = hashlib.sha256(scaffold.encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def _plain(mapped_smiles: str) -> Chem.Mol:
    mol = Chem.RemoveHs(to_rdkit(Ligand(name=mapped_smiles, mapped_smiles=mapped_smiles, total_charge=0)))
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
    return mol
