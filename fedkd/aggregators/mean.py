"""Weighted mean over the clients that kept a row; with hard filters, the plain mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fedkd.aggregators.base import Aggregator, Sums, aggregators
from fedkd.aggregators.streaming import add, fold, kept, quotients, weighted_sums
from fedkd.types import Consensus, Knowledge


def mean_of(state: Sums) -> Consensus:
    """Return the weighted mean of every row with a keeper; the other rows are absent."""
    keepers, told = kept(state), state.row_temperatures
    rows = torch.nonzero(keepers > 0).flatten()
    return Consensus(
        rows=rows,
        scores=quotients(state, rows),
        space=state.space,
        temperature=state.temperature,
        keepers=keepers[rows],
        row_temperatures=None if told is None else (told[rows] / state.mass[rows]).float(),
    )


@aggregators.register("mean")
@dataclass(frozen=True)
class Mean(Aggregator):
    """Mean of the scores of a row's keepers, weighted by the weights they sent."""

    linear: ClassVar[bool] = True

    def partial(self, upload: Knowledge, *, n_rows: int) -> Sums:
        """Return one upload's sums."""
        return weighted_sums(upload, n_rows=n_rows)

    def accumulate(self, state: Sums | None, upload: Knowledge, *, n_rows: int) -> Sums:
        """Add one upload in place."""
        return fold(state, upload, n_rows=n_rows)

    def merge(self, left: Sums, right: Sums) -> Sums:
        """Add two states."""
        return add(left, right)

    def finish(self, state: Sums, *, rng: torch.Generator) -> Consensus:
        """Divide by the mass."""
        return mean_of(state)
