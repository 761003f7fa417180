"""Training, checkpoints and weights on small tables made here from a known force field."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from models.config import ScheduleConfig, read_config
from models.dataset import examples_of, read_qm_examples
from models.energy import energy_and_gradient
from models.loss import valence_loss
from models.network import ValenceEnsemble, ValenceNetwork
from models.predict import Predictor
from models.recompute_domain import recompute_domain
from models.terms import TorchParameters, indices_from_topology
from models.train import train
from models.training.dev_score import predictor_of
from models.training.optimise import Stage, run_stage
from models.training.visits import RELAXED_SOURCE
from models.weights import Model, load_model_folder, save_model
from pipeline.errors import OutputFolderError, SettingsError
from tests.training_tables import (
    CONFIG,
    GOES_ON,
    PROFILE_ANGLES,
    profile_row,
    untrained_model,
    write_training_tables,
)


@pytest.fixture
def data(tmp_path: Path, build_ligand) -> Path:
    return write_training_tables(tmp_path, build_ligand)


def silent(line: str) -> None:
    """Report nothing."""


class StoppedError(Exception):
    """Stands for a kill between two epochs."""


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, data):
    """Stopped after the first epoch of the last stage and started again: the same weights bit for bit."""
    config = tmp_path / "tiny.toml"
    train(config, data, tmp_path / "straight", report=silent)

    def stop(line: str) -> None:
        if line.startswith("member 0: valence 1/"):
            raise StoppedError

    with pytest.raises(StoppedError):
        train(config, data, tmp_path / "stopped", report=stop)
    train(config, data, tmp_path / "stopped", report=silent)
    for name in ("charges.safetensors", "valence.safetensors", "class2.safetensors", "manifest.json"):
        one, other = (tmp_path / run / "tiny" / "0.1" / name for run in ("straight", "stopped"))
        assert one.read_bytes() == other.read_bytes(), name


def test_looking_again_at_finished_weights_changes_nothing(tmp_path, data):
    """The domain computed anew from the same tables after it was spoilt: every file byte for byte."""
    train(tmp_path / "tiny.toml", data, tmp_path / "run", report=silent)
    folder = tmp_path / "run" / "tiny" / "0.1"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = load_model_folder(folder)
    save_model(
        dataclasses.replace(model, domain=dataclasses.replace(model.domain, disagreement_limit=99.0)), folder
    )
    assert (folder / "domain.json").read_bytes() != before["domain.json"]
    recompute_domain(folder, data)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_limit_is_of_what_either_form_says(tmp_path, data):
    """Trained in both forms: 95 % of the dev molecules are below, by the uncertainty that each form gives."""
    model = train(tmp_path / "tiny.toml", data, tmp_path / "run", report=silent)
    dev, _ = read_qm_examples(data / "qm" / "dev.parquet")
    ligands = {example.key: (example.ligand, example.topology) for example in dev}.values()
    for form in ("class1", "class2"):
        said = [one.confidence.uncertainty for one in Predictor(model, form).predict_many(list(ligands))]
        # the order of sums differs between one molecule at a time and all at once
        assert model.domain.disagreement_limit == pytest.approx(np.quantile(said, 0.95), rel=1e-9)
    assert model.domain.disagreement_limit > 0


ROUNDS = """
[[rounds]]
visits = 5
schedule = { epochs = 1, batch_molecules = 4, learning_rate = 5e-3, keep = "last" }

[[rounds]]
visits = 5
relaxed = 3
escapes = 2
schedule = { epochs = 1, batch_molecules = 4, learning_rate = 5e-3, keep = "last" }
"""

CLASS2_ROUND = """
[[class2.rounds]]
visits = 5
schedule = { epochs = 1, batch_molecules = 4, learning_rate = 5e-3, keep = "last" }
"""


@pytest.fixture
def with_minima(data):
    """The train table with its rows once more as minima, each point one."""
    table = pd.read_parquet(data / "qm" / "train.parquet")
    minima = table.assign(kind="minima", gradient=[np.zeros_like(g) for g in table["gradient"]])
    pd.concat([table, minima]).to_parquet(data / "qm" / "train.parquet")
    return data


def spring(atomic_numbers, total_charge):
    """A cheap level: every atom on a spring to the origin."""
    return lambda coords: (50.0 * (coords**2).sum(), 100.0 * coords)


def test_a_training_stopped_between_visits_goes_on_to_the_same_weights(tmp_path, with_minima):
    """Stopped in a round, and after it, and started again: visits already made are read, minima relaxed for
    a round that is done are not, and what was taken away of these is made again; weights are equal.
    """
    config = tmp_path / "tiny.toml"
    config.write_text(CONFIG + CLASS2_ROUND + ROUNDS)
    heard = []
    train(config, with_minima, tmp_path / "straight", cheap=spring, report=heard.append)
    steps = ("valence", "round-1", "round-2", "class2", "class2-round-1")
    assert [any(f"member 0: {step} " in line for line in heard) for step in steps] == [True] * 5
    assert sum(line.startswith("visited.parquet: 5 rows") for line in heard) == 3
    assert sum(line.startswith("visited.parquet: 2 rows") for line in heard) == 1
    assert sum(line.startswith("relaxed.parquet: ") for line in heard) == 1

    def stop(at: str) -> Callable[[str], None]:
        def report(line: str) -> None:
            if line.startswith(at):
                raise StoppedError

        return report

    for step in ("round-2", "class2"):
        with pytest.raises(StoppedError):
            train(config, with_minima, tmp_path / "stopped", cheap=spring, report=stop(f"member 0: {step} "))
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "round-2-relaxed")
    heard = []
    train(config, with_minima, tmp_path / "stopped", cheap=spring, report=heard.append)
    assert sum(line.startswith("visited.parquet: ") for line in heard) == 4
    assert not any(line.startswith("relaxed.parquet: ") for line in heard)
    for name in ("valence.safetensors", "class2.safetensors", "manifest.json"):
        one, other = (tmp_path / run / "tiny" / "0.1" / name for run in ("straight", "stopped"))
        assert one.read_bytes() == other.read_bytes(), name


SCANS = """
[[rounds]]
visits = 0
scans = 2
schedule = { epochs = 1, batch_molecules = 4, learning_rate = 5e-3, keep = "last" }
"""


def test_profiles_are_scanned_once_for_a_round_and_weigh(tmp_path, data, monkeypatch):
    """Of three profiles one is of a molecule whose drive has geometries; two are scanned, none of them again
    when a stopped training goes on to the same weights; with other energies the weights are others.
    """
    monkeypatch.setattr("models.training.scans.LARGEST_ERROR", 100.0)  # of a network that knows nothing

    def write(height: float) -> None:
        wave = height * np.cos(3 * np.radians(PROFILE_ANGLES))
        molecules = (("CCCO", "CCCO"), ("CCSC", "CCSC"), ("OCC=O", "OCC=O"))
        rows = [profile_row(smiles, pattern, wave) for smiles, pattern in molecules]
        pd.DataFrame(rows).to_parquet(data / "qm" / "profiles.parquet")

    write(2.0)
    config = tmp_path / "tiny.toml"
    profiles = 'profiles = ["qm/profiles.parquet"]'
    config.write_text(CONFIG.replace("[valence]", f"[valence]\n{profiles}") + SCANS)
    heard = []
    train(config, data, tmp_path / "straight", cheap=spring, report=heard.append)
    assert sum(line.startswith("scanned.parquet: 2 rows, 24 points") for line in heard) == 1
    assert sum(line.startswith("2 torsion profiles: 2 scanned") for line in heard) == 1

    def stop(line: str) -> None:
        if line.startswith("member 1: round-1"):
            raise StoppedError

    with pytest.raises(StoppedError):
        train(config, data, tmp_path / "stopped", cheap=spring, report=stop)
    with monkeypatch.context() as patch:
        patch.setattr("models.training.encounters.relax_scans", pytest.fail)
        train(config, data, tmp_path / "stopped", cheap=spring, report=silent)
    write(20.0)
    train(config, data, tmp_path / "other", cheap=spring, report=silent)
    one, same, other = (
        (tmp_path / run / "tiny" / "0.1" / "valence.safetensors").read_bytes()
        for run in ("straight", "stopped", "other")
    )
    assert one == same
    assert one != other


def test_class2_begins_on_minima_that_class1_relaxes(tmp_path, with_minima):
    """Relaxed by the mean of the class I networks as they ended; beside the rows, so that weights differ."""
    weights = []
    for relaxed in (0, 3):
        config, run = tmp_path / "tiny.toml", tmp_path / str(relaxed)
        config.write_text(CONFIG.replace("[class2]", f"[class2]\nrelaxed = {relaxed}"))
        heard = []
        model = train(config, with_minima, run, report=heard.append)
        assert sum(line.startswith("relaxed.parquet: ") for line in heard) == (relaxed > 0)
        weights.append((run / "tiny" / "0.1" / "class2.safetensors").read_bytes())
    assert weights[0] != weights[1]
    table = pd.concat([pd.read_parquet(p) for p in run.glob("checkpoints/class2-relaxed/*/*.parquet")])
    predictor = predictor_of(model.charges, model.valence)
    relaxed_minima, _ = examples_of(table[table["source"] == RELAXED_SOURCE])
    assert len(relaxed_minima) > 0
    for example in relaxed_minima:
        parameters = TorchParameters.from_mm(predictor.predict(example.ligand, example.topology))
        coords = torch.tensor(example.coords).double().permute(1, 0, 2)
        indices = indices_from_topology(example.topology)
        gradient = energy_and_gradient(indices, parameters, coords)[1]
        assert gradient.norm(dim=-1).max() < 0.05  # kcal/mol/angstrom; float32 geometries


def test_scans_without_profiles_are_refused(tmp_path, data):
    """Neither is a table of them that is not there a reason to train for hours first."""
    config = tmp_path / "tiny.toml"
    config.write_text(CONFIG + SCANS)
    with pytest.raises(SettingsError, match=r"set valence\.profiles"):
        train(config, data, tmp_path / "run", cheap=spring, report=pytest.fail)
    config.write_text(CONFIG.replace("[valence]", '[valence]\nprofiles = ["qm/p.parquet"]') + SCANS)
    with pytest.raises(SettingsError, match=r"p\.parquet"):
        train(config, data, tmp_path / "run", cheap=spring, report=pytest.fail)
    assert not (tmp_path / "run").exists()


def test_escapes_without_relaxations_are_refused(tmp_path, data):
    """Nothing would say which minima were left."""
    config = tmp_path / "tiny.toml"
    config.write_text(CONFIG + ROUNDS.replace("relaxed = 3\n", ""))
    with pytest.raises(SettingsError, match="set relaxed"):
        train(config, data, tmp_path / "run", cheap=spring, report=silent)


def test_weights_are_the_mean_of_the_last_steps(tmp_path, with_minima):
    """Class I's of the last two rounds of three steps, network by network; class II's of its last step alone,
    which began at the last round of class I.
    """
    config = tmp_path / "tiny.toml"
    config.write_text(CONFIG.replace("[valence]", "[valence]\nmean_of_steps = 2") + CLASS2_ROUND + ROUNDS)
    model = train(config, with_minima, tmp_path / "run", cheap=spring, report=silent)

    def of_step(step, form, n_members):
        members = []
        for folder in (tmp_path / "run" / "checkpoints" / f"member-{n}" for n in range(n_members)):
            network = ValenceNetwork(16, 2, form=form, pi=True, pairs=form == "class2")
            network.load_state_dict(load_file(folder / step / "best.safetensors"))
            members.append(network)
        return ValenceEnsemble(members).state_dict()

    one, two = of_step("round-1", "class1", 2), of_step("round-2", "class1", 2)
    for name, weight in model.valence.state_dict().items():
        assert torch.equal(weight, ((one[name].double() + two[name].double()) / 2).float()), name
    assert any(not torch.equal(one[name], two[name]) for name in one)
    last = of_step("class2-round-1", "class2", 1)
    for name, weight in model.class2.state_dict().items():
        assert torch.equal(weight, last[name]), name


def test_a_round_sees_a_part_of_the_visits(tmp_path, with_minima):
    """A share of the rows, or low points alone, also of those of rounds before; where nothing was visited
    neither changes a byte.
    """
    only = "[[rounds]]\nvisits = 0\nschedule = { epochs = 1, batch_molecules = 4, learning_rate = 5e-3 }\n"
    fewer, visited = only.replace("visits", "visit_share = 0.3\nvisits"), only.replace("= 0", "= 5")

    def trained(name: str, rounds: str) -> bytes:
        (tmp_path / f"{name}.toml").write_text(CONFIG + rounds)
        train(tmp_path / f"{name}.toml", with_minima, tmp_path / name, cheap=spring, report=silent)
        return (tmp_path / name / "tiny" / "0.1" / "valence.safetensors").read_bytes()

    low, very_low = (only.replace("visits", f"visit_window = {height}\nvisits") for height in (1e9, 1e-6))
    straight = trained("before", visited + only)
    assert trained("none", only) == trained("none-fewer", fewer) == trained("none-low", very_low)
    assert straight != trained("before-fewer", visited + fewer)
    assert straight == trained("before-low", visited + low)
    assert straight != trained("before-very-low", visited + very_low)


def test_a_round_sees_its_own_visits_in_full(tmp_path, with_minima, monkeypatch):
    """Beside a share of those before; relaxed minima and the tables are seen in full either way."""
    asked = []

    def remember(stage, *args, **kwargs):
        asked.append((stage.name, np.array(stage.shares)))
        return run_stage(stage, *args, **kwargs)

    monkeypatch.setattr("models.training.train_valence.run_stage", remember)
    rounds = ROUNDS.replace("visits = 5\nrelaxed", "visit_share = 0.3\nown_share = 0.9\nvisits = 5\nrelaxed")
    (tmp_path / "tiny.toml").write_text(CONFIG.replace("members = 2", "members = 1") + rounds)
    train(tmp_path / "tiny.toml", with_minima, tmp_path / "run", cheap=spring, report=silent)
    first, second = (next(shares for name, shares in asked if name == of) for of in ("round-1", "round-2"))
    assert (second == 0.3).sum() == 5
    assert (second == 0.9).sum() == 7  # and two escapes
    n_relaxed = len(second) - len(first) - 7
    assert n_relaxed > 0
    assert (second == 1.0).sum() == len(first) - 5 + n_relaxed


def test_relaxed_minima_count_what_a_round_says(tmp_path, with_minima, monkeypatch):
    """Their energies, times what energies count in this round at all; those of other rows do not."""
    heard, bends = [], []

    def listen(*args, energy_weight, energy_huber, **kwargs):
        heard.append(energy_weight)
        bends.append(energy_huber)
        return valence_loss(*args, energy_weight=energy_weight, energy_huber=energy_huber, **kwargs)

    monkeypatch.setattr("models.training.train_valence.valence_loss", listen)
    rounds = ROUNDS.replace(
        "relaxed = 3", "energy_weight = 2\nenergy_huber = 0.7\nrelaxed_weight = 3\nrelaxed = 3"
    )
    (tmp_path / "tiny.toml").write_text(CONFIG.replace("members = 2", "members = 1") + rounds)
    lines = []
    train(tmp_path / "tiny.toml", with_minima, tmp_path / "run", cheap=spring, report=lines.append)
    n_relaxed = next(int(line.split()[1]) for line in lines if line.startswith("relaxed.parquet: "))
    weights = torch.cat(heard)
    assert set(weights.tolist()) == {1.0, 2.0, 6.0}
    assert {float(weight.max()) for weight, bend in zip(heard, bends, strict=True) if bend is None} == {1.0}
    assert {bend for weight, bend in zip(heard, bends, strict=True) if weight.max() > 1.0} == {0.7}
    assert (weights == 6.0).sum() == n_relaxed > 0
    assert (weights == 2.0).sum() > n_relaxed


def test_class2_begins_after_the_round_that_is_asked_for(tmp_path, with_minima):
    """Either form to the byte as without what the other goes on to do."""
    early = CONFIG.replace("[class2]", "[class2]\nafter_round = 1") + CLASS2_ROUND
    both, first = early + ROUNDS, early + ROUNDS[: ROUNDS.rindex("[[rounds]]")]

    def trained(name: str, text: str) -> list[bytes]:
        (tmp_path / f"{name}.toml").write_text(text)
        train(tmp_path / f"{name}.toml", with_minima, tmp_path / name, cheap=spring, report=silent)
        weights = tmp_path / name / "tiny" / "0.1"
        return [(weights / f"{part}.safetensors").read_bytes() for part in ("valence", "class2")]

    forked, straight = trained("forked", both), trained("straight", CONFIG + CLASS2_ROUND + ROUNDS)
    assert forked[1] == trained("first", first)[1] != straight[1]
    assert forked[0] == straight[0]


def test_class2_after_a_round_that_is_not_there_is_refused(tmp_path, data):
    config = tmp_path / "tiny.toml"
    config.write_text(CONFIG.replace("[class2]", "[class2]\nafter_round = 3") + ROUNDS)
    with pytest.raises(SettingsError, match="class I has 2 rounds"):
        train(config, data, tmp_path / "run", cheap=spring, report=silent)


@pytest.mark.parametrize("rounds", [ROUNDS, CLASS2_ROUND])
def test_rounds_go_on_from_finished_weights(tmp_path, with_minima, rounds):
    """The rounds of a form on weights that were trained without them: byte for byte what training does in
    one go; the other form and the charges stay as they are.
    """

    def trained(name: str, text: str) -> dict[str, bytes]:
        (tmp_path / f"{name}.toml").write_text(text)
        train(tmp_path / f"{name}.toml", with_minima, tmp_path / name, cheap=spring, report=silent)
        files = (tmp_path / name / "tiny" / "0.1").glob("*.safetensors")
        return {file.stem: file.read_bytes() for file in files}

    begun = trained("begun", CONFIG)
    start = str(tmp_path / "begun" / "tiny" / "0.1")
    gone_on = trained("gone-on", GOES_ON.replace("START", start) + rounds)
    straight = trained("straight", CONFIG + rounds)
    moved, kept = ("valence", "class2") if rounds is ROUNDS else ("class2", "valence")
    assert gone_on[moved] == straight[moved] != begun[moved]
    assert gone_on[kept] == begun[kept]
    assert gone_on["charges"] == begun["charges"]


def test_the_weights_gone_on_from_are_a_step_of_the_mean(tmp_path, with_minima):
    """Class I's after its one round averaged with those before it; class II's are those before alone."""
    begun = train(tmp_path / "tiny.toml", with_minima, tmp_path / "begun", report=silent)
    start, round_one = str(tmp_path / "begun" / "tiny" / "0.1"), ROUNDS[: ROUNDS.rindex("[[rounds]]")]
    config = tmp_path / "further.toml"

    def gone_on(n_steps: int) -> Model:
        text = GOES_ON.replace("START", start).replace("[valence]", f"[valence]\nmean_of_steps = {n_steps}")
        config.write_text(text + round_one)
        return train(config, with_minima, tmp_path / str(n_steps), cheap=spring, report=silent)

    last, mean = gone_on(1), gone_on(2)
    before, after = begun.valence.state_dict(), last.valence.state_dict()
    for name, weight in mean.valence.state_dict().items():
        assert torch.equal(weight, ((before[name] + after[name]) / 2).float().double()), name
    assert any(not torch.equal(before[name], after[name]) for name in after)
    for name, weight in mean.class2.state_dict().items():
        assert torch.equal(weight, begun.class2.state_dict()[name]), name


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (("members = 2", "members = 3"), "2 class1 networks, not 3"),
        (("[class2]", "[class2]\nmembers = 2"), "1 class2 networks, not 2"),
        (("width = 16", "width = 32"), "valence.network"),
        (("pairs = true", "pairs = false"), "class2.pairs"),
        (("START", "START/nothing"), "no model"),
        (('start = "START"', ""), "charges is missing"),
        (("dev_minima", "schedule = { epochs = 3 }\ndev_minima"), "valence.schedule would train"),
        (("pairs = true", "relaxed = 3"), "class2.relaxed"),
    ],
)
def test_weights_that_cannot_be_gone_on_from_are_refused(tmp_path, data, change, what):
    start = train(tmp_path / "tiny.toml", data, tmp_path / "begun", report=silent)
    config = tmp_path / "further.toml"
    config.write_text(GOES_ON.replace(*change).replace("START", f"{tmp_path}/begun/tiny/{start.version}"))
    with pytest.raises(SettingsError, match=what):
        train(config, data, tmp_path / "run", cheap=spring, report=pytest.fail)
    assert not (tmp_path / "run").exists()


def test_weights_that_were_exchanged_are_not_gone_on_from(tmp_path, data):
    """A run that began at other weights in the same place is not resumed."""
    begun = train(tmp_path / "tiny.toml", data, tmp_path / "begun", report=silent)
    config, folder = tmp_path / "further.toml", tmp_path / "begun" / "tiny" / "0.1"
    config.write_text(GOES_ON.replace("START", str(folder)))
    train(config, data, tmp_path / "run", report=silent)
    save_model(dataclasses.replace(begun, domain=None), folder)
    with pytest.raises(SettingsError, match="another configuration"):
        train(config, data, tmp_path / "run", report=silent)


def test_an_epoch_sees_the_share_that_is_asked_for(tmp_path):
    """Every example with its own chance, in every epoch other ones."""
    model = torch.nn.Linear(1, 1)
    seen: list[int] = []

    def loss(batch, _):
        assert 0 < len(batch) <= 50
        seen.extend(batch)
        return model.weight.sum()

    shares = np.repeat([1.0, 0.1, 0.0], 1000)
    stage = Stage(
        name="s", model=model, n_examples=3000, shares=shares, loss=loss, score=lambda: {"figure": 0.0}
    )
    schedule = ScheduleConfig(epochs=2, batch_molecules=50)
    run_stage(stage, schedule, seed=1, folder=tmp_path, report=silent)
    times = np.bincount(seen, minlength=3000)
    assert (times[:1000] == 2).all()
    assert 160 < times[1000:2000].sum() < 240  # 200 expected, 13 one standard deviation
    assert (times[1000:2000] == 1).sum() > 120  # not the same ones twice
    assert times[2000:].sum() == 0


def test_the_number_of_processes_changes_no_weight(tmp_path, with_minima, monkeypatch):
    """Two networks and visits in batches of two, by one process and by two: every file byte for byte."""
    monkeypatch.setattr("models.training.encounters.MET_TOGETHER", 2)
    config, folders = tmp_path / "tiny.toml", []
    for processes in (1, 2):
        config.write_text(CONFIG.replace("[valence]", f"[valence]\nprocesses = {processes}") + ROUNDS)
        run = tmp_path / str(processes)
        train(config, with_minima, run, cheap=spring, report=silent)
        assert len(list(run.glob("checkpoints/round-2-visits/*/visited.parquet"))) == 3
        folders.append(run / "tiny" / "0.1")
    one, two = folders
    for path in one.glob("*.safetensors"):
        assert path.read_bytes() == (two / path.name).read_bytes(), path.name


def test_rounds_without_a_cheap_level_are_refused(tmp_path, data):
    """Nothing is trained and no folder is made when nobody can be asked."""
    (tmp_path / "tiny.toml").write_text(CONFIG + ROUNDS)
    with pytest.raises(SettingsError, match="cheap level"):
        train(tmp_path / "tiny.toml", data, tmp_path / "run", report=pytest.fail)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("keep", "kept"), [("best", 0), ("last", 2)])
def test_a_schedule_keeps_what_it_says(tmp_path, keep, kept):
    """Three epochs, each scored worse than the one before: the first or the last one's weights remain."""
    model = torch.nn.Linear(1, 1, bias=False)
    seen = []

    def score():
        seen.append(model.weight.item())
        return {"figure": float(len(seen))}

    stage = Stage(name="k", model=model, n_examples=1, loss=lambda *_: model.weight.sum(), score=score)
    schedule = ScheduleConfig(epochs=3, learning_rate=0.1, keep=keep)
    run_stage(stage, schedule, seed=0, folder=tmp_path, report=silent)
    assert len(set(seen)) == 3
    assert model.weight.item() == seen[kept]


def test_a_stage_finds_the_minimum_of_a_parabola(tmp_path):
    """The loop minimises (w - 3)^2 to within the last learning rate."""
    model = torch.nn.Linear(1, 1, bias=False)

    def loss(batch, generator):
        return (model.weight - 3.0).square().sum()

    stage = Stage(
        name="p", model=model, n_examples=20, loss=loss, score=lambda: {"loss": loss(None, None).item()}
    )
    schedule = ScheduleConfig(epochs=40, batch_molecules=1, learning_rate=0.05, weight_decay=0.0)
    run_stage(stage, schedule, seed=0, folder=tmp_path, report=silent)
    assert model.weight.item() == pytest.approx(3.0, abs=1e-2)


def test_a_batch_without_finite_gradient_is_skipped_and_counted(tmp_path):
    """Of four examples with loss 2 w, w = 1 and no step to speak of, one is infinite and one not a number."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    factors = [2.0, float("inf"), 2.0, float("nan")]

    def loss(batch, generator):
        return factors[batch[0]] * model.weight.sum()

    stage = Stage(name="s", model=model, n_examples=4, loss=loss, score=lambda: {"figure": 0.0})
    schedule = ScheduleConfig(epochs=1, batch_molecules=1, learning_rate=1e-9, weight_decay=0.0)
    lines = []
    run_stage(stage, schedule, seed=0, folder=tmp_path, report=lines.append)
    (line,) = lines
    assert "loss 2.0000" in line
    assert line.endswith("2 batches skipped")
    assert model.weight.item() == pytest.approx(1.0, abs=1e-6)  # float32


def test_another_configuration_is_not_mixed_in(tmp_path, data):
    """A folder that holds a run of another configuration is refused."""
    config = tmp_path / "tiny.toml"
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.json").write_text("{}")
    with pytest.raises(SettingsError, match="another configuration"):
        train(config, data, out, report=silent)


@pytest.mark.parametrize(
    "table", ["charges/am1bcc.parquet", "tiny.offxml", "qm/train.parquet", "qm/dev.parquet"]
)
def test_a_missing_table_leaves_no_folder(tmp_path, data, table):
    """Each file of the data, taken away, is named before anything is trained or made."""
    (data / table).unlink()
    with pytest.raises(SettingsError, match=Path(table).name):
        train(tmp_path / "tiny.toml", data, tmp_path / "run", report=pytest.fail)
    assert not (tmp_path / "run").exists()


def test_training_below_a_file_is_a_usage_error(tmp_path, data):
    """An output folder below a file is an OutputFolderError that names it."""
    with pytest.raises(OutputFolderError, match=r"tiny\.toml/run"):
        train(tmp_path / "tiny.toml", data, tmp_path / "tiny.toml" / "run", report=pytest.fail)


def test_unknown_keys_are_errors(tmp_path):
    """A misspelt key of a training configuration is named."""
    path = tmp_path / "bad.toml"
    path.write_text(CONFIG + "\nlerning_rate = 1\n")
    with pytest.raises(SettingsError, match="lerning_rate"):
        read_config(path)


@pytest.fixture
def model() -> Model:
    return untrained_model()


def test_damaged_weights_are_refused(tmp_path, model):
    """One changed byte of the weights: the loader names the file and does not load it."""
    save_model(model, tmp_path)
    path = tmp_path / "valence.safetensors"
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(blob)
    with pytest.raises(SettingsError, match=r"valence\.safetensors"):
        load_model_folder(tmp_path)


def test_a_table_that_is_no_parquet_is_one_sentence(tmp_path):
    """A text file under the table's name is a SettingsError that names it."""
    path = tmp_path / "train.parquet"
    path.write_text("not a table")
    with pytest.raises(SettingsError, match=r"train\.parquet: not a parquet table"):
        read_qm_examples(path)


@pytest.mark.parametrize("change", ["a list", "networks of another size", "a network too few"])
def test_a_strange_manifest_is_refused(tmp_path, model, change):
    """A manifest of another shape, or of networks that the weights do not fit, is a SettingsError."""
    save_model(model, tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    if change == "networks of another size":
        manifest["networks"]["valence"]["width"] *= 2
    elif change == "a network too few":
        del manifest["networks"]["valence"]
    path.write_text(json.dumps([] if change == "a list" else manifest))
    with pytest.raises(SettingsError, match="cannot be read"):
        load_model_folder(tmp_path)


def test_other_conventions_are_refused(tmp_path, model):
    """Weights made under another meaning of the parameters are refused."""
    save_model(model, tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text()) | {"conventions": "0"}
    path.write_text(json.dumps(manifest))
    with pytest.raises(SettingsError, match="conventions"):
        load_model_folder(tmp_path)
