"""What leaves a store comes back the same; what others wrote is read as they meant it."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from qcelemental.models import AtomicResult

from pipeline.errors import OutputFolderError, StoreError, UsageError
from pipeline.ligand import ligand_key
from pipeline.schema import Ligand, QMRecord, QMSpec, QMTask
from pipeline.store import Composition, Entry, QMStore
from pipeline.store.exchange import export_store, import_entries, import_file
from pipeline.store.qcarchive import dataset_named, read_dataset
from pipeline.store.qcschema import document_of, read_records
from pipeline.units import (
    ANGSTROM_PER_BOHR,
    KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR,
    KCAL_PER_HARTREE,
)

WATER = "[O:1]([H:2])[H:3]"
WATER_KEY = ligand_key(Ligand(name="water", mapped_smiles=WATER, total_charge=0))
GRADIENT = QMSpec(program="psi4", method="b3lyp", basis="dzvp", dispersion="d3bj", driver="gradient")


def make_entry(n: int, spec: QMSpec = GRADIENT) -> Entry:
    """Water with random arrays, as the spec asks for them."""
    rng = np.random.default_rng(n)
    coords = rng.normal(size=(3, 3))
    task = QMTask(
        ligand_key=WATER_KEY, atomic_numbers=np.array([8, 1, 1]), coords=coords, total_charge=0, spec=spec
    )
    record = QMRecord(
        task_key=task.key,
        ligand_key=WATER_KEY,
        spec=spec,
        coords=coords,
        energy=-47000.0 + rng.normal(),
        gradient=rng.normal(size=(3, 3)) if spec.driver in ("gradient", "hessian") else None,
        hessian=rng.normal(size=(9, 9)) if spec.driver == "hessian" else None,
        dipole=rng.normal(size=3) if n % 2 else None,
        bond_orders=rng.normal(size=(3, 3)) if n % 3 else None,
        esp=rng.normal(size=(n, 4)) if n else None,
        provenance=(("program", spec.program), ("version", "1.3.2")),
    )
    atoms = Composition(atomic_numbers=task.atomic_numbers, total_charge=0, mapped_smiles=WATER)
    return Entry(record=record, composition=atoms)


@pytest.fixture
def store(tmp_path: Path):
    with QMStore(tmp_path / "store" / "qm.sqlite") as opened:
        drivers = ("energy", "gradient", "hessian", "properties")
        opened.put_many(
            make_entry(n, dataclasses.replace(GRADIENT, driver=drivers[n % 4], keywords=(("maxiter", 60),)))
            for n in range(40)
        )
        without_atoms = dataclasses.replace(make_entry(99), composition=None)
        opened.put_many([without_atoms])
        yield opened


def assert_same(ours: QMStore, theirs: QMStore) -> None:
    """Two stores hold the same rows, bytes and hashes."""
    assert [(row, digest) for row, digest, _ in ours.rows()] == [
        (row, digest) for row, digest, _ in theirs.rows()
    ]


def test_parquet_is_exact_in_both_directions(tmp_path: Path, store: QMStore) -> None:
    """Export, import into an empty store: rows equal to the byte, every optional array included; a second
    import adds nothing.
    """
    file = tmp_path / "all.parquet"
    assert export_store(store, file).n_written == 41
    with QMStore(tmp_path / "other") as other:
        assert import_file(other, file).n_new == 41
        assert_same(store, other)
        again = import_file(other, file)
        assert (again.n_read, again.n_new, again.refused) == (41, 0, ())


def test_parquet_is_for_pandas(tmp_path: Path, store: QMStore) -> None:
    """pandas reads one row per result with plain columns; the arrays are the store's."""
    export_store(store, tmp_path / "g.parquet", level="B3LYP-D3BJ/DZVP")
    table = pd.read_parquet(tmp_path / "g.parquet")
    assert len(table) == 41
    row = table[table.driver == "hessian"].iloc[0]
    record = store.get(row.key)
    assert record is not None
    np.testing.assert_array_equal(row.hessian.reshape(9, 9), record.hessian)
    np.testing.assert_array_equal(row.coords.reshape(-1, 3), record.coords)
    assert (row.energy, row.basis, row.atomic_numbers.tolist()) == (record.energy, "dzvp", [8, 1, 1])


def test_a_changed_row_of_an_export_is_refused(tmp_path: Path, store: QMStore) -> None:
    """An energy edited in the file does not match its hash: nothing of that file's part is taken in."""
    file = tmp_path / "all.parquet"
    export_store(store, file)
    table = pd.read_parquet(file)
    table.loc[3, "energy"] += 1.0
    schema = pq.read_schema(file)
    pq.write_table(pa.Table.from_pandas(table, schema=schema, preserve_index=False), file)
    with QMStore(tmp_path / "other") as other:
        with pytest.raises(StoreError, match="hash"):
            import_file(other, file)
        assert len(other) == 0


@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.gz"])
def test_qcschema_is_valid_and_comes_back(tmp_path: Path, store: QMStore, name: str) -> None:
    """Every line is an AtomicResult to QCElemental; read back, keys are the same and numbers agree to the
    rounding of two conversions (1e-15 of the value). What has no elements cannot be written and is counted.
    """
    done = export_store(store, tmp_path / name)
    assert (done.n_written, done.n_left_out) == (40, 1)
    entry = make_entry(2, dataclasses.replace(GRADIENT, driver="hessian"))
    assert entry.composition is not None
    AtomicResult(**document_of(entry.record, entry.composition))
    with QMStore(tmp_path / "other") as other:
        taken = import_file(other, tmp_path / name)
        assert (taken.n_new, taken.refused) == (40, ())
        for key, back in other.entries():
            record = store.get(key)
            assert record is not None
            assert (back.record.spec, back.record.ligand_key) == (record.spec, WATER_KEY)
            assert back.record.provenance == record.provenance
            np.testing.assert_allclose(back.record.energy, record.energy, rtol=1e-14)
            np.testing.assert_allclose(back.record.coords, record.coords, atol=1e-14)
            if record.spec.driver == "gradient":
                np.testing.assert_allclose(back.record.gradient, record.gradient, rtol=1e-13)
            if record.spec.driver == "hessian":
                np.testing.assert_allclose(back.record.hessian, record.hessian, rtol=1e-13)


def test_the_end_of_an_optimisation_is_a_gradient_to_others(tmp_path: Path) -> None:
    """An optimisation's key is that of its start, which a document cannot say: it comes back as a gradient of
    its last geometry.
    """
    last = make_entry(1)
    spec = dataclasses.replace(GRADIENT, driver="optimise")
    entry = dataclasses.replace(last, record=dataclasses.replace(last.record, spec=spec, task_key="start"))
    with QMStore(tmp_path / "s") as store, QMStore(tmp_path / "other") as other:
        store.put_many([entry])
        export_store(store, tmp_path / "o.jsonl")
        assert import_file(other, tmp_path / "o.jsonl").n_new == 1
        ((key, back),) = other.entries()
    assert (key, back.record.spec) == (last.record.task_key, GRADIENT)
    np.testing.assert_allclose(back.record.gradient, last.record.gradient, rtol=1e-13)


# As QCArchive's server gives them (qcportal 0.6x, model_dump(mode="json")), with the parts that are read.
MOLECULE = {
    "symbols": ["O", "H", "H"],
    "geometry": [[0.0, 0.0, 0.22], [0.0, 1.43, -0.89], [0.0, -1.43, -0.89]],
    "molecular_charge": 0,
    "molecular_multiplicity": 1,
    "identifiers": {"canonical_isomeric_explicit_hydrogen_mapped_smiles": WATER},
}
QC = {
    "program": "psi4",
    "driver": "gradient",
    "method": "b3lyp-d3bj",
    "basis": "dzvp",
    "keywords": {"maxiter": 200},
}
SINGLEPOINT = {
    "id": 17,
    "record_type": "singlepoint",
    "status": "complete",
    "specification": QC,
    "molecule": MOLECULE,
    "properties": {"return_energy": -76.4, "return_result": [0.1, 0, 0, -0.05, 0, 0, -0.05, 0, 0]},
}
OPTIMISATION = {
    "id": 18,
    "record_type": "optimization",
    "status": "complete",
    "specification": {
        "program": "geometric",
        "qc_specification": {**QC, "driver": "deferred"},
        "keywords": {},
    },
    "final_molecule": MOLECULE,
    "energies": [-76.3, -76.45],
}
HIGHER = {**OPTIMISATION, "id": 19, "energies": [-76.2]}
DRIVE = {
    "id": 20,
    "record_type": "torsiondrive",
    "status": "complete",
    "optimization_records": {"[-165]": [HIGHER, OPTIMISATION], "[0]": [{**HIGHER, "status": "error"}]},
}


def test_qcarchive_records_are_read(tmp_path: Path) -> None:
    """A singlepoint, an optimisation, a drive; an error record, an unknown kind and a radical are refused in
    a sentence each.
    """
    bad = [
        {**SINGLEPOINT, "status": "error"},
        {**SINGLEPOINT, "record_type": "manybody"},
        {**SINGLEPOINT, "molecule": {**MOLECULE, "molecular_multiplicity": 2}},
        {**SINGLEPOINT, "properties": {}},
    ]
    file = tmp_path / "records.json"
    file.write_text(json.dumps([SINGLEPOINT, OPTIMISATION, *bad]))
    with QMStore(tmp_path / "s") as store:
        taken = import_file(store, file)
        assert (taken.n_new, len(taken.refused)) == (2, 4)
        assert "status is error" in taken.refused[0]
        assert "closed shells" in taken.refused[2]
        point, last = (entry.record for _, entry in store.entries())
        assert (point.spec.program, point.spec.level, point.spec.driver) == (
            "psi4",
            "b3lyp-d3bj/dzvp",
            "gradient",
        )
        assert point.ligand_key == WATER_KEY
        assert point.energy == -76.4 * KCAL_PER_HARTREE
        assert point.gradient is not None
        assert point.gradient[0, 0] == 0.1 * KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR
        assert point.coords[1, 1] == 1.43 * ANGSTROM_PER_BOHR
        assert dict(point.provenance)["qcarchive_id"] == "17"
        assert (last.energy, last.gradient) == (-76.45 * KCAL_PER_HARTREE, None)


@pytest.mark.parametrize(
    "drive",
    [SimpleNamespace(model_dump=lambda **_: DRIVE), SimpleNamespace(dict=lambda **_: DRIVE)],
    ids=["pydantic 2", "pydantic 1"],
)
def test_records_of_qcportal_are_read_as_objects(tmp_path: Path, drive: SimpleNamespace) -> None:
    """Objects, bare or as the triples of `iterate_records`; of a drive the lowest optimisation at each angle
    that has a finished one.
    """
    with QMStore(tmp_path / "s") as store:
        taken = import_entries(store, read_records([("entry", "default", drive)]))
        assert (taken.n_new, taken.refused) == (1, ())
        ((_, entry),) = store.entries()
    facts = dict(entry.record.provenance)
    assert (facts["drive"], facts["grid"], facts["qcarchive_id"]) == ("20", "-165", "18")


def test_a_data_set_of_a_server_is_read(tmp_path: Path) -> None:
    """What qcportal's client is asked, and that its records come in."""
    asked = []

    def iterate_records(**options: object) -> list[tuple[str, str, SimpleNamespace]]:
        asked.append(options)
        return [("water", "default", SimpleNamespace(model_dump=lambda **_: SINGLEPOINT))]

    def get_dataset(kind: str, name: str) -> SimpleNamespace:
        asked.append((kind, name))
        return SimpleNamespace(iterate_records=iterate_records)

    client = SimpleNamespace(get_dataset=get_dataset)
    with QMStore(tmp_path / "s") as store:
        taken = import_entries(store, read_dataset(client, "singlepoint", "OpenFF"))
        assert (taken.n_new, taken.refused) == (1, ())
    assert asked == [("singlepoint", "OpenFF"), {"status": "complete", "include": ["**"]}]


def test_a_data_set_is_named_by_kind_and_name() -> None:
    """A name may hold colons; another kind, or no name, is refused."""
    assert dataset_named("torsiondrive:OpenFF: set 1") == ("torsiondrive", "OpenFF: set 1")
    for text in ("manybody:OpenFF", "singlepoint:", "singlepoint", ":OpenFF", ""):
        with pytest.raises(UsageError, match="KIND:NAME"):
            dataset_named(text)


def table_of(rows: list[dict], path: Path) -> Path:
    pd.DataFrame(rows).to_parquet(path)
    return path


def test_tables_of_references_are_read(tmp_path: Path) -> None:
    """Two points with gradients and one without, as float32: energies exact, keys by molecule, not by the
    drawn order; a row whose elements contradict its SMILES is refused by number.
    """
    coords = np.arange(18, dtype=np.float32) / 7
    row = {
        "source": "set",
        "kind": "torsiondrive",
        "level": "wb97x-d3bj/def2-tzvpd",
        "mapped_smiles": WATER,
        "charge": 0,
        "n_atoms": 3,
        "n_confs": 2,
        "atomic_numbers": [8, 1, 1],
        "coords": coords,
        "energy": [-47001.25, -47000.5],
        "gradient": coords * 2,
        "dihedral": [0, 1, 2, 2],
        "grid": [-165.0, -150.0],
    }
    other_order = {"mapped_smiles": "[H:1][O:2][H:3]", "atomic_numbers": [1, 8, 1], "coords": coords[:9]}
    one = {**row, **other_order, "n_confs": 1, "energy": [-1.5], "gradient": None, "level": "gfn2-xtb"}
    wrong = {**row, "atomic_numbers": [7, 1, 1]}
    file = table_of([row, one, wrong], tmp_path / "t.parquet")
    with QMStore(tmp_path / "s") as store:
        taken = import_file(store, file)
        assert (taken.n_new, len(taken.refused)) == (3, 1)
        assert "row 3" in taken.refused[0]
        first, _, last = (entry.record for _, entry in store.entries())
    assert {first.ligand_key, last.ligand_key} == {WATER_KEY}
    assert (first.spec.level, first.spec.program, first.energy) == (
        "wb97x-d3bj/def2-tzvpd",
        "imported",
        -47001.25,
    )
    np.testing.assert_array_equal(first.gradient, (coords[:9] * 2).astype(float).reshape(3, 3))
    assert dict(first.provenance)["grid"] == "-165"
    assert (last.spec.level, last.spec.driver, last.gradient) == ("gfn2-xtb", "energy", None)


def test_files_that_are_none_of_these_are_refused(tmp_path: Path, store: QMStore) -> None:
    """A foreign table, a text called .json or .parquet, tables and JSON cut short, lines of JSON that are no
    documents, an unknown suffix, a folder that is not there."""
    foreign = table_of([{"a": 1}], tmp_path / "foreign.parquet")
    text = tmp_path / "text.json"
    text.write_text("hello\n")
    table = tmp_path / "text.parquet"
    table.write_text("hello\n")
    cut, cut_table = tmp_path / "cut.jsonl.gz", tmp_path / "cut.parquet"
    for file in (cut, cut_table):
        export_store(store, file)
    cut.write_bytes(cut.read_bytes()[:-20])
    cut_table.write_bytes(cut_table.read_bytes()[:-1])
    for file in (foreign, text, table, cut, cut_table):
        with pytest.raises(StoreError, match=file.name):
            import_file(store, file)
    numbers = tmp_path / "numbers.jsonl"
    numbers.write_text("1\n[]\n")
    assert [sentence.split(":")[1] for sentence in import_file(store, numbers).refused] == [
        " document 1",
        " document 2",
    ]
    with pytest.raises(OutputFolderError, match="must end with"):
        export_store(store, tmp_path / "x.csv")
    with pytest.raises(OutputFolderError, match="cannot be written"):
        export_store(store, tmp_path / "none" / "x.parquet")
