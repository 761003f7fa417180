"""What outcomes.csv says of delivered ligands: all there is to know of each, in one cell."""

import csv
import dataclasses
import math

import pytest
import torch
from typer.testing import CliRunner

from flows.cli import app
from models.domain import Domain
from models.weights import save_model
from tests.training_tables import untrained_model

SETTINGS = """
[ligand]
strip_salts = true
[qm]
spec = "fast"
n_points = 8
[fine_tune]
steps = 60
learning_rate = 5e-3
pull = 0.0
"""


@pytest.mark.parametrize("command", ["assign", "refine"])
def test_a_message_joins_what_was_left_out_and_every_doubt(tmp_path, command):
    """A network that knows no surroundings: of a salt the counter-ion, the surroundings and the charge are
    named, of methanol the surroundings; by assign, and by refine where the tuning moved the parameters.
    """
    model, library, config, out = (tmp_path / name for name in ("model", "salts.smi", "fast.toml", "out"))
    domain = Domain.of_training([], disagreement_limit=9.0, charge_limit=9.0)
    save_model(dataclasses.replace(untrained_model(), domain=domain), model)
    library.write_text("[Na+].CC(=O)[O-] acetate\nCO methanol\n")
    config.write_text(SETTINGS)
    paths = {"--config": config, "--model": model, "--out": out, "--formats": "openmm"}
    if command == "refine":
        paths["--store"] = tmp_path / "store"
    options = [str(word) for pair in paths.items() for word in pair]
    result = CliRunner().invoke(app, [command, str(library), *options])
    assert result.exit_code == 0, result.output
    acetate, methanol = (row["message"] for row in csv.DictReader((out / "outcomes.csv").open()))
    assert acetate == (
        "kept CC(=O)[O-], left out [Na+]; outside the model's domain: surroundings of atoms 1, 2, 3, 4, 5, "
        "6, 7 were not in the training; no surroundings that seat a negative charge in the training, but "
        "such a charge"
    )
    assert methanol == (
        "outside the model's domain: surroundings of atoms 1, 2, 3, 4, 5, 6 were not in the training"
    )
    if command == "refine":
        assert [row["kept"] for row in csv.DictReader((out / "fits.csv").open())] == ["fine-tuned"] * 2


@pytest.mark.parametrize("command", ["assign", "refine"])
@pytest.mark.parametrize(
    ("anion", "stage"), [("C[Si](C)(C)CC(=O)[O-]", "standardise"), ("CC(=O)[O-]", "predict")]
)
def test_a_stripped_ligand_that_fails_says_what_was_stripped(tmp_path, command, anion, stage):
    """Refused for an element, or by networks that give no numbers: what the message says of the anion, it
    says of the salt beside what was left out.
    """
    model, library, config, out = (tmp_path / name for name in ("model", "salts.smi", "fast.toml", "out"))
    broken = untrained_model()
    for weights in broken.valence.parameters():
        torch.nn.init.constant_(weights, math.nan)
    save_model(broken, model)
    library.write_text(f"[Na+].{anion} ligand\n{anion} ligand\n")
    config.write_text(SETTINGS)
    options = ["--config", config, "--model", model, "--out", out]
    if command == "refine":
        options += ["--store", tmp_path / "store"]
    result = CliRunner().invoke(app, [command, str(library), *map(str, options)])
    assert result.exit_code == 3, result.output
    of_salt, of_anion = csv.DictReader((out / "outcomes.csv").open())
    assert (of_salt["stage"], of_anion["stage"]) == (stage, stage)
    left_out = f"kept {anion}, left out [Na+]; "
    assert left_out in of_salt["message"]
    assert of_salt["message"].replace(left_out, "") == of_anion["message"]
