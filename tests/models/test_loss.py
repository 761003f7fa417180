"""What errors count in the loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.charges import ChargeEnsemble, ChargeNetwork
from models.config import ValenceStage
from models.loss import draw_batch, valence_loss
from models.network import ValenceNetwork
from models.training.rows import prepare_rows, sage_labeller
from tests.training_tables import write_training_tables

STAGE = ValenceStage(schedule={"epochs": 1}, sources={"gen2-torsion": 0}, torsion_penalty=0.0)


@pytest.fixture
def rows(tmp_path, build_ligand):
    data = write_training_tables(tmp_path, build_ligand)
    torch.manual_seed(5)
    prior = sage_labeller(data / "tiny.offxml")
    charges = ChargeEnsemble([ChargeNetwork(16, 2)])
    return prepare_rows([data / "qm" / "train.parquet"], charges, STAGE, prior, lambda _: None)[:2]


def loss(rows, energy_weight=1.0):
    """Of an untrained network, the same points drawn every time."""
    torch.manual_seed(5)
    model = ValenceNetwork(16, 2)
    batch = draw_batch(rows, 6, np.random.default_rng(0))
    valence = model(batch.graphs, batch.indices)
    return valence_loss(valence, batch, STAGE, energy_weight=energy_weight).item()


def test_energies_count_their_weight(rows):
    """Beside gradients: the loss is linear in it, and rows without gradients have nothing else."""
    once, twice = (loss(rows, energy_weight=weight) for weight in (1.0, 2.0))
    assert loss(rows, energy_weight=4.0) == pytest.approx(once + 3.0 * (twice - once), rel=1e-5)
    assert 0.01 < twice - once < once
    without = [replace(row, gradient=None, soft=None) for row in rows]
    assert loss(without) == pytest.approx(twice - once, rel=1e-4)
