"""Every client speaks about every row: no filter, as in FedMD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedkd.filters.base import ClientView, Filter, FilterState, filters


@filters.register("keep_all")
@dataclass(frozen=True)
class KeepAll(Filter):
    """Keep all rows. Privacy: the choice of rows tells nothing."""

    reads_private: ClassVar[bool] = False

    def fit(self, view: ClientView, *, rng: torch.Generator) -> FilterState:
        """Learn nothing."""
        return {}

    def weights(self, state: FilterState, view: ClientView) -> Tensor:
        """Return ones."""
        return torch.ones_like(view.own, dtype=torch.float32)
