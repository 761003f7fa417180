"""The valence networks, step by step: a classical prior, QM points, rounds of visits, class II."""

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from torch import Tensor

from models.charges import ChargeEnsemble
from models.config import Class2Stage, Round, ScheduleConfig, TrainConfig, ValenceStage
from models.dataset import examples_of, profiles_of, read_profile_rows
from models.graph import collate_graphs
from models.loss import TrainingRow, draw_batch, prior_loss, stiffness_pull, valence_loss
from models.network import ValenceEnsemble, ValenceNetwork
from models.readouts import ValenceParameters
from models.terms import collate_indices
from models.training.dev_score import predictor_of, read_dev_minima, score_minima, score_torsions
from models.training.optimise import Report, Stage, device_of, is_trained, run_stage
from models.training.rows import Labeller, prepare_rows, sage_labeller
from models.training.scans import SOURCE as SCAN_SOURCE
from models.training.scans import relax_scans
from models.training.side_by_side import side_by_side
from models.training.visits import (
    LEFT_SOURCE,
    ON_THE_WAY_OUT,
    RELAXED_SOURCE,
    SOURCE,
    CheapLevel,
    relax_minima,
    visit,
)
from pipeline.settings import Form

DEV_TABLE = Path("qm") / "dev.parquet"
Score = Callable[[ValenceNetwork], dict[str, float]]

VISITED_TOGETHER = 50
"""molecules relaxed in one batch"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """The valence networks of a model."""

    class1: ValenceEnsemble
    class2: ValenceEnsemble | None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One piece of training of every member."""

    name: str
    form: Form
    schedule: ScheduleConfig
    n_members: int
    max_confs: int
    """conformers drawn per row and epoch"""
    n_visits: int = 0
    """minima that the members' mean visits before"""
    n_relaxed: int = 0
    """molecules all of whose minima the members' mean relaxes before"""
    n_escapes: int = 0
    """molecules of which a minimum left in these relaxations is visited"""
    n_scans: int = 0
    """torsion profiles that the members' mean scans before"""


def steps_of(config: TrainConfig) -> list[Step]:
    """What is trained on QM, in order; class I comes first."""
    stage = config.valence
    steps = _steps_of_form("valence", "class1", stage.schedule, stage.members, config.rounds, stage.max_confs)
    if config.class2 is not None:
        n_members = min(config.class2.members, stage.members)
        schedule, rounds = config.class2.schedule, config.class2.rounds
        first, *others = _steps_of_form("class2", "class2", schedule, n_members, rounds, stage.max_confs)
        steps += [replace(first, n_relaxed=config.class2.relaxed), *others]
    return steps


def _steps_of_form(
    name: str, form: Form, schedule: ScheduleConfig, n_members: int, rounds: Sequence[Round], max_confs: int
) -> list[Step]:
    prefix = "round" if form == "class1" else f"{name}-round"
    first = Step(name=name, form=form, schedule=schedule, n_members=n_members, max_confs=max_confs)
    return [first] + [
        Step(
            name=f"{prefix}-{number}",
            form=form,
            schedule=one.schedule,
            n_members=n_members,
            max_confs=one.max_confs or max_confs,
            n_visits=one.visits,
            n_relaxed=one.relaxed,
            n_escapes=one.escapes,
            n_scans=one.scans,
        )
        for number, one in enumerate(rounds, start=1)
    ]


def train_valence(
    config: TrainConfig,
    charges: ChargeEnsemble,
    data: Path,
    folder: Path,
    *,
    cheap: CheapLevel | None,
    report: Report,
) -> Trained:
    """Train the members on top of frozen charges.

    The rows are prepared once; then members are trained side by side, `config.valence.processes` at a time.
    """
    stage, steps = config.valence, steps_of(config)
    prior = sage_labeller(data / config.prior.force_field)
    rows = prepare_rows([data / table for table in stage.tables], charges, stage, prior, report)
    crew = _Crew(
        config=config,
        charges=charges,
        folder=folder,
        score=dev_score(data / DEV_TABLE, charges, stage, report),
        report=report,
    )
    trained: list[ValenceEnsemble] = []
    tables = [data / table for table in stage.tables]
    profiles = _profiles_of([data / table for table in stage.profiles], tables)
    for number, step in enumerate(steps):
        own: list[TrainingRow] = []
        if trained:
            now = trained[-1]  # the class I networks where class II begins: its new terms are zero then
            if step.n_visits and cheap is not None:
                rows = rows + crew.visited(step, now, tables, cheap, prior)
            if step.n_relaxed:
                own = own + crew.relaxed(step, now, tables, prior)
            if step.n_scans:
                own = own + crew.scanned(step, now, profiles, prior)
            if step.n_escapes and cheap is not None:
                rows = rows + crew.escaped(step, now, cheap, prior)
        trained.append(crew.train(steps[: number + 1], rows + own))
    class1, class2 = ([one for one in trained if one.form == form] for form in ("class1", "class2"))
    return Trained(
        class1=mean_of_weights(class1[-stage.mean_of_steps :]),
        class2=mean_of_weights(class2[-config.class2.mean_of_steps :]) if config.class2 else None,
    )


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
    charges: ChargeEnsemble
    folder: Path
    score: Score
    report: Report

    def train(self, steps: Sequence[Step], rows: list[TrainingRow]) -> ValenceEnsemble:
        """The members after these steps, of which all but the last are done."""
        folders = self._folders(steps[-1])
        processes = self.config.valence.processes

        def train_one(number: int) -> ValenceNetwork:
            return self._member(number, folders[number], steps, rows)

        return ValenceEnsemble(side_by_side(train_one, folders, processes))

    def _have_done(self, step: Step) -> bool:
        """Whether every member is at this step's end."""
        return all(is_trained(folder, step.name, step.schedule) for folder in self._folders(step))

    def _folders(self, step: Step) -> list[Path]:
        return [self.folder / f"member-{number}" for number in range(step.n_members)]

    def _member(
        self, number: int, folder: Path, steps: Sequence[Step], rows: list[TrainingRow]
    ) -> ValenceNetwork:
        config, stage = self.config, self.config.valence
        size, seed = stage.network, config.seed + 10 * number

        def report(text: str) -> None:
            self.report(f"member {number}: {text}")

        torch.manual_seed(seed)
        model = ValenceNetwork(size.width, size.n_layers, size.dropout, pi=size.pi).to(stage.device)
        prior_stage = _prior_stage(config, model, [row for row in rows if row.prior is not None])
        run_stage(prior_stage, config.prior.schedule, seed=seed + 1, folder=folder, report=report)
        for position, step in enumerate(steps):
            if step.form == "class2" and model.form == "class1":
                richer = ValenceNetwork(size.width, size.n_layers, size.dropout, "class2", pi=size.pi)
                richer.load_state_dict(richer.state_dict() | model.state_dict())
                model = richer.to(stage.device)
            on_qm = qm_stage(step.name, self.config, model, rows, self.score, max_confs=step.max_confs)
            run_stage(on_qm, step.schedule, seed=seed + 2 + position, folder=folder, report=report)
        return model.cpu()

    def visited(
        self,
        step: Step,
        ensemble: ValenceEnsemble,
        tables: Sequence[Path],
        cheap: CheapLevel,
        prior: Labeller,
    ) -> list[TrainingRow]:
        """Rows of what the members' mean visits."""
        predictor, seed = predictor_of(self.charges, ensemble), _seed_of(step, self.config)
        chosen = _choose(_minima_of(tables), step.n_visits, seed)

        def rows_of(part: pd.DataFrame, start: int) -> Iterable[dict[str, Any]]:
            return visit(examples_of(part)[0], predictor, cheap, seed=seed + start)

        table = self.folder / f"{step.name}-visits" / "visited.parquet"
        return self._rows(self._parts(table, chosen, rows_of), SOURCE, prior)

    def relaxed(
        self, step: Step, ensemble: ValenceEnsemble, tables: Sequence[Path], prior: Labeller
    ) -> list[TrainingRow]:
        """Rows of where the minima of whole molecules end under the members' mean; the step's own, so none
        where every member has done it.
        """
        predictor = predictor_of(self.charges, ensemble)
        minima = _minima_of(tables)
        several = minima[minima["n_confs"] > 1]
        chosen = _choose(several, step.n_relaxed, _seed_of(step, self.config))

        def rows_of(part: pd.DataFrame, _: int) -> Iterable[dict[str, Any]]:
            return relax_minima(examples_of(part)[0], predictor)

        parts = self._parts(self._relaxed_table(step), chosen, rows_of)
        return [] if self._have_done(step) else self._rows(parts, RELAXED_SOURCE, prior)

    def escaped(
        self, step: Step, ensemble: ValenceEnsemble, cheap: CheapLevel, prior: Labeller
    ) -> list[TrainingRow]:
        """Rows of visits to minima that the relaxations before this step left."""
        predictor, seed = predictor_of(self.charges, ensemble), _seed_of(step, self.config)
        table = self._relaxed_table(step)
        parts = sorted(table.parent.glob(f"*/{table.name}"), key=lambda path: int(path.parent.name))
        found = pd.concat([pd.read_parquet(part) for part in parts])
        chosen = _choose(found[found["source"] == LEFT_SOURCE], step.n_escapes, seed)
        if chosen.empty:
            return []

        def rows_of(part: pd.DataFrame, start: int) -> Iterable[dict[str, Any]]:
            return visit(examples_of(part)[0], predictor, cheap, seed=seed + start, stops=ON_THE_WAY_OUT)

        visited = self.folder / f"{step.name}-escapes" / "visited.parquet"
        return self._rows(self._parts(visited, chosen, rows_of), SOURCE, prior)

    def scanned(
        self, step: Step, ensemble: ValenceEnsemble, profiles: pd.DataFrame, prior: Labeller
    ) -> list[TrainingRow]:
        """Rows of the members' mean's own scans, with the energies of the profiles; the step's own too."""
        predictor, seed = predictor_of(self.charges, ensemble), _seed_of(step, self.config)
        chosen = _choose(profiles, step.n_scans, seed)

        def rows_of(part: pd.DataFrame, start: int) -> Iterable[dict[str, Any]]:
            return relax_scans(profiles_of(part)[0], predictor, seed=seed + start)

        table = self.folder / f"{step.name}-scans" / "scanned.parquet"
        parts = self._parts(table, chosen, rows_of)
        return [] if self._have_done(step) else self._rows(parts, SCAN_SOURCE, prior)

    def _relaxed_table(self, step: Step) -> Path:
        return self.folder / f"{step.name}-relaxed" / "relaxed.parquet"

    def _parts(
        self,
        table: Path,
        chosen: pd.DataFrame,
        rows_of: Callable[[pd.DataFrame, int], Iterable[dict[str, Any]]],
    ) -> list[Path]:
        """Make the table from the chosen rows, a part at a time; parts made before stay as they are."""
        starts = range(0, len(chosen), VISITED_TOGETHER)
        folders = [table.parent / str(start) for start in starts]

        def make_part(part: int) -> Path:
            path, start = folders[part] / table.name, starts[part]
            if not path.exists():
                part_of = chosen.iloc[start : start + VISITED_TOGETHER]
                pd.DataFrame(list(rows_of(part_of, start))).to_parquet(path.with_suffix(".new"))
                path.with_suffix(".new").replace(path)
            return path

        return side_by_side(make_part, folders, self.config.valence.processes)

    def _rows(self, parts: Sequence[Path], source: str, prior: Labeller) -> list[TrainingRow]:
        of_source = self.config.valence.model_copy(update={"sources": {source: 0}})
        parts = [part for part in parts if pq.read_metadata(part).num_rows]
        if not parts:
            return []
        return prepare_rows(parts, self.charges, of_source, prior, self.report)


def _choose(rows: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    return rows.sample(n=min(n, len(rows)), random_state=seed)


def _seed_of(step: Step, config: TrainConfig) -> int:
    return int(np.random.default_rng([config.seed, *step.name.encode()]).integers(2**31))


def _minima_of(tables: Sequence[Path]) -> pd.DataFrame:
    rows = pd.concat([pd.read_parquet(table) for table in tables])
    return rows[rows["kind"] == "minima"]


def _profiles_of(paths: Sequence[Path], tables: Sequence[Path]) -> pd.DataFrame:
    """Profiles of molecules that are not driven in `tables`, where the geometries are known."""
    if not paths:
        return pd.DataFrame()
    rows = pd.concat([pd.read_parquet(table, columns=["kind", "key"]) for table in tables])
    return read_profile_rows(paths, without=set(rows.loc[rows["kind"] == "torsiondrive", "key"]))


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
    name: str,
    config: TrainConfig,
    model: ValenceNetwork,
    rows: list[TrainingRow],
    score: Score,
    *,
    max_confs: int,
) -> Stage:
    """What one step of QM training optimises, and how it is scored between epochs."""
    stage = config.valence

    def loss(batch: Sequence[int], generator: np.random.Generator) -> Tensor:
        part = [rows[index] for index in batch]
        drawn = draw_batch(part, max_confs, generator).to(device_of(model))
        valence = model(drawn.graphs, drawn.indices)
        pull = stage.stiffness_pull * stiffness_pull(valence, part)
        return valence_loss(valence, drawn, stage) + pull + _coupling_cost(valence, config.class2)

    return Stage(name=name, model=model, n_examples=len(rows), loss=loss, score=lambda: score(model))


def _coupling_cost(valence: ValenceParameters, config: Class2Stage | None) -> Tensor:
    """Class II: keeps what dihedrals do to angles and bonds small."""
    if valence.cross is None or config is None:
        return valence.bond_k.new_zeros(())
    size = valence.cross.angle_torsion.square().mean() + valence.cross.bond_torsion.square().mean()
    return config.coupling_penalty * size


def predict_rows(model: ValenceNetwork, rows: Sequence[TrainingRow]) -> ValenceParameters:
    """Predict the parameters of several rows at once."""
    device = device_of(model)
    graphs, indices = collate_graphs([r.graph for r in rows]), collate_indices([r.indices for r in rows])
    return model(graphs.to(device), indices.to(device))
