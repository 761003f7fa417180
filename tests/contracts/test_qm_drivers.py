"""What engines give beyond energy and gradient: Hessians, dipoles, bond orders, potentials."""

import dataclasses
from functools import cache
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipeline.process.child import Limits
from pipeline.qm import mopac_engine, qcengine_engine
from pipeline.qm.dispersion import compute_short_range
from pipeline.qm.door import run_task
from pipeline.qm.esp_grid import RADII, SCALES, shell_points
from pipeline.qm.levels import spec_by_name
from pipeline.qm.populations import wiberg_bond_orders
from pipeline.schema import QMRecord, QMSpec, QMTask
from pipeline.units import KCAL_PER_HARTREE

LIMITS = Limits(wall_seconds=300, memory_mb=4096)
NEEDS_MOPAC = pytest.mark.skipif(which("mopac") is None, reason="mopac is not installed")
FAST = spec_by_name("fast")
AM1 = QMSpec(program="mopac", method="am1", basis=None, dispersion=None)
CHARGES = spec_by_name("charges", "pyscf")
SPECS = [
    pytest.param(FAST, id="gfn2-xtb"),
    pytest.param(dataclasses.replace(FAST, method="gfn1-xtb"), id="gfn1-xtb"),
    pytest.param(AM1, id="am1", marks=NEEDS_MOPAC),
    pytest.param(QMSpec(), id="b3lyp", marks=pytest.mark.pyscf),
]

# Distorted, angstrom
WATER = (0, [8, 1, 1], [[0.0, 0.0, 0.12], [0.0, 0.79, -0.47], [0.1, -0.757, -0.5]])
HYDROXIDE = (-1, [8, 1], [[0.0, 0.1, 0.0], [0.3, 0.2, 0.95]])


def make_task(molecule: tuple, spec: QMSpec, driver: str) -> QMTask:
    charge, numbers, coords = molecule
    return QMTask(
        ligand_key="water" if charge == 0 else "hydroxide",
        atomic_numbers=np.array(numbers),
        coords=np.array(coords),
        total_charge=charge,
        spec=dataclasses.replace(spec, driver=driver),
    )


@cache
def water_record(spec: QMSpec, driver: str) -> QMRecord:
    """Several tests look at one calculation."""
    return run_task(make_task(WATER, spec, driver), LIMITS)


@pytest.mark.parametrize(
    "spec",
    [
        *SPECS,
        pytest.param(spec_by_name("quality"), id="wb97x", marks=pytest.mark.pyscf),
        pytest.param(spec_by_name("composite"), id="b97-3c", marks=pytest.mark.pyscf),
    ],
)
def test_hessian_is_the_derivative(spec: QMSpec) -> None:
    """Central differences of the gradient along one direction: within the grid's noise, 0.3 % of a bond."""
    molecule = HYDROXIDE if spec.basis else WATER  # to be done in seconds
    task = make_task(molecule, spec, "gradient")
    hessian = run_task(make_task(molecule, spec, "hessian"), LIMITS).hessian
    assert hessian is not None
    direction = np.random.default_rng(8).normal(size=task.coords.size)
    direction /= np.linalg.norm(direction)
    step = 0.004
    gradients = []
    for sign in (1, -1):
        moved = task.coords + sign * step * direction.reshape(-1, 3)
        gradients.append(run_task(dataclasses.replace(task, coords=moved), LIMITS).gradient)
    slope = ((gradients[0] - gradients[1]) / (2 * step)).ravel()
    # kcal/mol/angstrom^2; a stretch is a thousand of these
    np.testing.assert_allclose(hessian @ direction, slope, atol=4.0)
    np.testing.assert_array_equal(hessian, hessian.T)


@pytest.mark.parametrize("spec", SPECS)
def test_turned_hessian_and_dipole(spec: QMSpec) -> None:
    """Turn and move the input: Hessian and dipole turn with it, bond orders stay."""
    turn = Rotation.random(random_state=4).as_matrix()
    charge, numbers, coords = WATER
    turned = (charge, numbers, np.array(coords) @ turn.T + [3.0, -2.0, 1.0])
    if spec.method in ("gfn2-xtb", "am1"):  # one analytic and one numerical Hessian would say the same
        straight = water_record(spec, "hessian").hessian
        hessian = run_task(make_task(turned, spec, "hessian"), LIMITS).hessian
        big = np.kron(np.eye(3), turn)
        np.testing.assert_allclose(hessian, big @ np.asarray(straight) @ big.T, atol=0.05)
    one = water_record(spec, "properties")
    other = run_task(make_task(turned, spec, "properties"), LIMITS)
    # 1e-6: both runs see coordinates that differ in the last digits only.
    np.testing.assert_allclose(other.dipole, np.asarray(one.dipole) @ turn.T, atol=1e-6)
    np.testing.assert_allclose(other.bond_orders, one.bond_orders, atol=1e-6)


@pytest.mark.parametrize("spec", SPECS)
def test_properties_are_chemistry(spec: QMSpec) -> None:
    """Water: the dipole is along the bisector towards the hydrogens, 1.5 to 3 D; O-H bonds are single."""
    record = water_record(spec, "properties")
    assert record.dipole is not None
    assert record.bond_orders is not None
    debye = 4.803 * np.linalg.norm(record.dipole)
    assert 1.5 < debye < 3.0
    bisector = record.coords[1:].mean(axis=0) - record.coords[0]
    cosine = record.dipole @ bisector / np.linalg.norm(record.dipole) / np.linalg.norm(bisector)
    assert cosine > 0.98
    np.testing.assert_allclose(record.bond_orders[0, 1:], 0.9, atol=0.15)
    assert record.bond_orders[1, 2] < 0.05


@pytest.mark.parametrize("spec", SPECS)
def test_dipole_of_an_ion_has_its_origin(spec: QMSpec) -> None:
    """Of hydroxide, about the mean of the nuclei: engines with origins of their own agree to 0.25 e angstrom,
    and a shift of the molecule changes nothing."""
    record = run_task(make_task(HYDROXIDE, spec, "properties"), LIMITS)
    axis = record.coords[1] - record.coords[0]
    along = float(np.asarray(record.dipole) @ axis / np.linalg.norm(axis))
    # All of the charge on oxygen would give +0.50; about oxygen itself it would be near zero, +-0.3.
    assert along == pytest.approx(0.8, abs=0.3)
    charge, numbers, coords = HYDROXIDE
    moved = run_task(make_task((charge, numbers, np.array(coords) + 7.0), spec, "properties"), LIMITS)
    np.testing.assert_allclose(moved.dipole, record.dipole, atol=1e-6)


@pytest.mark.pyscf
@pytest.mark.psi4
@pytest.mark.skipif(which("psi4") is None, reason="psi4 is not installed")
def test_psi4_and_pyscf_agree_on_properties() -> None:
    """HF/6-31G*: dipole, bond orders and potential are the same numbers, to the error of density fitting."""
    spec = dataclasses.replace(CHARGES, program="psi4")
    ours, theirs = water_record(CHARGES, "properties"), water_record(spec, "properties")
    np.testing.assert_allclose(ours.dipole, theirs.dipole, atol=2e-4)
    np.testing.assert_allclose(ours.bond_orders, theirs.bond_orders, atol=2e-4)
    ours, theirs = water_record(CHARGES, "esp"), water_record(spec, "esp")
    assert ours.esp is not None
    assert theirs.esp is not None
    np.testing.assert_allclose(ours.esp[:, :3], theirs.esp[:, :3], atol=1e-6)
    # 0.02 kcal/mol/e of potentials of some 20
    np.testing.assert_allclose(ours.esp[:, 3], theirs.esp[:, 3], atol=0.02)
    assert np.abs(ours.esp[:, 3]).max() > 10


@pytest.mark.pyscf
def test_potential_far_away_is_the_charge() -> None:
    """The potential of hydroxide is negative everywhere and, times the distance, near its charge of -1."""
    record = run_task(make_task(HYDROXIDE, CHARGES, "esp"), LIMITS)
    assert record.esp is not None
    assert (record.esp[:, 3] < 0).all()
    far = np.linalg.norm(record.esp[:, :3] - record.coords[0], axis=1)
    charge = (record.esp[:, 3] * far / 332.0637).mean()
    assert charge == pytest.approx(-1.0, abs=0.15)


def test_shells_are_shells() -> None:
    """Every point lies on its atom's sphere of one shell and inside no other's; as many as the area."""
    _, numbers, coords = WATER
    points = shell_points(np.array(numbers), np.array(coords))
    radii = np.array([RADII[number] for number in numbers])
    away = np.linalg.norm(points[:, None] - np.array(coords)[None], axis=2) / radii
    nearest = away.min(axis=1)
    assert {round(float(value), 6) for value in nearest} == set(SCALES)
    # A lone atom keeps its whole spheres: 4 pi r^2 points per shell.
    alone = shell_points(np.array([8]), np.zeros((1, 3)))
    assert len(alone) == sum(int(np.ceil(4 * np.pi * (scale * 1.40) ** 2)) for scale in SCALES)


def test_bond_orders_by_hand() -> None:
    """H2 in one orbital each: P of ones with S = 1 is a single bond; two electrons apart are none."""
    starts, overlap = [0, 1], np.eye(2)
    np.testing.assert_allclose(wiberg_bond_orders(np.ones((2, 2)), overlap, starts), [[0, 1], [1, 0]])
    np.testing.assert_allclose(wiberg_bond_orders(np.eye(2), overlap, starts), np.zeros((2, 2)))
    # With overlap s the bonding orbital is (1, 1) / sqrt(2 + 2s): still one bond.
    overlap = np.array([[1.0, 0.6], [0.6, 1.0]])
    density = 2 * np.ones((2, 2)) / (2 + 2 * 0.6)
    np.testing.assert_allclose(wiberg_bond_orders(density, overlap, starts), [[0, 1], [1, 0]], atol=1e-12)


def test_short_range_term_has_its_gradient() -> None:
    """The bond term of B97-3c attracts; its gradient is the derivative of its energy."""
    numbers = np.array(WATER[1])
    bohr = np.array(WATER[2]) / 0.529177
    term = compute_short_range(numbers, bohr)
    assert -0.1 < term.energy < 0
    step = np.zeros((3, 3))
    step[1, 1] = 1e-4
    slope = (
        compute_short_range(numbers, bohr + step).energy - compute_short_range(numbers, bohr - step).energy
    ) / 2e-4
    assert term.gradient[1, 1] == pytest.approx(slope, abs=1e-8)


@NEEDS_MOPAC
def test_generic_harness_agrees_with_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QCEngine's MOPAC harness, through the adapter for any program, gives our MOPAC adapter's numbers."""
    monkeypatch.chdir(tmp_path)
    task = make_task(WATER, AM1, "gradient")
    ours, theirs = (engine.compute(task, 1, 2048) for engine in (mopac_engine, qcengine_engine))
    # QCEngine converts with CODATA 2014 and MOPAC prints six digits by default.
    assert ours.energy == pytest.approx(theirs.energy, abs=1e-5)
    np.testing.assert_allclose(ours.gradient, theirs.gradient, atol=1e-5)


@pytest.mark.pyscf
@pytest.mark.parametrize("name", ["quality", "composite"])
def test_named_levels_have_gradients(name: str) -> None:
    """wB97X-D3BJ/def2-TZVPD and B97-3c: the gradient is the derivative of the energy."""
    task = make_task(WATER, spec_by_name(name), "gradient")
    record = run_task(task, LIMITS)
    energies = []
    for sign in (1, -1):
        coords = task.coords.copy()
        coords[1, 1] += sign * 0.005
        spec = dataclasses.replace(task.spec, driver="energy")
        energies.append(run_task(dataclasses.replace(task, coords=coords, spec=spec), LIMITS).energy)
    assert record.gradient is not None
    # 0.2 kcal/mol/angstrom: the noise of the grid
    assert record.gradient[1, 1] == pytest.approx((energies[0] - energies[1]) / 0.01, abs=0.2)
    assert -77 < record.energy / KCAL_PER_HARTREE < -76
