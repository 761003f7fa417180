"""Stages 2 and 3: the valence network on a classical prior, then on QM energies and gradients."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.charges import ChargeNetwork
from models.config import TrainConfig, ValenceStage
from models.dataset import QMExample, read_qm_examples
from models.graph import collate_graphs
from models.loss import TrainingRow, draw_batch, prior_loss, qm_errors, stiffness_pull, valence_loss
from models.network import ValenceNetwork
from models.optimise import Report, Stage, run_stage
from models.readouts import ValenceParameters
from models.targets import nonbonded_of, without_pairs
from models.terms import collate_indices, indices_from_topology
from pipeline.errors import ParametersError
from pipeline.schema import MMParameters
from pipeline.smirnoff import label, read_smirnoff
from pipeline.vdw import assign_vdw

DEV_TABLE = Path("qm") / "dev.parquet"
SCORE_BATCH = 24
Labeller = Callable[[QMExample], MMParameters]


def train_valence(
    config: TrainConfig, charges: ChargeNetwork, data: Path, folder: Path, *, report: Report
) -> ValenceNetwork:
    """Train the valence network on top of frozen charges and return it with its best weights."""
    prior = sage_labeller(data / config.prior.force_field)
    stage = config.valence
    tables = [data / table for table in stage.tables]
    rows = prepare_rows(tables, charges, stage, prior, report)
    dev_sources = [name for name in ("gen2-torsion", "torsiontest2000") if name in stage.sources]
    dev_stage = stage.model_copy(update={"sources": dict.fromkeys(dev_sources, 0)})
    held_out = prepare_rows([data / DEV_TABLE], charges, dev_stage, None, report)
    torch.manual_seed(config.seed)
    model = ValenceNetwork(stage.network.width, stage.network.n_layers, stage.network.dropout)
    prior_stage = _prior_stage(config, model, [row for row in rows if row.prior is not None])
    run_stage(prior_stage, config.prior.schedule, seed=config.seed + 1, folder=folder, report=report)
    qm_stage = _qm_stage(stage, model, rows, held_out)
    run_stage(qm_stage, stage.schedule, seed=config.seed + 2, folder=folder, report=report)
    return model


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
    config: ValenceStage, model: ValenceNetwork, rows: list[TrainingRow], held_out: list[TrainingRow]
) -> Stage:
    def loss(batch: Sequence[int], generator: np.random.Generator) -> Tensor:
        part = [rows[index] for index in batch]
        drawn = draw_batch(part, config.max_confs, generator)
        valence = model(drawn.graphs, drawn.indices)
        pull = config.stiffness_pull * stiffness_pull(valence, part)
        return valence_loss(valence, drawn, config) + pull

    return Stage(
        name="valence",
        model=model,
        n_examples=len(rows),
        loss=loss,
        score=lambda: score_torsions(model, held_out),
    )


def predict_rows(model: ValenceNetwork, rows: Sequence[TrainingRow]) -> ValenceParameters:
    """Predict the parameters of several rows at once."""
    return model(collate_graphs([row.graph for row in rows]), collate_indices([row.indices for row in rows]))


@torch.no_grad()
def score_torsions(model: ValenceNetwork, rows: Sequence[TrainingRow]) -> dict[str, float]:
    """Mean over rows of the energy RMSE (kcal/mol), and of the gradient RMSE where there is one."""
    energy_rmse, gradient_rmse = [], []
    generator = np.random.default_rng(0)
    for start in range(0, len(rows), SCORE_BATCH):
        part = rows[start : start + SCORE_BATCH]
        batch = draw_batch(part, max(row.n_points for row in part), generator)
        energy_error, gradient_error = qm_errors(model(batch.graphs, batch.indices), batch)
        n_used = batch.is_used.sum(dim=1)
        energy_rmse.append((energy_error.square().sum(dim=1) / n_used).sqrt())
        summed = gradient_error.square().sum(dim=(1, 2))
        by_molecule = torch.zeros_like(n_used).index_add(0, batch.graphs.atom_molecule, summed)
        n_components = 3.0 * torch.bincount(batch.graphs.atom_molecule) * n_used
        gradient_rmse.append((by_molecule / n_components).sqrt()[batch.has_gradient > 0])
    return {
        "energy_rmse": float(torch.cat(energy_rmse).mean()),
        "gradient_rmse": float(torch.cat(gradient_rmse).mean()),
    }


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
    return TrainingRow(
        graph=example.graph,
        indices=without_pairs(indices),
        coords=coords.float().contiguous(),
        energy=(energy - energy.mean()).float(),
        gradient=target,
        prior=_prior(example, prior),
        has_energy=example.kind != "displaced",
    )


def _prior(example: QMExample, labeller: Labeller | None) -> ValenceParameters | None:
    if labeller is None:
        return None
    try:
        parameters = labeller(example)
    except ParametersError:
        return None
    names = ValenceParameters.__annotations__
    return ValenceParameters(**{n: torch.tensor(np.array(getattr(parameters, n))).float() for n in names})
