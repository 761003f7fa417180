"""The valence networks, step by step: a classical prior, QM points, rounds of visits, class II.

Or only the rounds, from networks that are finished.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.charges import ChargeEnsemble
from models.config import Class2Stage, TrainConfig, ValenceStage
from models.graph import collate_graphs
from models.loss import TrainingRow, draw_batch, prior_loss, stiffness_pull, valence_loss
from models.network import ValenceEnsemble, ValenceNetwork
from models.readouts import ValenceParameters
from models.terms import collate_indices
from models.training.dev_score import read_dev_minima, score_minima, score_torsions
from models.training.encounters import Encounters, Met
from models.training.optimise import Report, Stage, device_of, is_trained, run_stage
from models.training.rows import prepare_rows, sage_labeller
from models.training.side_by_side import side_by_side
from models.training.steps import Step, plan_of
from models.training.visits import RELAXED_SOURCE, CheapLevel
from models.training.visits import SOURCE as VISITED_SOURCE

DEV_TABLE = Path("qm") / "dev.parquet"
Score = Callable[[ValenceNetwork], dict[str, float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """The valence networks of a model."""

    class1: ValenceEnsemble
    class2: ValenceEnsemble | None


def train_valence(
    config: TrainConfig,
    charges: ChargeEnsemble,
    data: Path,
    folder: Path,
    *,
    cheap: CheapLevel | None,
    report: Report,
    start: Trained | None = None,
) -> Trained:
    """Train the members on top of frozen charges, from `start` where the configuration has one.

    The rows are prepared once; then members are trained side by side, `config.valence.processes` at a time.
    """
    stage, plan = config.valence, plan_of(config)
    prior = sage_labeller(data / config.prior.force_field)
    rows = prepare_rows([data / table for table in stage.tables], charges, stage, prior, report)
    score = dev_score(data / DEV_TABLE, charges, stage, report)
    crew = _Crew(config=config, folder=folder, score=score, report=report, start=start)
    encounters = Encounters(
        config=config,
        charges=charges,
        data=data,
        folder=folder,
        cheap=cheap,
        prior=prior,
        report=report,
    )
    nothing = _Way(steps=[], trained=[], rows=rows)
    common = _go_on(nothing, plan.common, crew, encounters)
    class1 = _go_on(common, plan.class1, crew, encounters).trained
    class2 = None
    if config.class2 is not None:
        # The class I networks where class II begins: its own terms are zero then.
        every = _go_on(common, plan.class2, crew, encounters).trained
        of_form = every[len(common.trained) :]
        class2 = mean_of_weights(of_form[-config.class2.mean_of_steps :])
    return Trained(class1=mean_of_weights(class1[-stage.mean_of_steps :]), class2=class2)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Way:
    """Steps that are done, the members after each, and all rows that were met so far."""

    steps: list[Step]
    trained: list[ValenceEnsemble]
    rows: list[TrainingRow]


def _go_on(way: _Way, steps: Sequence[Step], crew: "_Crew", encounters: Encounters) -> _Way:
    """Train these steps behind those of `way`, which stays as it is."""
    for step in steps:
        met = Met(to_keep=[], of_step=[])
        if way.trained:
            met = encounters.before(step, way.trained[-1], is_done=crew.have_done(step))
        done = [*way.steps, step]
        members = crew.train(done, way.rows, met.to_keep + met.of_step)
        way = _Way(steps=done, trained=[*way.trained, members], rows=way.rows + met.to_keep)
    return way


def mean_of_weights(ensembles: Sequence[ValenceEnsemble]) -> ValenceEnsemble:
    """Average what the same networks weighed after several steps of one training, network by network.

    Near the average of what they predict, at the price of one (Wortsman et al., ICML 2022, "Model soups").
    """
    states = [ensemble.state_dict() for ensemble in ensembles]
    mean = deepcopy(ensembles[-1])
    mean.load_state_dict(
        {name: torch.stack([state[name].double() for state in states]).mean(dim=0) for name in states[-1]}
    )
    return mean


@dataclass(frozen=True, kw_only=True, eq=False)
class _Crew:
    """The members and where they are trained."""

    config: TrainConfig
    folder: Path
    score: Score
    report: Report
    start: Trained | None

    def train(
        self, steps: Sequence[Step], rows: list[TrainingRow], met: list[TrainingRow]
    ) -> ValenceEnsemble:
        """The members after these steps, of which all but the last are done; `met`: rows from before it."""
        folders = self._folders(steps[-1])
        processes = self.config.valence.processes

        def train_one(number: int) -> ValenceNetwork:
            return self._member(number, folders[number], steps, rows, met)

        return ValenceEnsemble(side_by_side(train_one, folders, processes))

    def have_done(self, step: Step) -> bool:
        """Whether every member is at this step's end."""
        schedule, folders = step.schedule, self._folders(step)
        return schedule is None or all(is_trained(folder, step.name, schedule) for folder in folders)

    def _folders(self, step: Step) -> list[Path]:
        return [self.folder / f"member-{number}" for number in range(step.n_members)]

    def _member(
        self,
        number: int,
        folder: Path,
        steps: Sequence[Step],
        rows: list[TrainingRow],
        met: list[TrainingRow],
    ) -> ValenceNetwork:
        config, stage = self.config, self.config.valence
        size, seed = stage.network, config.seed + 10 * number

        def report(text: str) -> None:
            self.report(f"member {number}: {text}")

        torch.manual_seed(seed)
        model = ValenceNetwork(size.width, size.n_layers, size.dropout, pi=size.pi).to(stage.device)
        if config.prior.schedule is not None:
            prior_stage = _prior_stage(config, model, [row for row in rows + met if row.prior is not None])
            run_stage(prior_stage, config.prior.schedule, seed=seed + 1, folder=folder, report=report)
        for position, step in enumerate(steps):
            if step.schedule is None:
                model = self._begun(step)[number].to(stage.device)
                continue
            if step.form == "class2" and model.form == "class1":
                pairs = config.class2 is not None and config.class2.pairs
                richer = ValenceNetwork(
                    size.width, size.n_layers, size.dropout, "class2", pi=size.pi, pairs=pairs
                )
                richer.load_state_dict(richer.state_dict() | model.state_dict())
                model = richer.to(stage.device)
            on_qm = qm_stage(step, self.config, model, rows, self.score, met=met)
            run_stage(on_qm, step.schedule, seed=seed + 2 + position, folder=folder, report=report)
        return model.cpu()

    def _begun(self, step: Step) -> list[ValenceNetwork]:
        """The networks that a step without a schedule stands for, in single precision, with dropout."""
        assert self.start is not None, "config: stages have no schedule only where there is a start"
        begun = self.start.class1 if step.form == "class1" else self.start.class2
        assert begun is not None, "train: the start has networks of every form that goes on"
        size = self.config.valence.network
        networks = [
            ValenceNetwork(
                size.width, size.n_layers, size.dropout, step.form, pi=size.pi, pairs=begun.has_pairs
            )
            for _ in range(begun.n_members)
        ]
        ValenceEnsemble(networks).load_state_dict(begun.state_dict())
        return networks


def dev_score(table: Path, charges: ChargeEnsemble, stage: ValenceStage, report: Report) -> Score:
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


def qm_stage(
    step: Step,
    config: TrainConfig,
    model: ValenceNetwork,
    rows: list[TrainingRow],
    score: Score,
    *,
    met: Sequence[TrainingRow] = (),
) -> Stage:
    """What one step of QM training optimises, and how it is scored between epochs; `met`: its own rows."""
    stage, window = config.valence, step.visit_window
    shares = np.repeat([step.visit_share, step.own_share], [len(rows), len(met)])
    rows = [*rows, *met]
    shares[[row.source != VISITED_SOURCE for row in rows]] = 1.0
    weights = torch.full((len(rows),), step.energy_weight)
    weights[[row.source == RELAXED_SOURCE for row in rows]] *= step.relaxed_weight

    def seen(row: TrainingRow) -> TrainingRow:
        return row if window is None or row.source != VISITED_SOURCE else row.below(window)

    def loss(batch: Sequence[int], generator: np.random.Generator) -> Tensor:
        part = [seen(rows[index]) for index in batch]
        weight = weights[list(batch)].to(device_of(model))
        drawn = draw_batch(part, step.max_confs, generator, pairs=model.has_pairs).to(device_of(model))
        valence = model(drawn.graphs, drawn.indices)
        on_qm = valence_loss(valence, drawn, stage, energy_weight=weight, energy_huber=step.energy_huber)
        pull = stage.stiffness_pull * stiffness_pull(valence, part)
        return on_qm + pull + _coupling_cost(valence, config.class2)

    return Stage(
        name=step.name,
        model=model,
        n_examples=len(rows),
        shares=shares,
        loss=loss,
        score=lambda: score(model),
    )


def _coupling_cost(valence: ValenceParameters, config: Class2Stage | None) -> Tensor:
    """Class II: keeps what dihedrals do to angles and bonds small."""
    if valence.cross is None or config is None or not len(valence.proper_k):
        return valence.bond_k.new_zeros(())
    size = valence.cross.angle_torsion.square().mean() + valence.cross.bond_torsion.square().mean()
    return config.coupling_penalty * size


def predict_rows(model: ValenceNetwork, rows: Sequence[TrainingRow]) -> ValenceParameters:
    """Predict the parameters of several rows at once."""
    device = device_of(model)
    graphs, indices = collate_graphs([r.graph for r in rows]), collate_indices([r.indices for r in rows])
    return model(graphs.to(device), indices.to(device))
