"""What an engine hands to the door: atomic units, in the frame it was given."""

from dataclasses import dataclass

import numpy as np

from pipeline.errors import QMError
from pipeline.qm.levels import is_total_energy, n_electrons
from pipeline.schema import FloatArray, QMTask
from pipeline.units import ANGSTROM_PER_BOHR

_SAME_GEOMETRY = 1e-6
"""angstrom; engines store coordinates with ten digits or more"""
_NET_FORCE_PER_ATOM = 2e-3
"""hartree/bohr; the noise of the DFT grids is some 1e-4 per atom"""
_NET_CURVATURE = 2e-2
"""hartree/bohr^2; the grids of DFT move with the atoms and leave some 1e-3"""


@dataclass(frozen=True, kw_only=True, eq=False)
class EngineResult:
    """One finished calculation."""

    energy: float
    """hartree"""
    gradient: FloatArray | None
    """(n_atoms, 3), hartree/bohr"""
    coords: FloatArray
    """(n_atoms, 3), angstrom: the geometry as the engine reports it back; of an optimisation, the last"""
    provenance: dict[str, str]
    electrons: tuple[int, int] | None = None
    """how many of each spin the engine computed with, where it says so"""
    hessian: FloatArray | None = None
    """(3 n_atoms, 3 n_atoms), hartree/bohr^2"""
    dipole: FloatArray | None = None
    """(3,), e bohr, about the origin of the coordinates"""
    bond_orders: FloatArray | None = None
    """(n_atoms, n_atoms)"""
    esp: FloatArray | None = None
    """(n_points, 4): x, y, z in bohr, potential in hartree/e"""


def to_bohr(task: QMTask) -> FloatArray:
    """Give a task's geometry in bohr, (n_atoms, 3)."""
    return task.coords / ANGSTROM_PER_BOHR


def check_result(task: QMTask, result: EngineResult) -> None:
    """Raise QMError when a result is not of this task: shape, numbers, geometry, frame, electrons."""
    n_atoms = len(task.atomic_numbers)
    if result.coords.shape != (n_atoms, 3):
        raise QMError(f"{_who(task)} returned {len(result.coords)} atoms for {n_atoms}", kind="geometry")
    if task.spec.driver != "optimise":
        moved = float(np.abs(result.coords - task.coords).max())
        if not moved < _SAME_GEOMETRY:
            raise QMError(f"{_who(task)} changed the geometry by {moved:.1e} angstrom", kind="geometry")
    half = n_electrons(task) // 2
    if result.electrons not in (None, (half, half)):
        raise QMError(
            f"{_who(task)} computed with {result.electrons} electrons of each spin, not {(half, half)}: "
            "another charge or multiplicity",
            kind="engine",
        )
    if not np.isfinite(result.energy) or (result.energy >= 0 and is_total_energy(task.spec)):
        raise QMError(f"{_who(task)} returned an energy of {result.energy} hartree", kind="engine")
    shapes: dict[str, tuple[int | None, ...]] = {
        "gradient": (n_atoms, 3),
        "hessian": (3 * n_atoms, 3 * n_atoms),
        "dipole": (3,),
        "bond_orders": (n_atoms, n_atoms),
        "esp": (None, 4),
    }
    for name in _WANTED[task.spec.driver]:
        _check_array(task, getattr(result, name), name, shapes[name])
    if result.gradient is not None:
        _check_frame(task, result.coords, result.gradient)
    if result.hessian is not None:
        _check_symmetry(task, result.hessian)


_WANTED = {
    "energy": (),
    "gradient": ("gradient",),
    "optimise": ("gradient",),
    "hessian": ("gradient", "hessian"),
    "properties": ("dipole", "bond_orders"),
    "esp": ("dipole", "esp"),
}
"""driver -> the arrays without which it has not done its work"""


def _check_array(task: QMTask, array: FloatArray | None, name: str, shape: tuple[int | None, ...]) -> None:
    fits = (
        array is not None
        and array.ndim == len(shape)
        and all(want in (None, have) for have, want in zip(array.shape, shape, strict=True))
        and np.isfinite(array).all()
    )
    if not fits:
        raise QMError(
            f"{_who(task)} returned no finite {name.replace('_', ' ')} of shape {shape}", kind="engine"
        )


def _check_frame(task: QMTask, coords: FloatArray, gradient: FloatArray) -> None:
    """Energy does not change when the molecule moves or turns: no net force, no torque.

    A gradient that comes back in another frame than its geometry has a torque.
    """
    bohr = coords / ANGSTROM_PER_BOHR
    centred = bohr - bohr.mean(axis=0)
    reach = max(1.0, float(np.linalg.norm(centred, axis=1).max()))
    force = float(np.abs(gradient.sum(axis=0)).max())
    torque = float(np.abs(np.cross(centred, gradient).sum(axis=0)).max()) / reach
    if max(force, torque) > _NET_FORCE_PER_ATOM * len(bohr):
        raise QMError(
            f"{_who(task)} returned a gradient in another frame: net force {force:.1e}, "
            f"torque over reach {torque:.1e} hartree/bohr",
            kind="geometry",
        )


def _check_symmetry(task: QMTask, hessian: FloatArray) -> None:
    """A matrix of second derivatives is symmetric, and a shift of the molecule costs nothing."""
    skew = float(np.abs(hessian - hessian.T).max())
    shift = float(np.abs(hessian.reshape(len(hessian), -1, 3).sum(axis=1)).max())
    if max(skew, shift) > _NET_CURVATURE:
        raise QMError(
            f"{_who(task)} returned a Hessian that is none: asymmetry {skew:.1e}, curvature along a shift "
            f"{shift:.1e} hartree/bohr^2",
            kind="engine",
        )


def _who(task: QMTask) -> str:
    return f"{task.ligand_key}: {task.spec.program}"
