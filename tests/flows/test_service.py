"""The service: its settings, what it takes from the inbox, and which model it uses."""

import dataclasses
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem
from typer.testing import CliRunner

from flows import registry
from flows.cli import app
from flows.doctor import check_scheduler
from flows.retraining import judge
from flows.server_away import wait_for_server
from flows.service import build_service, folder_of, library_files, read_service, request_for
from flows.service_flow import deployments_of
from models.dataset import read_qm_examples
from models.evaluation.scoring import class1_method
from models.predict import load_predictor
from models.weights import load_model_folder, save_model
from pipeline.errors import SettingsError
from pipeline.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def service(tmp_path):
    (tmp_path / "inbox").mkdir()
    values = {"inbox": "inbox", "out": "out", "quiet_seconds": 5.0, "refine": {"budget": "2h"}}
    return build_service(values, Settings(), tmp_path)


@pytest.fixture
def models(tmp_path, model_folder):
    """A registry with two networks, of which nobody trained either; their names."""
    folder = tmp_path / "registry"
    folder.mkdir()
    other = load_model_folder(model_folder)
    with torch.no_grad():
        for weight in other.valence.parameters():
            weight.mul_(1.05)
    save_model(dataclasses.replace(other, version="1"), tmp_path / "other")
    return folder, registry.add(folder, model_folder), registry.add(folder, tmp_path / "other")


def test_the_documented_settings_file_is_valid():
    """docs/parmflow.toml: its jobs with their schedules, paths relative to the file."""
    service = read_service(ROOT / "docs" / "parmflow.toml")
    assert service.crons() == {"inbox": "*/10 * * * *", "refine": "0 1 * * *", "verify": "0 6 * * 0"}
    assert service.inbox == ROOT / "docs" / "inbox"
    assert service.settings.notify.failed_fraction == 0.2


def test_a_server_that_is_still_starting_is_waited_for(capsys):
    """Started together, as by docker compose: the first answers come late, and some as errors."""
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(503 if len(asked) < 3 else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server, bind_and_activate=False)
    server.server_bind()
    late = threading.Timer(1.0, lambda: (server.server_activate(), server.serve_forever()))
    late.start()
    try:
        wait_for_server(f"http://127.0.0.1:{server.server_port}/api", patience=60.0)
    finally:
        server.shutdown()
        late.join()
        server.server_close()
    assert asked == ["/api/health"] * 3
    assert capsys.readouterr().err.count("waiting for the Prefect server") == 1


def test_a_server_that_does_not_answer_is_said_in_a_sentence():
    """Nobody is there."""
    with pytest.raises(SettingsError, match="no Prefect server answers at PREFECT_API_URL"):
        wait_for_server("http://127.0.0.1:9/api", patience=0.0)


@pytest.mark.parametrize("url", ["nonsense", "http://:x/"])
def test_what_is_no_address_is_not_waited_for(url):
    """Said at once, and by `doctor` in the same words."""
    with pytest.raises(SettingsError, match="is no web address") as caught:
        wait_for_server(url, patience=1e6)
    assert check_scheduler(url).detail == str(caught.value)


def test_schedules_are_in_utc(service):
    """Whatever the zone of the machine: each job's cron expression, in UTC."""
    schedules = {made.name: made.schedules[0].schedule for made in deployments_of(service, None)}
    assert {name: (one.cron, one.timezone) for name, one in schedules.items()} == {
        name: (cron, "UTC") for name, cron in service.crons().items()
    }


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"inbox": "a"}, "out"),
        ({"inbox": "a", "out": "b", "inbx": "c"}, "inbx"),
        ({"inbox": "a", "out": "b", "refine": {"budget": "soon"}}, "duration"),
        ({"inbox": "a", "out": "b", "ledger": "postgresql://me:secret@host/db"}, "pgpass"),
        ({"inbox": "a", "out": "b", "store": "mysql://host/db"}, "PostgreSQL"),
    ],
)
def test_a_slip_in_the_service_is_named(tmp_path, values, reason):
    """A missing path, an unknown key, a budget that is none, an address that cannot serve."""
    with pytest.raises(SettingsError, match=reason):
        build_service(values, Settings(), tmp_path)


def test_ledger_and_store_may_be_in_postgresql(tmp_path):
    """As on the command line: an address is taken as it is, a folder from the settings file."""
    values = {"inbox": "in", "out": "out", "ledger": "postgresql://h/db", "store": "postgresql://h/db"}
    apart = build_service(values, Settings(), tmp_path)
    assert (apart.ledger, apart.qm_store) == ("postgresql+psycopg://h/db",) * 2
    beside = build_service(values | {"store": "store"}, Settings(), tmp_path)
    assert beside.qm_store == str(tmp_path / "store")


def test_a_file_is_known_by_its_content_and_left_while_it_is_written(service):
    """The same bytes under two names have one folder; a file of this moment is not looked at yet."""
    first, copy, fresh = (service.inbox / name for name in ("a.smi", "b.smi", "c.smi"))
    for path in (first, copy, fresh):
        path.write_text("C methane\n")
    for path in (first, copy):
        os.utime(path, (1e9, 1e9))
    assert library_files(service) == [first, copy]
    folder_of(service, first).mkdir(parents=True)
    assert folder_of(service, copy) == folder_of(service, first)
    first.write_text("CC ethane\n")
    assert folder_of(service, first) != folder_of(service, copy)


@pytest.mark.parametrize("first", [True, False])
def test_refined_and_assigned_have_folders_of_their_own_whichever_is_first(service, first):
    """The folder that one job made is neither taken nor renamed by the other, and found again by its own."""
    library = service.inbox / "a.smi"
    library.write_text("C methane\n")
    made = request_for(service, library, refine=first).out
    made.mkdir(parents=True)
    other = request_for(service, library, refine=not first).out
    assert other != made
    other.mkdir()
    for refine, folder in ((first, made), (not first, other)):
        assert request_for(service, library, refine=refine).out == folder


def test_the_nightly_refinement_has_its_budget_and_stops_there(service):
    """Two hours, then the rest another night; in a folder beside the assigned one."""
    library = service.inbox / "a.smi"
    library.write_text("C methane\n")
    assigned, refined = (request_for(service, library, refine=refine) for refine in (False, True))
    assert (refined.settings.qm.budget_seconds, refined.settings.qm.over_budget) == (7200.0, "stop")
    assert refined.out != assigned.out
    assert assigned.settings.qm.budget_seconds is None


def reference_table(path, predictor):
    """Geometries of two molecules with the energies that this model gives: it is exact there."""
    rows = []
    for smiles in ("CCO", "CNC"):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        AllChem.EmbedMolecule(mol, randomSeed=5)
        shake = np.random.default_rng(4).normal(scale=0.05, size=(6, mol.GetNumAtoms(), 3))
        for atom in mol.GetAtoms():
            atom.SetAtomMapNum(atom.GetIdx() + 1)
        rows.append(
            {
                "source": "made",
                "kind": "minima",
                "level": "made",
                "key": smiles,
                "mapped_smiles": Chem.MolToSmiles(mol),
                "charge": 0,
                "n_atoms": mol.GetNumAtoms(),
                "n_confs": 6,
                "coords": (mol.GetConformer().GetPositions() + shake).astype(np.float32).ravel(),
                "energy": np.zeros(6),
                "gradient": None,
                "dihedral": None,
                "grid": None,
            }
        )
    pd.DataFrame(rows).to_parquet(path)
    method = class1_method(predictor.predict)
    for row, example in zip(rows, read_qm_examples(path)[0], strict=True):
        row["energy"] = method(example).energy
    pd.DataFrame(rows).to_parquet(path)


def test_a_retrained_model_is_promoted_only_if_it_beats_the_one_in_use(tmp_path, models):
    """References from the second model: it replaces the first; the first does not come back by itself."""
    folder, first, second = models
    table = tmp_path / "evaluation.parquet"
    reference_table(table, load_predictor(str(folder / second)))
    registry.promote(folder, first, why="to begin with")
    said = []
    better = judge(second, table, folder, said.append)
    assert better.promoted
    assert better.error < 1e-4 < better.error_in_use
    assert registry.current(folder) == folder / second
    worse = judge(first, table, folder, said.append)
    assert not worse.promoted
    assert registry.current(folder) == folder / second
    assert "kept, not promoted" in said[-1]
    assert registry.names(folder) == sorted([first, second])


def test_a_promotion_is_rolled_back_by_one_command(tmp_path, models):
    """Two promotions, rolled back one by one to the shipped default; then there is nothing to undo."""
    folder, first, second = models

    def run(*arguments):
        return CliRunner().invoke(app, ["models", *arguments, "--registry", str(folder)])

    nothing = CliRunner().invoke(app, ["models", "list", "--registry", str(tmp_path / "none")]).stdout
    assert "none holds no retrained models" in " ".join(nothing.split())
    for name in (first, second):
        assert run("promote", name).exit_code == 0
    assert "no retrained models" not in run("list").stdout
    listed = run("list").stdout
    assert f"* {second}" in listed
    assert f"  {first}" in listed
    assert first in run("rollback").stdout
    assert registry.current(folder) == folder / first
    assert "shipped default" in run("rollback").stdout
    assert registry.current(folder) is None
    assert run("rollback").exit_code == 2
    assert run("promote", "no-such-model").exit_code == 2


def test_a_damaged_model_is_not_promoted(models):
    """A byte changed in the kept weights: refused by its hash, the model in use stays."""
    folder, first, _ = models
    weights = folder / first / "valence.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(SettingsError):
        registry.promote(folder, first, why="by hand")
    assert registry.current(folder) is None
    shutil.rmtree(folder / first)
