"""Visit the places where a model would have the minima, and learn what is really there.

A force fitted to points near QM minima says little about where its own minima are: those lie where no point
was. So between two rounds of training the model relaxes DFT minima, and half-way and end of each relaxation
join the training data, with energies and gradients of a cheap level whose own minimum is taken out
(training.near_minima). Training on the states that one's own policy reaches is DAgger (Ross, Gordon and
Bagnell, AISTATS 2011).

Between minima of one molecule no cheap level is needed: a model's minima should differ in energy as QM's do.
By the envelope theorem the energy of a model's minimum changes with the parameters as the energy of that
fixed geometry does, so the geometries where relaxations end, with the energies of the QM minima they began
at, are points to be fitted as any other.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from models.dataset import QMExample
from models.predict import Predictor
from models.reference_table import table_row
from models.relax import RelaxSettings, RelaxTask, relax
from models.terms import MMIndices, TorchParameters, indices_from_topology
from models.training.near_minima import (
    KT,
    LARGEST_TURN,
    Internals,
    anchor_at,
    displace_along,
    measure_internals,
    soft_modes,
    stiffness_of_internals,
)
from pipeline.errors import ParametersError, QMError
from pipeline.schema import FloatArray

Surface = Callable[[FloatArray], tuple[float, FloatArray]]
"""coords (n_atoms, 3), angstrom -> energy, kcal/mol, and gradient (n_atoms, 3), kcal/mol/angstrom"""
CheapLevel = Callable[[np.ndarray, int], Surface]
"""DOOR: atomic numbers (n_atoms,) and total charge -> the molecule's surface; QMError where there is none"""

SOURCE, RELAXED_SOURCE, LEFT_SOURCE = "near-minima", "relaxed-minima", "left-minima"
HALFWAY = 6
"""evaluations after which a relaxation is about half done"""
ON_THE_WAY_OUT = (HALFWAY // 2, HALFWAY, 2 * HALFWAY)
"""evaluations after which one that leaves its minimum is looked at"""
LARGEST_GRADIENT = 500.0
"""kcal/mol/angstrom: above, a dihedral nearly in line has made the anchor's linear part meaningless; of
38,979 points of six rounds it was one within 30 kcal/mol of its minimum, by 3.9e8"""
N_SOFT = 24
"""soft modes along which one more point is displaced, each by kT/2"""


_KINDS = {SOURCE: "near-minimum", RELAXED_SOURCE: "relaxed-minima", LEFT_SOURCE: "minima"}


def visit(
    examples: Sequence[QMExample],
    predictor: Predictor,
    cheap: CheapLevel,
    seed: int,
    stops: Sequence[int] = (HALFWAY,),
) -> Iterator[dict[str, Any]]:
    """Rows of a table (data/qm/README.md), one for a random conformer of each molecule: the DFT minimum, its
    relaxation after so many evaluations and at its end, a random displacement; none where the model or the
    cheap level fails.
    """
    tasks, starts = [], []
    for number, example in enumerate(examples):
        try:
            parameters = predictor.predict(example.ligand, example.topology)
        except ParametersError:
            continue
        generator = np.random.default_rng([seed, number])
        conf = int(generator.integers(len(example.energy)))
        coords = example.coords[conf : conf + 1].astype(np.float64)
        tasks.append(RelaxTask(topology=example.topology, parameters=parameters, coords=coords))
        starts.append((example, generator))
    limits = (*(RelaxSettings(max_evaluations=stop) for stop in stops), RelaxSettings())
    paths = zip(*(relax(tasks, limit) for limit in limits), strict=True)
    for (example, generator), task, path in zip(starts, tasks, paths, strict=True):
        try:
            surface = cheap(np.array(example.topology.atomic_numbers), example.ligand.total_charge)
            yield _row(example, task, [relaxed.coords[0] for relaxed in path], surface, generator)
        except QMError:
            continue


def relax_minima(examples: Sequence[QMExample], predictor: Predictor) -> Iterator[dict[str, Any]]:
    """Rows of a table, one per molecule: where its QM minima end under the model, with their QM energies.

    Without the conformers that turn into another minimum or do not converge; a molecule with less than two
    others, or without parameters, has no row. Those that turned are in a row of their own, of the source
    `left-minima`: the QM minima as they are.
    """
    tasks, kept = [], []
    for example in examples:
        try:
            parameters = predictor.predict(example.ligand, example.topology)
        except ParametersError:
            continue
        coords = example.coords.astype(np.float64)
        tasks.append(RelaxTask(topology=example.topology, parameters=parameters, coords=coords))
        kept.append(example)
    for example, relaxed in zip(kept, relax(tasks), strict=True):
        indices = indices_from_topology(example.topology)
        starts = (measure_internals(indices, coords) for coords in example.coords)
        stays = [_stays(indices, *ends) for ends in zip(starts, relaxed.coords, strict=True)]
        chosen, left = (np.flatnonzero(relaxed.converged & of) for of in (stays, np.logical_not(stays)))
        if len(chosen) >= 2:
            coords, energy = relaxed.coords[chosen], example.energy[chosen]
            yield _table_row(example, RELAXED_SOURCE, example.level, coords, energy)
        if len(left):
            yield _table_row(example, LEFT_SOURCE, example.level, example.coords[left], example.energy[left])


def _row(
    example: QMExample,
    task: RelaxTask,
    relaxed: list[FloatArray],
    surface: Surface,
    generator: np.random.Generator,
) -> dict[str, Any]:
    start = task.coords[0]
    indices = indices_from_topology(example.topology)
    stiffness = stiffness_of_internals(TorchParameters.from_mm(task.parameters))
    anchor = anchor_at(indices, start, stiffness, surface(start))
    displaced = start + displace_along(soft_modes(anchor.internals, stiffness, N_SOFT), KT, generator)
    points: list[tuple[FloatArray, float, FloatArray]] = [(start, 0.0, np.zeros_like(start))]
    for coords in (*relaxed, displaced):
        if _stays(anchor.indices, anchor.internals, coords):
            energy, gradient, _ = anchor.relative(coords, *surface(coords))
            if np.abs(gradient).max() <= LARGEST_GRADIENT:  # not so for what is no number
                points.append((coords, energy, gradient))
    columns = (np.array(column) for column in zip(*points, strict=True))
    return _table_row(example, SOURCE, "gfn2-xtb", *columns)


def _table_row(
    example: QMExample,
    source: str,
    level: str,
    coords: np.ndarray,
    energy: FloatArray,
    gradient: FloatArray | None = None,
) -> dict[str, Any]:
    return table_row(
        source=source,
        kind=_KINDS[source],
        level=level,
        key=example.key,
        mapped_smiles=example.ligand.mapped_smiles,
        charge=example.ligand.total_charge,
        atomic_numbers=example.topology.atomic_numbers,
        coords=coords,
        energy=energy,
        gradient=gradient,
    )


def _stays(indices: MMIndices, start: Internals, coords: FloatArray) -> bool:
    """No dihedral turned so far that the linear part taken at the minimum means nothing."""
    change = measure_internals(indices, coords).difference(start)
    return bool(np.abs(change[start.n_stretch :]).max(initial=0.0) <= LARGEST_TURN)
