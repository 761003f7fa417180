"""One epoch of one network on a quarter, half and all of the training rows: seconds, memory, both per point.

PARMFLOW_DATA=... python -m benchmarks training_cost          ROWS=400: of so many rows, for a quick look
"""

import multiprocessing
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from benchmarks.tables import CONFIG, DATA, HOW
from models.config import read_config
from models.network import ValenceNetwork
from models.training.optimise import run_stage
from models.training.rows import prepare_rows, sage_labeller
from models.training.steps import Step
from models.training.train_valence import qm_stage
from models.weights import load_model

TABLE = Path("qm") / "train.parquet"
PARTS = (4, 2, 1)
GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an epoch took."""

    n_rows: int
    n_points: int
    prepare: float
    """CPU seconds, once per training"""
    epoch: float
    """CPU seconds"""
    memory: float
    """bytes, largest resident set of the process"""


def main() -> None:
    """Each part in a process of its own, whose peak memory is then its own."""
    if not (DATA / TABLE).is_file():
        print(f"{Path(__file__).stem}: skipped, {HOW}")
        return
    n_rows = int(os.environ.get("ROWS", "0")) or len(pd.read_parquet(DATA / TABLE, columns=["key"]))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        costs = [pool.submit(measure, n_rows // part).result() for part in PARTS]
    for part, cost in zip(PARTS, costs, strict=True):
        print(
            f"1/{part} of {n_rows} rows: {cost.n_rows} rows, {cost.n_points} points; "
            f"CPU s: {cost.prepare:.0f} to prepare, {cost.epoch:.1f} per epoch, "
            f"{1000 * cost.epoch / cost.n_points:.2f} ms per point; {cost.memory / GB:.2f} GB"
        )
    first, last = costs[0], costs[-1]
    growth = (last.epoch / first.epoch) / (last.n_points / first.n_points)
    slope = (last.memory - first.memory) / (last.n_points - first.n_points)
    print(f"per point, all against a quarter: {growth:.2f} of the time; {slope / 1000:.1f} kB of memory each")


def measure(n_rows: int) -> Cost:
    """Prepare so many rows as training does and run an epoch on them, one thread, without scoring."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = read_config(CONFIG)
    at = [time.process_time()]
    with tempfile.TemporaryDirectory(prefix="parmflow-bench-") as name:
        table = Path(name) / "part.parquet"
        part = pd.read_parquet(DATA / TABLE).sample(n=n_rows, random_state=0)
        part.to_parquet(table)
        stage = config.valence.model_copy(update={"sources": dict.fromkeys(part["source"].unique(), 0)})
        del part
        charges = deepcopy(load_model("default").charges).float()
        rows = prepare_rows([table], charges, stage, sage_labeller(DATA / config.prior.force_field), print)
        at.append(time.process_time())
        size = stage.network
        model = ValenceNetwork(size.width, size.n_layers, size.dropout, pi=size.pi)
        assert stage.schedule is not None, "the configuration trains everything"
        once = stage.schedule.model_copy(update={"epochs": 1})
        step = Step(name="cost", form="class1", schedule=once, n_members=1, max_confs=stage.max_confs)
        work = qm_stage(step, config, model, rows, lambda _: {"none": 0.0})
        run_stage(work, once, seed=0, folder=Path(name), report=print)
        at.append(time.process_time())
    return Cost(
        n_rows=len(rows),
        n_points=sum(row.n_points for row in rows),
        prepare=at[1] - at[0],
        epoch=at[2] - at[1],
        memory=1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )
