"""The molecule's own frame: the same for every orientation of the input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pipeline.qm.frame import own_frame

METHANE = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.629
LINEAR = np.array([[0.0, 0, 0], [0, 0, 1.16], [0, 0, 2.23]])
BENT = np.random.default_rng(3).normal(size=(9, 3)) * 2


@pytest.mark.parametrize("coords", [METHANE, LINEAR, BENT, np.zeros((1, 3))])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.floats(-50, 50))
def test_own_frame_is_covariant(coords: np.ndarray, seed: int, shift: float) -> None:
    """A turned and shifted molecule has the same own geometry; so has a symmetric and a linear one."""
    turn = Rotation.random(random_state=seed).as_matrix()
    own, rotation = own_frame(coords)
    turned, turned_rotation = own_frame(coords @ turn.T + shift)
    # 1e-11: coordinates up to 100 angstrom carry rounding of 1e-14, shifts cost two digits more.
    np.testing.assert_allclose(turned, own, atol=1e-11)
    for matrix in (rotation, turned_rotation):
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1.0, abs=1e-12)


def test_gradient_goes_back() -> None:
    """E = sum of distances from atom 1: the gradient in the own frame, turned back, is the direct one."""

    def gradient(x: np.ndarray) -> np.ndarray:
        unit = (x[1:] - x[0]) / np.linalg.norm(x[1:] - x[0], axis=1, keepdims=True)
        return np.vstack([-unit.sum(axis=0), unit])

    own, rotation = own_frame(BENT)
    np.testing.assert_allclose(gradient(own) @ rotation, gradient(BENT), atol=1e-12)
