"""Each class is spread over the clients in random proportions (Hsu et al. 2019).

Paper: https://arxiv.org/abs/1909.06335; per-class proportions as in Yurochkin et al. 2019.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from fedkd.data.partitioners.base import Partitioner, Rows, partitioners
from fedkd.data.sharing import class_mixes, deal, require_rows, rows_by_class


@partitioners.register("dirichlet")
@dataclass(frozen=True)
class Dirichlet(Partitioner):
    """Label and size skew: small ``alpha`` gives few classes a client and very unequal sizes.

    All rows are used. A client that comes out with fewer than ``min_rows`` is filled up with
    rows of the clients that are largest at that moment; nothing is ever drawn again, so the
    split always terminates.
    """

    alpha: Annotated[float, Gt(0), Le(1e6)] = 0.3
    min_rows: Annotated[int, Ge(1)] = 10

    def split(self, labels: Rows, n_clients: int, *, rng: np.random.Generator) -> list[Rows]:
        """Spread every class; ConfigError with fewer than ``n_clients * min_rows`` rows."""
        needed = n_clients * self.min_rows
        require_rows(labels, needed, reason=f"{n_clients} clients with min_rows={self.min_rows}")
        by_class = rows_by_class(labels, rng=rng)
        shares = class_mixes(self.alpha, len(by_class), n_classes=n_clients, rng=rng)
        owner = [
            np.searchsorted(np.cumsum(share), (np.arange(len(rows)) + 0.5) / len(rows))
            for rows, share in zip(by_class, shares, strict=True)
        ]
        # Rounding may leave the last cumulative share a hair below one.
        owners = np.minimum(np.concatenate(owner), n_clients - 1)
        parts = deal(np.concatenate(by_class), owners, n_clients=n_clients, rng=rng)
        return _fill_up(parts, self.min_rows, rng=rng)


def _fill_up(parts: list[Rows], min_rows: int, *, rng: np.random.Generator) -> list[Rows]:
    """Move last rows of the largest clients (lowest number first) to those below ``min_rows``."""
    held = [part.tolist() for part in parts]
    largest = [(-len(rows), client) for client, rows in enumerate(held) if len(rows) > min_rows]
    heapq.heapify(largest)
    poor = [client for client, rows in enumerate(held) if len(rows) < min_rows]
    for client in poor:
        while len(held[client]) < min_rows:
            size, donor = heapq.heappop(largest)
            held[client].append(held[donor].pop())
            if -size - 1 > min_rows:
                heapq.heappush(largest, (size + 1, donor))
    filled = [np.array(rows, dtype=np.int64) for rows in held]
    for client in poor:
        rng.shuffle(filled[client])
    return filled
