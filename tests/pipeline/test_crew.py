"""Workers that make several calls: each call ends as in a child of its own, whatever came before it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from pipeline.deliver import deliver
from pipeline.errors import ChildError, RefusedLigandError
from pipeline.process.child import Child, Limits, run_in_child
from pipeline.process.crew import Crew
from pipeline.settings import ExportSettings
from tests.process_tree import is_gone, read_pid, runs_pid


@pytest.fixture
def limits(tmp_path: Path) -> Limits:
    return Limits(wall_seconds=200, memory_mb=1024, scratch=tmp_path / "scratch")


@pytest.fixture
def crew() -> Iterator[Crew]:
    with Crew() as crew:
        yield crew


def do(crew: Crew, code: str, limits: Limits) -> int:
    """Run code in a worker of the crew; the worker's process."""
    expression = "(exec(code, {}), __import__('os').getpid())[1]"
    return crew.run(eval, expression, {"code": code}, limits=limits)


STATE = """[
    (os := __import__('os')).getpid(),
    os.getcwd(),
    os.listdir(),
    os.getenv('LEFT'),
    __import__('tempfile').gettempdir(),
    __import__('sys').path[:],
]"""
"""what a call finds: its process, folder, files there, a variable, where temporary files go, import path"""


def test_a_worker_makes_so_many_calls_and_no_more(limits: Limits) -> None:
    """Calls one after another are made by one process, in turn, each answered by its own value."""
    with Crew(n_calls=3) as crew:
        answers = [crew.run(divmod, n, 5, limits=limits) for n in range(21)]
        workers = [do(crew, "", limits) for _ in range(7)]
    assert answers == [divmod(n, 5) for n in range(21)]
    assert [workers.index(worker) for worker in workers] == [0, 0, 0, 3, 3, 3, 6]


ENDS = {
    "import ctypes; ctypes.string_at(0)": ("crash", "SIGSEGV"),
    "import os; os.abort()": ("crash", "SIGABRT"),
    "import os; os._exit(3)": ("crash", "status 3"),
    "import sys; sys.exit(3)": ("crash", "SystemExit"),
    "x = bytearray(4 * 2**30)": ("memory", "memory"),
    "x = []\nwhile True: x.append(' ' * 10**6)": ("memory", "memory"),
    "import os; os.write(2, b'last words'); os.abort()": ("crash", "last words"),
    "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()": ("lost", "no CPU for 1 s"),
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass": ("time", "limit"),
}


@pytest.mark.parametrize("n_before", [0, 1])
@pytest.mark.parametrize("code", list(ENDS))
def test_each_end_has_its_kind(code: str, n_before: int, crew: Crew, tmp_path: Path) -> None:
    """Also in a used worker, where all but `time` must happen a second time in a process that is new; the
    worker before and the next call are not touched.
    """
    kind, word = ENDS[code]
    note = tmp_path / "note"
    scratch = tmp_path / "scratch"
    limits = Limits(wall_seconds=6, memory_mb=1024, stall_seconds=1.0, scratch=scratch)
    before = [do(crew, "", limits) for _ in range(n_before)]
    with pytest.raises(ChildError, match=word) as caught:
        do(crew, f"import os; print(os.getpid(), file=open({str(note)!r}, 'a'))\n{code}", limits=limits)
    assert caught.value.kind == kind
    tried = [int(line) for line in note.read_text().split()]
    assert tried[:n_before] == before
    assert len(set(tried)) == (2 if n_before and kind != "time" else 1)
    assert not any(map(runs_pid, tried))
    assert list(scratch.iterdir()) == []
    assert do(crew, "", limits) not in tried


def test_an_earlier_call_is_not_blamed_on_a_later_one(crew: Crew, limits: Limits, tmp_path: Path) -> None:
    """What fails in a used worker only is answered by a new one; so is an error of one near its limit."""
    worker = do(crew, "", limits)
    for ending in ("os.abort()", "os._exit(1)", "x = bytearray(4 * 2**30)", "1 / 0"):
        worker = do(crew, "", limits)
        cramped = ending == "1 / 0"
        grow = "import mmap; mmap.mmap(-1, int(0.95 * 2**30) - used).close()" if cramped else ""
        code = (
            "import os\nused = int(open('/proc/self/status').read().split('VmPeak:')[1].split()[0]) * 1024\n"
        )
        assert do(crew, code + f"if os.getpid() == {worker}:\n {grow}\n {ending}", limits) != worker


MAPS_MUCH = """
import mmap, resource
used = int(open('/proc/self/statm').read().split()[0]) * mmap.PAGESIZE
mmap.mmap(-1, (resource.getrlimit(resource.RLIMIT_AS)[0] - used) * 3 // 4).close()
"""
MARKS = (
    "import os; os.umask(0o57)",
    "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))",
    "import random; random.random()",
    "import numpy; numpy.random.rand()",
    "import builtins; builtins.kept = open('/dev/null')",
    "import threading, time; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
    "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)",
    "import signal; signal.signal(signal.SIGUSR1, print)",
    "import signal; signal.alarm(100)",
    "import sys; sys.stdout = sys.stderr",
    MAPS_MUCH,
    "raise ValueError",
)


@pytest.mark.parametrize("code", MARKS)
def test_a_worker_that_a_call_changed_makes_no_other(code: str, crew: Crew, limits: Limits) -> None:
    """Umask, limits, seeds, files, threads, children, signals, memory: the next call has a new process."""
    do(crew, "import numpy.random", limits)  # else its import would be the mark
    worker = do(crew, "", limits)
    try:
        assert do(crew, code, limits) == worker
    except ValueError:
        assert code == "raise ValueError"
    assert do(crew, "", limits) != worker


def test_a_thread_that_ended_keeps_the_worker(crew: Crew, limits: Limits) -> None:
    """The first thread of a process makes glibc catch two signals of its own for good: no mark of a call."""
    worker = do(crew, "import threading", limits)
    code = "import threading; thread = threading.Thread(target=int); thread.start(); thread.join()"
    assert [do(crew, code, limits), do(crew, "", limits)] == [worker, worker]


def test_what_is_restored_keeps_the_worker(crew: Crew, limits: Limits) -> None:
    """Folder, variables, import path, place of temporary files and what was printed are each call's own; a
    worker outlives a refusal, and children that it waited for.
    """
    code = "import os, subprocess, sys, tempfile; os.environ['LEFT'] = '1'; sys.path.append('/left')\n"
    code += "open('left', 'w'); tempfile.mkdtemp(); print('left'); os.system('true'); os.chdir('/')"
    worker = do(crew, code, limits)
    with pytest.raises(RefusedLigandError, match="a salt"):
        crew.run(exec, "raise error", {"error": RefusedLigandError("a salt")}, limits=limits)
    pid, folder, files, variable, temporary, path = crew.run(eval, STATE, limits=limits)
    assert (pid, files, variable, temporary) == (worker, [], None, folder)
    assert "/left" not in path
    with pytest.raises(ChildError, match="status 3") as caught:
        do(crew, "import os; os._exit(3)", limits)
    assert "left" not in str(caught.value)


def test_cycles_are_left_for_some_calls_and_not_for_good(crew: Crew, limits: Limits) -> None:
    """A worker does not search after each call for what that left in cycles, and does when there is much."""
    leave = """
for _ in range(30_000):
    cycle = []
    cycle.append(cycle)
"""
    left = []
    for _ in range(12):
        worker = do(crew, leave, limits)
        left.append(crew.run(eval, "__import__('gc').get_count()[0]", {}, limits=limits))
    assert worker == do(crew, "", limits)
    assert left[0] > 25_000
    assert max(left) < 250_000


def test_a_fork_that_returns_answers_nothing(crew: Crew, limits: Limits) -> None:
    """A function that comes back twice, in the worker and in a fork of it: the value is the worker's."""
    answers = [crew.run(eval, "__import__('os').fork() > 0", limits=limits) for _ in range(5)]
    assert answers == [True] * 5


def test_hidden_grandchild_is_killed(crew: Crew, limits: Limits, tmp_path: Path) -> None:
    """What a call leaves running, in a session of its own, is dead when the call's value is there."""
    note = tmp_path / "pid"
    hide = "import os, time; os.setsid(); os.fork() and os._exit(0)\n"
    hide += f"open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    code = "import os, subprocess, sys, time\n"
    code += f"subprocess.Popen([sys.executable, '-c', {hide!r}]).wait()\n"
    code += f"while not os.path.exists({str(note)!r}) or not open({str(note)!r}).read(): time.sleep(0.01)"
    worker = do(crew, "", limits)
    assert do(crew, code, limits) == worker
    assert not runs_pid(int(note.read_text()))


def _server() -> psutil.Process:
    (server,) = [c for c in psutil.Process().children() if "child_server" in " ".join(c.cmdline())]
    return server


def open_files() -> set[tuple[str, str]]:
    """Number and target of each open file; a number given anew has another target."""
    entries = list(Path("/proc/self/fd").iterdir())  # one was open for this, and is no more
    return {(entry.name, str(entry.readlink())) for entry in entries if entry.is_symlink()}


def test_nothing_is_left(limits: Limits, tmp_path: Path) -> None:
    """After calls from eight threads, good and bad, no process, no open file and no folder is left over."""
    run_in_child(abs, -1, limits=limits)
    before = open_files()

    def one(n: int) -> int:
        try:
            return crew.run(pow, n, 2 if n % 5 else -1, limits=limits)
        except ZeroDivisionError:
            return crew.run(exec, "import os; os._exit(3)" if n % 2 else "", limits=limits) or n

    with Crew(n_calls=4) as crew, ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(one, n) for n in range(64)]
        answers = [None if future.exception() else future.result() for future in futures]
    assert [n for n, answer in enumerate(answers) if n % 5 and answer != n * n] == []
    for process in _server().children(recursive=True):
        assert is_gone(process.pid)
    assert open_files() - before == set()
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("who", ["worker", "warden", "server"])
def test_a_killed_one_costs_no_call(who: str, crew: Crew, limits: Limits, tmp_path: Path) -> None:
    """`kill -9` in mid-call of a used worker, its warden or the server: the call has its value, the program
    that it ran is dead, and so is the worker.
    """
    note, go = tmp_path / "pid", tmp_path / "go"
    code = "import os, subprocess, time\n"
    code += f"if not os.path.exists({str(note)!r}):\n"
    code += " program = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    code += f" open({str(note)!r}, 'w').write(str(program.pid))\n"
    code += f"while not os.path.exists({str(go)!r}): time.sleep(0.01)"
    worker = do(crew, "", limits)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(do, crew, code, limits)
        program = read_pid(note)
        chain = dict(zip(("worker", "warden", "server"), psutil.Process(worker).parents(), strict=False))
        victim = {"worker": psutil.Process(worker), "warden": chain["worker"], "server": chain["warden"]}[who]
        victim.kill()
        assert who == "server" or is_gone(worker)
        go.touch()
        assert (future.result() == worker) is (who == "server")
    assert is_gone(program)
    assert is_gone(worker)
    assert crew.run(abs, -1, limits=limits) == 1


@pytest.mark.parametrize("who", ["worker", "warden"])
def test_one_killed_while_idle_is_replaced(who: str, crew: Crew, limits: Limits) -> None:
    """`kill -9` between two calls: the next call has another worker and is made once."""
    worker = psutil.Process(do(crew, "", limits))
    warden = worker.parent()
    (worker if who == "worker" else warden).kill()
    assert is_gone(worker.pid)
    assert is_gone(warden.pid)
    again = do(crew, "", limits)
    assert again != worker.pid
    assert do(crew, "", limits) == again


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("busy", [True, False])
def test_parent_death_kills(busy: bool, how: signal.Signals, tmp_path: Path) -> None:
    """`kill -9` or Ctrl-C of the parent leaves no process and no folder, of workers at work and idle ones."""
    note, scratch = tmp_path / "pid", tmp_path / "scratch"
    inner = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid()))"
    script = (
        "import time; from pathlib import Path; from pipeline.process.child import Limits\n"
        "from pipeline.process.crew import Crew\n"
        f"limits = Limits(wall_seconds=600, memory_mb=512, scratch=Path({str(scratch)!r}))\n"
        "with Crew() as crew:\n"
        "    crew.run(exec, '', limits=limits)\n"
        f"    crew.run(exec, {inner + '; time.sleep(600)' * busy!r}, limits=limits); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    worker = read_pid(note)
    parent.send_signal(how)
    parent.wait(timeout=60)
    assert is_gone(worker)
    deadline = time.monotonic() + 5
    while list(scratch.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(scratch.iterdir()) == []


def test_a_fork_has_workers_of_its_own(crew: Crew, limits: Limits) -> None:
    """A fork of the parent runs and closes the crew without touching its parent's idle worker."""
    worker = do(crew, "", limits)
    forked = os.fork()
    if forked == 0:
        try:
            with crew:
                others = {do(crew, "", limits) for _ in range(2)}
            os._exit(7 if len(others) == 1 and worker not in others else 1)
        finally:
            os._exit(1)
    _, status = os.waitpid(forked, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert do(crew, "", limits) == worker


def test_each_module_has_workers_that_know_it(crew: Crew, limits: Limits) -> None:
    """A worker of one module is not given a call of another, which it would have to load first."""
    with Child(os.getpid, limits=limits) as child:
        assert child.result() != os.getpid()
    worker = do(crew, "", limits)
    assert crew.run(os.getpid, limits=limits) != worker
    assert do(crew, "", limits) == worker


def test_delivered_files_are_those_of_a_child_each(build_ligand, parametrize_ligand, tmp_path: Path) -> None:
    """Byte for byte: ligands delivered by one worker after another, and by a process each."""
    limits = Limits(wall_seconds=200, memory_mb=4096)
    smiles = ("CC(=O)[O-]", "c1ccccc1Cl", "CS(=O)(=O)NC", "CC(=O)[O-]", "C#CC1CC1", "OCC[NH3+]")
    ligands = [parametrize_ligand(build_ligand(one)) for one in smiles]
    formats = ExportSettings().formats
    with Crew() as crew:
        for place, run in (("alone", run_in_child), ("crew", crew.run)):
            for number, ligand in enumerate(ligands):
                run(deliver, ligand, tmp_path / place / f"{number}" / ligand.id, formats, limits=limits)
        assert [hand.n_made for idle in crew._idle.values() for hand in idle] == [len(ligands)]
    alone, together = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "alone", tmp_path / "crew")
    )
    assert len(alone) > 10 * len(ligands)
    assert together == alone
