"""Retraining from weights that change beside it."""

import torch

from flows import registry
from flows.retraining import retrain
from models.weights import save_model
from tests.training_tables import untrained_model, write_training_tables

GOES_ON = """
name = "further"
version = "1"
seed = 1
start = "{start}"
[prior]
force_field = "tiny.offxml"
[valence]
network = {{ width = 24, n_layers = 2 }}
sources = {{ gen2-torsion = 0 }}
dev_minima = 0
[[rounds]]
visits = 0
schedule = {{ epochs = 1, batch_molecules = 4, learning_rate = 5e-3, keep = "last" }}
"""


def test_weights_that_are_gone_on_from_count_as_tables_do(tmp_path, build_ligand):
    """Unchanged, nothing is trained anew; exchanged, the same configuration trains another model."""
    data = write_training_tables(tmp_path, build_ligand)
    start, models = tmp_path / "start", tmp_path / "models"
    save_model(untrained_model(), start)
    config = tmp_path / "further.toml"
    config.write_text(GOES_ON.format(start=start))

    def trained() -> tuple[str, int]:
        lines = []
        name = retrain(config, data, data / "qm" / "dev.parquet", models, lines.append).name
        return name, sum("round-1 1/1" in line for line in lines)

    name, n_epochs = trained()
    assert n_epochs == 1
    assert trained() == (name, 0)
    other_weights = untrained_model()
    with torch.no_grad():
        next(other_weights.valence.parameters()).mul_(1.1)
    save_model(other_weights, start)
    other, n_epochs = trained()
    assert (other != name, n_epochs) == (True, 1)
    assert registry.names(models) == sorted([name, other])
