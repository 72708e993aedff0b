"""The proxy set is made of rows that no client owns, such as a public collection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge

from fedkd.data.partitioners.base import Rows
from fedkd.data.proxies.base import Proxy, proxies
from fedkd.data.subset import spread
from fedkd.errors import ConfigError
from fedkd.types import ProxySource


@proxies.register("external")
@dataclass(frozen=True)
class External(Proxy):
    """``size`` rows, equally many of each class as far as possible, taken out of the data first.

    Privacy: no private example becomes proxy data. That these rows come from the same
    distribution as the clients' is the simulation's kindness; a real public set is further away.
    """

    source: ClassVar[ProxySource] = ProxySource.EXTERNAL
    size: Annotated[int, Ge(1)] = 1000
    rows_per_round: Annotated[int, Ge(1)] | None = None

    def set_aside(self, labels: Rows, *, rng: np.random.Generator) -> Rows:
        """Draw the rows, ascending (their order must not tell their class)."""
        if self.size >= len(labels):
            raise ConfigError(
                f"size={self.size} leaves nothing of {len(labels)} training rows to the clients; "
                "take a smaller proxy set or more data"
            )
        return np.sort(spread(labels, rng=rng)[: self.size])

    def contribution(self, n_private: int, *, rng: np.random.Generator) -> Rows:
        """Return no rows: clients give nothing away."""
        return np.zeros(0, dtype=np.int64)
