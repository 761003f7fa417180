"""With a real Prefect server on loopback: runs are recorded there, and a schedule really fires."""

import fcntl
import os
import socket
import sys

import httpx
import pytest

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory, start):
    """A server of its own home and port; the environment in which it is the server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("prefect")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with start(command, home / "log", environment) as server:
        url = f"http://127.0.0.1:{port}/api"
        server.wait_until(lambda: is_up(url))
        yield environment | {"PREFECT_API_URL": url}


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
        (inbox / "long.smi").write_text("".join(f"CCO ethanol-{n}\n" for n in range(5000)))
        (deployment,) = ask(environment, "deployments/filter")
        ask(environment, f"deployments/{deployment['id']}/create_flow_run")
        serving.wait_until(lambda: list(out.glob("long-*/ligands/*")))
        serving.process.terminate()
        assert serving.process.wait(60) == 0
    (folder,) = out.glob("long-*")
    assert not (folder / "outcomes.csv").exists()
    with (folder / ".parmflow" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where somebody is still at work
