"""What a proxy source is: it says which training rows become the proxy set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from fedkd.data.partitioners.base import Rows
from fedkd.registry import Registry
from fedkd.types import ProxySource


class Proxy(ABC):
    """Where the proxy set comes from: from the clients, or from rows that nobody owns.

    Every source has the field ``rows_per_round``: how many inputs, drawn anew each round, clients
    are asked about; None for all. Predicting on the proxy set and distilling from it is most of
    what federated distillation computes.
    """

    source: ClassVar[ProxySource]
    rows_per_round: int | None

    @abstractmethod
    def set_aside(self, labels: Rows, *, rng: np.random.Generator) -> Rows:
        """Return the rows taken out before clients get theirs (empty for pooled sources)."""

    @abstractmethod
    def contribution(self, n_private: int, *, rng: np.random.Generator) -> Rows:
        """Return which of a client's ``n_private`` examples it gives in clear (may be none)."""


proxies = Registry("proxy source", Proxy, package="fedkd.data.proxies")
