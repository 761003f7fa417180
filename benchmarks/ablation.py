"""What each ingredient of the training brings: small models, each with one thing left out.

All have the same rows (SHARE of every source, at random), the same steps of training and the shipped charges
and are scored on dev: torsion drives (mean energy and gradient RMSE) and MINIMA molecules relaxed. They are
small: differences say which way an ingredient works and roughly how much, not how good the shipped model is.

    PARMFLOW_DATA=... SHARE=0.12 MINIMA=60 python -m benchmarks ablation
    CONFIG=FILE          another training configuration
    VARIANTS="all,without rounds" OUT=folder    only these; checkpoints and figures are kept there
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from benchmarks.tables import CONFIG, DATA, HOW
from models.charges import ChargeEnsemble
from models.config import TrainConfig, read_config
from models.dataset import QMExample
from models.evaluation.relaxed import class1_relaxer, evaluate_relaxed, summarise_relaxed
from models.gnn import Backend
from models.graph import GraphBatch
from models.loss import TrainingRow
from models.network import ValenceEnsemble
from models.training.dev_score import predictor_of, read_dev_minima, score_torsions
from models.training.rows import prepare_rows
from models.training.train_valence import DEV_TABLE, Trained, train_valence
from models.weights import load_model
from pipeline.qm.surface import Gfn2Surface
from pipeline.settings import Form

VISITS_PER_ROW = 0.25
"""about what the shipped recipe has per round"""
TRAIN_SPLIT = "train.parquet"


class EvenCharges(ChargeEnsemble):
    """No charge model: the total charge spread evenly over the atoms."""

    def __init__(self) -> None:
        super().__init__([])

    def each(self, batch: GraphBatch, backend: Backend = "torch") -> Tensor:
        """(1, n_atoms) elementary charges."""
        del backend
        counts = torch.bincount(batch.atom_molecule, minlength=len(batch.total_charge))
        return (batch.total_charge / counts).index_select(0, batch.atom_molecule)[None]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table."""

    change: Callable[[TrainConfig], TrainConfig] = lambda config: config
    members: int = 1
    form: Form = "class1"
    with_charges: bool = True


def _valence(**update: object) -> Callable[[TrainConfig], TrainConfig]:
    return lambda c: c.model_copy(update={"valence": c.valence.model_copy(update=update)})


def _without_prior(config: TrainConfig) -> TrainConfig:
    """One molecule, once: the readouts start where the network's scales put them."""
    assert config.prior.schedule is not None, "ablations train everything"
    schedule = config.prior.schedule.model_copy(update={"epochs": 1, "learning_rate": 1e-9})
    return config.model_copy(
        update={"prior": config.prior.model_copy(update={"schedule": schedule, "max_molecules": 1})}
    )


def _without_minima(config: TrainConfig) -> TrainConfig:
    kept = {name: n for name, n in config.valence.sources.items() if name not in {"industry", "sage2-optgeo"}}
    return _valence(sources=kept)(_without_visits(config))


def _without_visits(config: TrainConfig) -> TrainConfig:
    """The round stays, so that all train equally long; nothing is visited before it."""
    rounds = tuple(one.model_copy(update={"visits": 0}) for one in config.rounds)
    return config.model_copy(update={"rounds": rounds})


VARIANTS = {
    "all": Variant(),
    "mean of three networks": Variant(members=3),
    "class II form": Variant(form="class2"),
    "without charges": Variant(with_charges=False),
    "without prior": Variant(change=_without_prior),
    "without visits": Variant(change=_without_visits),
    "without minima and visits": Variant(change=_without_minima),
    "without stiffness pull": Variant(change=_valence(stiffness_pull=0.0)),
    "without soft modes": Variant(change=_valence(soft_modes=0)),
}


def main() -> None:
    if not (DATA / DEV_TABLE).is_file():
        print(f"{Path(__file__).stem}: skipped, {HOW}")
        return
    torch.set_num_threads(1)
    names = [name for name in os.environ.get("VARIANTS", ",".join(VARIANTS)).split(",") if name]
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(os.environ.get("OUT", temporary))
        share = float(os.environ.get("SHARE", "0.12"))
        data = _small_data(out / "data", share)
        base = _small_config(read_config(Path(os.environ.get("CONFIG", CONFIG))), data)
        charges = load_model("default").charges.float().eval().requires_grad_(False)
        print(f"{'':<28}{'energy':>8}{'force':>8}{'ddE':>8}{'RMSD':>8}{'TFD':>8}{'minutes':>9}")
        for name in names:
            print(_row(name, _figures(name, base, charges, data, out / name.replace(" ", "-"))), flush=True)


def _silent(text: str) -> None:
    del text


def _row(name: str, figures: dict[str, float]) -> str:
    columns = ("energy_rmse", "gradient_rmse", "dde", "rmsd", "tfd", "minutes")
    values = "".join(f"{figures[c]:>{9 if c == 'minutes' else 8}.{4 if c == 'tfd' else 3}f}" for c in columns)
    return f"{name:<28}{values}"


def _small_data(folder: Path, share: float) -> Path:
    """A data folder with a share of the training rows of every source, and the other files as they are."""
    (folder / "qm").mkdir(parents=True, exist_ok=True)
    for path in (*DATA.iterdir(), *(DATA / "qm").iterdir()):
        link = folder / path.relative_to(DATA)
        if path.name not in {"qm", TRAIN_SPLIT} and not link.exists():
            link.symlink_to(path.resolve())
    table = folder / "qm" / TRAIN_SPLIT
    if not table.exists():
        rows = pd.read_parquet(DATA / "qm" / TRAIN_SPLIT)
        by_source = rows.groupby("source")
        few = [own.sample(n=max(1, round(share * len(own))), random_state=0) for _, own in by_source]
        pd.concat(few).to_parquet(table)
    return folder


def _small_config(config: TrainConfig, data: Path) -> TrainConfig:
    """One member, of the rounds of visits the last."""
    n_rows = len(pd.read_parquet(data / "qm" / TRAIN_SPLIT, columns=["key"]))
    visits = int(VISITS_PER_ROW * n_rows)
    rounds = tuple(one.model_copy(update={"visits": visits}) for one in config.rounds[-1:])
    config = config.model_copy(update={"rounds": rounds, "class2": None})
    return _valence(members=1, processes=1, dev_minima=0)(config)


def _figures(
    name: str, base: TrainConfig, charges: ChargeEnsemble, data: Path, folder: Path
) -> dict[str, float]:
    kept = folder / "figures.json"
    if kept.exists():
        figures: dict[str, float] = json.loads(kept.read_text())
        return figures
    variant = VARIANTS[name]
    config = _valence(members=variant.members)(variant.change(base))
    if variant.form == "class2":
        class2 = read_config(Path(os.environ.get("CONFIG", CONFIG))).class2
        assert class2 is not None
        config = config.model_copy(update={"class2": class2.model_copy(update={"members": 1, "rounds": ()})})
    own = charges if variant.with_charges else EvenCharges()
    start = time.monotonic()
    trained = train_valence(config, own, data, folder, cheap=Gfn2Surface, report=_silent)
    minutes = (time.monotonic() - start) / 60
    figures = _score(trained, variant.form, own, config) | {"minutes": minutes}
    kept.write_text(json.dumps(figures))
    return figures


def _score(trained: Trained, form: Form, charges: ChargeEnsemble, config: TrainConfig) -> dict[str, float]:
    networks = trained.class1 if form == "class1" else trained.class2
    assert networks is not None
    minima = read_dev_minima(DATA / DEV_TABLE, int(os.environ.get("MINIMA", "60")))
    return _torsions(networks, charges, config) | _minima(networks, charges, minima)


def _torsions(networks: ValenceEnsemble, charges: ChargeEnsemble, config: TrainConfig) -> dict[str, float]:
    drives = _valence(sources={"gen2-torsion": 0, "torsiontest2000": 0}, soft_modes=0)(config).valence
    rows: Sequence[TrainingRow] = prepare_rows([DATA / DEV_TABLE], charges, drives, None, _silent)
    return score_torsions(networks, rows)


def _minima(
    networks: ValenceEnsemble, charges: ChargeEnsemble, minima: Sequence[QMExample]
) -> dict[str, float]:
    predictor = predictor_of(charges, networks)
    summary = summarise_relaxed(evaluate_relaxed(minima, class1_relaxer(predictor.predict), "small"))
    return {"dde": summary.median_dde, "rmsd": summary.median_rmsd, "tfd": summary.median_tfd}


if __name__ == "__main__":
    main()
