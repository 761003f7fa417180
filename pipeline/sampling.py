"""Geometries around conformers that a molecule would visit: by normal modes or by short dynamics, in an MM.

Displacing every coordinate alike stretches bonds as far as it turns torsions. Here stiff things move little
and soft ones far, as at a temperature, so that the QM of the copies teaches both.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import openmm

from pipeline.errors import ConformerError
from pipeline.export.openmm_system import build_system
from pipeline.schema import Conformers, FloatArray, MMParameters, Topology
from pipeline.units import ANGSTROM_PER_NM, BOLTZMANN, KJ_PER_KCAL

Way = Literal["normal-modes", "dynamics"]

TEMPERATURE = 500.0
"""K; of a force field that shall hold at 300 K, the walls must be known a little further up"""
ENERGY_WINDOW = 2.0
"""kcal/mol per atom above the conformer, MM; at 500 K the mean is 1.5"""
_CANDIDATES_PER_COPY = 3
_STEP = 1e-3
"""angstrom, of the differences of forces"""
_SOFTEST = 4.0
"""kcal/mol/angstrom^2; a softer mode is a turn, which straight Cartesian lines follow only for a short way"""
_FRICTION, _TIME_STEP = 5.0, 0.0005
"""1/ps, ps"""
_STEPS_BETWEEN = 150
"""time steps between two candidates of a trajectory"""


def sample_copies(
    parameters: tuple[Topology, MMParameters], conformers: Conformers, n_copies: int, *, way: Way, seed: int
) -> Conformers:
    """Sample copies of conformers, taken in turn; the most different of those that are low enough are kept.

    The same seed gives the same copies on one kind of machine. Raises ConformerError when the force field
    leaves none below the energy window.
    """
    system = build_system(*parameters)
    energy_and_forces = _evaluator(system)
    chosen = []
    for number in range(min(n_copies, conformers.n_confs)):
        start = np.array(conformers.coords[number])
        n_here = len(range(number, n_copies, conformers.n_confs))
        n_candidates = _CANDIDATES_PER_COPY * n_here
        rng = np.random.default_rng([seed, number])
        if way == "normal-modes":
            hessian = compute_hessian(energy_and_forces, start)
            candidates = draw_from_modes(hessian, start, n_candidates, rng)
        else:
            candidates = _run_dynamics(system, start, n_candidates, int(rng.integers(1, 2**31 - 1)))
        lowest, _ = energy_and_forces(start)
        limit = lowest + ENERGY_WINDOW * len(start)
        low = [place for place in candidates if energy_and_forces(place)[0] <= limit]
        if not low:
            raise ConformerError(
                f"no geometry by {way} lies below {ENERGY_WINDOW:g} kcal/mol per atom; use the sampling "
                "`cartesian`"
            )
        chosen += choose_different(np.array(low), start, n_here)
    return Conformers(coords=np.array(chosen))


def _evaluator(system: openmm.System) -> Callable[[FloatArray], tuple[float, FloatArray]]:
    """coords (n_atoms, 3) angstrom -> energy kcal/mol and forces kcal/mol/angstrom."""
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))

    def evaluate(coords: FloatArray) -> tuple[float, FloatArray]:
        context.setPositions(coords / ANGSTROM_PER_NM)
        state = context.getState(getEnergy=True, getForces=True)
        unit = KJ_PER_KCAL * ANGSTROM_PER_NM
        forces = state.getForces(asNumpy=True)
        energy = state.getPotentialEnergy().value_in_unit(openmm.unit.kilojoule_per_mole)
        return energy / KJ_PER_KCAL, np.asarray(forces) / unit

    return evaluate


def compute_hessian(
    energy_and_forces: Callable[[FloatArray], tuple[float, FloatArray]], coords: FloatArray
) -> FloatArray:
    """Second derivatives by central differences of forces: (3 n_atoms, 3 n_atoms), kcal/mol/angstrom^2."""
    rows = []
    for place in range(coords.size):
        step = np.zeros(coords.size)
        step[place] = _STEP
        ends = [energy_and_forces(coords + sign * step.reshape(-1, 3))[1].ravel() for sign in (1, -1)]
        rows.append((ends[1] - ends[0]) / (2 * _STEP))
    hessian = np.array(rows)
    return (hessian + hessian.T) / 2


def draw_from_modes(
    hessian: FloatArray, coords: FloatArray, n_draws: int, rng: np.random.Generator
) -> FloatArray:
    """Draw from the Boltzmann distribution of the harmonic well: x = x0 + sum_m sqrt(kT / k_m) g_m e_m.

    The distribution of positions does not depend on masses, so e_m and k_m are those of the bare Hessian,
    with shifts and turns of the whole projected out; softer or inverted modes count as the softest allowed.
    Returns (n_draws, n_atoms, 3), angstrom.
    """
    inner = _without_rigid_motion(coords)
    values, vectors = np.linalg.eigh(inner.T @ hessian @ inner)
    widths = np.sqrt(BOLTZMANN * TEMPERATURE / np.maximum(values, _SOFTEST))
    normal = rng.normal(size=(n_draws, len(values)))
    moves = (normal * widths) @ (inner @ vectors).T
    drawn: FloatArray = coords + moves.reshape(n_draws, *coords.shape)
    return drawn


def _without_rigid_motion(coords: FloatArray) -> FloatArray:
    """An orthonormal basis, (3 n_atoms, n), of all displacements that neither shift nor turn the whole."""
    centred = coords - coords.mean(axis=0)
    axes = np.eye(3)
    shifts = [np.tile(axis, len(coords)) for axis in axes]
    turns = [np.cross(axis, centred).ravel() for axis in axes]
    left, singular, _ = np.linalg.svd(np.array([*shifts, *turns]).T, full_matrices=True)
    n_rigid = int((singular > 1e-6 * singular[0]).sum())  # five for a linear molecule
    return left[:, n_rigid:]


def _run_dynamics(system: openmm.System, start: FloatArray, n_frames: int, seed: int) -> FloatArray:
    """Frames of a Langevin trajectory: (n_frames, n_atoms, 3), angstrom."""
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, _FRICTION, _TIME_STEP)
    integrator.setRandomNumberSeed(seed)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(start / ANGSTROM_PER_NM)
    context.setVelocitiesToTemperature(TEMPERATURE, seed)
    frames = []
    for _ in range(n_frames):
        integrator.step(_STEPS_BETWEEN)
        positions = context.getState(getPositions=True).getPositions(asNumpy=True)
        frames.append(np.asarray(positions) * ANGSTROM_PER_NM)
    return np.array(frames)


def choose_different(candidates: FloatArray, start: FloatArray, n_most: int) -> list[FloatArray]:
    """Choose, one after the other, the candidate farthest from the start and from all chosen before.

    Far is the RMS difference of interatomic distances, which no shift or turn changes.
    """
    pairs = np.triu_indices(len(start), 1)

    def distances(coords: FloatArray) -> FloatArray:
        return np.asarray(np.linalg.norm(coords[pairs[0]] - coords[pairs[1]], axis=1))

    shapes = np.array([distances(coords) for coords in candidates])
    nearest = np.sqrt(((shapes - distances(start)) ** 2).mean(axis=1))
    chosen: list[FloatArray] = []
    while len(chosen) < min(n_most, len(candidates)):
        best = int(nearest.argmax())
        if not math.isfinite(nearest[best]):
            break
        chosen.append(candidates[best])
        nearest = np.minimum(nearest, np.sqrt(((shapes - shapes[best]) ** 2).mean(axis=1)))
        nearest[best] = -math.inf
    return chosen
