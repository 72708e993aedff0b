"""Handwritten digits, 8x8 pixels, that come with scikit-learn: the smallest real data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from fedkd.data.datasets.base import Arrays, DataSet, Presence, counts_of, datasets, presence
from fedkd.data.subset import limited, stratified_split

_N_TEST = 297
_BRIGHTEST = 16


@datasets.register("digits")
@dataclass(frozen=True)
class Digits(DataSet):
    """1,500 train + 297 test, uint8 ``[n, 1, 8, 8]``, fixed stratified split. UCI, CC BY 4.0.

    Good for tests and first steps. Hardly any attack works on it, so it says nothing about
    privacy: use ``fashion_mini`` for that.
    """

    limit: Annotated[int, Ge(1)] | None = None

    def load(self) -> Arrays:
        """Read the copy inside scikit-learn, grey levels 0..16 stretched to 0..255."""
        from sklearn.datasets import load_digits  # pyright: ignore

        bunch: Any = load_digits()
        levels: NDArray[np.float64] = bunch.images
        labels: NDArray[np.int64] = np.asarray(bunch.target, dtype=np.int64)
        images = np.rint(levels * (255 / _BRIGHTEST)).astype(np.uint8)[:, None]
        train, test = stratified_split(labels, _N_TEST)
        arrays = Arrays(
            train_inputs=images[train],
            train_labels=labels[train],
            test_inputs=images[test],
            test_labels=labels[test],
            n_classes=10,
        )
        return limited(arrays, self.limit)

    def check(self) -> Presence:
        """Count rows; scikit-learn is the only thing that can be missing."""
        return presence(lambda: counts_of(self.load()))
