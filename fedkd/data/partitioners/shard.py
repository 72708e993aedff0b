"""Sort by label, cut into shards, deal a few to each client (McMahan et al. 2017).

Paper: https://arxiv.org/abs/1602.05629, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from fedkd.data.partitioners.base import Partitioner, Rows, partitioners
from fedkd.data.sharing import deal, require_rows, rows_by_class


@partitioners.register("shard")
@dataclass(frozen=True)
class Shard(Partitioner):
    """Shards differ by one row at most, so clients are nearly equal in size. All rows are used."""

    shards_per_client: Annotated[int, Ge(1)] = 2

    def split(self, labels: Rows, n_clients: int, *, rng: np.random.Generator) -> list[Rows]:
        """Deal the shards; ConfigError with fewer rows than shards."""
        n_shards = n_clients * self.shards_per_client
        require_rows(
            labels,
            n_shards,
            reason=f"{n_clients} clients with shards_per_client={self.shards_per_client}",
        )
        by_label = np.concatenate(rows_by_class(labels, rng=rng))
        holder = rng.permutation(n_shards) % n_clients
        shard = np.arange(len(labels)) * n_shards // len(labels)
        return deal(by_label, holder[shard], n_clients=n_clients, rng=rng)
