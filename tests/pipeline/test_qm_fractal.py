"""A real QCFractal server as the engine; skipped where it, its worker or qcportal is not installed."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import which

import numpy as np
import pytest

from pipeline.errors import QMError, SettingsError
from pipeline.outcome import Failure
from pipeline.process.child import Limits
from pipeline.qm.door import run_task
from pipeline.qm.remote import Login, connect
from pipeline.schema import QMRecord
from pipeline.settings import ServerSettings
from pipeline.store import SUBMITTED, Attempt, QMStore
from tests.fractal_server import FractalServer, make_tasks, run_remotely

pytestmark = pytest.mark.qcfractal
LIMITS = Limits(wall_seconds=280, memory_mb=2048)


@pytest.fixture(scope="module")
def fractal(request: pytest.FixtureRequest) -> Iterator[FractalServer]:
    """A server without a worker yet."""
    pytest.importorskip("qcportal")
    pytest.importorskip("qcfractalcompute")
    pytest.importorskip("qcfractal")
    server = FractalServer(request.getfixturevalue("postgres"))
    try:
        yield server
    finally:
        server.stop()


def kinds_in(store: QMStore) -> Counter[str]:
    """How often tries ended how."""
    return Counter(attempt.kind for attempt in store.attempts())


def test_a_budget_ends_the_wait_and_the_next_run_collects(fractal: FractalServer, tmp_path: Path) -> None:
    """Nobody computes yet: the tasks are left there. A killed run, too, leaves them; when a worker comes, a
    third run finds the same records. Each was submitted once and computed once, and nobody holds a lease.
    """
    tasks, path = make_tasks(3), tmp_path / "qm.sqlite"
    with QMStore(path) as store:
        endings = run_remotely(fractal.connect(), store, tasks, seconds=1.0)
        assert {ending.kind for ending in endings.values() if isinstance(ending, Failure)} == {"budget"}
        assert "repeat the command to collect it" in endings[tasks[0].key].message
    command = [sys.executable, "-m", "tests.fractal_server", fractal.address, str(path), "5"]
    runner = subprocess.Popen(command)
    with QMStore(path) as store:
        while kinds_in(store)[SUBMITTED] < 5:
            assert runner.poll() is None
            time.sleep(0.2)
    runner.send_signal(signal.SIGKILL)
    runner.wait(60)
    fractal.start_worker()
    tasks = make_tasks(5)
    with QMStore(path) as store:
        endings = run_remotely(fractal.connect(), store, tasks)
        assert all(isinstance(ending, QMRecord) for ending in endings.values())
        assert kinds_in(store) == {SUBMITTED: 5, "ok": 5}
        numbers = {dict(record.provenance)["server_record"] for record in endings.values()}
    records = fractal.client().get_singlepoints(sorted(map(int, numbers)))
    assert len(records) == 5
    assert [len(record.compute_history) for record in records] == [1] * 5


def test_two_stores_ask_one_server_and_it_computes_once(fractal: FractalServer, tmp_path: Path) -> None:
    """A store that knows nothing of the records gets them at once: the server knows the questions."""
    fractal.start_worker()
    tasks = make_tasks(2)
    found = []
    for name in ("one", "two"):
        with QMStore(tmp_path / name) as store:
            endings = run_remotely(fractal.connect(), store, tasks)
            found.append([dict(endings[task.key].provenance)["server_record"] for task in tasks])
    assert found[0] == found[1]


@pytest.mark.skipif(which("mopac") is None, reason="needs mopac")
def test_mopac_there_is_mopac_here(fractal: FractalServer, tmp_path: Path) -> None:
    """Energy and gradient of a turned water: those of our own engine, in the task's frame."""
    fractal.start_worker()
    (task,) = make_tasks(1)
    with QMStore(tmp_path / "qm.sqlite") as store:
        there = run_remotely(fractal.connect(), store, [task])[task.key]
    here = run_task(task, LIMITS)
    assert isinstance(there, QMRecord)
    # QCEngine asks MOPAC for other thresholds than we do.
    assert there.energy == pytest.approx(here.energy, abs=2e-3)
    np.testing.assert_allclose(there.gradient, here.gradient, atol=2e-2)


@pytest.mark.psi4
def test_psi4_there_is_psi4_here(fractal: FractalServer, tmp_path: Path) -> None:
    """B3LYP-D3BJ with the same keywords, and the dispersion added here: equal to SCF convergence."""
    fractal.start_worker()
    (task,) = make_tasks(1, "psi4", "b3lyp-d3bj/3-21g")
    with QMStore(tmp_path / "qm.sqlite") as store:
        there = run_remotely(fractal.connect(), store, [task])[task.key]
    here = run_task(task, LIMITS)
    assert isinstance(there, QMRecord)
    assert there.energy == pytest.approx(here.energy, abs=1e-4)
    np.testing.assert_allclose(there.gradient, here.gradient, atol=1e-3)
    assert dict(there.provenance)["version"] == dict(here.provenance)["version"]


@pytest.mark.psi4
def test_an_error_record_is_classified_and_asked_for_again(fractal: FractalServer, tmp_path: Path) -> None:
    """psi4 that gives up after one cycle is kind scf: final. A later run does not have it computed again."""
    fractal.start_worker()
    (task,) = make_tasks(1, "psi4", "hf/3-21g")
    task = replace(task, spec=replace(task.spec, keywords=(("maxiter", 1),)))
    with QMStore(tmp_path / "qm.sqlite") as store:
        for _ in range(2):
            failure = run_remotely(fractal.connect(), store, [task])[task.key]
            assert isinstance(failure, Failure)
            assert (failure.kind, failure.retryable) == ("scf", False)
            assert "record" in failure.message
        number = int(store.attempts(task.key)[0].message.split()[-1])
        assert kinds_in(store) == {SUBMITTED: 1, "scf": 2}
    assert len(fractal.client().get_singlepoints([number])[0].compute_history) == 1


def test_a_cancelled_record_is_a_failure_and_a_deleted_one_is_asked_for_again(
    fractal: FractalServer, tmp_path: Path
) -> None:
    """What somebody cancelled there stays so, and its number is said; what is gone is submitted anew."""
    fractal.start_worker()
    cancelled, deleted = make_tasks(12)[10:]
    client = fractal.client()
    with QMStore(tmp_path / "qm.sqlite") as store:
        answer = fractal.connect().submit([cancelled])
        number, _ = answer[cancelled.key]
        client.cancel_records([number])
        failure = run_remotely(fractal.connect(), store, [cancelled])[cancelled.key]
        if isinstance(failure, Failure):  # unless the worker was faster
            assert f"record {number}" in failure.message
            assert "cancelled" in failure.message
        first = run_remotely(fractal.connect(), store, [deleted])[deleted.key]
        old = int(dict(first.provenance)["server_record"])
        client.delete_records([old], soft_delete=False)
    with QMStore(tmp_path / "new.sqlite") as store:
        submission = Attempt(
            task_key=deleted.key,
            seconds=0.0,
            predicted_seconds=None,
            kind=SUBMITTED,
            message=f"record {old}",
            host=fractal.address,
        )
        store.add_attempt(submission)
        again = run_remotely(fractal.connect(), store, [deleted])[deleted.key]
        assert int(dict(again.provenance)["server_record"]) != old
        assert again.energy == pytest.approx(first.energy, abs=1e-9)


def test_a_server_that_goes_away_is_a_sentence_and_nothing_is_lost(
    fractal: FractalServer, tmp_path: Path
) -> None:
    """The batch ends with what to do; when the server is back, the same command goes on."""
    fractal.start_worker()
    (task,) = make_tasks(31)[30:]
    server = fractal.connect()
    with QMStore(tmp_path / "qm.sqlite") as store:
        fractal.go_away()
        try:
            with pytest.raises(QMError, match=r"does not answer.*\n.*give the same command again") as caught:
                run_remotely(server, store, [task])
            with pytest.raises(SettingsError, match="cannot be used"):
                connect(ServerSettings(address=fractal.address))
        finally:
            fractal.come_back()
        assert (caught.value.kind, caught.value.retryable) == ("server", True)
        assert isinstance(run_remotely(server, store, [task])[task.key], QMRecord)


def test_what_the_workers_run_is_listed(fractal: FractalServer) -> None:
    """Programs with versions for the tag that every worker takes, none for a stranger's tag."""
    fractal.start_worker()
    while not fractal.connect().programs():
        time.sleep(0.5)  # the worker announces itself
    assert "mopac" in fractal.connect().programs()
    assert fractal.connect().in_words("mopac").startswith(f"{fractal.address} (mopac ")
    assert "nobody runs nwchem" in fractal.connect().in_words("nwchem")


def test_a_password_is_in_no_sentence(fractal: FractalServer) -> None:
    """This server takes no logins; its refusal does not repeat ours."""
    login = Login(user="me", password="hush-hush")
    with pytest.raises(SettingsError) as caught:
        connect(ServerSettings(address=fractal.address), login)
    assert "hush" not in str(caught.value) + repr(login)
