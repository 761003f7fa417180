"""The points on which an electrostatic potential is computed: shells around the molecule's surface."""

import math

import numpy as np

from pipeline.schema import FloatArray, IntArray

SCALES = (1.4, 1.6, 1.8, 2.0)
"""shells, in van der Waals radii: B. H. Besler, K. M. Merz, P. A. Kollman, J. Comput. Chem. 1990, 11, 431"""
DENSITY = 1.0
"""points per square angstrom of a sphere"""
RADII = {
    1: 1.20,
    5: 1.65,
    6: 1.50,
    7: 1.50,
    8: 1.40,
    9: 1.35,
    14: 2.10,
    15: 1.80,
    16: 1.75,
    17: 1.70,
    35: 1.85,
    53: 1.98,
}
"""angstrom; Merz and Kollman's for H to Cl; for bromine and iodine Bondi's (J. Phys. Chem. 1964, 68, 441)"""
OTHER_RADIUS = 2.0
"""angstrom, of elements that no table has"""
_GOLDEN_ANGLE = math.pi * (3.0 - math.sqrt(5.0))


def shell_points(atomic_numbers: IntArray, coords: FloatArray) -> FloatArray:
    """Place points on the shells of a molecule: (n_points, 3) angstrom, in the frame of its coordinates.

    Each atom's sphere of a shell carries evenly spread points (a golden spiral); those inside another atom's
    sphere of the same shell are left out, as in Connolly's surfaces.
    """
    radii = np.array([RADII.get(int(number), OTHER_RADIUS) for number in atomic_numbers])
    kept = []
    for scale in SCALES:
        for atom, radius in enumerate(scale * radii):
            points = coords[atom] + radius * unit_sphere(math.ceil(DENSITY * 4.0 * math.pi * radius**2))
            away = np.linalg.norm(points[:, None] - coords[None], axis=2)
            away[:, atom] = np.inf
            kept.append(points[(away >= scale * radii).all(axis=1)])
    return np.concatenate(kept)


def unit_sphere(n_points: int) -> FloatArray:
    """Spread points evenly over the unit sphere along a golden spiral: (n_points, 3)."""
    height = 1.0 - (2.0 * np.arange(n_points) + 1.0) / n_points
    turn = _GOLDEN_ANGLE * np.arange(n_points)
    ring = np.sqrt(1.0 - height**2)
    return np.column_stack([ring * np.cos(turn), ring * np.sin(turn), height])
