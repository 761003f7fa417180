"""Stages 2 and 3: the valence network on a classical prior, then on QM energies and gradients."""

import contextlib
import fcntl
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.charges import ChargeNetwork
from models.config import TrainConfig, ValenceStage
from models.dataset import QMExample, read_qm_examples
from models.dev_score import read_dev_minima, score_minima, score_torsions
from models.graph import collate_graphs
from models.loss import TrainingRow, draw_batch, prior_loss, stiffness_pull, valence_loss
from models.near_minima import TORSION_STIFFNESS, soft_projections, stiffness_of_internals
from models.network import ValenceEnsemble, ValenceNetwork
from models.optimise import Report, Stage, run_stage
from models.readouts import ANGLE_K_SCALE, BOND_K_SCALE, ValenceParameters
from models.targets import nonbonded_of, without_pairs
from models.terms import collate_indices, indices_from_topology
from pipeline.errors import ParametersError
from pipeline.schema import FloatArray, MMParameters, Topology
from pipeline.smirnoff import label, read_smirnoff
from pipeline.vdw import assign_vdw

DEV_TABLE = Path("qm") / "dev.parquet"
_FORK = multiprocessing.get_context("fork")
Labeller = Callable[[QMExample], MMParameters]


def train_valence(
    config: TrainConfig, charges: ChargeNetwork, data: Path, folder: Path, *, report: Report
) -> ValenceEnsemble:
    """Train the members on top of frozen charges and return them with their best weights.

    The rows are prepared once; then members are trained side by side, `config.valence.processes` at a time.
    """
    prior = sage_labeller(data / config.prior.force_field)
    stage = config.valence
    rows = prepare_rows([data / table for table in stage.tables], charges, stage, prior, report)
    score = dev_score(data / DEV_TABLE, charges, stage, report)

    def train_free(wait: bool = False) -> dict[int, ValenceNetwork]:
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
    members = train_free(wait=True)  # those that are done are only read
    return ValenceEnsemble([members[number] for number in range(stage.members)])


def _train_member(
    config: TrainConfig,
    number: int,
    rows: list[TrainingRow],
    score: Callable[[ValenceNetwork], dict[str, float]],
    folder: Path,
    report: Report,
) -> ValenceNetwork:
    stage, seed = config.valence, config.seed + 10 * number
    torch.manual_seed(seed)
    model = ValenceNetwork(stage.network.width, stage.network.n_layers, stage.network.dropout)
    own = folder / f"member-{number}"

    def report_member(text: str) -> None:
        report(f"member {number}: {text}")

    prior_stage = _prior_stage(config, model, [row for row in rows if row.prior is not None])
    run_stage(prior_stage, config.prior.schedule, seed=seed + 1, folder=own, report=report_member)
    qm_stage = _qm_stage(stage, model, rows, lambda: score(model))
    run_stage(qm_stage, stage.schedule, seed=seed + 2, folder=own, report=report_member)
    return model


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
        drawn = draw_batch(part, config.max_confs, generator)
        valence = model(drawn.graphs, drawn.indices)
        pull = config.stiffness_pull * stiffness_pull(valence, part)
        return valence_loss(valence, drawn, config) + pull

    return Stage(name="valence", model=model, n_examples=len(rows), loss=loss, score=score)


def predict_rows(model: ValenceNetwork, rows: Sequence[TrainingRow]) -> ValenceParameters:
    """Predict the parameters of several rows at once."""
    return model(collate_graphs([row.graph for row in rows]), collate_indices([row.indices for row in rows]))


def sage_labeller(path: Path) -> Labeller:
    """Classical parameters of an example from a SMIRNOFF force field; charges are only spread evenly."""
    force_field = read_smirnoff(path)

    def assign(example: QMExample) -> MMParameters:
        n_atoms = example.topology.n_atoms
        charges = np.full(n_atoms, example.ligand.total_charge / n_atoms)
        return label(force_field, example.ligand, example.topology, charges=charges)

    return assign


def prepare_rows(
    paths: Sequence[Path],
    charges: ChargeNetwork,
    config: ValenceStage,
    prior: Labeller | None,
    report: Report,
) -> list[TrainingRow]:
    """Read QM rows and take the fixed nonbonded part out of their energies and gradients."""
    examples, left_out = read_qm_examples(*paths, sources=config.sources)
    rows = [prepare_row(example, charges, config, prior) for example in examples]
    kept = [row for row in rows if row is not None]
    n_points = sum(row.n_points for row in kept)
    names = ", ".join(path.name for path in paths)
    n_prior = sum(row.prior is not None for row in kept)
    report(
        f"{names}: {len(kept)} rows, {n_points} points ({left_out} rows with elements outside the model, "
        f"{len(rows) - len(kept)} without two points in the window; {n_prior} with a prior)"
    )
    return kept


@torch.no_grad()
def prepare_row(
    example: QMExample, charges: ChargeNetwork, config: ValenceStage, prior: Labeller | None
) -> TrainingRow | None:
    """One training row; None when under two points lie in the energy window and none has a gradient."""
    inside = np.flatnonzero(example.energy <= config.energy_window)
    if len(inside) < 2 and example.gradient is None:
        return None
    indices = indices_from_topology(example.topology)
    coords = torch.as_tensor(example.coords[inside]).permute(1, 0, 2)
    charge = charges(collate_graphs([example.graph])).double()
    sigma, epsilon = (torch.as_tensor(np.array(values)) for values in assign_vdw(example.ligand))
    fixed_energy, fixed_gradient = nonbonded_of(indices, (charge, sigma, epsilon), coords)
    energy = torch.as_tensor(example.energy[inside]) - fixed_energy
    target = None
    if example.gradient is not None:
        target = (torch.as_tensor(example.gradient[inside]).permute(1, 0, 2) - fixed_gradient).float()
    known = _prior(example, prior)
    soft = None
    if target is not None and config.soft_modes and config.soft_weight:
        soft = soft_projections(indices, _metric(example.topology, known), coords, config.soft_modes)
    return TrainingRow(
        graph=example.graph,
        indices=without_pairs(indices),
        coords=coords.float().contiguous(),
        energy=(energy - energy.mean()).float(),
        gradient=target,
        prior=known,
        soft=soft,
    )


def _metric(topology: Topology, known: ValenceParameters | None) -> FloatArray:
    """(n_q,) stiffness of the internal coordinates: the prior's, or one for all of a kind without it."""
    if known is not None:
        zeros = torch.zeros(topology.n_atoms)
        return stiffness_of_internals(known.with_nonbonded(zeros, zeros, zeros))
    sizes = [len(topology.bonds), len(topology.angles), len(topology.propers) + len(topology.impropers)]
    return np.repeat([BOND_K_SCALE, ANGLE_K_SCALE, TORSION_STIFFNESS], sizes)


def _prior(example: QMExample, labeller: Labeller | None) -> ValenceParameters | None:
    if labeller is None:
        return None
    try:
        parameters = labeller(example)
    except ParametersError:
        return None
    names = ValenceParameters.__annotations__
    return ValenceParameters(**{n: torch.tensor(np.array(getattr(parameters, n))).float() for n in names})
