"""What every engine must keep: one frame, forces that are derivatives, one surface for all DFT programs."""

import dataclasses
from functools import cache
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipeline.errors import QMError
from pipeline.process.child import Limits
from pipeline.qm.dispersion import compute_d3bj
from pipeline.qm.door import available_engines, has_reference_blas, run_task
from pipeline.qm.levels import spec_by_name
from pipeline.qm.result import EngineResult, check_result
from pipeline.schema import QMRecord, QMSpec, QMTask
from pipeline.units import (
    ANGSTROM_PER_BOHR,
    KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR,
    KCAL_PER_HARTREE,
)

LIMITS = Limits(wall_seconds=300, memory_mb=4096)

PSI4 = pytest.param(
    "psi4",
    marks=[pytest.mark.psi4, pytest.mark.skipif(which("psi4") is None, reason="psi4 is not installed")],
)
MOPAC = pytest.param(
    "mopac", marks=pytest.mark.skipif(which("mopac") is None, reason="mopac is not installed")
)
PYSCF = pytest.param("pyscf", marks=pytest.mark.pyscf)
ALL_ENGINES = ["tblite", PYSCF, PSI4]

SPECS = {
    "tblite": spec_by_name("fast"),
    "mopac": QMSpec(program="mopac", method="am1", basis=None, dispersion=None),
}
# Distorted geometries, angstrom: no force vanishes.
MOLECULES = {
    "water": (0, [8, 1, 1], [[0.0, 0.0, 0.12], [0.0, 0.79, -0.47], [0.1, -0.757, -0.5]]),
    "hydrogen cyanide": (0, [6, 7, 1], [[0.0, 0.0, 0.0], [0.1, 0.0, 1.17], [0.0, 0.05, -1.06]]),
    # Beyond krypton psi4 computes exact integrals and pyscf fits with a basis of its own.
    "hydrogen iodide": (0, [53, 1], [[0.0, 0.0, 0.0], [0.3, 0.2, 1.65]]),
    "methylammonium": (
        1,
        [6, 7, 1, 1, 1, 1, 1, 1],
        [
            [-0.80, 0.00, 0.01],
            [0.71, 0.00, 0.00],
            [-1.12, 1.03, 0.00],
            [-1.12, -0.51, 0.89],
            [-1.15, -0.51, -0.89],
            [1.05, -0.95, 0.05],
            [1.05, 0.47, 0.83],
            [1.06, 0.48, -0.85],
        ],
    ),
}


def make_task(name: str, program: str) -> QMTask:
    charge, numbers, coords = MOLECULES[name]
    return QMTask(
        ligand_key=name,
        atomic_numbers=np.array(numbers),
        coords=np.array(coords),
        total_charge=charge,
        spec=SPECS.get(program) or spec_by_name("openff-default", program),
    )


@cache
def record_of(name: str, program: str) -> QMRecord:
    """Several tests look at one calculation."""
    return run_task(make_task(name, program), LIMITS)


def gradient_of(record: QMRecord) -> np.ndarray:
    assert record.gradient is not None
    return record.gradient


@pytest.mark.psi4
@pytest.mark.pyscf
@pytest.mark.skipif(which("psi4") is None, reason="psi4 is not installed")
@pytest.mark.parametrize("name", list(MOLECULES))
def test_psi4_and_pyscf_agree(name: str) -> None:
    """B3LYP-D3BJ/DZVP is one surface: 1e-4 hartree and 2e-4 hartree/bohr, the noise of two grids."""
    ours, theirs = record_of(name, "pyscf"), record_of(name, "psi4")
    # Iodine's fifty core electrons add a constant to the error of fitted integrals; no force feels it.
    hartree = 5e-4 if "iodide" in name else 1e-4
    assert ours.energy == pytest.approx(theirs.energy, abs=hartree * KCAL_PER_HARTREE)
    np.testing.assert_allclose(
        gradient_of(ours), gradient_of(theirs), atol=2e-4 * KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR
    )


@pytest.mark.parametrize("program", [*ALL_ENGINES, MOPAC])
def test_turned_input(program: str) -> None:
    """Turn and move the input: the energy stays within 1e-8 hartree and the gradient turns with it."""
    task, straight = make_task("water", program), record_of("water", program)
    turn = Rotation.random(random_state=4).as_matrix()
    turned = run_task(dataclasses.replace(task, coords=task.coords @ turn.T + [3.0, -2.0, 1.0]), LIMITS)
    assert turned.energy == pytest.approx(straight.energy, abs=1e-8 * KCAL_PER_HARTREE)
    # 1e-6 hartree/bohr: both runs see coordinates that differ in the last digits only.
    np.testing.assert_allclose(
        gradient_of(turned),
        gradient_of(straight) @ turn.T,
        atol=1e-6 * KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR,
    )


@pytest.mark.parametrize("program", [*ALL_ENGINES, MOPAC])
def test_another_frame_or_state_is_noticed(program: str) -> None:
    """The engine's own answer is taken; with its gradient or its geometry turned, with a net force, or with
    the electrons of another state it is not.
    """
    task, record = make_task("water", program), record_of("water", program)
    right = EngineResult(
        energy=record.energy / KCAL_PER_HARTREE,
        gradient=gradient_of(record) / KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR,
        coords=task.coords,
        provenance={},
        electrons=(5, 5),
    )
    check_result(task, right)
    assert right.gradient is not None
    turn = Rotation.random(random_state=4).as_matrix()
    for change, kind, words in (
        ({"gradient": right.gradient @ turn.T}, "geometry", "in another frame"),
        ({"gradient": right.gradient + 0.02}, "geometry", "in another frame"),
        ({"coords": task.coords @ turn.T}, "geometry", "changed the geometry"),
        ({"electrons": (6, 4)}, "engine", "another charge or multiplicity"),
        ({"electrons": (5, 4)}, "engine", "another charge or multiplicity"),
    ):
        with pytest.raises(QMError, match=words) as caught:
            check_result(task, dataclasses.replace(right, **change))
        assert caught.value.kind == kind


@pytest.mark.parametrize("program", [*ALL_ENGINES, MOPAC])
def test_gradient_is_the_derivative(program: str) -> None:
    """Central differences of the energy along one direction: within the grid's noise, 2e-4 hartree/bohr."""
    task, record = make_task("water", program), record_of("water", program)
    _hold_to_differences(task, record)


@pytest.mark.pyscf
def test_gradient_beside_an_effective_core() -> None:
    """The same for hydrogen iodide with def2-SVP, whose iodine has 28 of its electrons in a core."""
    task = dataclasses.replace(make_task("hydrogen iodide", "pyscf"), spec=spec_by_name("hf/def2-svp"))
    _hold_to_differences(task, run_task(task, LIMITS))


def _hold_to_differences(task: QMTask, record: QMRecord) -> None:
    direction = np.random.default_rng(8).normal(size=task.coords.shape)
    direction /= np.linalg.norm(direction)
    step = 0.005
    energies = [
        run_task(
            dataclasses.replace(
                task,
                coords=task.coords + sign * step * direction,
                spec=dataclasses.replace(task.spec, driver="energy"),
            ),
            LIMITS,
        ).energy
        for sign in (1, -1)
    ]
    slope = (energies[0] - energies[1]) / (2 * step)
    expected = float((gradient_of(record) * direction).sum())
    assert slope == pytest.approx(expected, abs=2e-4 * KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR)


@pytest.mark.pyscf
def test_dispersion_is_added_once() -> None:
    """B3LYP-D3BJ minus B3LYP is what s-dftd3 gives by itself, energy and gradient."""
    task, full = make_task("methylammonium", "pyscf"), record_of("methylammonium", "pyscf")
    bare = run_task(dataclasses.replace(task, spec=dataclasses.replace(task.spec, dispersion=None)), LIMITS)
    extra = compute_d3bj("b3lyp", task.atomic_numbers, task.coords / ANGSTROM_PER_BOHR)
    # 1e-8 hartree and 1e-8 hartree/bohr: the same SCF on the same numbers.
    assert full.energy - bare.energy == pytest.approx(extra.energy * KCAL_PER_HARTREE, abs=1e-5)
    np.testing.assert_allclose(
        gradient_of(full) - gradient_of(bare),
        extra.gradient * KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR,
        atol=1e-5,
    )


def test_dispersion_falls_off_as_r6() -> None:
    """Two argon atoms at 24 and 48 bohr: the attraction falls by 2^6, up to the C8 term's 2 %."""
    near, far = (
        compute_d3bj("b3lyp", np.array([18, 18]), np.array([[0, 0, 0], [0, 0, r]], dtype=float)).energy
        for r in (24.0, 48.0)
    )
    assert near < far < 0
    assert near / far == pytest.approx(64, rel=0.1)


@pytest.mark.pyscf
def test_ladder_finds_the_same_state() -> None:
    """With too few cycles for DIIS a higher rung converges, to the same energy, and the record names it."""
    task = make_task("methylammonium", "pyscf")
    spec = QMSpec(program="pyscf", method="hf", dispersion=None, driver="energy")
    easy = run_task(dataclasses.replace(task, spec=spec), LIMITS)
    short = dataclasses.replace(spec, keywords=(("maxiter", 4),))
    hard = run_task(dataclasses.replace(task, spec=short), LIMITS)
    assert dict(easy.provenance)["scf_rung"] == "default"
    assert dict(hard.provenance)["scf_rung"] in ("guess", "level-shift", "second-order")
    # Both are converged to 1e-8 hartree between cycles; the minimum is the same.
    assert hard.energy == pytest.approx(easy.energy, abs=1e-7 * KCAL_PER_HARTREE)


@pytest.mark.parametrize("program", [*ALL_ENGINES, MOPAC])
def test_unconverged_is_never_a_success(program: str) -> None:
    """One cycle converges nothing on any rung: kind scf, and no record."""
    task = make_task("water", program)
    spec = dataclasses.replace(task.spec, driver="energy", keywords=(("maxiter", 1),))
    with pytest.raises(QMError, match="water: ") as caught:
        run_task(dataclasses.replace(task, spec=spec), LIMITS)
    assert caught.value.kind == "scf"


@pytest.mark.pyscf
@pytest.mark.parametrize(
    ("limits", "kind"),
    [
        (Limits(wall_seconds=0.4, memory_mb=4096), "time"),
        (Limits(wall_seconds=60, memory_mb=200), "memory"),
    ],
)
def test_limits_hold(limits: Limits, kind: str) -> None:
    """A job over its time or memory ends with that kind, to be tried again.

    Some hundred megabytes more would fail within compiled code, which does not always survive a refusal.
    """
    with pytest.raises(QMError, match="methylammonium: pyscf") as caught:
        run_task(make_task("methylammonium", "pyscf"), limits)
    assert (caught.value.kind, caught.value.retryable) == (kind, True)


@pytest.mark.pyscf
def test_threads_do_not_change_the_energy() -> None:
    """Two cores give the energy of one, to the rounding of another order of summation."""
    two = run_task(make_task("water", "pyscf"), LIMITS, n_cores=2)
    one = record_of("water", "pyscf")
    assert dict(two.provenance)["n_cores"] == "2"
    assert two.energy == pytest.approx(one.energy, abs=1e-9 * KCAL_PER_HARTREE)


def test_engines_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip installs is always there, with a version and its levels; asking leaves no file behind."""
    monkeypatch.chdir(tmp_path)
    engines = {engine.name: engine for engine in available_engines()}
    assert {"pyscf", "tblite"} <= set(engines)
    assert engines["pyscf"].levels[0] == "openff-default (b3lyp-d3bj/dzvp)"
    assert "gfn1-xtb" in engines["tblite"].levels
    assert all(engine.version[0].isdigit() for engine in engines.values())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("folder", "is_reference"), [("blas", True), ("openblas-openmp", False)])
def test_the_reference_blas_is_seen(tmp_path: Path, folder: str, is_reference: bool) -> None:
    """Where the alternatives of a Debian system lead, a link to a link to a file."""
    home = tmp_path / "x86_64-linux-gnu"
    (home / folder).mkdir(parents=True)
    (home / folder / "libblas.so.3").touch()
    (home / "alternative").symlink_to(home / folder / "libblas.so.3")
    (home / "libblas.so.3").symlink_to(home / "alternative")
    assert has_reference_blas(tmp_path) is is_reference
