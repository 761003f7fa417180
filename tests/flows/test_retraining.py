"""Retraining from weights that change beside it."""

import torch

from flows import registry
from flows.retraining import retrain
from models.train import train
from models.weights import save_model
from tests.training_tables import GOES_ON, write_training_tables

ROUND = """
[[rounds]]
visits = 0
schedule = { epochs = 1, batch_molecules = 4, learning_rate = 5e-3, keep = "last" }
"""


def test_weights_that_are_gone_on_from_count_as_tables_do(tmp_path, build_ligand):
    """Unchanged, nothing is trained anew; exchanged, the same configuration trains another model."""
    data, models = write_training_tables(tmp_path, build_ligand), tmp_path / "models"
    begun = train(tmp_path / "tiny.toml", data, tmp_path / "begun", report=str)
    start = tmp_path / "begun" / "tiny" / "0.1"
    config = tmp_path / "further.toml"
    config.write_text(GOES_ON.replace("START", str(start)) + ROUND)

    def trained() -> tuple[str, int]:
        lines = []
        name = retrain(config, data, data / "qm" / "dev.parquet", models, lines.append).name
        return name, sum("member 0: round-1 1/1" in line for line in lines)

    name, n_epochs = trained()
    assert n_epochs == 1
    assert trained() == (name, 0)
    with torch.no_grad():
        next(begun.valence.parameters()).mul_(1.1)
    save_model(begun, start)
    other, n_epochs = trained()
    assert (other != name, n_epochs) == (True, 1)
    assert registry.names(models) == sorted([name, other])
