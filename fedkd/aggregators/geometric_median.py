"""The point with the least summed distance to what a row's keepers said.

Robust aggregation by geometric medians: Pillutla et al. 2019, https://arxiv.org/abs/1912.13445,
found by smoothed Weiszfeld steps. There for parameters, once; here for every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from fedkd.aggregators.ballots import Ballots, Block, ballot, decided, joined, weighted_mean
from fedkd.aggregators.base import Aggregator, aggregators
from fedkd.types import Consensus, Knowledge, Space

SMOOTH = 1e-6
"""Distances are taken to be no shorter, so that a step never divides by zero."""
STILL = 1e-7
"""A row whose point moves less than this in a step is done; float32 shows no less."""


@aggregators.register("geometric_median")
@dataclass(frozen=True)
class GeometricMedian(Aggregator[Ballots]):
    """Weighted geometric median of a row's keepers: probabilities without any scaling.

    Up to half of a row's weight may be anything. Two keepers of equal weight are averaged, since
    every point between them is as good.

    Attributes:
        iterations: Weiszfeld steps at most, starting from the mean.
    """

    spaces: ClassVar[frozenset[Space]] = frozenset({Space.PROBS})
    iterations: Annotated[int, Ge(1)] = 100

    def partial(self, upload: Knowledge, *, n_rows: int) -> Ballots:
        """Keep one upload; ConfigError for logits."""
        return ballot(upload, n_rows=n_rows)

    def merge(self, left: Ballots, right: Ballots) -> Ballots:
        """Keep the uploads of both."""
        return joined(left, right)

    def finish(self, state: Ballots, *, rng: torch.Generator) -> Consensus:
        """Take the steps."""
        return decided(state, self._centers)

    def _centers(self, block: Block) -> Tensor:
        """Return the points; a row stops by itself, so that no other row changes it."""
        centers = weighted_mean(block)
        moving = torch.arange(len(centers), device=centers.device)
        scores, weights = block.scores, block.weights
        for _ in range(self.iterations):
            before = centers[moving]
            distances = (scores - before[:, None]).norm(dim=2).clamp(min=SMOOTH)
            pull = weights / distances
            after = torch.einsum("nk,nkc->nc", pull, scores) / pull.sum(dim=1, keepdim=True)
            centers[moving] = after
            on = (after - before).norm(dim=1) > STILL
            if not bool(on.any()):
                break
            moving, scores, weights = moving[on], scores[on], weights[on]
        return centers
