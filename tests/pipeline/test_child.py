"""The supervised child: whatever a library does there, the parent sees a value or a classified error."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pipeline.errors import ChildError, QMError
from pipeline.process import child
from pipeline.process.child import Child, Hand, Limits, run_in_child, sweep
from tests.process_tree import SOON, children_of, is_gone, read_pid


@pytest.fixture
def limits(tmp_path: Path) -> Limits:
    return Limits(wall_seconds=200, memory_mb=1024, scratch=tmp_path)


def test_value_comes_back(limits: Limits) -> None:
    """A value is the function's own, computed in another process, in an empty folder of its own."""
    assert run_in_child(divmod, 17, 5, limits=limits) == divmod(17, 5)
    assert run_in_child(os.getpid, limits=limits) != os.getpid()
    assert run_in_child(os.listdir, ".", limits=limits) == []
    assert len(run_in_child(bytes, 10_000_000, limits=limits)) == 10_000_000


@pytest.mark.parametrize(
    ("code", "kind", "word"),
    [
        ("import ctypes; ctypes.string_at(0)", "crash", "SIGSEGV"),
        ("import os; os.abort()", "crash", "SIGABRT"),
        ("import os; os._exit(3)", "crash", "status 3"),
        ("import sys; sys.exit(3)", "crash", "SystemExit"),
        ("x = bytearray(4 * 2**30)", "memory", "memory"),
        ("x = []\nwhile True: x.append(' ' * 10**6)", "memory", "memory"),
        ("import os; os.write(2, b'std::bad_alloc'); os.abort()", "memory", "bad_alloc"),
        ("import os; os.write(2, b'last words'); os.abort()", "crash", "last words"),
    ],
)
def test_deaths_are_classified(code: str, kind: str, word: str, limits: Limits) -> None:
    """Each way to die has its kind, the signal's name and the last output in the message."""
    with pytest.raises(ChildError, match=word) as caught:
        run_in_child(exec, code, limits=limits)
    assert caught.value.kind == kind
    assert run_in_child(abs, -1, limits=limits) == 1  # and the next job runs


@pytest.mark.parametrize(("share", "cramped"), [(0.93, True), (0.5, False)])
def test_an_error_tells_whether_memory_was_nearly_gone(share: float, cramped: bool, limits: Limits) -> None:
    """An address space grown to this share of the limit, given back, and an error of other words."""
    limits = replace(limits, memory_mb=4096)  # half of it is more than what the process begins with
    code = f"""
status = open("/proc/self/status").read()
used = int(status.split("VmPeak:")[1].split()[0]) * 1024
import mmap
mmap.mmap(-1, int({share} * {limits.memory_mb} * 2**20) - used).close()
raise RuntimeError("can't start new thread")
"""
    with Child(exec, code, limits=limits) as job:
        reply = job.reply()
    assert isinstance(reply.error, RuntimeError)
    assert reply.cramped is cramped


def test_hang_is_killed(tmp_path: Path) -> None:
    """A job over its wall-clock limit ends with kind time, also when it ignores SIGTERM."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    with pytest.raises(ChildError, match="after its limit") as caught:
        run_in_child(exec, code, limits=Limits(wall_seconds=0.5, memory_mb=512, scratch=tmp_path))
    assert caught.value.kind == "time"


def test_a_job_that_waits_for_ever_is_ended(tmp_path: Path) -> None:
    """A job that uses no CPU is ended long before its limit; one whose grandchild computes is not."""
    limits = Limits(wall_seconds=600, memory_mb=512, stall_seconds=1.0, scratch=tmp_path)
    with pytest.raises(ChildError, match="no CPU for 1 s") as caught:
        run_in_child(
            exec, "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()", limits=limits
        )
    assert caught.value.kind == "lost"
    busy = "import sys, time\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}], check=True)"
    limits = Limits(wall_seconds=600, memory_mb=512, stall_seconds=2.0, scratch=tmp_path)
    run_in_child(exec, code, limits=limits)


def wardens_now() -> list[psutil.Process]:
    """The wardens of our child server, where there is one."""
    children = psutil.Process().children()
    servers = [child for child in children if "child_server" in " ".join(child.cmdline())]
    return [warden for server in servers for warden in server.children()]


def test_a_stopped_supervisor_is_not_waited_for(tmp_path: Path) -> None:
    """A warden that is stopped and so never reports: the job is overdue and ends as lost."""
    limits = Limits(wall_seconds=5.0, memory_mb=512, scratch=tmp_path)  # time enough to find and stop it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.process.child._GRACE_SECONDS", 1.0)
        earlier = wardens_now()  # of a job that ended, not gone yet
        with Child(time.sleep, 600, limits=limits) as job:
            while not (wardens := [warden for warden in wardens_now() if warden not in earlier]):
                time.sleep(0.01)
            for warden in wardens:
                warden.suspend()
            with pytest.raises(ChildError, match="vanished") as caught:
                job.result()
            assert job.is_overdue
        assert caught.value.kind == "lost"
    for warden in wardens:
        warden.kill()


@pytest.mark.parametrize("ending", ["time.sleep(600)", "pass", "os.abort()"])
def test_hidden_grandchild_is_killed(ending: str, tmp_path: Path) -> None:
    """A grandchild that forks away into its own session dies with the job, however the job ends."""
    note = tmp_path / "pid"
    hide = "import os, time; os.setsid(); os.fork() and os._exit(0)\n"
    hide += f"open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    code = "import os, subprocess, sys, time\n"
    code += f"subprocess.Popen([sys.executable, '-c', {hide!r}])\n"
    code += f"while not os.path.exists({str(note)!r}) or not open({str(note)!r}).read(): time.sleep(0.01)\n"
    limits = Limits(wall_seconds=3, memory_mb=512, scratch=tmp_path)
    if ending == "pass":
        run_in_child(exec, code + ending, limits=limits)
    else:
        with pytest.raises(ChildError):
            run_in_child(exec, code + ending, limits=limits)
    assert is_gone(int(note.read_text()))


def test_scratch_is_gone(limits: Limits, tmp_path: Path) -> None:
    """Nothing is left in the scratch folder after success, an exception and a crash."""
    run_in_child(exec, "open('big', 'w').write('x' * 10000)", limits=limits)
    with pytest.raises(ZeroDivisionError):
        run_in_child(exec, "open('big', 'w'); 1 / 0", limits=limits)
    with pytest.raises(ChildError):
        run_in_child(exec, "open('big', 'w'); import os; os.abort()", limits=limits)
    assert list(tmp_path.iterdir()) == []


def test_own_errors_keep_kind_and_traceback(limits: Limits) -> None:
    """Our exceptions arrive with kind and retryable intact and the child's traceback as a note."""
    error = QMError("SCF did not converge", kind="scf", retryable=True)
    with pytest.raises(QMError, match="SCF did not converge") as caught:
        run_in_child(exec, "raise error", {"error": error}, limits=limits)
    assert (caught.value.kind, caught.value.retryable) == ("scf", True)
    assert "raise error" not in str(caught.value)
    assert "QMError: SCF did not converge" in caught.value.__notes__[0]


def test_what_cannot_travel_is_said(limits: Limits) -> None:
    """A value that cannot be pickled is an error naming its type, not a hang."""
    with pytest.raises(ChildError, match="TextIOWrapper cannot be sent"):
        run_in_child(open, os.devnull, limits=limits)


def test_many_threads(limits: Limits) -> None:
    """Jobs started from several threads at once do not mix their answers."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: run_in_child(pow, n, 2, limits=limits), range(64)))
    assert answers == [n * n for n in range(64)]


def test_closing_early_kills(limits: Limits, tmp_path: Path) -> None:
    """Leaving the block before the end, as Ctrl-C does, ends the job and removes its folder."""
    note = tmp_path / "pid"
    code = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with Child(exec, code, limits=limits):
        while not note.exists() or not note.read_text():
            time.sleep(0.01)
    assert is_gone(int(note.read_text()))
    assert list(tmp_path.iterdir()) == [note]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_parent_death_kills(how: signal.Signals, tmp_path: Path) -> None:
    """`kill -9` or Ctrl-C of the parent leaves no process and no scratch folder."""
    note, scratch = tmp_path / "pid", tmp_path / "scratch"
    inner = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    script = (
        "from pathlib import Path; from pipeline.process.child import Limits, run_in_child; "
        f"run_in_child(exec, {inner!r}, limits=Limits(wall_seconds=600, memory_mb=512, "
        f"scratch=Path({str(scratch)!r})))"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    while not note.exists() or not note.read_text():
        assert parent.poll() is None
        time.sleep(0.02)
    parent.send_signal(how)
    parent.wait(timeout=60)
    assert is_gone(int(note.read_text()))
    deadline = time.monotonic() + SOON
    while list(scratch.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(scratch.iterdir()) == []


def test_death_of_a_forked_parent_kills_and_closes_its_pipes(tmp_path: Path) -> None:
    """`kill -9` of a parent whose fork lives on, with copies of all its sockets: its job dies all the same,
    and whoever reads the parent's output comes to the end of it.
    """
    note, forked = tmp_path / "pid", tmp_path / "forked"
    inner = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    script = (
        "import os, time; from pathlib import Path; from pipeline.process.child import Child, Limits\n"
        f"limits = Limits(wall_seconds=600, memory_mb=512, scratch=Path({str(tmp_path / 'scratch')!r}))\n"
        f"with Child(exec, {inner!r}, limits=limits) as child:\n"
        "    if os.fork() == 0:\n"
        "        for output in (1, 2): os.dup2(os.open(os.devnull, os.O_RDWR), output)\n"
        f"        open({str(forked)!r}, 'w').write(str(os.getpid())); time.sleep(600)\n"
        "    child.result()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    pids = [read_pid(note), read_pid(forked)]
    try:
        parent.kill()
        assert parent.communicate(timeout=60) == (b"", b"")
        assert is_gone(pids[0])
        assert psutil.pid_exists(pids[1])
    finally:
        os.kill(pids[1], signal.SIGKILL)


def test_a_killed_warden_leaves_nobody(tmp_path: Path, limits: Limits) -> None:
    """`kill -9` of the process that watches a job: the job is lost, the program that it started is dead too,
    and the next job runs.
    """
    note = tmp_path / "pid"
    code = "import subprocess, time; program = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    code += f"open({str(note)!r}, 'w').write(str(program.pid)); time.sleep(600)"
    with Child(exec, code, limits=limits) as job:
        program = read_pid(note)
        worker = psutil.Process(program).parent()
        assert worker is not None
        warden = worker.parent()
        assert warden is not None
        warden.kill()
        with pytest.raises(ChildError) as caught:
            job.result()
    assert caught.value.kind == "lost"
    assert is_gone(worker.pid)
    assert is_gone(program)
    assert run_in_child(abs, -1, limits=limits) == 1


def test_a_worker_killed_before_it_took_its_order_is_a_crash(limits: Limits) -> None:
    """What is told is the worker's death, not that the process that watched it vanished."""
    run_in_child(abs, -1, limits=limits)  # the server is there

    def hire_one_and_kill_it(module: str) -> Hand:
        before = descendants()
        hand = child.hire(module)
        while len(new := descendants() - before) < 2:  # a warden and its worker
            time.sleep(0.01)
        (worker,) = (process for process in new if process.parent() in new)
        worker.kill()
        assert is_gone(worker.pid)
        return hand

    with (
        Child(time.sleep, 60, limits=limits, hire=hire_one_and_kill_it) as job,
        pytest.raises(ChildError, match="SIGKILL") as caught,
    ):
        job.result()
    assert caught.value.kind == "crash"


def descendants() -> set[psutil.Process]:
    return set(children_of([psutil.Process()], recursive=True))


MODULES_RUN_IN_CHILDREN = (
    "pipeline.conformers",
    "pipeline.library_delivery",
    "pipeline.parametrize",
    "pipeline.qm.job",
)


@pytest.mark.parametrize("module", MODULES_RUN_IN_CHILDREN)
def test_the_server_stays_of_one_thread(module: str) -> None:
    """A server that has loaded what our jobs need still has one thread: a fork of more can hang for ever."""
    code = f"import {module}, os; print(*os.listdir('/proc/self/task'))"
    environment = os.environ | child._ONE_THREAD
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert len(done.stdout.split()) == 1, done.stderr


def test_a_fork_has_a_server_of_its_own(limits: Limits) -> None:
    """A process forked while its parent holds the server's lock runs jobs all the same, in its own server."""
    run_in_child(abs, 1, limits=limits)
    with child._SERVER._lock:
        forked = os.fork()
        if forked == 0:
            try:
                os._exit(run_in_child(abs, -7, limits=limits))
            finally:
                os._exit(1)
    _, status = os.waitpid(forked, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert run_in_child(abs, -1, limits=limits) == 1


def test_sweep_takes_only_the_abandoned(tmp_path: Path, limits: Limits) -> None:
    """The sweep removes folders whose owner is dead and spares a running job's and a stranger's."""
    dead = tmp_path / "parmflow-job-dead"
    dead.mkdir()
    (dead / "lease").touch()
    (tmp_path / "mine").mkdir()
    with Child(time.sleep, 600, limits=Limits(wall_seconds=60, memory_mb=512, scratch=tmp_path / "b")):
        running = list((tmp_path / "b").iterdir())
        assert sweep(tmp_path / "b") == []
        assert list((tmp_path / "b").iterdir()) == running
    assert sweep(tmp_path) == [dead]
    assert (tmp_path / "mine").exists()


def test_environment_is_the_parents_now(monkeypatch: pytest.MonkeyPatch, limits: Limits) -> None:
    """A child sees the environment of the moment it is started, not of the server's start."""
    run_in_child(abs, 1, limits=limits)
    monkeypatch.setenv("PARMFLOW_TEST_WORD", "here")
    assert run_in_child(os.getenv, "PARMFLOW_TEST_WORD", limits=limits) == "here"
