"""The proxy set is made of private examples that the clients give away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Le

from fedkd.data.partitioners.base import Rows
from fedkd.data.proxies.base import Proxy, proxies
from fedkd.types import ProxySource


@proxies.register("pooled")
@dataclass(frozen=True)
class Pooled(Proxy):
    """Every client contributes ``fraction`` of its training examples, without their labels.

    Privacy: no guarantee. Raw private examples are shared in clear with the server and with all
    other clients; no filter or protector changes that. Use it to reproduce papers, or where the
    contributed examples are not sensitive.
    """

    source: ClassVar[ProxySource] = ProxySource.POOLED
    fraction: Annotated[float, Gt(0), Le(1)] = 0.2
    rows_per_round: Annotated[int, Ge(1)] | None = None

    def set_aside(self, labels: Rows, *, rng: np.random.Generator) -> Rows:
        """Return no rows: clients get everything."""
        return np.zeros(0, dtype=np.int64)

    def contribution(self, n_private: int, *, rng: np.random.Generator) -> Rows:
        """Draw ``round(fraction * n_private)`` positions, ascending; at least 1 of 2 or more."""
        size = round(self.fraction * n_private)
        if n_private >= 2:
            size = max(1, size)
        return np.sort(rng.permutation(n_private)[:size])
