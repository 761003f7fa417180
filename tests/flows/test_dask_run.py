"""Several machines, played by processes: a scheduler and two workers, one of them killed."""

import csv
import os
import signal
import socket
import sys

import pytest

from flows import batch
from flows.dask_run import run_on_dask
from flows.progress import Lines
from flows.request import Request, settings_from
from pipeline.errors import ParmflowError, SettingsError, UsageError
from pipeline.ledger import Ledger
from pipeline.run_folder import ledger_place

N_RECORDS = 12

pytestmark = pytest.mark.timeout(900)


def test_a_killed_worker_loses_nothing_and_repeats_nothing(tmp_path, start, model_folder, postgres):
    """kill -9 of one of two workers in mid-run, ledger in PostgreSQL: outputs of one process, each once."""
    library = tmp_path / "library.smi"
    library.write_text("".join(f"{'C' * (1 + n % 8)}{'NOF'[n % 3]} lig-{n}\n" for n in range(N_RECORDS)))

    def request_for(out, ledger=""):
        return Request(
            command="assign",
            libraries=(library,),
            out=tmp_path / out,
            store=str(tmp_path / "store"),
            ledger=ledger,
            settings=settings_from(
                None, {"model": str(model_folder), "export.formats": ("openmm",), "jobs": 1}
            ),
        )

    request = request_for("by-two", postgres)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    dask = [sys.executable, "-m", "dask"]
    scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    worker = [*dask, "worker", f"tcp://127.0.0.1:{port}", "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    with (
        start(scheduler, tmp_path / "scheduler"),
        start([*worker, "--local-directory", str(tmp_path / "a")], tmp_path / "log-a") as first,
        start([*worker, "--local-directory", str(tmp_path / "b")], tmp_path / "log-b") as second,
    ):
        for process in (first, second):
            process.wait_until(lambda running=process: "Registered to" in running.stderr.read_text())
        killer = _kill_in_mid_run(first)
        lines = []
        counts = run_on_dask(request, f"tcp://127.0.0.1:{port}", Watch(lines, killer))
    assert counts == {"n_records": N_RECORDS, "n_ok": N_RECORDS, "n_failed": 0}
    assert first.process.returncode == -signal.SIGKILL

    alone = request_for("alone")
    batch.run(alone, Lines([].append))
    for name in ("parameters.json", "openmm_system.xml"):
        assert files_of(request.out, name) == files_of(alone.out, name)
    assert rows_of(request.out) == rows_of(alone.out)
    ledger = Ledger(ledger_place(request.out), read_only=True)
    deliveries = [
        sum(step.stage == "deliver" for step in ledger.history.of(ledger.record(number)[0]))
        for number in range(1, N_RECORDS + 1)
    ]
    assert deliveries == [1] * N_RECORDS


class Watch(Lines):
    """Kills when the first shard has come back."""

    def __init__(self, lines, kill):
        super().__init__(lines.append)
        self._kill = kill

    def advance(self, stage):
        super().advance(stage)
        self._kill()


def _kill_in_mid_run(running):
    def kill():
        if running.process.poll() is None:
            os.kill(running.process.pid, signal.SIGKILL)
            running.process.wait(60)

    return kill


def files_of(out, name):
    return {path.parent.name: path.read_bytes() for path in out.glob(f"ligands/*/*/{name}")}


def rows_of(out):
    with (out / "outcomes.csv").open(newline="") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


@pytest.mark.parametrize("command", ["assign", "refine"])
def test_what_dask_cannot_do_is_said_and_leaves_no_folder(
    tmp_path, library, model_folder, command, monkeypatch
):
    """No scheduler at the address; a command it is not for."""
    monkeypatch.setattr("flows.dask_run._CONNECT_SECONDS", 1)
    request = Request(
        command=command,
        libraries=(library,),
        out=tmp_path / "out",
        store=str(tmp_path / "store"),
        settings=settings_from(None, {"model": str(model_folder)}),
    )
    with pytest.raises(SettingsError, match=r"no scheduler|for `assign`"):
        run_on_dask(request, "tcp://127.0.0.1:9", Lines([].append))
    assert not (tmp_path / "out").exists()


def test_what_one_worker_cannot_do_leaves_the_run_as_it_is(tmp_path, library, model_folder, monkeypatch):
    """A worker without a program that the first shard did not need: no refusal, and nothing is removed."""
    from distributed import LocalCluster

    def fail(request_json, numbers):
        raise SettingsError("gmx_d is not installed here")

    monkeypatch.setattr("flows.dask_run.run_shard", fail)
    settings = settings_from(None, {"model": str(model_folder), "export.formats": ("openmm",)})
    request = Request(
        command="assign", libraries=(library,), out=tmp_path / "out", store="", settings=settings
    )
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        pytest.raises(ParmflowError, match="gmx_d is not installed here") as caught,
    ):
        run_on_dask(request, cluster.scheduler_address, Lines([].append))
    assert not isinstance(caught.value, UsageError)
    assert (request.out / "run.json").is_file()
