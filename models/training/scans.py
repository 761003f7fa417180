"""Torsion profiles of which only energies are known: scans relaxed by the model stand in for the geometries.

A profile says how the lowest energy of a molecule depends on one dihedral. A model's own scan should say the
same; where it does not, the geometries at which it ends, with the energies of the profile, are points to be
fitted, as the relaxed minima are (models.training.visits; ByteFF, Zheng et al., Chem. Sci. 2025, 16, 2730,
does the like with relaxed scans).
"""

from collections.abc import Iterator, Sequence
from typing import Any

from models.dataset import Profile
from models.evaluation.scans import Scan, scan_profiles
from models.predict import Predictor
from models.reference_table import table_row
from pipeline.topology import build_topology

SOURCE, KIND = "relaxed-scans", "relaxed-scan"
LARGEST_ERROR = 3.0
"""kcal/mol, root mean square: beyond, the scan is of another conformer than the profile"""


def relax_scans(profiles: Sequence[Profile], predictor: Predictor, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of a table (data/qm/README.md), one per profile that can be scanned and is not far off."""
    for scan in scan_profiles(profiles, predictor.predict, seed):
        if scan.rmse <= LARGEST_ERROR:
            yield _row(scan)


def _row(scan: Scan) -> dict[str, Any]:
    profile = scan.profile
    return table_row(
        source=SOURCE,
        kind=KIND,
        level=profile.level,
        key=profile.key,
        mapped_smiles=profile.ligand.mapped_smiles,
        charge=profile.ligand.total_charge,
        atomic_numbers=build_topology(profile.ligand).atomic_numbers,
        coords=scan.coords,
        energy=scan.reference,
        dihedral=profile.dihedral,
        grid=scan.angles,
    )
