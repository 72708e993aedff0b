"""A client is one author, book, person or device: whatever the data set's strata are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedkd.data.partitioners.base import Partitioner, Rows, partitioners
from fedkd.data.sharing import deal
from fedkd.errors import ConfigError


@partitioners.register("natural")
@dataclass(frozen=True)
class Natural(Partitioner):
    """Client i holds strata i, i + clients, i + 2 clients ... of those that occur, whole.

    So numbers of strata differ by one at most, and a stratum has one holder. Strata are the
    authors of a text; where a data set knows none, they are its classes.
    """

    def split(self, labels: Rows, n_clients: int, *, rng: np.random.Generator) -> list[Rows]:
        """Deal the strata; ConfigError with fewer strata than clients."""
        strata, place = np.unique(labels, return_inverse=True)
        if len(strata) < n_clients:
            raise ConfigError(
                f"natural: {n_clients} clients, but only {len(strata)} strata (authors, files, "
                f"classes) to hold; take clients={len(strata)} or fewer, or another partition"
            )
        return deal(np.arange(len(labels)), place % n_clients, n_clients=n_clients, rng=rng)
