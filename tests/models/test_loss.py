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


def loss(rows, energy_weight=1.0, **how):
    """Of an untrained network, the same points drawn every time."""
    torch.manual_seed(5)
    model = ValenceNetwork(16, 2)
    batch = draw_batch(rows, 6, np.random.default_rng(0))
    valence = model(batch.graphs, batch.indices)
    return valence_loss(valence, batch, STAGE, energy_weight=energy_weight, **how).item()


def test_energies_count_their_weight(rows):
    """Beside gradients: the loss is linear in it, and rows without gradients have nothing else."""
    once, twice = (loss(rows, energy_weight=weight) for weight in (1.0, 2.0))
    assert loss(rows, energy_weight=4.0) == pytest.approx(once + 3.0 * (twice - once), rel=1e-5)
    assert 0.01 < twice - once < once
    without = [replace(row, gradient=None, soft=None) for row in rows]
    assert loss(without) == pytest.approx(twice - once, rel=1e-4)


def test_energies_of_one_row_count_their_own_weight(rows):
    """One number per row: what a row's energies are worth alone, half as much beside another."""
    alone = [replace(row, gradient=None, soft=None) for row in rows[:1]]
    heavier = loss(rows, energy_weight=torch.tensor([3.0, 1.0]))
    assert heavier - loss(rows) == pytest.approx(loss(alone), rel=1e-4)
    lighter = loss(rows, energy_weight=torch.tensor([1.0, 3.0]))
    assert heavier + lighter == pytest.approx(2.0 * loss(rows, energy_weight=2.0), rel=1e-5)
    assert heavier != lighter


def test_energies_bend_where_they_are_told_to(rows):
    """Far beyond the bend the loss is linear in it, of energies alone; unsaid, all errors bend alike."""
    without = [replace(row, gradient=None, soft=None, energy=1000.0 * row.energy) for row in rows]
    half, whole = (loss(without, energy_huber=bend) for bend in (0.5, 1.0))
    assert whole == pytest.approx(2.0 * half, rel=0.02)
    assert loss(without) == loss(without, energy_huber=STAGE.huber) > 2.0 * whole
    gradients = loss(rows) - loss([replace(row, gradient=None, soft=None) for row in rows])
    with_gradients = [replace(row, energy=1000.0 * row.energy) for row in rows]
    assert loss(with_gradients, energy_huber=1.0) == pytest.approx(whole + gradients, rel=1e-4)


def test_molecules_without_impropers_have_a_loss(rows):
    """A batch of them alone; the penalty on torsions is a mean over none there."""
    assert [len(row.indices.impropers) > 0 for row in rows] == [False, True]
    assert 0.1 < loss(rows[:1]) < 100.0


def test_a_row_below_a_height_has_the_points_there(rows):
    """All columns alike; energies centred again; without a point beyond it is the row itself."""
    row = rows[0]
    assert row.height.min() == 0.0
    height = float(row.height.sort().values[row.n_points // 2])
    low = row.below(height)
    kept = (row.height <= height).nonzero()[:, 0]
    assert 0 < low.n_points == len(kept) < row.n_points
    assert torch.equal(low.coords, row.coords[:, kept])
    assert torch.equal(low.gradient, row.gradient[:, kept])
    assert torch.equal(low.soft, row.soft[kept])
    assert torch.equal(low.height, row.height[kept])
    torch.testing.assert_close(low.energy.diff(), row.energy[kept].diff(), rtol=0, atol=1e-4)
    assert abs(float(low.energy.mean())) < 1e-5
    assert row.below(float(row.height.max())) is row
