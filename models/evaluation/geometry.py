"""How far one geometry of a molecule is from another: heavy-atom RMSD and torsion fingerprint deviation."""

from dataclasses import dataclass

import numpy as np
from rdkit import Chem
from rdkit.Chem import TorsionFingerprints, rdMolAlign
from rdkit.Geometry import Point3D

from pipeline.ligand import to_rdkit
from pipeline.schema import FloatArray, Ligand

MAX_MATCHES = 5_000
"""symmetry operations tried by the RMSD; beyond that (many equivalent phenyls) it is an upper bound"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Deviations:
    """Each conformer of one set against its partner in the other."""

    rmsd: FloatArray
    """(n_confs,), angstrom, heavy atoms, best over rotation and symmetry"""
    tfd: FloatArray
    """(n_confs,), torsion fingerprint deviation, 0 to 1; NaN where the molecule has no torsion"""


def compare_geometries(ligand: Ligand, coords: FloatArray, reference: FloatArray) -> Deviations:
    """Compare conformers (n_confs, n_atoms, 3), angstrom, one by one with their references, same shape.

    RMSD after the best superposition over all symmetries of the heavy-atom graph, by RDKit; TFD: Schulz-Gasch
    et al., J. Chem. Inf. Model. 52, 1499 (2012), as RDKit has it, weighted by the distance to the centre.
    """
    moved = _with_conformers(ligand, coords)
    fixed = _with_conformers(ligand, reference)
    return Deviations(rmsd=_rmsd(moved, fixed), tfd=_tfd(moved, fixed))


def _with_conformers(ligand: Ligand, coords: FloatArray) -> Chem.Mol:
    mol = to_rdkit(ligand)
    mol.RemoveAllConformers()
    for points in np.asarray(coords, dtype=np.float64).tolist():
        conformer = Chem.Conformer(mol.GetNumAtoms())
        for atom, (x, y, z) in enumerate(points):
            conformer.SetAtomPosition(atom, Point3D(x, y, z))
        mol.AddConformer(conformer, assignId=True)
    return mol


def _rmsd(moved: Chem.Mol, fixed: Chem.Mol) -> FloatArray:
    moved, fixed = Chem.RemoveAllHs(moved), Chem.RemoveAllHs(fixed)
    return np.array(
        [
            rdMolAlign.GetBestRMS(moved, fixed, prbId=conf, refId=conf, maxMatches=MAX_MATCHES)
            for conf in range(fixed.GetNumConformers())
        ]
    )


def _tfd(moved: Chem.Mol, fixed: Chem.Mol) -> FloatArray:
    n_confs = fixed.GetNumConformers()
    single, rings = TorsionFingerprints.CalculateTorsionLists(fixed)
    if not single and not rings:
        return np.full(n_confs, np.nan)
    weights = TorsionFingerprints.CalculateTorsionWeights(fixed)
    return np.array(
        [
            TorsionFingerprints.CalculateTFD(
                *(
                    TorsionFingerprints.CalculateTorsionAngles(mol, single, rings, confId=conf)
                    for mol in (moved, fixed)
                ),
                weights=weights,
            )
            for conf in range(n_confs)
        ]
    )
