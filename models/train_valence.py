"""Stages 2 to 4: the valence networks on a classical prior, on QM energies and gradients, in class II."""

import contextlib
import fcntl
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.charges import ChargeNetwork
from models.config import Class2Stage, TrainConfig, ValenceStage
from models.dev_score import read_dev_minima, score_minima, score_torsions
from models.graph import collate_graphs
from models.loss import TrainingRow, draw_batch, prior_loss, stiffness_pull, valence_loss
from models.network import ValenceEnsemble, ValenceNetwork
from models.optimise import Report, Stage, device_of, run_stage
from models.readouts import ValenceParameters
from models.terms import collate_indices
from models.training_rows import prepare_rows, sage_labeller

DEV_TABLE = Path("qm") / "dev.parquet"
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """The valence networks of a model."""

    class1: ValenceEnsemble
    class2: ValenceEnsemble | None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Member:
    class1: ValenceNetwork
    class2: ValenceNetwork | None


def train_valence(
    config: TrainConfig, charges: ChargeNetwork, data: Path, folder: Path, *, report: Report
) -> Trained:
    """Train the members on top of frozen charges and return them with their best weights.

    The rows are prepared once; then members are trained side by side, `config.valence.processes` at a time.
    """
    prior = sage_labeller(data / config.prior.force_field)
    stage = config.valence
    rows = prepare_rows([data / table for table in stage.tables], charges, stage, prior, report)
    score = dev_score(data / DEV_TABLE, charges, stage, report)

    def train_free(wait: bool = False) -> dict[int, _Member]:
        """Train the members that nobody else does."""
        members = {}
        for number in range(stage.members):
            with claimed(folder / f"member-{number}", wait=wait) as is_ours:
                if is_ours:
                    members[number] = _train_member(config, number, rows, score, folder, report)
        return members

    # A fork shares the prepared rows, gigabytes of them; torch runs one thread here, so none is lost in it.
    others = [_FORK.Process(target=train_free) for _ in range(min(stage.processes, stage.members) - 1)]
    for process in others:
        process.start()
    train_free()
    for process in others:
        process.join()
    done = train_free(wait=True)  # those that are done are only read
    members = [done[number] for number in range(stage.members)]
    class2 = [member.class2 for member in members if member.class2 is not None]
    return Trained(
        class1=ValenceEnsemble([member.class1 for member in members]),
        class2=ValenceEnsemble(class2) if class2 else None,
    )


def _train_member(
    config: TrainConfig,
    number: int,
    rows: list[TrainingRow],
    score: Callable[[ValenceNetwork], dict[str, float]],
    folder: Path,
    report: Report,
) -> _Member:
    stage, size, seed = config.valence, config.valence.network, config.seed + 10 * number
    device = torch.device(config.valence.device)
    torch.manual_seed(seed)
    model = ValenceNetwork(size.width, size.n_layers, size.dropout).to(device)
    own = folder / f"member-{number}"

    def report_member(text: str) -> None:
        report(f"member {number}: {text}")

    prior_stage = _prior_stage(config, model, [row for row in rows if row.prior is not None])
    run_stage(prior_stage, config.prior.schedule, seed=seed + 1, folder=own, report=report_member)
    qm_stage = _qm_stage(stage, model, rows, lambda: score(model))
    run_stage(qm_stage, stage.schedule, seed=seed + 2, folder=own, report=report_member)
    if config.class2 is None or number >= config.class2.members:
        return _Member(class1=model.cpu(), class2=None)
    richer = ValenceNetwork(size.width, size.n_layers, size.dropout, form="class2").to(device)
    richer.load_state_dict(richer.state_dict() | model.state_dict())
    class2_stage = _class2_stage(stage, config.class2, richer, rows, lambda: score(richer))
    run_stage(class2_stage, config.class2.schedule, seed=seed + 3, folder=own, report=report_member)
    return _Member(class1=model.cpu(), class2=richer.cpu())


@contextlib.contextmanager
def claimed(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a folder's lock, which the system drops when we die; False when another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def dev_score(
    table: Path, charges: ChargeNetwork, stage: ValenceStage, report: Report
) -> Callable[[ValenceNetwork], dict[str, float]]:
    """Read the dev table; the function that scores a network on torsion drives and relaxed minima."""
    drives = [name for name in ("gen2-torsion", "torsiontest2000") if name in stage.sources]
    of_drives = stage.model_copy(update={"sources": dict.fromkeys(drives, 0), "soft_modes": 0})
    held_out = prepare_rows([table], charges, of_drives, None, report)
    minima = read_dev_minima(table, stage.dev_minima) if stage.dev_minima else []

    def score(model: ValenceNetwork) -> dict[str, float]:
        torsions = score_torsions(model, held_out)
        if not minima:
            return torsions
        relaxed = score_minima(charges, model, minima)
        product = torsions["energy_rmse"] * relaxed["dde"] * relaxed["rmsd"]
        return {"merit": product ** (1 / 3)} | torsions | relaxed

    return score


def _prior_stage(config: TrainConfig, model: ValenceNetwork, rows: list[TrainingRow]) -> Stage:
    n_held_out = max(1, len(rows) // 20)
    held_out, rows = rows[:n_held_out], rows[n_held_out:][: config.prior.max_molecules]

    def loss(batch: Sequence[int], generator: np.random.Generator) -> Tensor:  # noqa: ARG001 - nothing is drawn
        part = [rows[index] for index in batch]
        return prior_loss(predict_rows(model, part), part)

    def score() -> dict[str, float]:
        with torch.no_grad():
            return {"prior": float(prior_loss(predict_rows(model, held_out), held_out))}

    return Stage(name="prior", model=model, n_examples=len(rows), loss=loss, score=score)


def _qm_stage(
    config: ValenceStage,
    model: ValenceNetwork,
    rows: list[TrainingRow],
    score: Callable[[], dict[str, float]],
) -> Stage:
    def loss(batch: Sequence[int], generator: np.random.Generator) -> Tensor:
        part = [rows[index] for index in batch]
        drawn = draw_batch(part, config.max_confs, generator).to(device_of(model))
        valence = model(drawn.graphs, drawn.indices)
        pull = config.stiffness_pull * stiffness_pull(valence, part)
        return valence_loss(valence, drawn, config) + pull

    return Stage(name="valence", model=model, n_examples=len(rows), loss=loss, score=score)


def _class2_stage(
    config: ValenceStage,
    class2: Class2Stage,
    model: ValenceNetwork,
    rows: list[TrainingRow],
    score: Callable[[], dict[str, float]],
) -> Stage:
    """Class II on the same loss; a penalty keeps what dihedrals do to angles and bonds small."""

    def loss(batch: Sequence[int], generator: np.random.Generator) -> Tensor:
        part = [rows[index] for index in batch]
        drawn = draw_batch(part, config.max_confs, generator).to(device_of(model))
        valence = model(drawn.graphs, drawn.indices)
        assert valence.cross is not None
        size = valence.cross.angle_torsion.square().mean() + valence.cross.bond_torsion.square().mean()
        pull = config.stiffness_pull * stiffness_pull(valence, part)
        return valence_loss(valence, drawn, config) + pull + class2.coupling_penalty * size

    return Stage(name="class2", model=model, n_examples=len(rows), loss=loss, score=score)


def predict_rows(model: ValenceNetwork, rows: Sequence[TrainingRow]) -> ValenceParameters:
    """Predict the parameters of several rows at once."""
    device = device_of(model)
    graphs, indices = collate_graphs([r.graph for r in rows]), collate_indices([r.indices for r in rows])
    return model(graphs.to(device), indices.to(device))
