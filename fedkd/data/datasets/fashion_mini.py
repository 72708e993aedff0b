"""A tenth of Fashion-MNIST, shipped inside the package: real images without a download.

Paper of the full set: https://arxiv.org/abs/1708.07747.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from fedkd.data.datasets.base import Arrays, DataSet, Presence, counts_of, datasets, presence
from fedkd.data.shipped import verified
from fedkd.data.subset import limited

FILE = "fashion_mini.npz"
SHA256 = "7caf948f2c1b261dd5c3739f56b4b2deb8f1f69f08f3f1e3202626ff7da0fe66"
"""Of the file that ``scripts/build_fashion_mini.py`` wrote."""
SCRIPT = "scripts/build_fashion_mini.py"


@datasets.register("fashion_mini")
@dataclass(frozen=True)
class FashionMini(DataSet):
    """5,000 train (500 a class) + 1,000 test (100 a class), uint8 ``[n, 1, 28, 28]``.

    Cut from the training and test set of Fashion-MNIST with a fixed seed. MIT, Zalando SE: the
    notice is in ``fedkd/data/fashion_mini.LICENSE``.
    """

    limit: Annotated[int, Ge(1)] | None = None

    def load(self) -> Arrays:
        """Read the package's own file."""
        with np.load(
            io.BytesIO(verified(FILE, sha256=SHA256, script=SCRIPT)), allow_pickle=False
        ) as stored:
            arrays = Arrays(
                train_inputs=stored["x_train"],
                train_labels=stored["y_train"].astype(np.int64),
                test_inputs=stored["x_test"],
                test_labels=stored["y_test"].astype(np.int64),
                n_classes=10,
            )
        return limited(arrays, self.limit)

    def check(self) -> Presence:
        """Count rows and verify the checksum."""
        return presence(lambda: f"{counts_of(self.load())}; sha256 {SHA256} verified")
