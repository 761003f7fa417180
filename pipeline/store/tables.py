"""Import of tables of reference data, one row per molecule and group of points (see data/qm/README.md)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline.errors import LigandError, StoreError
from pipeline.ligand import ligand_key, to_rdkit
from pipeline.schema import Ligand, QMRecord, QMSpec, QMTask
from pipeline.store.rows import Composition, Entry

PROGRAM = "imported"
"""of a spec whose program the source does not name; no result of ours has it"""
_ROWS = 50
_NEEDED = ("level", "mapped_smiles", "charge", "n_atoms", "n_confs", "atomic_numbers", "coords", "energy")
_OPTIONAL = ("source", "kind", "gradient", "dihedral", "grid", "record_ids")


def spec_of_level(level: str, driver: str, program: str = PROGRAM) -> QMSpec:
    """Read a level of theory in words, e.g. `b3lyp-d3bj/dzvp` or `gfn2-xtb`."""
    method, _, basis = level.strip().lower().partition("/")
    matched = re.fullmatch(r"(.+)-(d3\(?bj\)?)", method)
    return QMSpec(
        program=program,
        method=matched[1] if matched else method,
        basis=basis or None,
        dispersion="d3bj" if matched else None,
        driver=driver,
    )


def is_table(path: Path) -> bool:
    """Tell whether a Parquet file has the columns of such a table."""
    return set(_NEEDED) <= set(pq.read_schema(path).names)


def read_table(path: Path) -> Iterator[Entry | str]:
    """Give one result per point; of a row that cannot be read, a sentence that says why.

    The source's own numbers of records and its grid of angles go into the provenance.
    """
    if not is_table(path):
        raise StoreError(f"{path}: not a table of QM references: needs {', '.join(_NEEDED)}", kind="import")
    keys: dict[str, str] = {}
    with pq.ParquetFile(path) as file:
        columns = [name for name in (*_NEEDED, *_OPTIONAL) if name in file.schema_arrow.names]
        first = 0
        for batch in file.iter_batches(_ROWS, columns=columns):
            for n, row in enumerate(_rows(batch, columns)):
                try:
                    yield from _entries_of(row, keys)
                except (LigandError, ValueError) as error:
                    yield f"{path}: row {first + n + 1}: {error}"
            first += batch.num_rows


def _rows(batch: Any, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of a batch; lists as numpy arrays."""
    for n in range(batch.num_rows):
        row = {}
        for name in columns:
            value = batch.column(name)[n]
            values = getattr(value, "values", None)
            row[name] = value.as_py() if values is None else values.to_numpy(zero_copy_only=False)
        yield row


def _entries_of(row: dict[str, Any], keys: dict[str, str]) -> Iterator[Entry]:
    shape = (row["n_confs"], row["n_atoms"], 3)
    coords = np.asarray(row["coords"], dtype=np.float64).reshape(shape)
    gradient = row.get("gradient")
    gradients = None if gradient is None else np.asarray(gradient, dtype=np.float64).reshape(shape)
    composition = Composition(
        atomic_numbers=np.asarray(row["atomic_numbers"], dtype=np.int64),
        total_charge=int(row["charge"]),
        mapped_smiles=row["mapped_smiles"],
    )
    key = molecule_key(composition, keys)
    spec = spec_of_level(row["level"], "energy" if gradients is None else "gradient")
    for n, geometry in enumerate(coords):
        task = QMTask(
            ligand_key=key,
            atomic_numbers=composition.atomic_numbers,
            coords=geometry,
            total_charge=composition.total_charge,
            spec=spec,
        )
        record = QMRecord(
            task_key=task.key,
            ligand_key=key,
            spec=spec,
            coords=task.coords,
            energy=float(row["energy"][n]),
            gradient=None if gradients is None else gradients[n],
            provenance=_provenance(row, n),
        )
        yield Entry(record=record, composition=composition)


def molecule_key(atoms: Composition, keys: dict[str, str]) -> str:
    """A molecule's identity by its mapped SMILES, noted in `keys`: it takes milliseconds to find.

    Raises LigandError for a SMILES that cannot be read, ValueError when it names other elements.
    """
    smiles, elements = str(atoms.mapped_smiles), atoms.atomic_numbers.tolist()
    known = f"{smiles} {elements}"
    if known not in keys:
        ligand = Ligand(name=smiles, mapped_smiles=smiles, total_charge=atoms.total_charge)
        if elements != [atom.GetAtomicNum() for atom in to_rdkit(ligand).GetAtoms()]:
            raise ValueError(f"{smiles}: the elements of atomic_numbers are not those of the SMILES")
        keys[known] = ligand_key(ligand)
    return keys[known]


def _provenance(row: dict[str, Any], n: int) -> tuple[tuple[str, str], ...]:
    facts = {name: str(row[name]) for name in ("source", "kind") if row.get(name)}
    if row.get("dihedral") is not None and row.get("grid") is not None and n < len(row["grid"]):
        facts["dihedral"] = " ".join(map(str, row["dihedral"]))
        facts["grid"] = f"{row['grid'][n]:g}"
    if row.get("record_ids") is not None and n < len(row["record_ids"]):
        facts["qcarchive_id"] = str(row["record_ids"][n])
    return tuple(sorted(facts.items()))
