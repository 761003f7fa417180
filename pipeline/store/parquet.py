"""The store as Parquet, one row per result, for pandas; exact in both directions.

Units: angstrom, kcal/mol, elementary charges. Arrays are flat lists: `coords` and `gradient` reshape to
(n_atoms, 3), `hessian` to (3 n_atoms, 3 n_atoms), `bond_orders` to (n_atoms, n_atoms) and `esp` to
(n_points, 4).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StoreError
from pipeline.schema import QMRecord, QMSpec
from pipeline.store.rows import EXTRAS, Composition, Entry, hash_row, row_of

_ROWS = 5000
"""results per row group"""
_SHAPES = {
    "gradient": (-1, 3),
    "coords": (-1, 3),
    "dipole": (3,),
    "esp": (-1, 4),
}
_LISTS = ("coords", "gradient", *EXTRAS)
_FLOATS = pa.large_list(pa.float64())
_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("ligand_key", pa.string()),
        ("mapped_smiles", pa.string()),
        ("total_charge", pa.int32()),
        ("n_atoms", pa.int32()),
        ("atomic_numbers", pa.large_list(pa.int16())),
        ("program", pa.string()),
        ("method", pa.string()),
        ("basis", pa.string()),
        ("dispersion", pa.string()),
        ("driver", pa.string()),
        ("keywords", pa.string()),
        ("energy", pa.float64()),
        *((name, _FLOATS) for name in _LISTS),
        ("flags", pa.string()),
        ("provenance", pa.string()),
        ("content_hash", pa.string()),
    ],
    metadata={"parmflow_store_export": "1", "units": "angstrom, kcal/mol, elementary charge"},
)


def write_parquet(path: Path, entries: Iterable[Entry]) -> int:
    """Write results to a file in one piece; return how many."""
    unfinished = path.with_name(f"{path.name}.tmp")
    entries, n_written = iter(entries), 0
    with pq.ParquetWriter(unfinished, _SCHEMA, compression="zstd") as writer:
        while some := list(islice(entries, _ROWS)):
            writer.write_batch(_batch_of(some))
            n_written += len(some)
    unfinished.replace(path)
    return n_written


def _batch_of(entries: Sequence[Entry]) -> pa.RecordBatch:
    records = [entry.record for entry in entries]
    atoms = [entry.composition for entry in entries]
    columns: dict[str, Any] = {
        "key": [record.task_key for record in records],
        "ligand_key": [record.ligand_key for record in records],
        "mapped_smiles": [None if a is None else a.mapped_smiles for a in atoms],
        "total_charge": [None if a is None else a.total_charge for a in atoms],
        "n_atoms": [len(record.coords) for record in records],
        "atomic_numbers": _lists([None if a is None else a.atomic_numbers for a in atoms], np.int16),
        "keywords": [json.dumps(record.spec.keywords) for record in records],
        "energy": [record.energy for record in records],
        "flags": [" ".join(record.flags) for record in records],
        "provenance": [json.dumps(record.provenance) for record in records],
        "content_hash": [hash_row(row_of(entry)) for entry in entries],
    }
    for name in ("program", "method", "basis", "dispersion", "driver"):
        columns[name] = [getattr(record.spec, name) for record in records]
    for name in _LISTS:
        columns[name] = _lists([getattr(record, name) for record in records], np.float64)
    arrays = [
        columns[field.name]
        if isinstance(columns[field.name], pa.Array)
        else pa.array(columns[field.name], field.type)
        for field in _SCHEMA
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _lists(arrays: Sequence[np.ndarray | None], dtype: type) -> pa.Array:
    """A column of flat lists; without a Python object per number."""
    sizes = np.array([0 if array is None else array.size for array in arrays])
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int64())
    values: list[np.ndarray] = [
        np.asarray(array, dtype=dtype).ravel() for array in arrays if array is not None
    ]
    flat = np.concatenate(values) if values else np.zeros(0, dtype=dtype)
    absent = pa.array([array is None for array in arrays])
    return pa.LargeListArray.from_arrays(offsets, pa.array(flat), mask=absent)


def is_store_export(path: Path) -> bool:
    """Tell whether a Parquet file is one of ours."""
    metadata = pq.read_schema(path).metadata or {}
    return b"parmflow_store_export" in metadata


def read_parquet(path: Path) -> Iterator[Entry]:
    """Give the results of a file made by `write_parquet`; StoreError at a row that fails its hash."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS):
            columns = {name: _column(batch.column(name)) for name in _SCHEMA.names}
            for n in range(batch.num_rows):
                yield _entry_of({name: column[n] for name, column in columns.items()}, path)


def _column(array: pa.Array) -> Sequence[Any]:
    """One value per row; of a list, a numpy array or None."""
    if not pa.types.is_large_list(array.type):
        values: list[Any] = array.to_pylist()
        return values
    offsets, flat = array.offsets.to_numpy(), array.values.to_numpy(zero_copy_only=False)
    absent = array.is_null().to_numpy(zero_copy_only=False)
    return [
        None if missing else flat[start:end]
        for missing, start, end in zip(absent, offsets[:-1], offsets[1:], strict=True)
    ]


def _entry_of(row: dict[str, Any], path: Path) -> Entry:
    n_atoms = row["n_atoms"]
    shapes = _SHAPES | {"hessian": (3 * n_atoms, 3 * n_atoms), "bond_orders": (n_atoms, n_atoms)}
    arrays: dict[str, Any] = {
        name: None if row[name] is None else row[name].reshape(shapes[name]) for name in _LISTS
    }
    spec = QMSpec(
        keywords=tuple((name, value) for name, value in json.loads(row["keywords"])),
        **{name: row[name] for name in ("program", "method", "basis", "dispersion", "driver")},
    )
    record = QMRecord(
        task_key=row["key"],
        ligand_key=row["ligand_key"],
        spec=spec,
        energy=row["energy"],
        provenance=tuple((name, value) for name, value in json.loads(row["provenance"])),
        **arrays,
    )
    composition = None
    if row["atomic_numbers"] is not None:
        composition = Composition(
            atomic_numbers=row["atomic_numbers"].astype(np.int64),
            total_charge=row["total_charge"],
            mapped_smiles=row["mapped_smiles"],
        )
    entry = Entry(record=record, composition=composition)
    if hash_row(row_of(entry)) != row["content_hash"]:
        raise StoreError(f"{path}: the row {row['key'][:12]} does not match its hash", kind="corrupt")
    return entry
