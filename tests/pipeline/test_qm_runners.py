"""Several runners on one store: each job once, nobody waits for the dead, a sleeper writes nothing."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shutil import which

import psutil
import pytest

from pipeline.database import Place
from pipeline.errors import StoreError
from pipeline.qm.batch import Batch
from pipeline.schema import QMRecord
from pipeline.store import Attempt, Entry, Lease, QMStore, Refused
from pipeline.store.leases import own_name
from tests.process_tree import runs
from tests.scripted_engine import SETTINGS, Scripted, final_state, make_task, start_runner, successes


def test_two_runners_compute_each_job_once(place: Place, tmp_path: Path) -> None:
    """Two processes with the same forty tasks: forty results, forty successes, both heard of all."""
    runners = [start_runner(place, tmp_path / "s", 40, seed) for seed in (1, 2)]
    outputs = [runner.communicate(timeout=280)[0].split("\n")[:-1] for runner in runners]
    assert [runner.returncode for runner in runners] == [0, 0]
    assert [sorted(output) for output in outputs] == [sorted(f"task {n}" for n in range(40))] * 2
    assert sorted(successes(place).values()) == [1] * 40


def test_killed_at_random_ten_times_ends_as_if_never_killed(
    make_place: Callable[[str], Place], tmp_path: Path
) -> None:
    """`kill -9` of the runner at random moments of a batch, again and again: the store ends equal to an
    undisturbed run's, each job was finished once, and no process and no lease is left.
    """
    chance, place, quiet = random.Random(7), make_place("killed"), make_place("quiet")
    for seed in range(10):
        runner = start_runner(place, tmp_path / "s", 40, seed)
        assert runner.stdout is not None
        for _ in range(chance.randrange(1, 6)):
            runner.stdout.readline()
        time.sleep(chance.uniform(0.0, 0.05))
        runner.send_signal(signal.SIGKILL)
        runner.communicate(timeout=60)
    last, undisturbed = start_runner(place, tmp_path / "s", 40), start_runner(quiet, tmp_path / "u", 40)
    assert [runner.wait(timeout=200) for runner in (last, undisturbed)] == [0, 0]
    assert final_state(place) == final_state(quiet)
    assert len(final_state(place)) == 40
    assert sorted(successes(place).values()) == [1] * 40
    with QMStore(place) as store:
        assert store.database.number("SELECT count(*) FROM leases") == 0


_ENTER = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")


@pytest.mark.skipif(
    which("unshare") is None or subprocess.run([*_ENTER, "true"], capture_output=True).returncode != 0,
    reason="may make no process namespaces here",
)
def test_a_runner_in_another_container_is_not_taken_for_dead(place: Place) -> None:
    """Its process number means nothing here, though the machine's name is ours: its lease runs to its end."""
    ask = "from pipeline.store.leases import own_name; print(own_name(), end='')"
    other = subprocess.check_output([*_ENTER, sys.executable, "-c", ask], text=True)
    assert other.split()[1] == "1"
    with QMStore(place) as store:
        store.claim("task", other)
        assert store.claim("task", own_name()) is Refused.TAKEN


def test_the_jobs_of_a_killed_runner_are_taken_over_at_once(place: Place) -> None:
    """A runner killed in mid-job leaves a lease of a dead process: the next one does not wait for its end."""
    task = make_task("long")
    code = (
        "import sys; from pipeline.database import Place; from pipeline.qm.batch import Batch\n"
        "from pipeline.store import QMStore; from tests.scripted_engine import *\n"
        "with QMStore(Place(url=sys.argv[1], schema=sys.argv[2])) as store, "
        "Batch(store, SETTINGS, jobs=1, start=Scripted({'long': ['sleep 600']})) as batch:\n"
        "    batch.run([make_task('long')], print)"
    )
    runner = subprocess.Popen([sys.executable, "-c", code, place.url, place.schema])
    try:
        with QMStore(place) as store:
            deadline = time.monotonic() + 120
            while store.claim(task.key, own_name()) is not Refused.TAKEN:
                assert runner.poll() is None
                assert time.monotonic() < deadline
                _release_all(store)
                time.sleep(0.05)
            jobs = psutil.Process(runner.pid).children(recursive=True)
            runner.kill()
            runner.wait()
            with Batch(store, SETTINGS, jobs=1, start=Scripted({})) as batch:
                (ending,) = batch.run([task], lambda *_: None).values()
            assert isinstance(ending, QMRecord)
            assert [attempt.kind for attempt in store.attempts()] == ["ok"]
        assert not [job for job in psutil.wait_procs(jobs, timeout=5.0)[1] if runs(job)]
    finally:
        runner.kill()


def _release_all(store: QMStore) -> None:
    """Give our own claims back."""
    store.database.execute("DELETE FROM leases WHERE runner = :name", name=own_name())


def entry_for(name: str) -> tuple[Entry, Attempt]:
    task = make_task(name)
    record = QMRecord(
        task_key=task.key, ligand_key=name, spec=task.spec, coords=task.coords, energy=-1.0, gradient=None
    )
    attempt = Attempt(task_key=task.key, seconds=1.0, predicted_seconds=None, kind="ok")
    return Entry(record=record, composition=None), attempt


def test_a_runner_that_lost_its_lease_writes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that ran out is taken by another with a larger token; the first one's result is refused, the
    second one's kept, and a third is told that the task is done.
    """
    key = make_task("a").key
    with QMStore(place) as store:
        monkeypatch.setattr("pipeline.store.leases.LEASE_SECONDS", -1.0)
        first = store.claim(key, own_name())
        monkeypatch.setattr("pipeline.store.leases.LEASE_SECONDS", 60.0)
        second = store.claim(key, "elsewhere 1 1.0")
        assert isinstance(first, Lease)
        assert isinstance(second, Lease)
        assert second.token > first.token
        assert store.claim(key, own_name()) is Refused.TAKEN
        with pytest.raises(StoreError, match="lost to another runner") as caught:
            store.finish(first, *entry_for("a"))
        assert caught.value.kind == "lease"
        assert (len(store), store.attempts()) == (0, ())
        store.renew([first])  # cannot bring it back
        with pytest.raises(StoreError, match="lost"):
            store.finish(first, *entry_for("a"))
        store.finish(second, *entry_for("a"))
        assert len(store) == 1
        assert store.claim(key, own_name()) is Refused.DONE


def test_a_heartbeat_keeps_a_lease(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease renewed in time is not given to others; one that is not is."""
    monkeypatch.setattr("pipeline.store.leases.LEASE_SECONDS", 3.0)
    kept, dropped = make_task("kept").key, make_task("dropped", 1).key
    with QMStore(place) as store:
        lease = store.claim(kept, own_name())
        assert isinstance(lease, Lease)
        store.claim(dropped, own_name())
        end = time.monotonic() + 4.0
        while time.monotonic() < end:
            store.renew([lease])
            time.sleep(0.2)
        assert store.claim(kept, "elsewhere 1 1.0") is Refused.TAKEN
        assert isinstance(store.claim(dropped, "elsewhere 1 1.0"), Lease)


def test_another_runners_failure_is_taken_for_ours(place: Place) -> None:
    """A task that fails for good in one runner is not tried again by one that waited for it meanwhile."""
    task = make_task("a")
    with QMStore(place) as store:
        lease = store.claim(task.key, own_name())
        assert isinstance(lease, Lease)
        engine = Scripted({})
        with Batch(store, SETTINGS, jobs=1, start=engine) as batch:
            pid = os.fork()
            if pid == 0:
                try:
                    with QMStore(place) as other:
                        time.sleep(0.5)
                        attempt = Attempt(
                            task_key=task.key, seconds=1.0, predicted_seconds=None, kind="scf", message="no"
                        )
                        other.fail(lease, attempt)
                finally:
                    os._exit(0)
            (ending,) = batch.run([task], lambda *_: None).values()
        os.waitpid(pid, 0)
    assert not isinstance(ending, QMRecord)
    assert (ending.kind, ending.message, ending.retryable) == ("scf", "no", False)
    assert not engine.tries
