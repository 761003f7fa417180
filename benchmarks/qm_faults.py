"""Fifty `kill -9` in the middle of a batch, of the runner and of each of its helpers: what is lost."""

import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from pipeline.database import Place
from pipeline.store import QMStore
from tests.scripted_engine import final_state, start_runner, successes

N_KILLS, N_TASKS = 50, 300
VICTIMS = ("runner", "server", "warden", "worker")
"""each the child of the one before"""


def main() -> None:
    """Print what was killed how often, and how the store differs from an undisturbed run's."""
    with tempfile.TemporaryDirectory(prefix="parmflow-bench-") as name:
        killed_store, quiet_store = Path(name) / "killed", Path(name) / "quiet"
        killed = kill_at_random(killed_store)
        start = time.monotonic()
        for path in (killed_store, quiet_store):
            assert begin(path).wait() == 0
        running = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        n_left = sum(str(killed_store) in command for command in running)
        ours, theirs = final_state(Place.of_file(killed_store)), final_state(Place.of_file(quiet_store))
        counts = successes(Place.of_file(killed_store))
        with QMStore(killed_store) as store:
            kinds = Counter(attempt.kind for attempt in store.attempts())
        victims = ", ".join(f"{victim} {n}" for victim, n in killed.items())
        print(f"kill -9 during a batch of {N_TASKS} scripted jobs: {victims}")
        print(f"  attempts in the history: {dict(kinds)}")
        print(f"  results {len(ours)} of {N_TASKS}; equal to the undisturbed run's: {ours == theirs}")
        print(f"  jobs finished more than once: {sum(n > 1 for n in counts.values())}")
        print(f"  processes left: {n_left}")
        print(f"  last run to the end and undisturbed run: {time.monotonic() - start:.0f} s")


def begin(path: Path) -> subprocess.Popen[str]:
    """A runner of the batch on a store."""
    return start_runner(Place.of_file(path), path, N_TASKS)


def kill_at_random(path: Path) -> Counter[str]:
    """Run the batch again and again, killing somebody at random moments; count the victims."""
    chance, killed = random.Random(3), Counter[str]()
    runner = begin(path)
    assert runner.stdout is not None
    runner.stdout.readline()
    while killed.total() < N_KILLS:
        time.sleep(chance.uniform(0.0, 0.1))
        depth = chance.randrange(len(VICTIMS))
        victim = await_descendant(runner.pid, depth)
        if victim is not None:
            victim.send_signal(signal.SIGKILL)
            killed[VICTIMS[depth]] += 1
        if depth == 0 or runner.poll() is not None:
            runner.wait()
            runner = begin(path)
            assert runner.stdout is not None
            runner.stdout.readline()
    runner.kill()
    runner.wait()
    return killed


def await_descendant(pid: int, depth: int) -> psutil.Process | None:
    """As `descendant`, looking for a second: jobs are short."""
    for _ in range(200):
        victim = descendant(pid, depth)
        if victim is not None or not psutil.pid_exists(pid):
            return victim
        time.sleep(0.005)
    return None


def descendant(pid: int, depth: int) -> psutil.Process | None:
    """The first child of the first child ... of a process; None when it is gone or has none."""
    try:
        process = psutil.Process(pid)
        for _ in range(depth):
            process = process.children()[0]
    except (psutil.NoSuchProcess, IndexError):
        return None
    return process
