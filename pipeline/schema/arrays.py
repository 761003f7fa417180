"""Arrays that values hold: read-only copies of checked shape."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def _frozen_array(value: ArrayLike, dtype: type, shape: tuple[int | None, ...], name: str) -> NDArray:
    """Copy to a read-only array and check its shape (None: any length)."""
    array: NDArray = np.array(value, dtype=dtype)
    if array.size == 0 and len(shape) > 1:
        array = array.reshape([0 if length is None else length for length in shape])
    matches = array.ndim == len(shape) and all(
        want is None or have == want for have, want in zip(array.shape, shape, strict=False)
    )
    if not matches:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    array.setflags(write=False)
    return array


def freeze(instance: object, name: str, dtype: type, shape: tuple[int | None, ...]) -> None:
    """Make an attribute a read-only array while its instance is born; ValueError for another shape."""
    object.__setattr__(instance, name, _frozen_array(getattr(instance, name), dtype, shape, name))
