"""Train a model from one config file: charges, then the prior, then QM; resumes where it was stopped.

Or take the charges and the networks of finished weights, and train these on in rounds.
"""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from models.config import TrainConfig, read_config
from models.dataset import read_charge_examples, read_qm_examples
from models.domain import Domain, spread_of
from models.predict import build_batch
from models.training.optimise import Report
from models.training.train_charges import CHARGE_TABLE, train_charges
from models.training.train_valence import DEV_TABLE, Trained, train_valence
from models.training.visits import CheapLevel
from models.weights import Model, load_model, save_model
from pipeline.errors import OutputFolderError, SettingsError

USUAL = 0.95
"""share of the dev molecules whose disagreement counts as usual"""


def train(
    config_path: Path, data: Path, out: Path, *, cheap: CheapLevel | None = None, report: Report = print
) -> Model:
    """Train what `config_path` describes on the tables below `data`; leave checkpoints and weights in `out`.

    `cheap` is asked in rounds of visits, where the configuration has such. Running it again on the same
    folder goes on from the last checkpoint. Raises SettingsError for a wrong key, a missing table, weights to
    go on from that have not the networks, or a folder that holds a run of another configuration,
    OutputFolderError for one that cannot be written; neither leaves a folder behind.
    """
    config = read_config(config_path)
    _check_tables(config, data)
    if (config.rounds or (config.class2 and config.class2.rounds)) and cheap is None:
        raise SettingsError(f"{config_path}: its rounds need a cheap level to ask, and none was given")
    on_cpu = config.valence.device == "cpu"
    if not on_cpu and config.valence.processes > 1:
        raise SettingsError(
            f"{config_path}: members on {config.valence.device} cannot be trained side by side, whose forks "
            "would share its driver; set valence.processes = 1"
        )
    start = _start_of(config)
    _claim(out, config, start)
    torch.use_deterministic_algorithms(True, warn_only=not on_cpu)  # cuBLAS has none unless the shell asks
    torch.set_num_threads(1)  # sums come out the same on every machine, and members are forked
    checkpoints = out / "checkpoints"
    begun = None
    if start is not None:
        report(f"going on from {start.name}/{start.version}, manifest {start.sha256[:12]}")
        charges, size_of_charges = start.charges.float(), start.sizes["charges"]
        begun = Trained(class1=start.valence, class2=start.class2)
    else:
        assert config.charges is not None, "config: without a start there are charges to train"
        charges = train_charges(config.charges, data, checkpoints, seed=config.seed, report=report)
        size_of_charges = config.charges.network
    charges.eval().requires_grad_(False)
    trained = train_valence(config, charges, data, checkpoints, cheap=cheap, report=report, start=begun)
    sizes = {"charges": size_of_charges, "valence": config.valence.network}
    model = Model(
        name=config.name,
        version=config.version,
        sha256="",
        charges=charges,
        valence=trained.class1,
        sizes=sizes,
        class2=trained.class2,
    )
    model = replace(model, domain=domain_of(model, data))
    saved = save_model(model, out / config.name / config.version)
    report(f"weights in {out / config.name / config.version}")
    return saved


@torch.no_grad()
def domain_of(model: Model, data: Path) -> Domain:
    """What the training molecules look like, and the disagreement that most dev molecules stay below."""
    known, _ = read_charge_examples(data / CHARGE_TABLE, "train")
    dev, _ = read_qm_examples(data / DEV_TABLE)
    charges = deepcopy(model.charges).double().eval()
    own, *others = (deepcopy(ensemble).double().eval() for ensemble in model.ensembles)
    spreads = []
    for example in {example.key: example for example in dev}.values():
        batch, indices = build_batch([(example.ligand, example.topology)])
        members, each_charge = own.each(batch, indices), charges.each(batch)
        further = [k for ensemble in others for k in ensemble.propers(batch, indices)]
        spreads.append(spread_of(members, each_charge, example.ligand, example.topology, others=further))
    return Domain.of_training(
        [example.graph for example in known],
        disagreement_limit=float(np.quantile([spread.total for spread in spreads], USUAL)),
        charge_limit=float(np.quantile([spread.total_charge for spread in spreads], USUAL)),
    )


def _start_of(config: TrainConfig) -> Model | None:
    """The weights to go on from; SettingsError unless they have the networks that the rounds train."""
    if config.start is None:
        return None
    start = load_model(config.start)
    wanted = {"class1": config.valence.members, "class2": config.class2.members if config.class2 else 0}
    there = {"class1": start.valence, "class2": start.class2}
    for form, n_members in wanted.items():
        ensemble = there[form]
        n_there = 0 if ensemble is None else ensemble.n_members
        if n_there < n_members:
            raise SettingsError(f"start = {config.start!r} has {n_there} {form} networks, not {n_members}")
    if start.sizes["valence"] != config.valence.network:
        raise SettingsError(f"valence.network is not that of {config.start!r}: {start.sizes['valence']!r}")
    if config.class2 and start.class2 and start.class2.has_pairs != config.class2.pairs:
        raise SettingsError(f"class2.pairs is not as in {config.start!r}")
    return start


def _check_tables(config: TrainConfig, data: Path) -> None:
    """Say which file of the training data is missing, before hours are spent on the others."""
    tables: tuple[str | Path, ...] = (
        CHARGE_TABLE,
        config.prior.force_field,
        *config.valence.tables,
        *config.valence.profiles,
        DEV_TABLE,
    )
    missing = [str(data / table) for table in tables if not (data / table).is_file()]
    if missing:
        raise SettingsError(f"no {', no '.join(missing)}; see data/qm/README.md for how the tables are made")


def _claim(out: Path, config: TrainConfig, start: Model | None) -> None:
    """Write what the run is decided by into the folder, or check that it is what is already there."""
    begun = {} if start is None else {"manifest_of_start": start.sha256}
    text = json.dumps(config.model_dump() | begun, indent=2, sort_keys=True)
    path = out / "config.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_text() != text:
            raise SettingsError(
                f"{out} holds a run with another configuration: choose another folder or remove it"
            )
        path.write_text(text)
    except OSError as error:
        raise OutputFolderError(f"{out}: cannot be written ({error.strerror or error})") from error
