"""The store and QCSchema: results written as AtomicResult documents, read from these and from QCArchive.

A file holds one JSON document per line, or one list of documents. QCArchive's records (qcportal's
`record.model_dump(mode="json")`, fetched with `include=["**"]`) are read as singlepoints, as optimisations
(the last geometry) and as torsion drives (the lowest optimisation at each angle). Units: bohr and hartree.
"""

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from qcelemental import periodictable

from pipeline.errors import LigandError, StoreError
from pipeline.schema import FloatArray, QMRecord, QMSpec, QMTask
from pipeline.store.rows import Composition, Entry, hash_row
from pipeline.store.tables import molecule_key, spec_of_level
from pipeline.units import (
    ANGSTROM_PER_BOHR,
    KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR,
    KCAL_PER_HARTREE,
)

_SMILES = "canonical_isomeric_explicit_hydrogen_mapped_smiles"
"""OpenFF's name of a molecule's identifier"""
_DRIVERS = ("energy", "gradient", "hessian")
_KCAL_PER_ANGSTROM2 = KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR / ANGSTROM_PER_BOHR
_Document = Mapping[str, Any]


# ---- writing ----


def write_qcschema(path: Path, entries: Iterable[Entry]) -> tuple[int, int]:
    """Write results as AtomicResult documents, one per line; return how many, and how many were left out.

    Left out are those of stores of before version 2, whose elements are not known.
    """
    unfinished = path.with_name(f"{path.name}.tmp")
    n_written = n_left_out = 0
    with _open(unfinished, "wt", zipped=path.suffix == ".gz") as file:
        for entry in entries:
            if entry.composition is None:
                n_left_out += 1
                continue
            file.write(json.dumps(document_of(entry.record, entry.composition)) + "\n")
            n_written += 1
    unfinished.replace(path)
    return n_written, n_left_out


def document_of(record: QMRecord, atoms: Composition) -> dict[str, Any]:
    """One result as a QCSchema AtomicResult; what the schema has no place for is in `extras`."""
    spec, facts = record.spec, dict(record.provenance)
    identifiers = {} if atoms.mapped_smiles is None else {_SMILES: atoms.mapped_smiles}
    energy = record.energy / KCAL_PER_HARTREE
    # The end of an optimisation is a point like any other; where it began is not kept.
    named = "gradient" if spec.driver == "optimise" and record.gradient is not None else spec.driver
    driver = named if named in _DRIVERS else "energy"
    result: float | list[float] = energy
    if driver == "gradient" and record.gradient is not None:
        result = (record.gradient / KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR).ravel().tolist()
    if driver == "hessian" and record.hessian is not None:
        result = (record.hessian / _KCAL_PER_ANGSTROM2).ravel().tolist()
    return {
        "schema_name": "qcschema_output",
        "schema_version": 1,
        "molecule": {
            "schema_name": "qcschema_molecule",
            "schema_version": 2,
            "symbols": [periodictable.to_E(int(number)) for number in atoms.atomic_numbers],
            "geometry": (record.coords / ANGSTROM_PER_BOHR).ravel().tolist(),
            "molecular_charge": float(atoms.total_charge),
            "molecular_multiplicity": 1,
            "fix_com": True,
            "fix_orientation": True,
            "extras": identifiers,
        },
        "driver": driver,
        "model": {"method": _method_of(spec), "basis": spec.basis},
        "keywords": dict(spec.keywords),
        "properties": {"return_energy": energy, "calcinfo_natom": len(record.coords)},
        "return_result": result,
        "success": True,
        "provenance": {"creator": spec.program, "version": facts.get("version", ""), "routine": "parmflow"},
        "extras": {"parmflow_driver": named, "parmflow_provenance": facts},
    }


def _method_of(spec: QMSpec) -> str:
    return f"{spec.method}-{spec.dispersion}" if spec.dispersion else spec.method


# ---- reading ----


def read_qcschema(path: Path) -> Iterator[Entry | str]:
    """Give the results of a file of documents; of one that cannot be used, a sentence that says why."""
    keys: dict[str, str] = {}
    for n, document in enumerate(_documents(path)):
        try:
            yield from entries_of(document, keys)
        except (LigandError, ValueError, KeyError, TypeError, AttributeError) as error:
            yield f"{path}: document {n + 1}: {type(error).__name__}: {error}"


def read_records(records: Iterable[Any]) -> Iterator[Entry | str]:
    """Give the results of qcportal's record objects, e.g. of `dataset.iterate_records(include=["**"])`.

    qcportal itself is not needed: objects that give their values as pydantic's do, old or new, are enough.
    """
    keys: dict[str, str] = {}
    for n, record in enumerate(records):
        whole = record[-1] if isinstance(record, tuple) else record  # (entry, specification, record)
        try:
            yield from entries_of(_json_of(whole), keys)
        except (LigandError, ValueError, KeyError, TypeError) as error:
            yield f"record {n + 1}: {type(error).__name__}: {error}"


def _json_of(record: Any) -> _Document:
    dump = record.model_dump if hasattr(record, "model_dump") else record.dict
    text = json.dumps(
        dump(by_alias=True), default=lambda v: v.tolist() if isinstance(v, np.ndarray) else str(v)
    )
    document: _Document = json.loads(text)
    return document


def _documents(path: Path) -> Iterator[_Document]:
    with _open(path, "rt", zipped=path.suffix == ".gz") as file:
        try:
            first = file.read(1)
            file.seek(0)
            if first == "[":
                yield from json.load(file)
            else:
                yield from (json.loads(line) for line in file if line.strip())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise StoreError(
                f"{path}: not JSON, nor a line of JSON per document: {error}", kind="import"
            ) from error


def _open(path: Path, mode: str, *, zipped: bool) -> Any:
    return gzip.open(path, mode, encoding="utf-8") if zipped else path.open(mode, encoding="utf-8")


def entries_of(document: _Document, keys: dict[str, str]) -> list[Entry]:
    """The results of one AtomicResult, or of one record of QCArchive; ValueError says what cannot be used."""
    readers = {"singlepoint": _singlepoint, "optimization": _optimisation, "torsiondrive": _torsion_drive}
    kind = document.get("record_type")
    if kind is None:
        return [_atomic_result(document, keys)]
    if kind not in readers:
        raise ValueError(f"records of type {kind!r} cannot be read; {', '.join(readers)} can")
    if document.get("status") != "complete":
        raise ValueError(f"its status is {document.get('status')}")
    return readers[kind](document, keys)


def _atomic_result(document: _Document, keys: dict[str, str]) -> Entry:
    if not document.get("success", False):
        raise ValueError("it is not the result of a calculation that succeeded")
    extras = document.get("extras") or {}
    driver = str(document["driver"])
    result = document["return_result"]
    energy = result if driver == "energy" else document["properties"]["return_energy"]
    arrays = {driver: result} if driver in ("gradient", "hessian") else {}
    provenance = extras.get("parmflow_provenance") or {"source": "qcschema"}
    spec = _spec_of(document["model"], document["provenance"]["creator"], document.get("keywords"))
    named = extras.get("parmflow_driver", driver)
    return _entry(document["molecule"], float(energy), arrays, (spec, named, provenance), keys)


def _singlepoint(document: _Document, keys: dict[str, str]) -> list[Entry]:
    specification, properties = document["specification"], document["properties"]
    driver = str(specification["driver"])
    arrays = {
        name: values
        for name, values in (
            ("gradient", properties.get("return_gradient")),
            ("hessian", properties.get("return_hessian")),
            (driver, properties.get("return_result")),
        )
        if values is not None and name in ("gradient", "hessian")
    }
    energy = properties["return_energy"]
    facts = _facts(document)
    spec = _spec_of(specification, specification["program"], specification.get("keywords"))
    return [_entry(document["molecule"], float(energy), arrays, (spec, driver, facts), keys)]


def _optimisation(document: _Document, keys: dict[str, str]) -> list[Entry]:
    """The last geometry with its energy; its gradient is what the optimiser called zero, and is not kept."""
    return [_end_of(document, {}, {}, keys)]


def _torsion_drive(document: _Document, keys: dict[str, str]) -> list[Entry]:
    """The end of the lowest optimisation at each angle, with its gradient where the trajectory came along:
    along the driven torsion it is not zero.
    """
    dihedrals = ((document.get("specification") or {}).get("keywords") or {}).get("dihedrals") or []
    driven = {"dihedral": " ".join(map(str, dihedrals[0]))} if len(dihedrals) == 1 else {}
    entries = []
    for grid, optimisations in document["optimization_records"].items():
        whole = [each for each in optimisations if each.get("status") == "complete"]
        if whole:
            lowest = min(whole, key=lambda each: float(each["energies"][-1]))
            facts = {"grid": " ".join(map(str, json.loads(grid))), "drive": str(document["id"]), **driven}
            trajectory = lowest.get("trajectory_records") or [{}]
            gradient = (trajectory[-1].get("properties") or {}).get("return_gradient")
            entries.append(_end_of(lowest, {} if gradient is None else {"gradient": gradient}, facts, keys))
    return entries


def _end_of(
    optimisation: _Document,
    arrays: Mapping[str, Sequence[float]],
    facts: Mapping[str, str],
    keys: dict[str, str],
) -> Entry:
    specification = optimisation["specification"]["qc_specification"]
    spec = _spec_of(specification, specification["program"], specification.get("keywords"))
    energy, driver = float(optimisation["energies"][-1]), "gradient" if arrays else "energy"
    whole = (spec, driver, {**_facts(optimisation), **facts})
    return _entry(optimisation["final_molecule"], energy, arrays, whole, keys)


def _facts(record: _Document) -> dict[str, str]:
    return {"source": "qcarchive", "kind": str(record["record_type"]), "qcarchive_id": str(record["id"])}


def _spec_of(model: _Document, program: str, keywords: _Document | None) -> QMSpec:
    basis = model.get("basis")
    level = f"{model['method']}/{basis}" if basis else str(model["method"])
    read = spec_of_level(level, "energy", program.lower())
    plain = {name: v for name, v in (keywords or {}).items() if isinstance(v, str | int | float | bool)}
    return QMSpec(
        program=read.program,
        method=read.method,
        basis=read.basis,
        dispersion=read.dispersion,
        keywords=tuple(sorted(plain.items())),
    )


def _entry(
    molecule: _Document,
    energy: float,
    arrays: Mapping[str, Sequence[float]],
    what: tuple[QMSpec, str, Mapping[str, str]],
    keys: dict[str, str],
) -> Entry:
    """A result in our units; `what` is the level, the driver and the facts of its making."""
    level, driver, facts = what
    atoms = _composition_of(molecule)
    n_atoms = len(atoms.atomic_numbers)
    spec = QMSpec(**{**vars(level), "driver": driver})
    task = QMTask(
        ligand_key=molecule_key(atoms, keys) if atoms.mapped_smiles else _key_of_elements(atoms),
        atomic_numbers=atoms.atomic_numbers,
        coords=np.array(molecule["geometry"], dtype=float).reshape(-1, 3) * ANGSTROM_PER_BOHR,
        total_charge=atoms.total_charge,
        spec=spec,
    )
    record = QMRecord(
        task_key=task.key,
        ligand_key=task.ligand_key,
        spec=spec,
        coords=task.coords,
        energy=energy * KCAL_PER_HARTREE,
        gradient=_scaled(arrays.get("gradient"), KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR, (n_atoms, 3)),
        hessian=_scaled(arrays.get("hessian"), _KCAL_PER_ANGSTROM2, (3 * n_atoms, 3 * n_atoms)),
        provenance=tuple(sorted(facts.items())),
    )
    return Entry(record=record, composition=atoms)


def _scaled(values: Sequence[float] | None, factor: float, shape: tuple[int, int]) -> FloatArray | None:
    return None if values is None else np.array(values, dtype=float).reshape(shape) * factor


def _composition_of(molecule: _Document) -> Composition:
    if int(molecule.get("molecular_multiplicity", 1)) != 1:
        raise ValueError("only closed shells can be stored")
    named = {**(molecule.get("extras") or {}), **(molecule.get("identifiers") or {})}
    return Composition(
        atomic_numbers=np.array([periodictable.to_Z(symbol) for symbol in molecule["symbols"]]),
        total_charge=round(float(molecule.get("molecular_charge", 0.0))),
        mapped_smiles=named.get(_SMILES),
    )


def _key_of_elements(atoms: Composition) -> str:
    """A stand-in for the identity of a molecule whose bonds are not known: elements in order, charge."""
    return hash_row(("elements", atoms.atomic_numbers.tobytes(), atoms.total_charge))
