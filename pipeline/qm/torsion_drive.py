"""Torsion drives: a dihedral turned around in steps, everything else relaxed, by wavefront propagation.

Each point of the circle is optimised from a neighbour's geometry whenever that one improves, until nothing
does (Y. Qiu et al., J. Chem. Phys. 2020, 152, 244116; the `torsiondrive` library decides what comes next).
Every optimisation is a task of its own in the store, so a drive that was killed goes on where it was, and
replaying a finished one computes nothing.
"""

import contextlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from qcelemental import periodictable

from pipeline.errors import QMError
from pipeline.fragments.rotors import Dihedral
from pipeline.outcome import Failure, failure_from_exception
from pipeline.schema import DihedralConstraint, FloatArray, IntArray, QMRecord, QMSpec, QMTask
from pipeline.units import DEGREE_PER_RADIAN, KCAL_PER_HARTREE

ENERGY_LIMIT = 0.05
"""hartree above the lowest point, as in OpenFF's data sets: from a point higher than this none is started"""
_ENERGY_DECREASE = 1e-5
"""hartree; an improvement by less starts no neighbours"""
_NEVER = 1e6
"""hartree: the energy of an optimisation that failed, so that nothing is started from it"""

Ending = QMRecord | Failure
Compute = Callable[[Sequence[QMTask]], Mapping[str, Ending]]
"""tasks -> their endings by task key; `pipeline.qm.batch.run_tasks` with its store and settings"""
_GridStatus = dict[tuple[int, ...], list[tuple[FloatArray, FloatArray, float]]]


@dataclass(frozen=True, kw_only=True, eq=False)
class DriveTask:
    """One dihedral of one molecule, to be driven at a level of theory."""

    key: str
    """names the drive: molecule and dihedral"""
    atomic_numbers: IntArray
    """(n_atoms,)"""
    starts: FloatArray
    """(n_starts, n_atoms, 3), angstrom: geometries from which it begins"""
    total_charge: int
    dihedral: Dihedral
    spacing: int
    """degree between points, a divisor of 360: the library counts in whole degrees"""
    spec: QMSpec
    """of the optimisations"""

    def __post_init__(self) -> None:
        """Check the spacing."""
        if not 1 <= self.spacing <= 180 or 360 % self.spacing:
            raise ValueError(f"a spacing of {self.spacing} degrees does not divide the circle")


@dataclass(frozen=True, kw_only=True, eq=False)
class TorsionProfile:
    """The relaxed energy along a dihedral."""

    key: str
    angles: FloatArray
    """(n_points,), radian in (-pi, pi], rising; a point whose optimisations all failed is absent"""
    records: tuple[QMRecord, ...]
    """the lowest optimisation of each point"""
    n_optimisations: int
    n_failed: int

    @property
    def energies(self) -> FloatArray:
        """(n_points,), kcal/mol above the lowest."""
        energies = np.array([record.energy for record in self.records])
        return np.asarray(energies - energies.min())


def run_drives(drives: Sequence[DriveTask], compute: Compute) -> dict[str, TorsionProfile | Failure]:
    """Run torsion drives side by side, wave by wave, to their ends.

    All drives' optimisations of a wave are computed together, so that few drives do not leave cores idle. A
    drive none of whose optimisations succeeds ends as a Failure of the last one.
    """
    states = {drive.key: _State(drive) for drive in drives}
    while wave := {key: tasks for key, state in states.items() if (tasks := state.next_tasks())}:
        endings = compute([task for tasks in wave.values() for _, task in tasks])
        for key, tasks in wave.items():
            states[key].take(tasks, endings)
    return {key: state.profile() for key, state in states.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Replay:
    """A drive as far as the store knows it."""

    ending: TorsionProfile | Failure
    """with what is missing counted as failed"""
    n_missing: int
    """optimisations, in the waves that were reached, that the store does not hold"""


def replay_drive(drive: DriveTask, find: Callable[[Sequence[str]], Mapping[str, QMRecord]]) -> Replay:
    """Follow a drive through finished optimisations alone, computing nothing."""
    state, n_missing = _State(drive), 0
    while tasks := state.next_tasks():
        endings: dict[str, Ending] = dict(find([task.key for _, task in tasks]))
        for _, task in tasks:
            if task.key not in endings:
                n_missing += 1
                error = QMError(f"{task.ligand_key}: not in the store", kind="lost", retryable=True)
                endings[task.key] = failure_from_exception(error, ligand=task.ligand_key, stage="qm")
        state.take(tasks, endings)
    return Replay(ending=state.profile(), n_missing=n_missing)


class _State:
    """What one drive has found so far."""

    def __init__(self, drive: DriveTask) -> None:
        self._drive = drive
        self._status: _GridStatus = {}
        self._best: dict[int, QMRecord] = {}
        self._failures: list[Failure] = []
        self._n_done = 0

    def next_tasks(self) -> list[tuple[int, QMTask]]:
        """The optimisations to make next, each with its angle in degrees; none when the drive has ended."""
        from torsiondrive.td_api import get_next_jobs  # 0.5 s that only a drive pays

        drive = self._drive
        state = {
            "dihedrals": [list(drive.dihedral)],
            "grid_spacing": [drive.spacing],
            "elements": [periodictable.to_E(int(number)) for number in drive.atomic_numbers],
            "init_coords": [np.array(start) for start in drive.starts],
            "grid_status": self._status,
            "energy_decrease_thresh": _ENERGY_DECREASE,
            "energy_upper_limit": ENERGY_LIMIT,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            jobs = get_next_jobs(state)
        return [
            (grid_id[0], self._task(grid_id[0], start)) for grid_id in sorted(jobs) for start in jobs[grid_id]
        ]

    def _task(self, degrees: int, start: FloatArray) -> QMTask:
        drive = self._drive
        held = DihedralConstraint(atoms=drive.dihedral, angle=degrees / DEGREE_PER_RADIAN)
        return QMTask(
            ligand_key=drive.key,
            atomic_numbers=drive.atomic_numbers,
            coords=start,
            total_charge=drive.total_charge,
            spec=drive.spec,
            constraints=(held,),
        )

    def take(self, tasks: Sequence[tuple[int, QMTask]], endings: Mapping[str, Ending]) -> None:
        """Note how optimisations ended; a molecule that reacted on the way is no point of this profile."""
        for degrees, task in tasks:
            ending = endings[task.key]
            self._n_done += 1
            if isinstance(ending, QMRecord) and "connectivity" in ending.flags:
                error = QMError(
                    f"{task.ligand_key}: at {degrees} degrees {dict(ending.provenance)['changed_bonds']}",
                    kind="connectivity",
                )
                ending = failure_from_exception(error, ligand=task.ligand_key, stage="qm")
            if isinstance(ending, Failure):
                self._failures.append(ending)
                found = (np.array(task.coords), np.array(task.coords), _NEVER)
            else:
                best = self._best.get(degrees)
                if best is None or ending.energy < best.energy:
                    self._best[degrees] = ending
                found = (np.array(task.coords), np.array(ending.coords), ending.energy / KCAL_PER_HARTREE)
            self._status.setdefault((degrees,), []).append(found)

    def profile(self) -> TorsionProfile | Failure:
        """What the drive gave."""
        if not self._best:
            return self._failures[-1]
        degrees = sorted(self._best)
        return TorsionProfile(
            key=self._drive.key,
            angles=np.array([math.radians(angle) for angle in degrees]),
            records=tuple(self._best[angle] for angle in degrees),
            n_optimisations=self._n_done,
            n_failed=len(self._failures),
        )
