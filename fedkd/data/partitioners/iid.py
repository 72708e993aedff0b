"""Every client gets an equal random share: the easy case that others are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedkd.data.partitioners.base import Partitioner, Rows, partitioners
from fedkd.data.sharing import require_rows


@partitioners.register("iid")
@dataclass(frozen=True)
class Iid(Partitioner):
    """Random shares whose sizes differ by one row at most. All rows are used."""

    def split(self, labels: Rows, n_clients: int, *, rng: np.random.Generator) -> list[Rows]:
        """Cut a random permutation; ConfigError with fewer rows than clients."""
        require_rows(labels, n_clients, reason=f"{n_clients} clients with a row each")
        return np.array_split(rng.permutation(len(labels)), n_clients)
