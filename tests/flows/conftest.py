"""What the tests of the commands share: a small network with random weights, and processes that end."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid

import psycopg
import pytest
import torch

from models.charges import ChargeEnsemble, ChargeNetwork
from models.config import NetworkConfig
from models.network import ValenceEnsemble, ValenceNetwork
from models.weights import Model, save_model

PATIENCE = 300
"""seconds for anything that a test waits for, on a busy machine"""


class Running:
    """A process in a session of its own whose output goes to files, so that nobody waits for a pipe."""

    def __init__(self, command, folder, environment):
        folder.mkdir(parents=True, exist_ok=True)
        self.stdout, self.stderr = folder / "stdout", folder / "stderr"
        with self.stdout.open("w") as out, self.stderr.open("w") as error:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=error,
                env=os.environ | {"OMP_NUM_THREADS": "1"} if environment is None else environment,
                start_new_session=True,
            )

    def wait_until(self, question, *, every=0.5):
        """Ask until the answer is true; the answer. Fails where the process ends or patience does."""
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            ended = self.process.poll() is not None
            if answer := question():
                return answer
            assert not ended, f"ended with {self.process.returncode}: {self.stderr.read_text()}"
            time.sleep(every)
        raise AssertionError(f"no answer within {PATIENCE} s: {self.stderr.read_text()}")

    def wait_until_it_says(self, line):
        """Wait for a line of its progress."""
        self.wait_until(lambda: line in self.stderr.read_text(), every=0.01)

    def end(self, patience=30):
        """Ask it to end; kill its session where it does not."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.terminate()
            self.process.wait(patience)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(patience)


@contextlib.contextmanager
def _running(command, folder, environment=None):
    running = Running(command, folder, environment)
    try:
        yield running
    finally:
        running.end()


@pytest.fixture(scope="session")
def start():
    """A process for a `with` block, gone at its end: command, folder of its output, environment."""
    return _running


@pytest.fixture(scope="session")
def run_to_end(start):
    """Run a process; its exit code, stdout and stderr."""

    def run(command, folder, environment=None):
        with start(command, folder, environment) as running:
            code = running.process.wait(PATIENCE)
        return code, running.stdout.read_text(), running.stderr.read_text()

    return run


@pytest.fixture(scope="session")
def command_line():
    """The command `parmflow` with these arguments, by the code that is tested."""
    return lambda *arguments: [sys.executable, "-m", "flows.cli", *map(str, arguments)]


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
            charges=ChargeEnsemble([ChargeNetwork(16, 2)]),
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


@pytest.fixture(params=["sqlite", "postgres"])
def where(request, tmp_path):
    """What `--store` is given: a folder, or the address of a database of its own."""
    if request.param == "sqlite":
        return str(tmp_path / "store")
    address, name = request.getfixturevalue("postgres"), f"db_{uuid.uuid4().hex[:16]}"
    with psycopg.connect(address.replace("+psycopg", ""), autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
    return address.replace("+psycopg", "").replace("/postgres", f"/{name}")
