"""From rows of QM tables to what the valence loss takes: fixed parts out, a prior and soft modes beside."""

from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path

import numpy as np
import torch

from models.charges import ChargeEnsemble
from models.config import ValenceStage
from models.dataset import QMExample, qm_example, read_qm_rows
from models.graph import collate_graphs
from models.loss import TrainingRow
from models.readouts import ANGLE_K_SCALE, BOND_K_SCALE, CLASS1_NAMES, ValenceParameters
from models.targets import nonbonded_of, without_pairs
from models.terms import indices_from_topology
from models.training.near_minima import TORSION_STIFFNESS, soft_projections, stiffness_of_internals
from models.training.optimise import Report
from models.training.side_by_side import sent_back
from pipeline.errors import LigandError, ParametersError
from pipeline.schema import FloatArray, MMParameters, Topology
from pipeline.smirnoff import label, read_smirnoff
from pipeline.vdw import assign_vdw

Labeller = Callable[[QMExample], MMParameters]


class Left(Enum):
    """Why a row is left out."""

    ELEMENTS = "elements outside the model"
    POINTS = "under two points in the energy window"


def sage_labeller(path: Path) -> Labeller:
    """Classical parameters of an example from a SMIRNOFF force field; charges are only spread evenly."""
    force_field = read_smirnoff(path)

    def assign(example: QMExample) -> MMParameters:
        n_atoms = example.topology.n_atoms
        charges = np.full(n_atoms, example.ligand.total_charge / n_atoms)
        return label(force_field, example.ligand, example.topology, charges=charges)

    return assign


def prepare_rows(
    paths: Sequence[Path],
    charges: ChargeEnsemble,
    config: ValenceStage,
    prior: Labeller | None,
    report: Report,
) -> list[TrainingRow]:
    """Read QM rows and take the fixed nonbonded part out of their energies and gradients, several at once."""
    records = list(read_qm_rows(*paths, sources=config.sources).itertuples(index=False))

    def prepare(number: int) -> TrainingRow | Left:
        try:
            example = qm_example(records[number])
        except LigandError:
            return Left.ELEMENTS
        return prepare_row(example, charges, config, prior) or Left.POINTS

    rows = sent_back(prepare, len(records), config.processes)
    kept = [row for row in rows if isinstance(row, TrainingRow)]
    n_points = sum(row.n_points for row in kept)
    names = ", ".join(dict.fromkeys(path.name for path in paths))
    n_prior = sum(row.prior is not None for row in kept)
    n_elements, n_short = rows.count(Left.ELEMENTS), rows.count(Left.POINTS)
    report(
        f"{names}: {len(kept)} rows, {n_points} points ({n_elements} rows with elements outside the model, "
        f"{n_short} without two points in the window; {n_prior} with a prior)"
    )
    return kept


@torch.no_grad()
def prepare_row(
    example: QMExample, charges: ChargeEnsemble, config: ValenceStage, prior: Labeller | None
) -> TrainingRow | None:
    """One training row; None when under two points lie in the energy window and none has a gradient."""
    inside = np.flatnonzero(example.energy <= config.energy_window)
    if len(inside) < 2 and example.gradient is None:
        return None
    indices = indices_from_topology(example.topology)
    coords = torch.as_tensor(example.coords[inside]).permute(1, 0, 2)
    charge = charges(collate_graphs([example.graph])).double()
    sigma, epsilon = (torch.as_tensor(np.array(values)) for values in assign_vdw(example.ligand))
    fixed_energy, fixed_gradient = nonbonded_of(indices, (charge, sigma, epsilon), coords)
    energy = torch.as_tensor(example.energy[inside]) - fixed_energy
    target = None
    if example.gradient is not None:
        target = (torch.as_tensor(example.gradient[inside]).permute(1, 0, 2) - fixed_gradient).float()
    known = _prior(example, prior)
    soft = None
    if target is not None and config.soft_modes and config.soft_weight:
        soft = soft_projections(indices, _metric(example.topology, known), coords, config.soft_modes)
    return TrainingRow(
        source=example.source,
        graph=example.graph,
        indices=without_pairs(indices),
        coords=coords.float().contiguous(),
        energy=(energy - energy.mean()).float(),
        gradient=target,
        nonbonded=torch.stack([charge, sigma, epsilon]).float(),
        prior=known,
        soft=soft,
        height=torch.as_tensor(example.energy[inside] - example.energy[inside].min()).float(),
    )


def _metric(topology: Topology, known: ValenceParameters | None) -> FloatArray:
    """(n_q,) stiffness of the internal coordinates: the prior's, or one for all of a kind without it."""
    if known is not None:
        zeros = torch.zeros(topology.n_atoms)
        return stiffness_of_internals(known.with_nonbonded(zeros, zeros, zeros))
    sizes = [len(topology.bonds), len(topology.angles), len(topology.propers) + len(topology.impropers)]
    return np.repeat([BOND_K_SCALE, ANGLE_K_SCALE, TORSION_STIFFNESS], sizes)


def _prior(example: QMExample, labeller: Labeller | None) -> ValenceParameters | None:
    if labeller is None:
        return None
    try:
        parameters = labeller(example)
    except ParametersError:
        return None
    tensors = {n: torch.tensor(np.array(getattr(parameters, n))).float() for n in CLASS1_NAMES}
    return ValenceParameters(**tensors, cross=None)
