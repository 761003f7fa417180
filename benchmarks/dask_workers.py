"""`assign` in one process and on two Dask workers: the same files, and how much sooner.

python -m benchmarks.dask_workers --records 200 --workers 2
"""

import argparse
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from benchmarks.kills import contents
from benchmarks.scale import library_lines
from flows import batch
from flows.dask_run import run_on_dask
from flows.request import Request, settings_from
from pipeline.campaign import Silent


def request_for(folder: Path, out: str, formats: str) -> Request:
    """The same library and settings, one job per process."""
    options = {"jobs": 1, "export.formats": tuple(formats.split(","))}
    return Request(
        command="assign",
        libraries=(folder / "library.smi",),
        out=folder / out,
        store=str(folder),
        settings=settings_from(None, options),
    )


def measure(folder: Path, n_workers: int, formats: str) -> tuple[float, float, int]:
    """Seconds alone, seconds on the workers, and how many files and rows differ between the two."""
    from distributed import LocalCluster

    start = time.monotonic()
    batch.run(request_for(folder, "alone", formats), Silent())
    alone = time.monotonic() - start
    with LocalCluster(
        n_workers=n_workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        start = time.monotonic()
        run_on_dask(request_for(folder, "on-workers", formats), cluster.scheduler_address, Silent())
        on_workers = time.monotonic() - start
    n_different = len(contents(folder / "alone").items() ^ contents(folder / "on-workers").items())
    return alone, on_workers, n_different


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--formats", default="offxml,amber,openmm,gromacs,lammps")
    options, _ = parser.parse_known_args()
    if find_spec("distributed") is None:
        print("skipped: dask is not installed")
        return
    with tempfile.TemporaryDirectory(prefix="parmflow-dask-") as name:
        folder = Path(name)
        (folder / "library.smi").write_text("".join(library_lines(options.records)))
        alone, on_workers, n_different = measure(folder, options.workers, options.formats)
    print(f"{options.records} records: {alone:.0f} s alone, {on_workers:.0f} s on {options.workers} workers")
    print(f"{alone / on_workers:.2f} times as fast; files and rows that differ: {n_different}")


if __name__ == "__main__":
    main()
