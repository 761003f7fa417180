"""Relaxed scans along torsion profiles: how a force field's lowest energy depends on one dihedral.

At every angle of a profile several conformers are relaxed with the dihedral held (models.hold); the lowest
end is the scan's point. Where a profile has no geometries nobody says which conformer it is of: a scan that
is far off may be of another one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdMolTransforms

from models.dataset import Profile
from models.evaluation.scoring import Parametrise
from models.hold import Hold
from models.relax import Relaxed, RelaxSettings, RelaxTask, relax
from pipeline.conformers import embed_conformers, prune_conformers
from pipeline.errors import LigandError
from pipeline.ligand import to_rdkit
from pipeline.schema import Conformers, FloatArray
from pipeline.settings import ConformerSettings
from pipeline.stereo import place_atoms
from pipeline.topology import build_topology

N_STARTS = 4
"""conformers that start at every angle"""
SPACING = 30.0
"""degrees: of points closer together some are left out"""
FEWEST = 5
"""points of a scan"""
_EMBEDDING = ConformerSettings(n_embed=20, prune_rms=0.2)
_ENDING = RelaxSettings(max_force=0.3, max_evaluations=250)
"""a torsion that pulls so little is within 0.01 kcal/mol of its lowest"""
_ENDED = 2.0
"""kcal/mol/angstrom: a force above says that a conformer is stuck"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """What a force field says along a profile."""

    profile: Profile
    angles: FloatArray
    """(n_points,), degree, those of the profile that were scanned"""
    reference: FloatArray
    """(n_points,), kcal/mol, of the profile"""
    energy: FloatArray
    """(n_points,), kcal/mol, of the force field, with that of the spring that holds the dihedral"""
    coords: FloatArray
    """(n_points, n_atoms, 3), angstrom"""

    @property
    def rmse(self) -> float:
        """Root mean square of the differences, kcal/mol, each curve shifted to its mean."""
        return float((self.energy - self.reference).std())


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    """A profile and what is relaxed for it."""

    profile: Profile
    chosen: np.ndarray
    """(n_angles,), int: points of the profile"""
    task: RelaxTask
    """conformers: all starts at the first angle, all at the second, ..."""


def scan_profiles(profiles: Sequence[Profile], parametrise: Parametrise, seed: int) -> Iterator[Scan]:
    """Scan each profile; none of bonds in rings, of molecules that cannot be embedded or have no parameters,
    nor where fewer than `FEWEST` angles have an end.
    """
    plans = [plan for profile in profiles if (plan := _plan(profile, parametrise, seed)) is not None]
    for plan, relaxed in zip(plans, relax([plan.task for plan in plans], _ENDING), strict=True):
        scan = _scan(plan, relaxed)
        if len(scan.energy) >= FEWEST:
            yield scan


def _plan(profile: Profile, parametrise: Parametrise, seed: int) -> _Plan | None:
    mol = to_rdkit(profile.ligand)
    _, i, j, _ = profile.dihedral
    if mol.GetBondBetweenAtoms(i, j).IsInRing():
        return None
    topology = build_topology(profile.ligand)
    try:
        parameters = parametrise(profile.ligand, topology)
        embedded = embed_conformers(profile.ligand, _EMBEDDING, seed)
    except LigandError:
        return None
    chosen = _thin(profile)
    angles = profile.angles[chosen]

    def turn(starts: FloatArray, angle: float) -> FloatArray:
        return np.array([_turned(mol, start, profile.dihedral, angle) for start in starts])

    # Which conformers differ by more than the dihedral is seen where all have the same.
    alike = Conformers(coords=turn(embedded.coords, angles[0]))
    starts = prune_conformers(profile.ligand, alike, _EMBEDDING.prune_rms).coords[:N_STARTS]
    coords = np.concatenate([turn(starts, angle) for angle in angles])
    hold = Hold(dihedral=profile.dihedral, angles=np.radians(np.repeat(angles, len(starts))))
    task = RelaxTask(topology=topology, parameters=parameters, coords=coords, hold=hold)
    return _Plan(profile=profile, chosen=chosen, task=task)


def _thin(profile: Profile) -> np.ndarray:
    """Points (n,) at least `SPACING` apart, the lowest among them."""
    order = np.argsort(profile.angles)
    start = int(np.argmin(profile.energy[order]))
    chosen = [order[start]]
    for number in np.roll(order, -start)[1:]:
        gaps = np.abs((profile.angles[number] - profile.angles[chosen] + 180.0) % 360.0 - 180.0)
        if gaps.min() > SPACING - 1.0:
            chosen.append(number)
    return np.sort(chosen)


def _turned(
    mol: Chem.Mol, coords: FloatArray, dihedral: tuple[int, int, int, int], angle: float
) -> FloatArray:
    """Coordinates with one end of the molecule turned until the dihedral has this angle, degree."""
    turned = place_atoms(mol, coords)
    rdMolTransforms.SetDihedralDeg(turned.GetConformer(), *dihedral, float(angle))
    return np.array(turned.GetConformer().GetPositions())


def _scan(plan: _Plan, relaxed: Relaxed) -> Scan:
    """The lowest end at every angle that has one."""
    profile, n_angles = plan.profile, len(plan.chosen)
    ended = np.where(relaxed.largest_force < _ENDED, relaxed.energy, np.inf).reshape(n_angles, -1)
    kept = np.flatnonzero(np.isfinite(ended).any(axis=1))
    return Scan(
        profile=profile,
        angles=profile.angles[plan.chosen[kept]],
        reference=profile.energy[plan.chosen[kept]],
        energy=ended.min(axis=1)[kept],
        coords=relaxed.coords.reshape(*ended.shape, -1, 3)[kept, ended.argmin(axis=1)[kept]],
    )
