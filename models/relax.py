"""Minimise many conformers of many molecules at once: preconditioned L-BFGS, every conformer on its own.

Limited-memory BFGS (Nocedal and Wright, Numerical Optimization, 2006, algorithm 7.4) with the problems side
by side: each has its own step length, its own curvature pairs and its own end; those that are done drop out.
The first Hessian is not a number but the force field's stiff part (models.preconditioner), which makes
torsions and bonds equally easy and cuts the number of steps about fourfold. Steps are short, so that a
conformer ends in the minimum of the valley it starts in.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor

from models.energy import energy_and_gradient
from models.hold import Hold, Springs, springs_of
from models.preconditioner import inverse_stiffness
from models.terms import (
    MMIndices,
    TorchParameters,
    collate_indices,
    collate_parameters,
    indices_from_topology,
)
from pipeline.schema import FloatArray, MMParameters, Topology

ARMIJO = 1e-4
"""share of the decrease that the slope promises which a step must bring (Nocedal and Wright, 3.4)"""
ROUNDING = 1e-12
"""of the energy: a decrease below this is noise in float64"""
SHORTEST, LONGEST = 0.1, 0.5
"""bounds of the factor by which a refused step is shortened"""
CURVATURE = 1e-8
"""pairs with s.y below this times |s||y| carry no curvature and are not kept"""
MAX_REFUSALS = 25
"""refused steps in a row after which a conformer is given up"""
RESTART_AFTER = 4
"""refused steps in a row after which the curvature pairs are forgotten"""
COMPACT_AT = 0.75
"""the batch is rebuilt when less than this share of it is still moving"""


@dataclass(frozen=True, kw_only=True)
class RelaxSettings:
    """When a conformer counts as minimised, and how carefully it moves."""

    max_force: float = 0.02
    """kcal/mol/angstrom: the largest force on any atom of a minimised conformer"""
    max_evaluations: int = 2000
    """energies per conformer; one that needs more is reported as not converged"""
    max_displacement: float = 0.1
    """angstrom: no atom moves further in one step, lest the conformer leaves its valley"""
    refresh: int = 20
    """evaluations after which the stiffness is computed anew, because bonds have turned"""
    n_pairs: int = 12
    """curvature pairs kept per conformer"""
    batch_atoms: int = 2500
    """atoms minimised side by side; changes the speed, not the result"""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if min(self.max_force, self.max_displacement) <= 0:
            raise ValueError("RelaxSettings: max_force and max_displacement must be positive")
        if min(self.max_evaluations, self.n_pairs, self.batch_atoms) < 1:
            raise ValueError("RelaxSettings: max_evaluations, n_pairs and batch_atoms must be at least 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class RelaxTask:
    """A molecule with its force field and the geometries to start from."""

    topology: Topology
    parameters: MMParameters
    coords: FloatArray
    """(n_confs, n_atoms, 3), angstrom"""
    hold: Hold | None = None
    """a dihedral that is held, in each conformer where it says"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Relaxed:
    """The minimised conformers of one task, in its order. A conformer that did not converge is marked."""

    coords: FloatArray
    """(n_confs, n_atoms, 3), angstrom"""
    energy: FloatArray
    """(n_confs,), kcal/mol, with that of a spring that holds a dihedral"""
    largest_force: FloatArray
    """(n_confs,), kcal/mol/angstrom, on any atom"""
    converged: np.ndarray
    """(n_confs,) bool"""
    n_evaluations: np.ndarray
    """(n_confs,) int"""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Problem:
    """One conformer."""

    task: int
    conf: int
    indices: MMIndices
    parameters: TorchParameters
    coords: Tensor
    """(n_atoms, 3), angstrom, float64"""
    hold: Hold | None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Batch:
    """Problems side by side: atoms concatenated for the energy, padded to (n, n_dof) for the algebra."""

    problems: list[_Problem]
    indices: MMIndices
    parameters: TorchParameters
    springs: Springs
    slots: Tensor
    """(n_atoms_total,) place of each atom in the padded (n * width) array"""
    width: int
    """atoms of the largest problem"""

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (n,) and gradients (n, 3 width), zero in the padding, of coordinates (n, 3 width)."""
        coords = self.unpad(x)
        terms, gradient = energy_and_gradient(self.indices, self.parameters, coords[:, None, :])
        energy, pull = self.springs.pull(coords, terms.total[:, 0], gradient[:, 0, :])
        return energy, self.pad(pull)

    def softness(self, x: Tensor) -> Tensor:
        """Inverse of the stiff part of the Hessian at x, (n, 3 width, 3 width)."""
        return inverse_stiffness(self.indices, self.parameters, self.unpad(x), self.slots, self.width)

    def unpad(self, x: Tensor) -> Tensor:
        """(n, 3 width) -> (n_atoms_total, 3)."""
        return x.reshape(-1, 3).index_select(0, self.slots)

    def pad(self, atoms: Tensor) -> Tensor:
        """(n_atoms_total, 3) -> (n, 3 width)."""
        n = len(self.problems)
        return atoms.new_zeros(n * self.width, 3).index_copy(0, self.slots, atoms).reshape(n, -1)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pair:
    """How the gradient changed along one step."""

    s: Tensor
    """(n, n_dof) step, angstrom"""
    y: Tensor
    """(n, n_dof) change of the gradient"""
    rho: Tensor
    """(n, 1), 1 / s.y, zero for a conformer to which the pair does not apply"""

    def of(self, rows: Tensor) -> "_Pair":
        """Keep some conformers."""
        return _Pair(s=self.s[rows], y=self.y[rows], rho=self.rho[rows])


@dataclass(frozen=True, kw_only=True, eq=False)
class _State:
    """Where every conformer of a batch is, and the step it tries next."""

    x: Tensor
    """(n, n_dof), angstrom"""
    energy: Tensor
    """(n,)"""
    gradient: Tensor
    """(n, n_dof)"""
    step: Tensor
    """(n, n_dof), angstrom"""
    pairs: tuple[_Pair, ...]
    """oldest first"""
    n_refused: Tensor
    """(n,) refused steps in a row"""
    n_evaluations: Tensor
    """(n,)"""

    def of(self, rows: Tensor) -> "_State":
        """Keep some conformers."""
        return _State(
            x=self.x[rows],
            energy=self.energy[rows],
            gradient=self.gradient[rows],
            step=self.step[rows],
            pairs=tuple(pair.of(rows) for pair in self.pairs),
            n_refused=self.n_refused[rows],
            n_evaluations=self.n_evaluations[rows],
        )


@torch.no_grad()
def relax(tasks: Sequence[RelaxTask], settings: RelaxSettings | None = None) -> list[Relaxed]:
    """Minimise every conformer of every task; one result per task, in order."""
    settings = settings or RelaxSettings()
    results = [_unmoved(task) for task in tasks]
    for problems in _batches(tasks, settings.batch_atoms):
        for problem, state in _relax_batch(problems, settings):
            result, n_atoms = results[problem.task], len(problem.coords)
            force = _largest_force(state.gradient)[0].item()
            result.coords[problem.conf] = state.x[0, : 3 * n_atoms].reshape(n_atoms, 3).numpy()
            result.energy[problem.conf] = state.energy[0].item()
            result.largest_force[problem.conf] = force
            result.converged[problem.conf] = force <= settings.max_force
            result.n_evaluations[problem.conf] = state.n_evaluations[0].item()
    return results


def _unmoved(task: RelaxTask) -> Relaxed:
    n_confs = len(task.coords)
    return Relaxed(
        coords=np.array(task.coords, dtype=np.float64),
        energy=np.full(n_confs, np.nan),
        largest_force=np.full(n_confs, np.inf),
        converged=np.zeros(n_confs, dtype=bool),
        n_evaluations=np.zeros(n_confs, dtype=np.int64),
    )


def _batches(tasks: Sequence[RelaxTask], batch_atoms: int) -> Iterator[list[_Problem]]:
    """Conformers of molecules of like size, so that little is padded."""
    batch: list[_Problem] = []
    for number in sorted(range(len(tasks)), key=lambda i: tasks[i].topology.n_atoms):
        task = tasks[number]
        indices = indices_from_topology(task.topology)
        parameters = TorchParameters.from_mm(task.parameters)
        for conf, coords in enumerate(task.coords):
            if batch and (len(batch) + 1) * len(coords) > batch_atoms:
                yield batch
                batch = []
            start = torch.tensor(np.array(coords), dtype=torch.float64)
            problem = _Problem(
                task=number,
                conf=conf,
                indices=indices,
                parameters=parameters,
                coords=start,
                hold=task.hold,
            )
            batch.append(problem)
    if batch:
        yield batch


def _collate(problems: list[_Problem], width: int) -> _Batch:
    n_atoms = [len(problem.coords) for problem in problems]
    slots = [number * width + torch.arange(n) for number, n in enumerate(n_atoms)]
    holds = [None if problem.hold is None else (problem.hold, problem.conf) for problem in problems]
    return _Batch(
        problems=problems,
        indices=collate_indices([problem.indices for problem in problems]),
        parameters=collate_parameters([problem.parameters for problem in problems]),
        springs=springs_of(holds, n_atoms),
        slots=torch.cat(slots),
        width=width,
    )


def _relax_batch(problems: list[_Problem], settings: RelaxSettings) -> Iterator[tuple[_Problem, _State]]:
    """Yield every problem with its last state as soon as it is done."""
    batch = _collate(problems, max(len(problem.coords) for problem in problems))
    x = batch.pad(torch.cat([problem.coords for problem in problems]))
    softness = batch.softness(x)
    state = _start(batch, x, softness, settings)
    moving = torch.ones(len(problems), dtype=torch.bool)
    for turn in count(1):
        done = moving & _is_done(state, settings)
        for row in done.nonzero()[:, 0].tolist():
            yield batch.problems[row], state.of(torch.tensor([row]))
        moving = moving & ~done
        n_moving = int(moving.sum())
        if n_moving == 0:
            return
        if n_moving < COMPACT_AT * len(batch.problems):
            rows = moving.nonzero()[:, 0]
            batch = _collate([batch.problems[row] for row in rows.tolist()], batch.width)
            state, softness, moving = state.of(rows), softness[rows], moving[rows]
        # By the clock, which is the same for all: whoever drops out, the others go the same way.
        if turn % settings.refresh == 0:
            softness = batch.softness(state.x)
        state = _advance(batch, state, softness, settings)


def _start(batch: _Batch, x: Tensor, softness: Tensor, settings: RelaxSettings) -> _State:
    energy, gradient = batch.evaluate(x)
    step = -torch.bmm(softness, gradient[..., None])[..., 0]
    none = torch.zeros(len(x), dtype=torch.int64)
    return _State(
        x=x,
        energy=energy,
        gradient=gradient,
        step=_shortened(step, settings.max_displacement),
        pairs=(),
        n_refused=none,
        n_evaluations=none + 1,
    )


def _is_done(state: _State, settings: RelaxSettings) -> Tensor:
    return (
        (_largest_force(state.gradient) <= settings.max_force)
        | (state.n_evaluations >= settings.max_evaluations)
        | (state.n_refused >= MAX_REFUSALS)
        | ~torch.isfinite(state.energy)
    )


def _largest_force(gradient: Tensor) -> Tensor:
    """(n, n_dof) -> (n,)."""
    return gradient.reshape(len(gradient), -1, 3).norm(dim=-1).amax(dim=1)


def _shortened(step: Tensor, limit: float) -> Tensor:
    """Scale each problem's step so that no atom moves further than `limit`."""
    longest = _largest_force(step)[:, None]
    return step * (limit / longest.clamp(min=limit))


def _advance(batch: _Batch, state: _State, softness: Tensor, settings: RelaxSettings) -> _State:
    """Try every problem's step: those it helps move and aim anew, the others try a shorter one."""
    energy, gradient = batch.evaluate(state.x + state.step)
    slope = (state.gradient * state.step).sum(1)
    allowed = state.energy + ARMIJO * slope + ROUNDING * state.energy.abs()
    accepted = torch.isfinite(energy) & torch.isfinite(gradient).all(1) & (energy <= allowed)
    chosen = accepted[:, None]
    pair = _pair(state.step, gradient - state.gradient, accepted)
    x = torch.where(chosen, state.x + state.step, state.x)
    new_gradient = torch.where(chosen, gradient, state.gradient)
    n_refused = torch.where(accepted, 0, state.n_refused + 1)
    pairs = (*state.pairs, pair)[-settings.n_pairs :]
    forget = (n_refused == RESTART_AFTER)[:, None]
    if forget.any():
        pairs = tuple(_Pair(s=p.s, y=p.y, rho=torch.where(forget, 0.0, p.rho)) for p in pairs)
    aimed = _shortened(_direction(new_gradient, pairs, softness), settings.max_displacement)
    shorter = state.step * _shrinkage(state.energy, energy, slope)[:, None]
    return _State(
        x=x,
        energy=torch.where(accepted, energy, state.energy),
        gradient=new_gradient,
        step=torch.where(chosen | forget, aimed, shorter),
        pairs=pairs,
        n_refused=n_refused,
        n_evaluations=state.n_evaluations + 1,
    )


def _pair(s: Tensor, y: Tensor, accepted: Tensor) -> _Pair:
    product = (s * y).sum(1)
    curved = accepted & (product > CURVATURE * s.norm(dim=1) * y.norm(dim=1))
    rho = torch.where(curved, 1 / torch.where(curved, product, 1.0), 0.0)[:, None]
    return _Pair(s=s, y=torch.where(curved[:, None], y, 0.0), rho=rho)


def _shrinkage(energy: Tensor, tried: Tensor, slope: Tensor) -> Tensor:
    """Minimum of the parabola through both energies and the slope, as a share of the step, bounded."""
    best = -slope / (2 * (tried - energy - slope))
    return torch.nan_to_num(best, nan=SHORTEST).clamp(SHORTEST, LONGEST)


def _direction(gradient: Tensor, pairs: tuple[_Pair, ...], softness: Tensor) -> Tensor:
    """Two-loop recursion from H0 = softness; steepest descent through H0 where it does not go down."""
    q, shares = gradient, []
    for pair in reversed(pairs):
        share = pair.rho * (pair.s * q).sum(1, keepdim=True)
        shares.append(share)
        q = q - share * pair.y
    r = torch.bmm(softness, q[..., None])[..., 0]
    for pair, share in zip(pairs, reversed(shares), strict=True):
        back = pair.rho * (pair.y * r).sum(1, keepdim=True)
        r = r + pair.s * (share - back)
    downhill = (r * gradient).sum(1, keepdim=True) > 0
    plain = torch.bmm(softness, gradient[..., None])[..., 0]
    return -torch.where(downhill, r, plain)
