"""The values of QM: what a task's key depends on, and which arrays a record takes."""

import dataclasses
import math

import numpy as np
import pytest

from pipeline.schema import DihedralConstraint, QMRecord, QMSpec, QMTask

TASK = QMTask(
    ligand_key="hydrogen peroxide",
    atomic_numbers=np.array([1, 8, 8, 1]),
    coords=np.array([[0.9, 0.2, 0.7], [0.0, 0.0, 0.7], [0.0, 0.0, -0.7], [0.2, 0.9, -0.7]]),
    total_charge=0,
    spec=QMSpec(),
)
RECORD = QMRecord(
    task_key=TASK.key, ligand_key="x", spec=TASK.spec, coords=TASK.coords, energy=-1.0, gradient=None
)


def test_keys_of_single_points_stay() -> None:
    """A store of today is found by tomorrow's program: the key of a plain gradient, written down once."""
    assert TASK.key == "b2ba4371935c174a911915ccafd90a4d649f1c46cd09e6b534a902b8b923998b"


def test_constraints_are_part_of_the_key() -> None:
    """No constraint, a frozen dihedral and two values of it are four calculations; turns of 1e-12 are one."""
    atoms = (0, 1, 2, 3)
    held = [(), *((DihedralConstraint(atoms=atoms, angle=angle),) for angle in (None, 0.0, math.pi / 6))]
    keys = [dataclasses.replace(TASK, constraints=constraints).key for constraints in held]
    assert len(set(keys)) == 4
    nearly = (DihedralConstraint(atoms=atoms, angle=math.pi / 6 + 1e-12),)
    assert dataclasses.replace(TASK, constraints=nearly).key == keys[3]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("gradient", (4, 3)), ("hessian", (12, 12)), ("dipole", (3,)), ("bond_orders", (4, 4)), ("esp", (9, 4))],
)
def test_arrays_of_a_record(name: str, shape: tuple[int, ...]) -> None:
    """Each array is taken in its shape, read-only; another shape and a NaN are refused."""
    held = dataclasses.replace(RECORD, **{name: np.ones(shape)})
    assert not getattr(held, name).flags.writeable
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(RECORD, **{name: np.ones((*shape[:-1], shape[-1] + 1))})
    with pytest.raises(ValueError, match=f"{name} must be finite"):
        dataclasses.replace(RECORD, **{name: np.full(shape, np.nan)})


def test_flags_are_in_the_provenance() -> None:
    """A record without them has none; two are two words."""
    assert RECORD.flags == ()
    flagged = dataclasses.replace(RECORD, provenance=(("flags", "connectivity outlier"),))
    assert flagged.flags == ("connectivity", "outlier")
