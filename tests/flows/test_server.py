"""With a real Prefect server on loopback: runs are recorded there, and a schedule really fires."""

import contextlib
import fcntl
import os
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.campaign_flow import FLOW_NAME
from flows.doctor import check_scheduler
from flows.reconcile import reconcile

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]


@contextlib.contextmanager
def server_in(home, start, **settings):
    """A server with its data in a folder; the process, and the environment in which it is the server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
    }
    environment |= settings
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with start(command, home / "log", environment) as server:
        server.wait_until(lambda: is_up(url))
        yield server, environment | {"PREFECT_API_URL": url}


@pytest.fixture(scope="module")
def environment(tmp_path_factory, start):
    """The environment in which a server of its own home and port is the server."""
    with server_in(tmp_path_factory.mktemp("prefect"), start) as (_, environment):
        yield environment


def is_up(url):
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def ask(environment, path, **body):
    return httpx.post(f"{environment['PREFECT_API_URL']}/{path}", json=body, timeout=30).json()


def test_a_run_is_recorded_as_completed_with_its_outcome_table(
    tmp_path, environment, library, model_folder, command_line, run_to_end
):
    """`assign --prefect`: exit 3 for the broken record, one completed flow run, its table on the server."""
    command = command_line("assign", library, "--out", tmp_path / "out", "--model", model_folder, "--prefect")
    code, said, log = run_to_end(command, tmp_path / "log", environment)
    assert code == 3, log
    assert "3 of 4" in said
    (run,) = [run for run in ask(environment, "flow_runs/filter") if run["state_type"] == "COMPLETED"]
    tables = [a for a in ask(environment, "artifacts/filter") if a["key"] == "outcomes"]
    assert [table["flow_run_id"] for table in tables] == [run["id"]]


def test_doctor_finds_the_server(tmp_path, environment, command_line, run_to_end):
    """`doctor` says that the server answers."""
    _, said, _ = run_to_end(command_line("doctor"), tmp_path, environment)
    assert f"scheduler: {environment['PREFECT_API_URL']} answers 200" in said


def test_a_served_inbox_is_run_by_its_schedule_and_stops_in_mid_run(
    tmp_path, environment, library, model_folder, command_line, start
):
    """A cron schedule of every minute: a scheduled run appears and delivers; SIGTERM in mid-run ends all."""
    inbox, out = tmp_path / "inbox", tmp_path / "served"
    inbox.mkdir()
    library.rename(inbox / "library.smi")
    config = tmp_path / "settings.toml"
    config.write_text(f"model = {str(model_folder)!r}\n[export]\nformats = ['openmm']\n")
    command = command_line("serve", inbox, "--out", out, "--cron", "* * * * *", "--config", config)
    with start(command, tmp_path / "log", environment) as serving:
        serving.wait_until(
            lambda: [run for run in ask(environment, "flow_runs/filter") if run["auto_scheduled"]]
        )
        (table,) = serving.wait_until(lambda: list(out.glob("*/outcomes.csv")))
        assert len(table.read_text().splitlines()) == 5
        assert "minutes ago" in check_scheduler(environment["PREFECT_API_URL"]).detail
        (inbox / "long.smi").write_text("".join(f"CCO ethanol-{n}\n" for n in range(5000)))
        (deployment,) = [d for d in ask(environment, "deployments/filter") if not d["work_pool_name"]]
        ask(environment, f"deployments/{deployment['id']}/create_flow_run")
        serving.wait_until(lambda: list(out.glob("long-*/ligands/*")))
        serving.process.terminate()
        assert serving.process.wait(60) == 0
    (folder,) = out.glob("long-*")
    assert not (folder / "outcomes.csv").exists()
    with (folder / ".parmflow" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where somebody is still at work


def test_a_server_killed_in_mid_run_costs_no_ligand_and_hears_of_the_end_later(
    tmp_path, start, command_line, model_folder, monkeypatch
):
    """kill -9 of the server: the run ends well and says so; the server, back again, is told COMPLETED."""
    library, out, home = tmp_path / "library.smi", tmp_path / "out", tmp_path / "home"
    library.write_text("".join(f"{'C' * (1 + n % 8)}{'NOF'[n % 3]} lig-{n}\n" for n in range(24)))
    command = command_line(
        "assign", library, "--out", out, "--model", model_folder, "--formats", "openmm", "--prefect"
    )
    with server_in(home, start) as (server, environment):
        impatient = environment | {"PREFECT_CLIENT_MAX_RETRIES": "1"}  # seconds instead of minutes
        with start(command, tmp_path / "log", impatient) as running:
            running.wait_until(lambda: list(out.glob("ligands/*/*/check.json")), every=0.05)
            os.killpg(server.process.pid, signal.SIGKILL)
            assert running.process.wait(300) == 0
    assert "does not answer" in running.stderr.read_text()
    assert len((out / "outcomes.csv").read_text().splitlines()) == 25
    monkeypatch.setattr("flows.reconcile.YOUNG_SECONDS", 0.0)
    with server_in(home, start) as (_, environment):
        (run,) = ask(environment, "flow_runs/filter")
        assert run["state_type"] == "RUNNING"
        with temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}):
            reconcile([FLOW_NAME])
        (run,) = ask(environment, "flow_runs/filter")
    assert (run["state_type"], run["state"]["message"][:8]) == ("COMPLETED", "24 of 24")


def test_a_server_that_loses_every_event_costs_no_record(
    tmp_path, start, library, model_folder, command_line, run_to_end
):
    """Its recorder is off, so that it never hears of a task: the table of outcomes is whole all the same."""
    command = command_line(
        "assign", library, "--out", tmp_path / "out", "--model", model_folder, "--formats", "openmm"
    )
    deaf = {"PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED": "false"}
    with server_in(tmp_path / "home", start, **deaf) as (_, environment):
        code, said, log = run_to_end([*command, "--prefect"], tmp_path / "log", environment)
        (run,) = ask(environment, "flow_runs/filter")
        assert ask(environment, "task_runs/filter") == []
    assert code == 3, log
    assert "3 of 4" in said
    assert run["state_type"] == "COMPLETED"
    assert len((tmp_path / "out" / "outcomes.csv").read_text().splitlines()) == 5


def test_prefect_deploy_registers_the_jobs(tmp_path, environment, run_to_end):
    """The commands that prefect.yaml names: four deployments, whose schedules are those of the defaults."""
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    pool = ["work-pool", "create", "--type", "process", "parmflow"]
    deploy = ["deploy", "--all", "--prefect-file", str(ROOT / "prefect.yaml")]
    for words in (pool, deploy):
        code, said, log = run_to_end(
            [*prefect, *words], tmp_path / words[0], environment | {"PYTHONPATH": str(ROOT)}
        )
        assert code == 0, said + log
    made = [d for d in ask(environment, "deployments/filter") if d["work_pool_name"] == "parmflow"]
    crons = {d["name"]: d["schedules"][0]["schedule"]["cron"] for d in made}
    assert crons == {
        "inbox": "*/10 * * * *",
        "refine": "0 1 * * *",
        "retrain": "0 3 * * 0",
        "verify": "0 6 * * 0",
    }
    assert {d["schedules"][0]["schedule"]["timezone"] for d in made} == {"UTC"}
    assert {d["parameters"]["job"] for d in made} == set(crons)
