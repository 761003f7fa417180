"""The cost model and the plan made from it."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.qm.cost import estimate_seconds, machine_ratio, predicted_seconds
from pipeline.schema import QMRecord, QMSpec, QMTask
from pipeline.store import Attempt, QMStore

# (engine, atomic numbers, CPU seconds measured on one core when the model was fitted)
MEASURED = [
    ("pyscf", [7, 6, 1], 1.4),
    ("pyscf", [6] * 2 + [8] + [1] * 6, 4.6),
    ("pyscf", [6] * 6 + [17] + [1] * 5, 15.5),
    ("pyscf", [6] * 6 + [8] + [1] * 6, 14.1),
    ("pyscf", [6] * 6 + [1] * 14, 18.6),
    ("pyscf", [6] * 8 + [7] + [8] * 2 + [1] * 9, 52.1),
    ("pyscf", [6] * 7 + [7, 16] + [8] * 2 + [1] * 9, 55.7),
    ("psi4", [6] * 2 + [8] + [1] * 6, 7.7),
    ("psi4", [6] * 2 + [16, 8] + [1] * 6, 8.7),
    ("psi4", [6] * 6 + [8] + [1] * 6, 16.9),
]


def make_task(program: str, numbers: list[int], driver: str = "gradient") -> QMTask:
    xtb = program == "tblite"
    spec = QMSpec(
        program=program,
        method="gfn2-xtb" if xtb else "b3lyp",
        basis=None if xtb else "dzvp",
        dispersion=None if xtb else "d3bj",
        driver=driver,
    )
    coords = np.arange(3 * len(numbers), dtype=float).reshape(-1, 3)
    return QMTask(ligand_key="x", atomic_numbers=np.array(numbers), coords=coords, total_charge=0, spec=spec)


@pytest.mark.parametrize(("program", "numbers", "measured"), MEASURED)
def test_model_keeps_its_measurements(program: str, numbers: list[int], measured: float) -> None:
    """The model gives the times it was fitted to within a factor of 1.5; elsewhere it promises two."""
    assert 1 / 1.5 < predicted_seconds(make_task(program, numbers)) / measured < 1.5


@pytest.mark.parametrize("program", ["pyscf", "psi4", "tblite"])
def test_model_is_monotonic(program: str) -> None:
    """More atoms cost more, and an energy costs less than a gradient."""
    sizes = [predicted_seconds(make_task(program, [6] * n + [1] * 2 * n)) for n in range(1, 12)]
    assert sizes == sorted(sizes)
    assert predicted_seconds(make_task(program, [6, 1], "energy")) < predicted_seconds(
        make_task(program, [6, 1])
    )


def test_plan_by_hand() -> None:
    """Three equal jobs take three times one on one child, twice on two, once on three or more."""
    task = make_task("pyscf", [8, 1, 1])
    one = predicted_seconds(task)
    for jobs, times in ((1, 3), (2, 2), (3, 1), (8, 1)):
        assert estimate_seconds([task] * 3, jobs) == pytest.approx(times * one)
    assert estimate_seconds([task], 1, ratio=2.5) == pytest.approx(2.5 * one)
    assert estimate_seconds([], 2) == 0.0


def test_history_scales(tmp_path: Path) -> None:
    """After three jobs the machine's ratio is the median of actual over predicted; before, a probe's."""
    with QMStore(tmp_path / "s") as store:
        assert 0.1 < machine_ratio(store, "pyscf") < 100  # a probe: any computer of the last twenty years
        for n, ratio in enumerate((1.5, 2.0, 9.0)):
            record = QMRecord(
                task_key=f"k{n}",
                ligand_key="x",
                spec=QMSpec(),
                coords=np.zeros((1, 3)),
                energy=-1.0,
                gradient=None,
            )
            store.put(record)
            store.add_attempt(
                Attempt(task_key=f"k{n}", seconds=10 * ratio, predicted_seconds=10.0, kind="ok")
            )
        assert machine_ratio(store, "pyscf") == 2.0
