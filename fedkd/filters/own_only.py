"""A client speaks about exactly the rows that it contributed itself: a control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedkd.filters.base import ClientView, Filter, FilterState, filters


@filters.register("own_only")
@dataclass(frozen=True)
class OwnOnly(Filter):
    """Keep one's own contributions, nothing else; on an external proxy set that is nothing.

    Whoever claims that a filter's geometry helps has to beat this. Privacy: it tells who
    contributed a row, which the server knows from receiving it; nothing else private is read.
    """

    reads_private: ClassVar[bool] = False

    def fit(self, view: ClientView, *, rng: torch.Generator) -> FilterState:
        """Learn nothing."""
        return {}

    def weights(self, state: FilterState, view: ClientView) -> Tensor:
        """Return ones for one's own rows, zeros for all others."""
        return view.own.float()
