"""Copies by normal modes and dynamics: thermal, low enough, different, repeatable."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest

from pipeline.conformers import embed_conformers, prune_conformers
from pipeline.errors import QMError
from pipeline.export.openmm_system import build_system
from pipeline.outcome import failure_from_exception
from pipeline.process.child import Limits
from pipeline.qm.door import run_task
from pipeline.qm.levels import spec_by_name
from pipeline.qm.relax import relax_conformers
from pipeline.readback.energies import compute_report
from pipeline.sampling import (
    ENERGY_WINDOW,
    TEMPERATURE,
    choose_different,
    compute_hessian,
    draw_from_modes,
    sample_copies,
)
from pipeline.schema import Conformers, Ligand, Parametrized, QMRecord, QMTask
from pipeline.settings import ConformerSettings
from pipeline.units import BOLTZMANN

WATER = np.array([[0.0, 0.0, 0.117], [0.0, 0.757, -0.471], [0.0, -0.757, -0.471]])


def springs(coords: np.ndarray) -> tuple[float, np.ndarray]:
    """Three springs of k = 200 kcal/mol/angstrom^2 between water's atoms, at rest in WATER."""
    forces, energy = np.zeros_like(coords), 0.0
    for i, j in ((0, 1), (0, 2), (1, 2)):
        arm = coords[i] - coords[j]
        length = np.linalg.norm(arm)
        stretch = length - np.linalg.norm(WATER[i] - WATER[j])
        energy += 100.0 * stretch**2
        forces[i] -= 200.0 * stretch * arm / length
        forces[j] += 200.0 * stretch * arm / length
    return energy, forces


def test_modes_have_the_thermal_energy() -> None:
    """Three modes hold kT/2 each: 4,000 draws have 1.5 kT in the mean; the centre stays, nothing turns."""
    hessian = compute_hessian(springs, WATER)
    assert (np.linalg.eigvalsh(hessian) > 1.0).sum() == 3
    drawn = draw_from_modes(hessian, WATER, 4000, np.random.default_rng(1))
    energies = [springs(coords)[0] for coords in drawn]
    # 5 %: the standard error is 1.3 %, the anharmonicity of bent springs some more.
    assert np.mean(energies) == pytest.approx(1.5 * BOLTZMANN * TEMPERATURE, rel=0.05)
    moves = drawn - WATER
    np.testing.assert_allclose(moves.mean(axis=1), 0.0, atol=1e-12)
    centred = WATER - WATER.mean(axis=0)
    np.testing.assert_allclose(np.cross(centred, moves).sum(axis=1), 0.0, atol=1e-12)


def test_most_different_are_chosen() -> None:
    """Of a copy, a far and a farther geometry, the farther comes first, the copy last."""
    candidates = np.array([WATER * 1.0001, WATER * 1.1, WATER * 1.3])
    chosen = choose_different(candidates, WATER, 2)
    np.testing.assert_array_equal(chosen, candidates[[2, 1]])
    assert len(choose_different(candidates, WATER, 9)) == 3


@pytest.mark.parametrize("way", ["normal-modes", "dynamics"])
def test_copies_of_a_ligand(
    way: str, build_ligand: Callable[..., Ligand], parametrize_ligand: Callable[..., Parametrized]
) -> None:
    """Below the window in the force field's own energy, none like another, the same twice."""
    made = parametrize_ligand(build_ligand("CCO"))
    force_field = (made.topology, made.parameters)
    assert made.coords is not None
    conformers = Conformers(coords=made.coords[None])
    copies = sample_copies(force_field, conformers, 4, way=way, seed=5)
    assert copies.coords.shape == (4, 9, 3)
    again = sample_copies(force_field, conformers, 4, way=way, seed=5)
    np.testing.assert_array_equal(copies.coords, again.coords)
    system = build_system(*force_field)
    start = compute_report(system, made.coords).total
    for coords in copies.coords:
        assert compute_report(system, coords).total - start <= ENERGY_WINDOW * 9 + 1e-6
    apart = np.linalg.norm(copies.coords[:, None] - copies.coords[None], axis=(2, 3))
    assert apart[np.triu_indices(4, 1)].min() > 0.05


def test_conformers_are_relaxed(build_ligand: Callable[..., Ligand]) -> None:
    """Geometries of methanol relax to one, by GFN2-xTB; a failed one is left out; none left is an error, and
    so is one that was not begun: with more budget there would be others.
    """
    ligand = build_ligand("CO")
    one = embed_conformers(ligand, ConformerSettings(n_embed=1), seed=1).coords[0]
    conformers = Conformers(coords=np.array([one, one + 0.02, one * 1.02]))

    def compute(tasks: Sequence[QMTask], kind: str = "scf") -> dict:
        endings: dict = {task.key: run_task(task, Limits(wall_seconds=280, memory_mb=4096)) for task in tasks}
        error = QMError("no luck", kind=kind)
        endings[tasks[1].key] = failure_from_exception(error, ligand="CO", stage="qm")
        return endings

    spec = spec_by_name("fast")
    relaxed = relax_conformers(ligand, "key", conformers, spec=spec, compute=compute, prune_rms=0.5)
    assert relaxed.n_confs == 1
    assert 0.005 < np.abs(relaxed.coords[0] - one).max() < 0.5

    unpaid = partial(compute, kind="budget")
    with pytest.raises(QMError, match="no luck") as caught:
        relax_conformers(ligand, "key", conformers, spec=spec, compute=unpaid, prune_rms=0.5)
    assert caught.value.kind == "budget"

    def fail(tasks: Sequence[QMTask]) -> dict[str, QMRecord]:
        return {key: ending for key, ending in compute(tasks[:2]).items() if key == tasks[1].key}

    last = Conformers(coords=conformers.coords[[1, 1]])
    with pytest.raises(QMError, match="no luck") as caught:
        relax_conformers(ligand, "key", last, spec=spec, compute=fail, prune_rms=0.5)
    assert caught.value.kind == "scf"


def test_pruning_keeps_the_first(build_ligand: Callable[..., Ligand]) -> None:
    """A turned copy goes, a stretched geometry stays."""
    ligand = build_ligand("CCO")
    one = embed_conformers(ligand, ConformerSettings(n_embed=1), seed=1).coords[0]
    turned = one @ np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]).T + 3.0
    kept = prune_conformers(ligand, Conformers(coords=np.array([one, turned, 1.5 * one])), 0.3)
    np.testing.assert_array_equal(kept.coords, [one, 1.5 * one])
