"""Whether an optimisation kept the molecule: bonds perceived before and after."""

import numpy as np
from rdkit import Chem

from pipeline.schema import FloatArray, IntArray

_BONDED, _STILL_BONDED, _NEWLY_BONDED = 1.25, 1.45, 1.20
"""distances over the sum of covalent radii: a bond before, a bond not yet broken after, a bond formed after.

A bond is 1.0 to 1.1, a strong hydrogen bond 1.6 or more. The gaps keep a vibration from being a reaction.
"""


def changed_bonds(atomic_numbers: IntArray, before: FloatArray, after: FloatArray) -> str:
    """Say which bonds were formed and broken between two geometries, e.g. `broken N1-H5`; empty for none."""
    was, now = (_relative_distances(atomic_numbers, coords) for coords in (before, after))
    table = Chem.GetPeriodicTable()
    names = [f"{table.GetElementSymbol(int(n))}{idx + 1}" for idx, n in enumerate(atomic_numbers)]
    bonded = was < _BONDED
    changes = [("broken", bonded & (now > _STILL_BONDED)), ("formed", ~bonded & (now < _NEWLY_BONDED))]
    return ", ".join(
        f"{word} {names[i]}-{names[j]}" for word, pairs in changes for i, j in np.argwhere(np.triu(pairs, 1))
    )


def _relative_distances(atomic_numbers: IntArray, coords: FloatArray) -> FloatArray:
    """Distances over sums of covalent radii, (n_atoms, n_atoms), the diagonal infinite."""
    table = Chem.GetPeriodicTable()
    radii = np.array([table.GetRcovalent(int(number)) for number in atomic_numbers])
    distances = np.linalg.norm(coords[:, None] - coords[None], axis=2)
    relative: FloatArray = distances / (radii[:, None] + radii[None])
    np.fill_diagonal(relative, np.inf)
    return relative
