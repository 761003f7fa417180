"""How fast the QM store is at 10^4 and 10^5 results, and at 10^6 where PARMFLOW_STORE_SIZES names it."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import islice
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


def timed(work: Callable[[], object]) -> float:
    """Seconds of a piece of work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print a row per size; the store grows from one size to the next."""
    print("QM store, gradients of 20 atoms (each machine and load has its own figures: compare within a run)")
    print("  results    MB  import/s  put/s  look-up/s  get ms  count s  export/s  import back/s  verify/s")
    done = 0
    with tempfile.TemporaryDirectory(prefix="parmflow-bench-") as name:
        folder = Path(name)
        with QMStore(folder / "qm.sqlite") as store:
            for size in SIZES:
                print_size(store, folder, done, size)
                done = size


def print_size(store: QMStore, folder: Path, done: int, size: int) -> None:
    """Fill up to a size, then measure at that size."""
    chance = np.random.default_rng(1)
    import_seconds = timed(lambda: import_entries(store, make_entries(done, size - N_SINGLE)))
    making = timed(lambda: list(islice(make_entries(done, size), 2000))) / 2000
    import_seconds -= making * (size - N_SINGLE - done)
    singles = list(make_entries(size - N_SINGLE, size))
    single_seconds = timed(lambda: [put_one(store, entry) for entry in singles])
    wanted = [key_of(int(n)) for n in chance.integers(0, size, N_LOOKED_UP)]
    look_up_seconds = timed(lambda: store.get_many(wanted))
    get_seconds = timed(lambda: [store.get(key) for key in wanted[:N_SINGLE]])
    count_seconds = timed(lambda: count(store))
    export_seconds = timed(lambda: export_store(store, folder / "all.parquet"))
    verify_seconds = timed(lambda: verify(store))
    with QMStore(folder / "back.sqlite") as back:
        back_seconds = timed(lambda: import_file(back, folder / "all.parquet"))
    for file in folder.glob("back.sqlite*"):
        file.unlink()
    print(
        f"{size:9d} {count(store).bytes / 1e6:5.0f} {(size - N_SINGLE - done) / import_seconds:9.0f} "
        f"{N_SINGLE / single_seconds:6.0f} {len(set(wanted)) / look_up_seconds:10.0f} "
        f"{1000 * get_seconds / N_SINGLE:7.2f} {count_seconds:8.2f} {size / export_seconds:9.0f} "
        f"{size / back_seconds:14.0f} {size / verify_seconds:9.0f}",
        flush=True,
    )


def put_one(store: QMStore, entry: Entry) -> None:
    """A result as a batch keeps it: claimed, then written with its attempt in a transaction of its own."""
    lease = store.claim(entry.record.task_key, "bench 1 1.0")
    attempt = Attempt(task_key=entry.record.task_key, seconds=1.0, predicted_seconds=1.0, kind="ok")
    store.finish(lease, entry, attempt)  # type: ignore[arg-type]
