"""Weighted mean over the clients that kept a row; with hard filters, the plain mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fedkd.aggregators.base import Aggregator, Sums, aggregators
from fedkd.types import Consensus, Knowledge


def weighted_sums(upload: Knowledge, *, n_rows: int) -> Sums:
    """Spread one upload over the whole proxy set, in float64 so that order does not show."""
    weights = upload.weights.double()
    empty = torch.zeros(
        n_rows, upload.scores.shape[1], dtype=torch.float64, device=upload.scores.device
    )
    told = upload.row_temperatures
    return Sums(
        scores=empty.index_add(0, upload.rows, upload.scores.double() * weights[:, None]),
        mass=empty[:, 0].index_add(0, upload.rows, weights),
        keepers=torch.zeros_like(empty[:, 0], dtype=torch.int64).index_add(
            0, upload.rows, torch.ones_like(upload.rows)
        ),
        space=upload.space,
        temperature=upload.temperature,
        row_temperatures=None
        if told is None
        else empty[:, 0].index_add(0, upload.rows, told.double() * weights),
    )


def add(left: Sums, right: Sums) -> Sums:
    """Return the sums over both sets of uploads."""
    told = None
    if left.row_temperatures is not None and right.row_temperatures is not None:
        told = left.row_temperatures + right.row_temperatures
    return Sums(
        scores=left.scores + right.scores,
        mass=left.mass + right.mass,
        keepers=left.keepers + right.keepers,
        space=left.space,
        temperature=left.temperature,
        row_temperatures=told,
    )


def mean_of(state: Sums) -> Consensus:
    """Return the weighted mean of every row with a keeper; the other rows are absent."""
    rows = torch.nonzero(state.keepers > 0).flatten()
    scores = state.scores[rows] / state.mass[rows, None]
    told = state.row_temperatures
    return Consensus(
        rows=rows,
        scores=scores.float(),
        space=state.space,
        temperature=state.temperature,
        keepers=state.keepers[rows],
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

    def merge(self, left: Sums, right: Sums) -> Sums:
        """Add two states."""
        return add(left, right)

    def finish(self, state: Sums, *, rng: torch.Generator) -> Consensus:
        """Divide by the mass."""
        return mean_of(state)
