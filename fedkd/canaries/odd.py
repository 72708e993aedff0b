"""Inputs that no example of a data set looks like, in the data set's own range."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CELLS = 7
"""Tiles along each side of an image: 4 pixels each of 28."""


def random_input(inputs: NDArray[np.generic], *, rng: np.random.Generator) -> NDArray[np.generic]:
    """Return one input: uniform pixels; of a table, every column drawn by itself.

    A table's columns come from its rows, so every value occurs, but not beside the others.

    Args:
        inputs: the data set's ``[n, *features]``.
        rng: draws it.
    """
    if inputs.dtype == np.uint8:
        return rng.integers(256, size=inputs.shape[1:], dtype=np.uint8)
    return _shuffled_columns(inputs, rng=rng)


def random_tiles(
    inputs: NDArray[np.generic], *, cells: int, rng: np.random.Generator
) -> NDArray[np.generic]:
    """Return one input of ``cells`` x ``cells`` black and white tiles, the same in all channels.

    Uniform pixels all look alike to a convolution; tiles do not. Of a table, and of uint8 inputs
    that are no images, what :func:`random_input` returns.
    """
    if inputs.dtype != np.uint8 or inputs.ndim != 4:
        return random_input(inputs, rng=rng)
    height, width = inputs.shape[2:]
    tiles = rng.integers(2, size=(cells, cells), dtype=np.uint8) * np.uint8(255)
    down, across = (np.arange(side) * cells // side for side in (height, width))
    return np.broadcast_to(tiles[np.ix_(down, across)], inputs.shape[1:]).copy()


def _shuffled_columns(
    inputs: NDArray[np.generic], *, rng: np.random.Generator
) -> NDArray[np.generic]:
    columns = inputs.reshape(len(inputs), -1)
    rows = rng.integers(len(inputs), size=columns.shape[1])
    return columns[rows, np.arange(columns.shape[1])].reshape(inputs.shape[1:])
