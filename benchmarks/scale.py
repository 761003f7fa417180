"""Time and memory of `assign` against the size of the library.

    python -m benchmarks.scale --sizes 1000 10000 --formats openmm

The library is made of real fragments; one record in a hundred is bad, one in twenty repeats an earlier one in
another atom order, and names clash in all but case. Checks that no record is lost, that the table is exact
and that no folder holds more than 1,000 entries.

With --folder DIR the runs stay there, and one that was stopped goes on: its seconds are added up, its peak is
the largest of all parts.
"""

import argparse
import contextlib
import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq
from rdkit import Chem

from flows import batch
from flows.request import Request, settings_from
from pipeline.campaign import Silent

CORES = (
    "c1ccc({a})cc1{b}", "c1cc({a})ncc1{b}", "c1nc({a})ncc1{b}", "C1CC({a})CCN1{b}", "c1cc({a})sc1{b}",
    "O=C(N{a})c1ccccc1{b}", "c1ccc2c(c1{a})ccn2{b}", "C1CN({a})CCN1{b}", "c1cc({a})oc1{b}",
    "O=S(=O)(N{a})c1ccc(cc1){b}", "O=C1NC({a})=CN1{b}", "c1cc2nc({a})[nH]c2cc1{b}",
)  # fmt: skip
ENDS = (
    "C", "CC", "C(C)C", "OC", "C#N", "F", "Cl", "C(F)(F)F", "C(=O)NC", "C(=O)OC", "CO", "CN(C)C", "CCO",
    "C8CC8", "C8CCOCC8", "CCN", "c8ccccc8", "c8ccncc8", "Cc8ccccc8", "CC(=O)N", "CS(=O)(=O)C", "CCF",
    "CC#N", "CCCO", "C(C)(C)C", "CC(C)C", "C8CCCC8", "COC", "CSC", "CCOC", "C(=O)N", "CCCN", "Cc8ccco8",
    "CC8CC8", "CCC#N", "Cc8cccs8", "C8CCNCC8", "CCCF", "CC(F)F", "CCCOC",
)  # fmt: skip
BAD = ("not-a-molecule", "C1CC", "CC(=O)[O-].[Na+]", "C[Mg]Br", "")
_PERIOD = 20
_SAMPLE_SECONDS = 2.0
_SAVE_SECONDS = 10.0


def library_lines(n_records: int, seed: int = 0) -> Iterator[str]:
    """SMILES and name of each record; about one in a hundred bad, one in twenty a duplicate."""
    rng = random.Random(seed)
    combinations = [(core, a, b) for core in CORES for a in ENDS for b in ENDS]
    rng.shuffle(combinations)
    for n in range(n_records):
        name = f"{'Lig' if n % 2 else 'lig'}-{n // 2}"
        if n % 100 == 99:
            yield f"{rng.choice(BAD)} {name}\n"
        elif n % _PERIOD == _PERIOD - 1:
            core, a, b = combinations[(n - 7) % len(combinations)]
            mol = Chem.MolFromSmiles(core.format(a=a, b=f"({b})" if b else ""))
            yield f"{Chem.MolToSmiles(mol, doRandom=True)} {name}\n"
        else:
            core, a, b = combinations[n % len(combinations)]
            yield f"{core.format(a=a, b=f'({b})')} {name}\n"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One size."""

    n_records: int
    n_ok: int
    n_failed: int
    seconds: float
    peak_mb: float
    """resident memory of this process and all below it"""
    ledger_mb: float
    largest_folder: int


class _Sampler:
    """Seconds, and the largest resident memory of a process tree, shared pages counted once.

    Both are kept in a file, to which the next part of a run that was stopped adds its own.
    """

    def __init__(self, path: Path) -> None:
        before = json.loads(path.read_text()) if path.exists() else {"seconds": 0.0, "peak_mb": 0.0}
        self.seconds, self.peak = before["seconds"], before["peak_mb"]
        self._path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        me = psutil.Process()
        at = saved = time.monotonic()
        is_over = False
        while not is_over:
            is_over = self._over.wait(_SAMPLE_SECONDS)
            total = 0
            for process in [me, *me.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    total += process.memory_full_info().pss
            self.peak = max(self.peak, total / 1e6)
            now = time.monotonic()
            self.seconds += now - at
            at = now
            if is_over or now - saved > _SAVE_SECONDS:
                new = self._path.with_suffix(".new")
                new.write_text(json.dumps({"seconds": self.seconds, "peak_mb": self.peak}))
                new.replace(self._path)
                saved = now

    def __enter__(self) -> "_Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def measure(folder: Path, n_records: int, formats: str) -> Measured:
    """Run one size; AssertionError when the outputs are not what they must be."""
    library, out = folder / f"{n_records}.smi", folder / f"out-{n_records}"
    if not library.exists():
        with library.with_suffix(".new").open("w") as file:
            file.writelines(library_lines(n_records))
        library.with_suffix(".new").replace(library)
    request = Request(
        command="assign",
        libraries=(library,),
        out=out,
        store=str(folder),
        settings=settings_from(None, {"export.formats": tuple(formats.split(","))}),
    )
    with _Sampler(folder / f"{n_records}.json") as sampler:
        counts = batch.run(request, Silent())
    table = pq.read_table(out / "outcomes.parquet").to_pylist()
    assert [row["record"] for row in table] == list(range(1, n_records + 1))
    delivered = [row["folder"] for row in table if row["status"] == "ok"]
    assert len({folder.casefold() for folder in delivered}) == len(delivered) == counts["n_ok"]
    assert all((out / folder / "check.json").is_file() for folder in delivered)
    largest = max(len(folders) + len(files) for _, folders, files in os.walk(out))
    assert largest <= 1000
    return Measured(
        n_records=n_records,
        n_ok=counts["n_ok"],
        n_failed=counts["n_failed"],
        seconds=sampler.seconds,
        peak_mb=sampler.peak,
        ledger_mb=(out / ".parmflow" / "ledger.sqlite").stat().st_size / 1e6,
        largest_folder=largest,
    )


def main() -> None:
    """Print a table, one row per size as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--formats", default="offxml,amber,openmm,gromacs,lammps")
    parser.add_argument("--folder", type=Path, help="keep the runs here, and go on with those it has")
    options, _ = parser.parse_known_args()
    print("| records | ok | failed | s | records/s | peak MB | ledger MB | largest folder |", flush=True)
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with contextlib.ExitStack() as until_end:
        folder = options.folder
        if folder is None:
            folder = Path(until_end.enter_context(tempfile.TemporaryDirectory(prefix="parmflow-scale-")))
        folder.mkdir(parents=True, exist_ok=True)
        for size in options.sizes:
            row = measure(folder, size, options.formats)
            print(
                f"| {row.n_records} | {row.n_ok} | {row.n_failed} | {row.seconds:.0f} |"
                f" {row.n_records / row.seconds:.1f} | {row.peak_mb:.0f} | {row.ledger_mb:.1f} |"
                f" {row.largest_folder} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
