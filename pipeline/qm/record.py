"""From an engine's result to a record: atomic units and own frame become our units and the task's frame."""

import dataclasses

import numpy as np

from pipeline.qm.frame import own_frame, turn_back_hessian, turn_back_points, turn_back_vectors
from pipeline.qm.result import EngineResult, check_result
from pipeline.schema import FloatArray, QMRecord, QMTask
from pipeline.units import (
    ANGSTROM_PER_BOHR,
    KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR,
    KCAL_PER_HARTREE,
)


def in_own_frame(task: QMTask) -> QMTask:
    """Give the same task with its molecule turned into its own frame."""
    return dataclasses.replace(task, coords=own_frame(task.coords)[0])


def to_record(task: QMTask, result: EngineResult) -> QMRecord:
    """Check what an engine found in the own frame of a task, and turn it back; QMError when it is not."""
    check_result(in_own_frame(task), result)
    coords = task.coords
    is_moved = task.spec.driver == "optimise"
    gradient, hessian, dipole, esp = result.gradient, result.hessian, result.dipole, result.esp
    if gradient is not None:
        gradient = turn_back_vectors(gradient, coords) * KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR
    if hessian is not None:
        unit = KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR / ANGSTROM_PER_BOHR
        hessian = turn_back_hessian(hessian, coords) * unit
        hessian = (hessian + hessian.T) / 2
    if dipole is not None:
        # About the mean of the nuclei, which an optimisation moves: of an ion, the origin matters.
        mean = result.coords.mean(axis=0)
        dipole = turn_back_vectors(dipole * ANGSTROM_PER_BOHR - task.total_charge * mean, coords)
    return QMRecord(
        task_key=task.key,
        ligand_key=task.ligand_key,
        spec=task.spec,
        coords=turn_back_points(result.coords, coords) if is_moved else coords,
        energy=result.energy * KCAL_PER_HARTREE,
        gradient=gradient,
        hessian=hessian,
        dipole=dipole,
        bond_orders=result.bond_orders,
        esp=None if esp is None else _esp_back(esp, coords),
        provenance=tuple(sorted(result.provenance.items())),
    )


def _esp_back(esp: FloatArray, coords: FloatArray) -> FloatArray:
    points = turn_back_points(esp[:, :3] * ANGSTROM_PER_BOHR, coords)
    return np.column_stack([points, esp[:, 3] * KCAL_PER_HARTREE])
