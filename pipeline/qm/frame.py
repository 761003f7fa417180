"""Every calculation runs in the molecule's own frame, so that turning the input cannot change the energy.

The integration grids of DFT are not spherical: turning a molecule under them moves its energy by some 1e-6
hartree. We turn the molecule into a frame fixed to its atoms, compute there, and turn the gradient back.
"""

import numpy as np

from pipeline.schema import FloatArray

_APART = 0.3
"""angstrom; an atom defines an axis only when it is this far from the centre or from the other axis"""


def own_frame(coords: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Give the geometry in its own frame, (n_atoms, 3) angstrom, and the rotation R, (3, 3), to there.

    `own = (coords - centre) @ R.T`, and back for a gradient: `gradient @ R`. The axes come from the first
    atoms that are off the centre and off the axis, not from the inertia tensor, whose axes are arbitrary for
    symmetric molecules: so the own geometry is the same, to rounding, for every orientation of the input.
    """
    centred = coords - coords.mean(axis=0)
    first = _first_off(centred, np.linalg.norm(centred, axis=1))
    if first is None:  # a single atom
        return centred, np.eye(3)
    x = first / np.linalg.norm(first)
    across = centred - np.outer(centred @ x, x)
    second = _first_off(across, np.linalg.norm(across, axis=1))
    if second is None:  # a linear molecule: any perpendicular gives the same own geometry
        second = np.cross(x, np.eye(3)[np.abs(x).argmin()])
    y = second / np.linalg.norm(second)
    rotation = np.array([x, y, np.cross(x, y)])
    return centred @ rotation.T, rotation


def turn_back_points(points: FloatArray, coords: FloatArray) -> FloatArray:
    """Give points of the own frame of a geometry, (n, 3), in the frame of `coords` itself."""
    _, rotation = own_frame(coords)
    return points @ rotation + coords.mean(axis=0)


def turn_back_vectors(vectors: FloatArray, coords: FloatArray) -> FloatArray:
    """Turn gradients or dipoles, (..., 3), from the own frame of a geometry to the frame of `coords`."""
    _, rotation = own_frame(coords)
    return vectors @ rotation


def turn_back_hessian(hessian: FloatArray, coords: FloatArray) -> FloatArray:
    """Turn second derivatives, (3 n_atoms, 3 n_atoms), likewise: both of their ends."""
    _, rotation = own_frame(coords)
    blocks = hessian.reshape(len(coords), 3, len(coords), 3)
    turned = np.einsum("iajb,ac,bd->icjd", blocks, rotation, rotation)
    return turned.reshape(hessian.shape)


def _first_off(vectors: FloatArray, lengths: FloatArray) -> FloatArray | None:
    far = np.flatnonzero(lengths > _APART)
    return vectors[far[0]] if len(far) else None
