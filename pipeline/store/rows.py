"""A result as a row of the store, and the hash that covers all of it."""

import dataclasses
import hashlib
import json
import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipeline.schema import FloatArray, IntArray, QMRecord, QMSpec, QMTask

EXTRAS = ("hessian", "dipole", "bond_orders", "esp")
"""arrays of a QMRecord that most results lack: they share one column"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Composition:
    """What a result's atoms are, in the order of its coordinates."""

    atomic_numbers: IntArray
    """(n_atoms,)"""
    total_charge: int
    mapped_smiles: str | None = None
    """map number = index + 1; None where only the elements are known"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A result with its atoms; stores of before version 2 did not keep these."""

    record: QMRecord
    composition: Composition | None


def composition_of(task: QMTask) -> Composition:
    """Take a task's atoms."""
    return Composition(atomic_numbers=task.atomic_numbers, total_charge=task.total_charge)


def row_of(entry: Entry) -> tuple:
    """The values of a result in the order of `hash_row`."""
    record, atoms = entry.record, entry.composition
    return (
        record.task_key,
        record.ligand_key,
        None if atoms is None else atoms.mapped_smiles,
        None if atoms is None else np.ascontiguousarray(atoms.atomic_numbers, dtype="<i2").tobytes(),
        None if atoms is None else int(atoms.total_charge),
        document_of(record.spec),
        _to_blob(record.coords),
        float(record.energy) + 0.0,  # SQLite keeps no sign of zero
        None if record.gradient is None else _to_blob(record.gradient),
        _pack_extras(record),
        json.dumps(record.provenance),
    )


def entry_of(row: tuple, flags: str = "") -> Entry:
    """The result of a row; `flags`, words with spaces between, join those of its provenance."""
    (
        key,
        ligand_key,
        mapped_smiles,
        numbers,
        charge,
        document,
        coords,
        energy,
        gradient,
        extras,
        provenance,
    ) = row
    facts = dict(json.loads(provenance))
    if flags:
        facts["flags"] = " ".join(dict.fromkeys(f"{facts.get('flags', '')} {flags}".split()))
    record = QMRecord(
        task_key=key,
        ligand_key=ligand_key,
        spec=spec_of(document),
        coords=_from_blob(coords).reshape(-1, 3),
        energy=energy,
        gradient=None if gradient is None else _from_blob(gradient).reshape(-1, 3),
        provenance=tuple(facts.items()),
        **_unpack_extras(extras),
    )
    if numbers is None:
        return Entry(record=record, composition=None)
    atoms = np.frombuffer(numbers, "<i2").astype(np.int64)
    composition = Composition(atomic_numbers=atoms, total_charge=charge, mapped_smiles=mapped_smiles)
    return Entry(record=record, composition=composition)


@lru_cache(maxsize=1024)
def document_of(spec: QMSpec) -> str:
    """A spec as JSON."""
    return json.dumps(dataclasses.asdict(spec), sort_keys=True)


@lru_cache(maxsize=1024)
def spec_of(document: str) -> QMSpec:
    """The spec of its JSON."""
    values = json.loads(document)
    keywords = tuple((name, value) for name, value in values.pop("keywords"))
    return QMSpec(**values, keywords=keywords)


def hash_row(row: tuple) -> str:
    """Hash every value with its length in front, so that no byte can move to a neighbour unnoticed."""
    parts = []
    for value in row:
        data = _bytes_of(value)
        parts += [b"-1:" if value is None else b"%d:" % len(data), data]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _bytes_of(value: bytes | float | int | str | None) -> bytes:
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    return struct.pack("<d", value) if isinstance(value, float) else str(value).encode()


def hash_molecule(row: tuple) -> str:
    """Hash of ligand key, mapped SMILES, elements and charge: rows of one molecule share it."""
    return hash_row(row[1:5])


def _pack_extras(record: QMRecord) -> bytes | None:
    """The arrays that most results lack: a line of JSON with their shapes, then their bytes one by one."""
    arrays = {name: getattr(record, name) for name in EXTRAS if getattr(record, name) is not None}
    if not arrays:
        return None
    shapes = json.dumps({name: array.shape for name, array in arrays.items()})
    return b"\n".join([shapes.encode(), b"".join(_to_blob(array) for array in arrays.values())])


def _unpack_extras(data: bytes | None) -> dict[str, FloatArray]:
    if data is None:
        return {}
    head, body = data.split(b"\n", 1)
    arrays, start = {}, 0
    for name, shape in json.loads(head).items():
        end = start + 8 * int(np.prod(shape))
        arrays[name] = _from_blob(body[start:end]).reshape(shape)
        start = end
    return arrays


def _to_blob(array: FloatArray) -> bytes:
    return np.ascontiguousarray(array, dtype="<f8").tobytes()


def _from_blob(data: bytes) -> FloatArray:
    return np.frombuffer(data, dtype="<f8").astype(np.float64)
