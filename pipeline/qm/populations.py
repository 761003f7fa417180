"""Bond orders from a density matrix: one formula for every program that gives one."""

import numpy as np

from pipeline.schema import FloatArray


def wiberg_bond_orders(density: FloatArray, overlap: FloatArray, starts: list[int]) -> FloatArray:
    """Wiberg's bond orders in Lowdin's orthogonal orbitals, (n_atoms, n_atoms), the diagonal zero.

    B_AB = sum over functions m of A, n of B of (S^1/2 P S^1/2)_mn^2, with P the density matrix of both spins
    and `starts` the place of the first function of each atom. K. B. Wiberg, Tetrahedron 1968, 24, 1083.
    """
    # Programs scale Cartesian d functions differently, and Lowdin's orbitals feel it: each to length one.
    lengths = np.sqrt(np.diag(overlap))
    values, vectors = np.linalg.eigh(overlap / np.outer(lengths, lengths))
    root = (vectors * np.sqrt(values)) @ vectors.T
    squares = (root @ (density * np.outer(lengths, lengths)) @ root) ** 2
    orders = np.add.reduceat(np.add.reduceat(squares, starts, axis=0), starts, axis=1)
    np.fill_diagonal(orders, 0.0)
    return np.asarray(orders)
