"""As many rows as another filter keeps, but which ones is left to chance: a control."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedkd.errors import ConfigError
from fedkd.features.base import Features
from fedkd.filters.base import ClientView, Filter, FilterState, filters
from fedkd.filters.kmeans import KMeansFilter


@filters.register("random_rows")
@dataclass(frozen=True)
class RandomRows(Filter):
    """The weights of ``like``, dealt out to rows at random: same keep rate, no geometry.

    Privacy: the number of rows kept still depends on the private data as it does in ``like``.

    Attributes:
        like: the filter whose weights are shuffled; not an oracle.

    Raises:
        ConfigError: when ``like`` is an oracle.
    """

    like: Filter = field(default_factory=KMeansFilter)

    def __post_init__(self) -> None:
        if self.like.oracle:
            raise ConfigError(f"like: {self.like} reads proxy labels; choose another filter")

    @property
    def space(self) -> Features | None:
        """The space of the filter that is shuffled."""
        return self.like.space

    def fit(self, view: ClientView, *, rng: torch.Generator) -> FilterState:
        """Return the state of ``like`` and the ``seed`` of the shuffle, int64 ``[]``."""
        state = self.like.fit(view, rng=rng)
        return {**state, "seed": torch.randint(2**62, (), generator=rng)}

    def weights(self, state: FilterState, view: ClientView) -> Tensor:
        """Return the weights of ``like`` in an order that only the state decides."""
        weights = self.like.weights(state, view)
        shuffle = torch.Generator().manual_seed(int(state["seed"]))
        order = torch.randperm(weights.shape[0], generator=shuffle)
        return weights[order.to(weights.device)]
