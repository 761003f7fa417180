"""With a real Prefect server on loopback: runs are recorded there, and a schedule really fires."""

import os
import socket
import subprocess
import sys
import time

import httpx
import pytest

pytestmark = pytest.mark.server

PATIENCE = 120
"""seconds for a server to come up, or a schedule to fire, on a busy machine"""


def wait_until(question, *, of):
    """Ask every half second until the answer is true; the answer."""
    for _ in range(2 * PATIENCE):
        answer = question()
        if answer:
            return answer
        assert of.poll() is None, f"ended with {of.returncode}"
        time.sleep(0.5)
    raise AssertionError(f"no answer within {PATIENCE} s")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
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
    log = (home / "server.log").open("w")
    with log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server:
        url = f"http://127.0.0.1:{port}/api"
        try:
            wait_until(lambda: is_up(url), of=server)
            yield environment | {"PREFECT_API_URL": url}
        finally:
            server.terminate()


def is_up(url):
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def ask(environment, path, **body):
    return httpx.post(f"{environment['PREFECT_API_URL']}/{path}", json=body, timeout=30).json()


def parmflow(*arguments):
    return [sys.executable, "-m", "flows.cli", *map(str, arguments)]


def test_a_run_is_recorded_as_completed_with_its_outcome_table(tmp_path, environment, library, model_folder):
    """`assign --prefect`: exit 3 for the broken record, one completed flow run, its table on the server."""
    command = parmflow("assign", library, "--out", tmp_path / "out", "--model", model_folder, "--prefect")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "3 of 4" in done.stdout
    (run,) = [run for run in ask(environment, "flow_runs/filter") if run["state_type"] == "COMPLETED"]
    tables = [a for a in ask(environment, "artifacts/filter") if a["key"] == "outcomes"]
    assert [table["flow_run_id"] for table in tables] == [run["id"]]


def test_doctor_finds_the_server(environment):
    """`doctor` says that the server answers."""
    done = subprocess.run(parmflow("doctor"), env=environment, capture_output=True, text=True, check=False)
    assert f"scheduler: {environment['PREFECT_API_URL']} answers 200" in done.stdout


def test_a_served_inbox_is_run_by_its_schedule(tmp_path, environment, library, model_folder):
    """A deployment with a cron schedule of every minute: a scheduled run appears and delivers."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    library.rename(inbox / "library.smi")
    config = tmp_path / "settings.toml"
    config.write_text(f"model = {str(model_folder)!r}\n")
    out = tmp_path / "served"
    command = parmflow("serve", inbox, "--out", out, "--cron", "* * * * *", "--config", config)
    log = (tmp_path / "serve.log").open("w")
    with log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as serving:
        try:
            scheduled = wait_until(
                lambda: [
                    run
                    for run in ask(environment, "flow_runs/filter")
                    if run["deployment_id"] and run["auto_scheduled"]
                ],
                of=serving,
            )
            wait_until(lambda: list(out.glob("*/outcomes.csv")), of=serving)
        finally:
            serving.terminate()
    assert scheduled
    (table,) = out.glob("*/outcomes.csv")
    assert len(table.read_text().splitlines()) == 5
