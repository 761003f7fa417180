"""How fast the QM store is at 10^4 and 10^5 results, and at 10^6 where PARMFLOW_STORE_SIZES names it."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from pipeline.schema import QMRecord, QMSpec
from pipeline.store import Attempt, Composition, Entry, QMStore
from pipeline.store.care import count, verify
from pipeline.store.exchange import export_store, import_entries, import_file

SIZES = tuple(int(size) for size in os.environ.get("PARMFLOW_STORE_SIZES", "10000 100000").split())
N_ATOMS = 20
POINTS_PER_MOLECULE = 20
N_LOOKED_UP = 10_000
N_SINGLE = 500


def make_entries(first: int, last: int) -> Iterator[Entry]:
    """Gradients of 20 atoms, twenty per molecule; the numbers are random."""
    rng = np.random.default_rng(first)
    numbers = np.array([6, 6, 6, 6, 6, 7, 8, 8, 16, 17] + [1] * 10)
    spec = QMSpec()
    for n in range(first, last):
        coords, gradient = rng.normal(size=(2, N_ATOMS, 3))
        record = QMRecord(
            task_key=key_of(n),
            ligand_key=key_of(-1 - n // POINTS_PER_MOLECULE),
            spec=spec,
            coords=coords,
            energy=-1000.0 - n,
            gradient=gradient,
            provenance=(("program", "pyscf"), ("version", "2.14.0"), ("wall_seconds", "12.345")),
        )
        yield Entry(record=record, composition=Composition(atomic_numbers=numbers, total_charge=0))


def key_of(n: int) -> str:
    """A key as random as a real one."""
    return sha256(str(n).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Took:
    """What a piece of work took."""

    wall: float
    cpu: float


def timed(work: Callable[[], object]) -> Took:
    """Wall and CPU seconds of a piece of work."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return Took(wall=time.perf_counter() - start, cpu=time.process_time() - cpu)


def main() -> None:
    """Print a row per size and kind of work; the store grows from one size to the next."""
    print("QM store, gradients of 20 atoms; per wall second (what else ran counts) and per CPU second")
    print("  results    MB  work               per s  per CPU s")
    done = 0
    with (
        tempfile.TemporaryDirectory(prefix="parmflow-bench-") as name,
        QMStore(Path(name) / "qm.sqlite") as store,
    ):
        for size in SIZES:
            measure(store, Path(name), done, size)
            done = size


def measure(store: QMStore, folder: Path, done: int, size: int) -> None:
    """Fill up to a size, then measure at that size."""
    singles = list(make_entries(size - N_SINGLE, size))
    wanted = [key_of(int(n)) for n in np.random.default_rng(1).integers(0, size, N_LOOKED_UP)]
    table = folder / "all.parquet"
    works: tuple[tuple[str, int, Callable[[], object]], ...] = (
        ("insert, by 2000", size - N_SINGLE - done, lambda: fill(store, done, size - N_SINGLE)),
        ("insert, one by one", N_SINGLE, lambda: [put_one(store, entry) for entry in singles]),
        ("look up, by 500", len(set(wanted)), lambda: store.get_many(wanted)),
        ("look up, one by one", N_SINGLE, lambda: [store.get(key) for key in wanted[:N_SINGLE]]),
        ("count", size, lambda: count(store)),
        ("export", size, lambda: export_store(store, table)),
        ("import the export", size, lambda: import_back(folder, table)),
        ("verify", size, lambda: verify(store)),
    )
    for name, n_rows, work in works:
        took = timed(work)
        megabytes = store.place.path.stat().st_size / 1e6
        print(
            f"{size:9d} {megabytes:5.0f}  {name:20s} {n_rows / took.wall:8.0f} {n_rows / took.cpu:8.0f}",
            flush=True,
        )


def fill(store: QMStore, first: int, last: int) -> None:
    """Insert as an import does; making the numbers is part of the time."""
    import_entries(store, make_entries(first, last))


def import_back(folder: Path, table: Path) -> None:
    """Import into an empty store, and throw that away."""
    with QMStore(folder / "back.sqlite") as back:
        import_file(back, table)
    for file in folder.glob("back.sqlite*"):
        file.unlink()


def put_one(store: QMStore, entry: Entry) -> None:
    """A result as a batch keeps it: claimed, then written with its attempt in a transaction of its own."""
    lease = store.claim(entry.record.task_key, "bench 1 1.0")
    attempt = Attempt(task_key=entry.record.task_key, seconds=1.0, predicted_seconds=1.0, kind="ok")
    store.finish(lease, entry, attempt)  # type: ignore[arg-type]
