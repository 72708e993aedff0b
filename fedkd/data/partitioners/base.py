"""What a partitioner is: pure index arithmetic that shares examples out among clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedkd.registry import Registry

Rows = NDArray[np.int64]


class Partitioner(ABC):
    """Names and parameters follow Flower Datasets.

    Attributes:
        shares_rows: one example may be held by several clients.
    """

    shares_rows: ClassVar[bool] = False

    @abstractmethod
    def split(self, labels: Rows, n_clients: int, *, rng: np.random.Generator) -> list[Rows]:
        """Return for each client the positions in ``labels`` that it holds.

        Args:
            labels: int64 ``[n]``.
            n_clients: at least 1.
            rng: the only source of randomness.

        Raises:
            ConfigError: when the split is impossible; the message gives the numbers.
        """


partitioners = Registry("partitioner", Partitioner, package="fedkd.data.partitioners")
