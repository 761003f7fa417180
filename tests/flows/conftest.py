"""What the tests of the commands share: a small network with random weights, saved as shipped ones are."""

import pytest
import torch

from models.charges import ChargeNetwork
from models.config import NetworkConfig
from models.network import ValenceEnsemble, ValenceNetwork
from models.weights import Model, save_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """Folder of a network that nobody trained: its parameters are poor, but real in every other way."""
    folder = tmp_path_factory.mktemp("model") / "tiny" / "0"
    size = NetworkConfig(width=16, n_layers=2)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Model(
            name="tiny",
            version="0",
            sha256="",
            charges=ChargeNetwork(16, 2),
            valence=ValenceEnsemble([ValenceNetwork(16, 2)]),
            sizes={"charges": size, "valence": size},
        )
    save_model(model, folder)
    return folder


@pytest.fixture
def library(tmp_path):
    """Two small molecules, one of them twice, around a broken line."""
    path = tmp_path / "library.smi"
    path.write_text("CO methanol\nC=O formaldehyde\nno-smiles broken\nOC methanol-again\n")
    return path


@pytest.fixture
def fast(tmp_path):
    """Settings with which refine takes a second: GFN2-xTB and a few steps of tuning."""
    path = tmp_path / "fast.toml"
    path.write_text("[qm]\nspec = 'fast'\n[fine_tune]\nsteps = 5\n")
    return path
