"""Training on another device: every tensor of it lies there, and the numbers are those of the CPU."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from models.charges import ChargeEnsemble, ChargeNetwork
from models.config import read_config
from models.loss import draw_batch, stiffness_pull, valence_loss
from models.network import ValenceNetwork
from models.train import train
from models.training.rows import prepare_rows, sage_labeller
from pipeline.errors import SettingsError
from tests.training_tables import CONFIG, write_training_tables

ONE_EPOCH = CONFIG.replace("epochs = 3", "epochs = 1").replace("epochs = 2", "epochs = 1")


def silent(line: str) -> None:
    """Report nothing."""


@pytest.fixture
def data(tmp_path, build_ligand):
    return write_training_tables(tmp_path, build_ligand)


def weights_trained_on(device, folder, data):
    """All valence weights after an epoch of each stage, both forms, on a device."""
    config = folder / f"{device}.toml"
    config.write_text(ONE_EPOCH.replace("members = 2", f'members = 1\ndevice = "{device}"'))
    model = train(config, data, folder / device, report=silent)
    return {**model.valence.state_dict(prefix="class1."), **model.class2.state_dict(prefix="class2.")}


def loss_and_gradient(device, config, data):
    """The QM loss of all rows, and its gradient by the weights of a class II network, by name."""
    torch.manual_seed(5)
    stage = config.valence
    charges = ChargeEnsemble([ChargeNetwork(16, 2)])
    prior = sage_labeller(data / "tiny.offxml")
    rows = prepare_rows([data / "qm" / "train.parquet"], charges, stage, prior, silent)
    model = ValenceNetwork(16, 2, form="class2", pairs=True).to(device)
    batch = draw_batch(rows, 6, np.random.default_rng(0), pairs=True).to(torch.device(device))
    valence = model(batch.graphs, batch.indices)
    loss = valence_loss(valence, batch, stage) + stiffness_pull(valence, rows)
    loss.backward()
    return {"loss": loss.detach()} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def assert_close(ours, theirs):
    """To a hundred roundings of float32 of the largest number in a tensor."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        tolerance = 1e-5 * max(1.0, float(value.abs().max()))
        torch.testing.assert_close(theirs[name].cpu(), value, rtol=0, atol=tolerance, msg=name)


def alone(check, *arguments):
    """Run a check in a process of its own: torch keeps a pretended device for whatever runs after it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(check, *arguments).result()


def check_training(folder, data):
    """The numbers on the device are the CPU's."""
    from tests.pretended_device import DEVICE, PretendedDevice

    config = read_config(folder / "tiny.toml")
    gradient, weights = loss_and_gradient("cpu", config, data), weights_trained_on("cpu", folder, data)
    with PretendedDevice() as device:
        assert_close(gradient, loss_and_gradient(DEVICE, config, data))
        assert_close(weights, weights_trained_on(DEVICE.type, folder, data))
    assert device.n_operations > 1000


def check_sums():
    """A sum over two devices is an error, as on a GPU; a scalar may come along."""
    from tests.pretended_device import DEVICE, PretendedDevice

    with PretendedDevice():
        there = torch.ones(2).to(DEVICE)
        assert (there + torch.tensor(1.0)).tolist() == [2.0, 2.0]
        with pytest.raises(AssertionError, match="stayed on the CPU"):
            there + torch.ones(2)


def test_training_leaves_no_tensor_behind(tmp_path, data):
    """On a device that only pretends: thousands of operations there, none with a tensor of the CPU."""
    alone(check_training, tmp_path, data)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
def test_a_gpu_trains_to_the_same_numbers(tmp_path, data):
    """The same on a real one: loss, gradient, and the weights after an epoch of each stage."""
    config = read_config(tmp_path / "tiny.toml")
    assert_close(loss_and_gradient("cpu", config, data), loss_and_gradient("cuda", config, data))
    assert_close(weights_trained_on("cpu", tmp_path, data), weights_trained_on("cuda", tmp_path, data))


def test_side_by_side_on_another_device_is_refused(tmp_path, data):
    """A device's driver does not survive the fork that members side by side need: said at once."""
    config = tmp_path / "tiny.toml"
    config.write_text(CONFIG.replace("members = 2", 'members = 2\nprocesses = 2\ndevice = "cuda"'))
    with pytest.raises(SettingsError, match="processes = 1"):
        train(config, data, tmp_path / "run", report=silent)
    assert not (tmp_path / "run").exists()


def test_a_tensor_left_behind_is_found():
    """The device does refuse what stayed on the CPU."""
    alone(check_sums)
