"""DOOR: one calculation in, one checked record out; the program runs in a supervised child process."""

import re
from contextlib import chdir
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from shutil import which
from subprocess import DEVNULL, PIPE, run
from tempfile import TemporaryDirectory

from pipeline.errors import ChildError, ParmflowError
from pipeline.process.child import Child, Limits
from pipeline.qm.faults import error_from_child, error_from_text
from pipeline.qm.levels import check_task, levels_of
from pipeline.qm.methods import PROGRAMS, is_installed, other_programs
from pipeline.qm.record import in_own_frame, to_record
from pipeline.qm.result import EngineResult
from pipeline.schema import QMRecord, QMTask


def run_task(task: QMTask, limits: Limits, n_cores: int = 1) -> QMRecord:
    """Run one calculation to its end in a child process and return its checked record.

    Raises QMError: `input`, `geometry` and `engine` before anything runs; `scf`, `memory`, `disk`, `time`,
    `crash`, `engine` afterwards. The record is in the frame and atom order of the task.
    """
    with start_task(task, limits, n_cores) as child:
        return collect_record(task, child)


def start_task(task: QMTask, limits: Limits, n_cores: int = 1) -> Child[EngineResult]:
    """Check a task and start it; `collect_record` takes its record from the child."""
    check_task(task)
    # Its imports (geomeTRIC, scipy) cost half a second, which the server of children pays once for all jobs;
    # a program that starts none does not pay at all.
    from pipeline.qm.job import compute_here

    return Child(compute_here, in_own_frame(task), n_cores, limits.memory_mb, limits=limits)


def collect_record(task: QMTask, child: Child[EngineResult]) -> QMRecord:
    """Wait for a started task, check what came back and turn it into the task's frame and our units."""
    who = f"{task.ligand_key}: {task.spec.program}"
    try:
        reply = child.reply()
    except ChildError as error:
        raise error_from_child(error, who=who) from error
    if isinstance(reply.error, ParmflowError):
        raise reply.error
    if reply.error is not None:  # whatever an engine's library raises is that engine's failure
        raise error_from_text(reply.traceback, who=who, cramped=reply.cramped) from reply.error
    return to_record(task, reply.value)


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """A program that can be used here."""

    name: str
    version: str
    levels: tuple[str, ...]
    hint: str = ""
    """how it would be faster"""


def available_engines() -> tuple[EngineInfo, ...]:
    """List the programs that are installed, with their versions and levels of theory."""
    with TemporaryDirectory() as folder, chdir(folder):  # psi4 leaves a file where it, or QCEngine, asks it
        ours = [
            EngineInfo(name=name, version=_version(name), levels=levels_of(name), hint=_hint(name))
            for name in PROGRAMS
            if is_installed(name)
        ]
        return (*ours, *(_through_qcengine(name) for name in other_programs()))


def _hint(program: str) -> str:
    """Tell of a psi4 of Debian that runs on the reference BLAS: 16 atoms take it 3.5 times as long."""
    if program != "psi4" or which(program) != "/usr/bin/psi4" or not has_reference_blas(Path("/usr/lib")):
        return ""
    return (
        "computes with the reference BLAS; `apt-get install libopenblas0-openmp` makes it three times as fast"
    )


def has_reference_blas(libraries: Path) -> bool:
    """Whether Debian's alternatives under this folder lead from libblas.so.3 to the reference BLAS."""
    return any(link.resolve().parent.name == "blas" for link in libraries.glob("*/libblas.so.3"))


def _through_qcengine(name: str) -> EngineInfo:
    import qcengine

    levels = (f"its own methods in its own words, with qm.program = {name!r}",)
    return EngineInfo(name=name, version=str(qcengine.get_program(name).get_version()), levels=levels)


def _version(program: str) -> str:
    entry = PROGRAMS[program]
    if entry.command is None:
        return version(entry.distribution or program)
    answer = run(
        [entry.command, "--version"], stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, text=True, check=False
    )
    found = re.search(r"\d+(\.\d+)+", answer.stdout)
    return found[0] if answer.returncode == 0 and found else "does not start"
