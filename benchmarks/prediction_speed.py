"""Records of a library to all parameters, ligands per second on two processes, and where the time goes.

PARMFLOW_DATA=... LIGANDS=1000 python -m benchmarks prediction_speed
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import cycle, islice
from pathlib import Path

import torch

from benchmarks.tables import DATA, HOW
from models.predict import Predictor, load_predictor
from pipeline.library import Record, read_library
from pipeline.parametrize import standardise_record
from pipeline.settings import LigandRules
from pipeline.topology import build_topology

N_PROCESSES = 2
CHUNK = 25
STEPS = ("standardise", "topology", "predict")


def main() -> None:
    files = sorted((DATA / "libraries").glob("*.sdf"))
    if not files:
        print(f"{Path(__file__).stem}: skipped, {HOW}")
        return
    n_ligands = int(os.environ.get("LIGANDS", "1000"))
    records = list(read_library(files))
    taken = list(islice(cycle(records), n_ligands))
    chunks = [taken[start : start + CHUNK] for start in range(0, n_ligands, CHUNK)]
    with ProcessPoolExecutor(N_PROCESSES, initializer=_predictor) as pool:
        list(pool.map(_predict, chunks[:N_PROCESSES]))  # weights are loaded
        start = time.monotonic()
        seconds = list(pool.map(_predict, chunks))
        wall = time.monotonic() - start
    per_step = [1000 * sum(times) / n_ligands for times in zip(*seconds, strict=True)]
    parts = ", ".join(f"{name} {ms:.1f}" for name, ms in zip(STEPS, per_step, strict=True))
    print(f"{n_ligands / wall:.0f} ligands/s with {N_PROCESSES} processes; CPU ms per ligand: {parts}")


@lru_cache
def _predictor() -> Predictor:
    torch.set_num_threads(1)
    return load_predictor("default")


def _predict(records: Sequence[Record]) -> tuple[float, float, float]:
    """CPU seconds of standardising, of the topology and of predicting."""
    predictor = _predictor()
    at = [time.process_time()]
    prepared = [standardise_record(record, LigandRules(unspecified_stereo="accept")) for record in records]
    at.append(time.process_time())
    pairs = [(one.canonical, build_topology(one.canonical)) for one in prepared]
    at.append(time.process_time())
    predictor.predict_many(pairs)
    at.append(time.process_time())
    return at[1] - at[0], at[2] - at[1], at[3] - at[2]
