"""What an engine hands to the door: atomic units, in the frame it was given."""

from dataclasses import dataclass

import numpy as np

from pipeline.errors import QMError
from pipeline.schema import FloatArray, QMTask
from pipeline.units import ANGSTROM_PER_BOHR

_SAME_GEOMETRY = 1e-6
"""angstrom; engines store coordinates with ten digits or more"""
_NET_FORCE_PER_ATOM = 2e-3
"""hartree/bohr; the noise of the DFT grids is some 1e-4 per atom"""


@dataclass(frozen=True, kw_only=True, eq=False)
class EngineResult:
    """One finished calculation."""

    energy: float
    """hartree"""
    gradient: FloatArray | None
    """(n_atoms, 3), hartree/bohr"""
    coords: FloatArray
    """(n_atoms, 3), angstrom: the geometry as the engine reports it back"""
    provenance: dict[str, str]


def to_bohr(task: QMTask) -> FloatArray:
    """Give a task's geometry in bohr, (n_atoms, 3)."""
    return task.coords / ANGSTROM_PER_BOHR


def check_result(task: QMTask, result: EngineResult) -> None:
    """Raise QMError when a result is not of this task: shape, numbers, geometry, frame."""
    n_atoms = len(task.atomic_numbers)
    if result.coords.shape != (n_atoms, 3):
        raise QMError(f"{_who(task)} returned {len(result.coords)} atoms for {n_atoms}", kind="geometry")
    moved = float(np.abs(result.coords - task.coords).max())
    if not moved < _SAME_GEOMETRY:
        raise QMError(f"{_who(task)} changed the geometry by {moved:.1e} angstrom", kind="geometry")
    if not np.isfinite(result.energy) or result.energy >= 0:
        raise QMError(f"{_who(task)} returned an energy of {result.energy} hartree", kind="engine")
    if task.spec.driver == "gradient":
        _check_gradient(task, result)


def _check_gradient(task: QMTask, result: EngineResult) -> None:
    gradient = result.gradient
    if gradient is None or gradient.shape != task.coords.shape or not np.isfinite(gradient).all():
        raise QMError(f"{_who(task)} returned no finite gradient of shape {task.coords.shape}", kind="engine")
    # Energy does not change when the molecule moves or turns: no net force, no torque. A gradient that comes
    # back in another frame has a torque.
    bohr = to_bohr(task)
    reach = max(1.0, float(np.linalg.norm(bohr - bohr.mean(axis=0), axis=1).max()))
    force = float(np.abs(gradient.sum(axis=0)).max())
    torque = float(np.abs(np.cross(bohr, gradient).sum(axis=0)).max()) / reach
    if max(force, torque) > _NET_FORCE_PER_ATOM * len(bohr):
        raise QMError(
            f"{_who(task)} returned a gradient in another frame: net force {force:.1e}, "
            f"torque over reach {torque:.1e} hartree/bohr",
            kind="geometry",
        )


def _who(task: QMTask) -> str:
    return f"{task.ligand_key}: {task.spec.program}"
