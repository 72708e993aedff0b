"""A client speaks about the rows whose true class it holds: an oracle, the best a filter can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedkd.filters.base import ClientView, Filter, FilterState, filters


@filters.register("true_classes")
@dataclass(frozen=True)
class TrueClasses(Filter):
    """Keep rows whose true label is among the client's. A control: it needs proxy labels."""

    oracle: ClassVar[bool] = True

    def fit(self, view: ClientView, *, rng: torch.Generator) -> FilterState:
        """Return the ``classes`` that the client holds, int64 ``[held]``."""
        return {"classes": torch.nonzero(torch.bincount(view.labels)).flatten()}

    def weights(self, state: FilterState, view: ClientView) -> Tensor:
        """Return ones for rows of a class held; RuntimeError without proxy labels."""
        if view.proxy_labels is None:
            raise RuntimeError(
                "true_classes got proxy_labels=None; it is an oracle and runs only where a "
                "simulation shows it the labels, so choose another filter or pass them"
            )
        return torch.isin(view.proxy_labels, state["classes"]).float()
