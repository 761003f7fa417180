"""Torsion profiles of which only energies are known: scans relaxed by the model stand in for the geometries.

A profile says how the lowest energy of a molecule depends on one dihedral. A model's own scan should say the
same; where it does not, the geometries at which it ends, with the energies of the profile, are points to be
fitted, as the relaxed minima are (models.training.visits; ByteFF, Zheng et al., Chem. Sci. 2025, 16, 2730,
does the like with relaxed scans).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdMolTransforms

from models.dataset import Profile
from models.hold import Hold
from models.predict import Predictor
from models.relax import Relaxed, RelaxSettings, RelaxTask, relax
from pipeline.conformers import embed_conformers, prune_conformers
from pipeline.errors import LigandError
from pipeline.ligand import to_rdkit
from pipeline.schema import Conformers, FloatArray
from pipeline.settings import ConformerSettings
from pipeline.topology import build_topology

SOURCE, KIND = "relaxed-scans", "relaxed-scan"
N_STARTS = 4
"""conformers that start at every angle: the lowest end is the scan's"""
SPACING = 30.0
"""degree: of points closer together some are left out"""
LARGEST_ERROR = 3.0
"""kcal/mol, root mean square: beyond, the scan is of another conformer than the profile"""
FEWEST = 5
"""points of a scan"""
_EMBEDDING = ConformerSettings(n_embed=20, prune_rms=0.2)
_ENDING = RelaxSettings(max_force=0.3, max_evaluations=250)
"""a torsion that pulls so little is within 0.01 kcal/mol of its lowest"""
_ENDED = 2.0
"""kcal/mol/angstrom: a force above says that a conformer is stuck"""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scan:
    """A profile and what is relaxed for it."""

    profile: Profile
    task: RelaxTask
    """conformers: all starts at the first angle, all at the second, ..."""
    energy: FloatArray
    """(n_angles,), kcal/mol, of the profile, without the points left out"""
    angles: FloatArray
    """(n_angles,), degree"""


def relax_scans(profiles: Sequence[Profile], predictor: Predictor, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of a table (data/qm/README.md), one per profile: where conformers end that are held at its angles.

    Left out are bonds in rings, molecules that cannot be embedded or have no parameters, and scans that
    disagree with their profile by more than two conformers can be taken for one.
    """
    scans = [scan for profile in profiles if (scan := _begin(profile, predictor, seed)) is not None]
    for scan, relaxed in zip(scans, relax([scan.task for scan in scans], _ENDING), strict=True):
        row = _row(scan, relaxed)
        if row is not None:
            yield row


def _begin(profile: Profile, predictor: Predictor, seed: int) -> _Scan | None:
    mol = to_rdkit(profile.ligand)
    _, i, j, _ = profile.dihedral
    if mol.GetBondBetweenAtoms(i, j).IsInRing():
        return None
    topology = build_topology(profile.ligand)
    try:
        parameters = predictor.predict(profile.ligand, topology)
        embedded = embed_conformers(profile.ligand, _EMBEDDING, seed)
    except LigandError:
        return None
    chosen = _thin(profile)
    angles = profile.angles[chosen]

    def turn(all_starts: FloatArray, angle: float) -> FloatArray:
        return np.array([_turned(mol, start, profile.dihedral, angle) for start in all_starts])

    # Which conformers differ by more than the dihedral is seen where all have the same.
    alike = Conformers(coords=turn(embedded.coords, angles[0]))
    starts = prune_conformers(profile.ligand, alike, _EMBEDDING.prune_rms).coords[:N_STARTS]
    coords = np.concatenate([turn(starts, angle) for angle in angles])
    hold = Hold(dihedral=profile.dihedral, angles=np.radians(np.repeat(angles, len(starts))))
    task = RelaxTask(topology=topology, parameters=parameters, coords=coords, hold=hold)
    return _Scan(profile=profile, task=task, energy=profile.energy[chosen], angles=angles)


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
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(np.array(coords))
    turned = Chem.Mol(mol)
    turned.AddConformer(conformer, assignId=True)
    rdMolTransforms.SetDihedralDeg(turned.GetConformer(), *dihedral, float(angle))
    return np.array(turned.GetConformer().GetPositions())


def _row(scan: _Scan, relaxed: Relaxed) -> dict[str, Any] | None:
    """The lowest end at every angle; None where too few have one, or the scan is not the profile's."""
    profile, n_angles = scan.profile, len(scan.angles)
    ended = np.where(relaxed.largest_force < _ENDED, relaxed.energy, np.inf).reshape(n_angles, -1)
    kept = np.flatnonzero(np.isfinite(ended).any(axis=1))
    if len(kept) < FEWEST:
        return None
    error = ended.min(axis=1)[kept] - scan.energy[kept]
    if error.std() > LARGEST_ERROR:
        return None
    coords = relaxed.coords.reshape(*ended.shape, -1, 3)[kept, ended.argmin(axis=1)[kept]]
    return {
        "source": SOURCE,
        "kind": KIND,
        "level": profile.level,
        "key": profile.key,
        "mapped_smiles": profile.ligand.mapped_smiles,
        "charge": profile.ligand.total_charge,
        "n_atoms": coords.shape[1],
        "n_confs": len(coords),
        "atomic_numbers": np.array(scan.task.topology.atomic_numbers),
        "coords": coords.astype(np.float32).ravel(),
        "energy": scan.energy[kept],
        "gradient": None,
        "dihedral": list(profile.dihedral),
        "grid": scan.angles[kept],
    }
